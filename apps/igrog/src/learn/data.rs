//! Pairs of sources and targets as the training's data.

use super::{Place, SamplesConfig, features};
use crate::config::Sign;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use limpid_engine::{Batch, Batches, BoxError, DataModule, Loader, SampleId};
use limpid_kernels::rng::Stream;
use limpid_mri::{Calibration, Complex, FieldShift, Geometry, image_samples, kspace_samples};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A field, and the times to which kernels move its phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Which way the scan says that its field turns samples.
    pub sign: Sign,
    /// Turns per second at every voxel of the calibration, of the sign of `exp(−2πi b t)`.
    pub field: Vec<f64>,
    /// Seconds of every sample, `[M]`.
    pub times: Vec<f64>,
    /// Seconds to which its phase is moved, `[M]`.
    pub targets: Vec<f64>,
    /// What networks measure times by: twice the largest field of the training, in hertz.
    pub span: f64,
}

impl Phase {
    /// The least and the largest of [`Phase::turns`].
    pub(crate) fn range(&self) -> [f64; 2] {
        let ends = [f64::INFINITY, f64::NEG_INFINITY];
        let turns = (0..self.times.len()).map(|i| self.turns(i));
        turns.fold(ends, |[low, high], t| [low.min(t), high.max(t)])
    }

    /// The time over which the phase of a sample is moved, in turns of twice the largest field.
    pub(super) fn turns(&self, sample: usize) -> f64 {
        (self.times[sample] - self.targets[sample]) * self.span
    }
}

/// Pairs of sources and targets.
pub struct KernelData {
    geometry: Geometry,
    calibration: Calibration<f32>,
    phase: Option<Phase>,
    config: SamplesConfig,
    seed: u64,
    /// Voxels that are looked at, or points of k-space along each axis.
    voxels: Vec<usize>,
    points: Vec<[i64; 2]>,
}

impl KernelData {
    /// Pairs of the geometries of a trajectory and the coils of a calibration, whose images are as large as
    /// the calibrated region for `from = "kspace"`.
    ///
    /// # Errors
    /// If the ranks differ, a field does not fit or goes with `from = "kspace"`, or no voxel or point is left.
    pub fn new(
        geometry: Geometry,
        calibration: Calibration<f32>,
        phase: Option<Phase>,
        config: SamplesConfig,
        seed: u64,
    ) -> Result<Self> {
        if config.per_geometry == 0 || !config.batch.is_multiple_of(config.per_geometry) {
            let message = format!(
                "{} pairs of each geometry do not divide the {} of a step",
                config.per_geometry, config.batch
            );
            return Err(Error::scan(message, "set `samples.per_geometry` to 1"));
        }
        let calibration = calibration.normalised();
        let mut data = Self {
            geometry,
            calibration,
            phase,
            config,
            seed,
            voxels: Vec::new(),
            points: Vec::new(),
        };
        match data.config.from {
            Place::Image => data.voxels = data.calibration.support(data.config.support),
            Place::Kspace => {
                if data.phase.is_some() {
                    return Err(Error::scan(
                        "kernels that move a field's phase cannot be learnt from k-space alone",
                        "set `samples.from = \"image\"`, or `field.correct = \"segments\"`",
                    ));
                }
                data.points = data.points()?;
            }
        }
        // what is wrong with the parts shows before the training does
        data.pairs(Stream::new(seed, "check"), [1, 1])?;
        Ok(data)
    }

    /// The first and last target along each axis, whose sources are all within the region.
    fn points(&self) -> Result<Vec<[i64; 2]>> {
        let buffer = self.config.buffer.max(self.geometry.report().reach.min(4.0)).ceil() as i64;
        let axis = |&size: &usize| {
            let size = size as i64;
            let (low, high) = (-(size / 2) + buffer, size - 1 - size / 2 - buffer);
            if low <= high {
                return Ok([low, high]);
            }
            let message =
                format!("a calibration of {size} points leaves no targets {buffer} from its edge");
            Err(Error::scan(message, "calibrate a larger region: `coils.region`"))
        };
        self.calibration.dims().iter().map(axis).collect()
    }

