//! Reconstruction from spirals; `mri.py` has the same works, by FINUFFT and PyTorch.
//!
//! Shapes are `CxSxK`, coils, shots and samples of each, and the sizes of the image.

use crate::{Mode, Work};
use candle_core::{Device, Tensor};
use igrog::config::{KernelGeometry, NetConfig};
use igrog::learn::{KernelData, SamplesConfig, network};
use igrog::{KernelChoice, grogify};
use limpid_engine::DataModule as _;
use limpid_kernels::rng::Stream;
use limpid_losses::losses::complex_l1;
use limpid_mri::{
    Birdcage, Calibration, Complex, FieldMap, FieldMethod, FieldOperator, FieldPhase, FieldSign,
    Geometry, GeometryConfig, GridOperator, Nufft, Operator, Segments, Sense, Trajectory, Weighted,
};
use limpid_nn::{Error, Params, Result};

/// Relative error of non-uniform transforms, as FINUFFT is asked for.
const TOLERANCE: f64 = 1e-5;
/// Seconds of a readout.
const READOUT: f64 = 11.2e-3;
/// Largest field in hertz.
const FIELD: f64 = 130.0;
/// Segments that stand for its phase.
const SEGMENTS: usize = 8;
/// Turns of a spiral.
const TURNS: f64 = 20.0;

/// The work, if that is what the name means.
pub(crate) fn work(mode: Mode, name: &str, shapes: &[Vec<usize>]) -> Result<Option<Work>> {
    let ([scan, matrix], Some(name)) = (shapes, name.strip_prefix("mri_")) else { return Ok(None) };
    let [coils, shots, length] = scan[..] else { return Ok(None) };
    let bench = Bench::new([coils, shots, length], matrix).map_err(text)?;
    let call = match (mode, name) {
        (Mode::Infer, "nufft") => bench.transforms().map_err(text)?,
        (Mode::Infer, "nufft_iteration") => bench.iteration(By::Nufft, false).map_err(text)?,
        (Mode::Infer, "toeplitz_iteration") => {
            bench.iteration(By::Toeplitz, false).map_err(text)?
        }
        (Mode::Infer, "grid_iteration") => bench.iteration(By::Grid, false).map_err(text)?,
        (Mode::Infer, "nufft_field") => bench.iteration(By::Nufft, true).map_err(text)?,
        (Mode::Infer, "grid_field") => bench.iteration(By::Grid, true).map_err(text)?,
        (Mode::Infer, "gridding") => bench.gridding().map_err(text)?,
        (Mode::Train, "kernels") => {
            return bench.training(&NetConfig::default(), SamplesConfig::default()).map(Some);
        }
        (Mode::Train, "preset_kernels") => {
            let net = NetConfig { projections: 128, ..NetConfig::default() };
            let samples = SamplesConfig { batch: 2048, per_geometry: 8, ..Default::default() };
            return bench.training(&net, samples).map(Some);
        }
        _ => return Ok(None),
    };
    Ok(Some(Work { parameters: 0, call }))
}

/// What the normal map of an iteration is made of.
#[derive(PartialEq)]
enum By {
    Nufft,
    Toeplitz,
    Grid,
}

type Call = Box<dyn FnMut() -> Result<Tensor>>;

struct Bench {
    trajectory: Trajectory,
    times: Vec<f64>,
    matrix: Vec<usize>,
    coils: usize,
    maps: Vec<Complex<f32>>,
    samples: Vec<Complex<f32>>,
}

impl Bench {
    fn new([coils, shots, length]: [usize; 3], matrix: &[usize]) -> limpid_mri::Result<Self> {
        let mut points = Vec::with_capacity(shots * length * 2);
        for shot in 0..shots {
            for i in 0..length {
                let at = (i as f64 / length as f64).sqrt();
                let angle = std::f64::consts::TAU * (TURNS * at + shot as f64 / shots as f64);
                let radius = 0.49 * at;
                points.push(radius * angle.cos() * matrix[0] as f64);
                points.push(radius * angle.sin() * matrix[1] as f64);
            }
        }
        let birdcage = Birdcage { matrix: matrix.to_vec(), coils, ..Birdcage::default() };
        Ok(Self {
            trajectory: Trajectory::new(shots, length, 2, points)?,
            times: (0..length).map(|i| READOUT * i as f64 / length as f64).collect(),
            matrix: matrix.to_vec(),
            coils,
            maps: birdcage.maps()?,
            samples: complex(1, coils * shots * length),
        })
    }

    fn voxels(&self) -> usize {
        self.matrix.iter().product()
    }