    /// So many geometries, and so many pairs of each: features, sources and targets.
    fn pairs(&self, stream: Stream, [geometries, each]: [usize; 2]) -> Result<Pairs> {
        let mut draws = stream.draws();
        let mut below = |n: usize| draws.below(n as u64) as usize;
        let geometries: Vec<usize> = (0..geometries).map(|_| below(self.geometry.len())).collect();
        let indices: Vec<usize> =
            geometries.iter().flat_map(|&i| std::iter::repeat_n(i, each)).collect();
        let count = indices.len();
        let mut samples = match self.config.from {
            Place::Image => {
                let voxels: Vec<usize> =
                    (0..count).map(|_| self.voxels[below(self.voxels.len())]).collect();
                let times: Option<Vec<f64>> = self
                    .phase
                    .as_ref()
                    .map(|phase| indices.iter().map(|&i| phase.targets[i]).collect());
                let shift = self.phase.as_ref().zip(times.as_ref());
                let shift = shift.map(|(p, times)| FieldShift { field: &p.field, times });
                image_samples(&self.calibration, &self.geometry, &indices, &voxels, shift)?
            }
            Place::Kspace => {
                let mut point =
                    |[low, high]: [i64; 2]| (low + below((high - low + 1) as usize) as i64) as f64;
                let points: Vec<f64> =
                    (0..count).flat_map(|_| &self.points).copied().map(&mut point).collect();
                kspace_samples(&self.calibration, &self.geometry, &indices, &points)?
            }
        };
        if self.config.normalise {
            normalise(&mut samples.sources, &mut samples.targets, count);
        }
        let parts = |values: Vec<Complex<f32>>| values.iter().flat_map(|v| [v.re, v.im]).collect();
        Ok(Pairs {
            features: features(&self.geometry, self.phase.as_ref(), geometries.into_iter()),
            sources: parts(samples.sources),
            targets: parts(samples.targets),
        })
    }

    fn batch(&self, stream: Stream, sizes: [usize; 2], first: u64) -> Result<Batch, BoxError> {
        let Pairs { features, sources, targets } = self.pairs(stream, sizes)?;
        let (geometries, count) = (sizes[0], sizes[0] * sizes[1]);
        let (s, c) = (self.geometry.sources(), self.calibration.coils());
        let tensor = |values: Vec<f32>, shape: &[usize]| {
            Tensor::from_vec(values, shape, &Device::Cpu).map_err(|e| Box::new(e) as BoxError)
        };
        let width = features.len() / geometries;
        let tensors = BTreeMap::from([
            ("dk".to_owned(), tensor(features, &[geometries, width])?),
            ("source_ksp".to_owned(), tensor(sources, &[count, s, c, 2])?),
            ("target_ksp".to_owned(), tensor(targets, &[count, c, 2])?),
        ]);
        let id =
            |i| SampleId { file: "calibration".to_owned(), index: first + i, region: Vec::new() };
        Ok(Batch { tensors, ids: (0..count as u64).map(id).collect() })
    }
}

struct Pairs {
    features: Vec<f32>,
    sources: Vec<f32>,
    targets: Vec<f32>,
}

/// Divides each pair by the root mean square of its sources.
fn normalise(sources: &mut [Complex<f32>], targets: &mut [Complex<f32>], count: usize) {
    let (s, t) = (sources.len() / count, targets.len() / count);
    for (sources, targets) in sources.chunks_mut(s).zip(targets.chunks_mut(t)) {
        let power = sources.iter().map(|v| v.norm_sqr()).sum::<f32>() / s as f32;
        let scale = power.max(f32::MIN_POSITIVE).sqrt().recip();
        sources.iter_mut().chain(targets).for_each(|v| *v *= scale);
    }
}

impl DataModule for KernelData {
    fn train(&self) -> Result<Box<dyn Loader + '_>, BoxError> {
        let SamplesConfig { batch, per_geometry, steps_per_epoch: batches, .. } = self.config;
        let stream = Stream::new(self.seed, "kernels");
        let sizes = [batch / per_geometry, per_geometry];
        Ok(Box::new(Draws { data: self, stream, sizes, batches, fixed: false }))
    }

    fn validation(&self) -> Result<Vec<(String, Box<dyn Loader + '_>)>, BoxError> {
        let batch = self.config.batch.min(self.config.validation);
        let batches = (self.config.validation / batch) as u64;
        let stream = Stream::new(self.seed, "kernels to validate");
        let loader = Draws { data: self, stream, sizes: [batch, 1], batches, fixed: true };
        Ok(vec![("calibration".to_owned(), Box::new(loader))])
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for value in self.geometry.offsets() {
            hash.update(value.to_le_bytes());
        }
        for value in self.calibration.images() {
            hash.update(value.re.to_le_bytes());
            hash.update(value.im.to_le_bytes());
        }
        if let Some(phase) = &self.phase {
            for value in phase.field.iter().chain(&phase.times).chain(&phase.targets) {
                hash.update(value.to_le_bytes());
            }
        }
        hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
    }
}

/// Pairs that a stream draws.
struct Draws<'a> {
    data: &'a KernelData,
    stream: Stream,
    /// Geometries of a batch, and pairs of each.
    sizes: [usize; 2],
    batches: u64,
    /// The same pairs in every epoch.
    fixed: bool,
}

impl Loader for Draws<'_> {
    fn batches(&self) -> u64 {
        self.batches
    }

    fn epoch(&self, epoch: u64, first: u64) -> Batches<'_> {
        let epoch = if self.fixed { 0 } else { epoch };
        Box::new((first..self.batches).map(move |index| {
            let first = index * (self.sizes[0] * self.sizes[1]) as u64;
            self.data.batch(self.stream.at(epoch, index), self.sizes, first)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limpid_mri::{GeometryConfig, Trajectory};

    fn data(config: SamplesConfig) -> Result<KernelData> {
        let points =
            (0..40).flat_map(|i| [f64::from(i) * 0.4 - 7.9, f64::from(i % 7) * 0.3]).collect();
        let trajectory = Trajectory::new(1, 40, 2, points)?;
        let geometry = Geometry::new(&trajectory, &[0.0; 40], &GeometryConfig::default())?;
        let mut images = vec![0f32; 2 * 3 * 256];
        Stream::new(1, "test").fill_normal(&mut images);
        let images = images.as_chunks().0.iter().map(|&[re, im]| Complex::new(re, im)).collect();
        KernelData::new(geometry, Calibration::new(3, &[16, 16], images)?, None, config, 0)
    }

    /// Every source of a pair is its target, turned by the offset of the source at the voxel of the target.
    #[test]
    fn pairs_in_a_row_are_of_one_geometry() {
        let config = SamplesConfig { batch: 24, per_geometry: 4, ..SamplesConfig::default() };
        let data = data(config).unwrap();
        let pairs = data.pairs(Stream::new(3, "test"), [6, 4]).unwrap();
        let (sources, coils, rank) = (data.geometry.sources(), 3, 2);
        assert_eq!(pairs.features.len(), 6 * sources * rank);
        assert_eq!(pairs.sources.len(), 24 * sources * coils * 2);
        assert_eq!(pairs.targets.len(), 24 * coils * 2);
        let voxels = data.calibration.voxels();
        let value = |v: &[f32], i: usize| Complex::new(v[2 * i], v[2 * i + 1]);
        for pair in 0..24 {
            let target = |c: usize| value(&pairs.targets, pair * coils + c);
            let is_it = |v: &usize| {
                (0..coils).all(|c| data.calibration.images()[c * voxels + *v] == target(c))
            };
            let voxel = (0..voxels).find(is_it).unwrap();
            let position = [voxel / 16, voxel % 16].map(|r| (r as f64 - 8.0) / 16.0);
            let features = &pairs.features[pair / 4 * sources * rank..][..sources * rank];
            for (s, offset) in features.chunks(rank).enumerate() {
                let turns: f64 = offset.iter().zip(position).map(|(&d, r)| f64::from(d) * r).sum();
                let phase = Complex::from_polar(1.0, -std::f64::consts::TAU * turns);
                let phase = Complex::new(phase.re as f32, phase.im as f32);
                let got = value(&pairs.sources, (pair * sources + s) * coils);
                assert!((got - target(0) * phase).norm() < 1e-5, "pair {pair}, source {s}");
            }
        }
    }

    #[test]
    fn what_does_not_divide_is_refused() {
        for per_geometry in [0, 5, 48] {
            let config = SamplesConfig { batch: 24, per_geometry, ..SamplesConfig::default() };
            let error = data(config).err().unwrap().to_string();
            assert!(error.contains("do not divide the 24"), "{error}");
        }
    }
}