    /// Samples of the images of all coils, and images of those.
    fn transforms(&self) -> limpid_mri::Result<Call> {
        let nufft = Nufft::<f32>::new(&self.trajectory, &self.matrix, TOLERANCE)?;
        let images = complex(2, self.coils * self.voxels());
        let (mut samples, mut back) = (self.samples.clone(), images.clone());
        Ok(Box::new(move || {
            nufft.forward_many(&images, &mut samples);
            nufft.adjoint_many(&samples, &mut back);
            shape(&back)
        }))
    }

    /// The normal map of an iteration of conjugate gradients.
    fn iteration(&self, by: By, field: bool) -> limpid_mri::Result<Call> {
        let weights = vec![1.0; self.trajectory.len()];
        if by == By::Toeplitz {
            let weighted = Weighted::toeplitz(&self.trajectory, weights, &self.matrix, TOLERANCE)?;
            return self.normal(weighted, field);
        }
        if by == By::Grid {
            let geometry =
                Geometry::new(&self.trajectory, &self.times, &GeometryConfig::default())?;
            let operator = GridOperator::new(geometry.targets(), &self.matrix, 1.0)?;
            return self.normal(Weighted::on_grid(operator, weights)?, field);
        }
        let nufft = Nufft::new(&self.trajectory, &self.matrix, TOLERANCE)?;
        self.normal(Weighted::new(nufft, weights)?, field)
    }

    fn normal<O: Operator<f32> + 'static>(
        &self,
        weighted: O,
        field: bool,
    ) -> limpid_mri::Result<Call> {
        let (maps, matrix) = (self.maps.clone(), &self.matrix);
        if !field {
            return Ok(normal(Sense::new(weighted, self.coils, matrix, maps)?));
        }
        let map = FieldMap { matrix: matrix.clone(), peak: FIELD, ..FieldMap::default() };
        let phase = FieldPhase::off_resonance(&map.values()?, &self.times, FieldSign::Negative)?;
        let segments = Segments::new(&phase, SEGMENTS, FieldMethod::LeastSquares, 256)?;
        let operator = FieldOperator::new(weighted, segments)?;
        Ok(normal(Sense::new(operator, self.coils, matrix, maps)?))
    }

    /// Kernels of least squares for all samples, and moving them.
    fn gridding(self) -> limpid_mri::Result<Call> {
        let calibration = Calibration::new(self.coils, &self.matrix, self.maps)?;
        let (trajectory, times, samples) = (self.trajectory, self.times, self.samples);
        Ok(Box::new(move || {
            let config = GeometryConfig::default();
            let choice = KernelChoice::ClosedForm { lam: 1e-3 };
            let calibration = Some(&calibration);
            let gridded =
                grogify(&trajectory, &times, &samples, calibration, &config, choice, None);
            shape(&gridded.map_err(text)?.samples)
        }))
    }

    /// Drawing the pairs of a step of training, and the step.
    fn training(self, net: &NetConfig, samples: SamplesConfig) -> Result<Work> {
        let config = KernelGeometry::default().config();
        let geometry = Geometry::new(&self.trajectory, &self.times, &config).map_err(text)?;
        let calibration = Calibration::new(self.coils, &self.matrix, self.maps).map_err(text)?;
        let net = network(net, &geometry, self.coils, false);
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "bench"), candle_core::DType::F32, &Device::Cpu);
        let net = net.build(&scope)?;
        let data = KernelData::new(geometry, calibration, None, samples, 0);
        let data = data.map_err(text)?;
        let mut trained = crate::step::Trained::new(params)?;
        let parameters = trained.params.count();
        let mut step = 0;
        let call = move || {
            step += 1;
            let loader = data.train().map_err(text)?;
            let batch = loader.epoch(step, 0).next().ok_or_else(|| text("no batch"))?;
            let batch = batch.map_err(text)?;
            let get = |name| batch.get(name).map_err(text);
            let y = net.forward(get("dk")?, get("source_ksp")?)?;
            trained.minimise(&complex_l1(&y, get("target_ksp")?)?)?;
            Ok(y)
        };
        Ok(Work { parameters, call: Box::new(call) })
    }
}

fn normal(operator: impl Operator<f32> + 'static) -> Call {
    let image = complex(2, operator.domain());
    let mut result = image.clone();
    Box::new(move || {
        operator.normal(&image, &mut result);
        shape(&result)
    })
}

fn complex(seed: u64, len: usize) -> Vec<Complex<f32>> {
    let mut numbers = vec![0f32; 2 * len];
    Stream::new(seed, "bench").fill_normal(&mut numbers);
    numbers.as_chunks().0.iter().map(|&[re, im]| Complex::new(re, im)).collect()
}

/// Something to say the size of.
fn shape(values: &[Complex<f32>]) -> Result<Tensor> {
    Ok(Tensor::new(&[values.len() as i64], &Device::Cpu)?)
}

fn text(error: impl std::fmt::Display) -> Error {
    Error::argument("bench", error.to_string())
}
