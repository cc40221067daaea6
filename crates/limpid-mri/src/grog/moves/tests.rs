//! Kernels that move phases against sums over all voxels, and a whole reconstruction.

use super::super::clusters::Clusters;
use super::super::exact::exact_moved_kernel;
use super::super::tests::{Stored, curve, maps};
use super::super::{ClosedForm, GeometryConfig, Kernels, ReadoutInterpolation};
use super::*;
use crate::fixture::{Fixture, load};
use crate::operator::tests::{distance, random};
use crate::real::{narrow, wide};
use crate::{
    ConjugateGradient, FieldMethod, FieldOperator, FieldPhase, GridOperator, Operator, Segments,
    Sense, Trajectory, Weighted, conjugate_gradient, segment_centres,
};
use std::ops::ControlFlow;

/// A geometry whose samples are 0.2 ms from each other, and the times of targets.
fn geometry(shots: usize, rank: usize) -> (Geometry, Vec<f64>) {
    let times: Vec<f64> = (0..30).map(|i| 2e-4 * f64::from(i)).collect();
    let config = GeometryConfig::default();
    let geometry = Geometry::new(&curve(shots, 30, rank), &times, &config).unwrap();
    (geometry, segment_centres(&times, 3).unwrap().repeat(shots))
}

/// A field of some 130 hertz from end to end.
fn field<T: Real>(maps: &Calibration<T>) -> Vec<f64> {
    let at = |voxel| {
        let [x, y, z] = maps.position(voxel);
        40.0 + 90.0 * x - 30.0 * (4.0 * y).sin() + 20.0 * z
    };
    (0..maps.voxels()).map(at).collect()
}

fn all<T: Real>(form: &ClosedForm<T>, geometry: &Geometry) -> Vec<Complex<f64>> {
    let size = form.coils() * form.coils() * geometry.sources();
    let mut kernels = vec![Complex::default(); geometry.len() * size];
    form.kernels(geometry, 0..geometry.len(), &mut kernels).unwrap();
    kernels.into_iter().map(wide).collect()
}

#[test]
fn tables_give_the_kernels_of_all_voxels() {
    for (rank, dims) in [(2, vec![20, 17]), (3, vec![10, 9, 8])] {
        let (geometry, times) = geometry(2, rank);
        let exact = maps::<f64>(5, &dims);
        let field = field(&exact);
        let shift = FieldShift { field: &field, times: &times };
        let few = maps::<f32>(5, &dims);
        for (sign, factor) in [(FieldSign::Negative, -1.0), (FieldSign::Positive, 1.0)] {
            let kernel = |m: usize| {
                let moved = factor * (geometry.readout_times()[m % 30] - times[m]);
                let offsets = geometry.offsets_of(m);
                exact_moved_kernel(&exact, offsets, 1e-3, |r| field[r] * moved).unwrap().kernel
            };
            let expected: Vec<_> = (0..geometry.len()).flat_map(kernel).collect();
            let form = ClosedForm::with_field(&exact, &geometry, 1e-3, shift, sign).unwrap();
            let gap = distance(&all(&form, &geometry), &expected);
            assert!(gap < 2e-4, "rank {rank}, {sign:?}: {gap:e}");
            let form = ClosedForm::with_field(&few, &geometry, 1e-3, shift, sign).unwrap();
            let gap = distance(&all(&form, &geometry), &expected);
            assert!(gap < 1e-3, "rank {rank}, {sign:?} of f32: {gap:e}");
        }
    }
}

#[test]
fn samples_that_stay_have_the_kernels_without_a_field() {
    let (geometry, _) = geometry(1, 2);
    let maps = maps::<f64>(4, &[16, 16]);
    let field = field(&maps);
    let of = |times: &[f64]| {
        let shift = FieldShift { field: &field, times };
        ClosedForm::with_field(&maps, &geometry, 1e-3, shift, FieldSign::Negative).unwrap()
    };
    let expected = all(&ClosedForm::new(&maps, &geometry, 1e-3).unwrap(), &geometry);
    let mut times = geometry.readout_times().to_vec();
    let gap = distance(&all(&of(&times), &geometry), &expected);
    assert!(gap < 1e-9, "{gap:e}");
    // beside others that move
    times[15..].iter_mut().for_each(|time| *time -= 1e-3);
    let (got, half) = (all(&of(&times), &geometry), expected.len() / 2);
    let gap = distance(&got[..half], &expected[..half]);
    assert!(gap < 2e-4, "{gap:e}");
    assert!(distance(&got[half..], &expected[half..]) > 0.1);
}

#[test]
fn a_constant_field_is_a_factor_of_kernels() {
    let (geometry, times) = geometry(2, 2);
    let maps = maps::<f64>(4, &[16, 16]);
    let field = vec![170.0; maps.voxels()];
    let shift = FieldShift { field: &field, times: &times };
    let plain = all(&ClosedForm::new(&maps, &geometry, 1e-3).unwrap(), &geometry);
    // samples of a negative sign are late by exp(−2πi f δ)
    for (sign, factor) in [(FieldSign::Negative, 1.0), (FieldSign::Positive, -1.0)] {
        let form = ClosedForm::with_field(&maps, &geometry, 1e-3, shift, sign).unwrap();
        let size = plain.len() / geometry.len();
        let expected = plain.chunks(size).enumerate().flat_map(|(m, kernel)| {
            let moved = geometry.readout_times()[m % 30] - times[m];
            kernel.iter().map(move |w| w * turn::<f64>(factor * 170.0 * moved))
        });
        let gap = distance(&all(&form, &geometry), &expected.collect::<Vec<_>>());
        assert!(gap < 1e-9, "{sign:?}: {gap:e}");
    }
}

#[test]
fn voxels_that_no_coil_sees_do_not_count() {
    let (geometry, times) = geometry(1, 2);
    let mut images = maps::<f64>(3, &[16, 16]).images().to_vec();
    images.chunks_mut(256).for_each(|image| image[..48].fill(Complex::default()));
    let maps = Calibration::new(3, &[16, 16], images).unwrap();
    let mut field = field(&maps);
    let kernels = |field: &[f64]| {
        let shift = FieldShift { field, times: &times };
        let sign = FieldSign::Negative;
        all(&ClosedForm::with_field(&maps, &geometry, 1e-3, shift, sign).unwrap(), &geometry)
    };
    let expected = kernels(&field);
    field[..48].fill(1e7);
    assert_eq!(kernels(&field), expected);
}

#[test]
fn only_equal_moves_share_kernels() {
    let maps = maps::<f32>(4, &[16, 16]);
    let one = curve(1, 30, 2);
    let trajectory = Trajectory::new(3, 30, 2, one.points().repeat(3)).unwrap();
    let own: Vec<f64> = (0..30).map(|i| 2e-4 * f64::from(i)).collect();
    let geometry = Geometry::new(&trajectory, &own, &GeometryConfig::default()).unwrap();
    let centres = segment_centres(&own, 3).unwrap();
    // the second and the third readout are moved to the same times, the first to others
    let times = [segment_centres(&own, 2).unwrap(), centres.clone(), centres].concat();
    let field = field(&maps);
    let shift = FieldShift { field: &field, times: &times };
    let sign = FieldSign::Negative;
    let samples = random::<f32>(3, 4 * 90);
    let run = || {
        let form = ClosedForm::with_field(&maps, &geometry, 1e-3, shift, sign).unwrap();
        (form.grid(&samples, &geometry).unwrap(), Stored(&form).grid(&samples, &geometry).unwrap())
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (got, expected) = one.install(run);
    assert!(distance(&got, &expected) < 1e-4);
    assert_eq!(pool.install(run), (got, expected));
    let form = ClosedForm::with_field(&maps, &geometry, 1e-3, shift, sign).unwrap();
    let moves = form.moves().unwrap();
    let clusters = Clusters::of(&geometry, |sample| moves.time(&geometry, sample));
    assert_eq!(clusters.groups(90).map(|group| group.len()).sum::<usize>(), 60);
}

#[test]
fn interpolation_is_as_near_as_it_says() {
    let range = [-0.2, 0.8];
    for spread in [0.0, 0.1, 0.6, 3.0, 20.0] {
        let points = Points::new(range, spread).unwrap();
        let gap = |i: u32| {
            let time = -0.2 + f64::from(i) / 200.0;
            let values = points.weights(time).into_iter().zip(points.times());
            let sum: Complex<f64> = values.map(|(w, t)| turn::<f64>(spread / 2.0 * t) * w).sum();
            (sum - turn::<f64>(spread / 2.0 * time)).norm()
        };
        let most = (0..=200).map(gap).fold(0.0, f64::max);
        assert!(most <= TOLERANCE, "{spread}: {most:e}");
    }
    assert_eq!(Points::new(range, 0.0).unwrap().times().len(), 1);
    assert!(Points::new(range, 1e3).is_none());
}

#[test]
fn refuses_what_does_not_fit() {
    let (geometry, times) = geometry(1, 2);
    let maps = maps::<f32>(4, &[16, 16]);
    let field = field(&maps);
    let of = |field: &[f64], times: &[f64]| {
        let shift = FieldShift { field, times };
        ClosedForm::with_field(&maps, &geometry, 1e-3, shift, FieldSign::Negative)
    };
    let refused = |field: &[f64], times: &[f64]| of(field, times).err().unwrap().to_string();
    assert!(refused(&field[1..], &times).contains("255 values"));
    assert!(refused(&field, &times[1..]).contains("29 values"));
    assert!(refused(&field, &[f64::NAN; 30]).contains("time 0 is NaN"));
    let mut wild = field.clone();
    wild[7] = f64::INFINITY;
    assert!(refused(&wild, &times).contains("voxel 7"));
    wild[7] = 1e6;
    assert!(refused(&wild, &times).contains("more segments"));
    let form = of(&field, &times).unwrap();
    let grid = |samples: usize, geometry: &Geometry| {
        form.grid(&random::<f32>(1, samples), geometry).unwrap_err().to_string()
    };
    let twice = Trajectory::new(2, 30, 2, curve(1, 30, 2).points().repeat(2)).unwrap();
    let own = geometry.readout_times();
    let twice = Geometry::new(&twice, own, &GeometryConfig::default()).unwrap();
    assert!(grid(240, &twice).contains("30 samples"));
    let late: Vec<f64> = (0..30).map(|i| 1e-2 * f64::from(i)).collect();
    let late = Geometry::new(&curve(1, 30, 2), &late, &GeometryConfig::default()).unwrap();
    assert!(grid(120, &late).contains("prepare them for this geometry"));
    let error = CrossImages::check_room(&maps, 8.0, 20_000).unwrap_err().to_string();
    assert!(error.contains("20000 tables"), "{error}");
}

/// The reconstruction of the samples of a field that kernels move to the centres of segments.
struct Brain {
    maps: Vec<Complex<f32>>,
    dims: Vec<usize>,
    samples: Vec<Complex<f32>>,
    weights: Vec<f32>,
    geometry: Geometry,
    field: Vec<f64>,
}

impl Brain {
    fn new(common: &Fixture, spiral: &Fixture) -> Self {
        let sigma: f64 = spiral.metadata("sigma").parse().unwrap();
        let clean = spiral.complex("ksp_b0_clean").into_iter().zip(spiral.complex("noise_unit"));
        let [shots, length, rank] = *spiral.shape("trj") else { panic!("three axes") };
        let points = spiral.values("trj").to_vec();
        let trajectory = Trajectory::new(shots, length, rank, points).unwrap();
        let readout = ReadoutInterpolation::Upsampled;
        let config = GeometryConfig { readout, ..GeometryConfig::default() };
        Self {
            maps: common.complex("mps").into_iter().map(narrow).collect(),
            dims: common.shape("mps")[1..3].to_vec(),
            samples: clean.map(|(v, n)| narrow(v + n * sigma)).collect(),
            weights: spiral.values("dcf").iter().map(|&w| w as f32).collect(),
            geometry: Geometry::new(&trajectory, spiral.values("t"), &config).unwrap(),
            field: common.values("b0_hz").to_vec(),
        }
    }

    fn reconstruct(&self, terms: usize) -> Vec<Complex<f64>> {
        let (geometry, sign) = (&self.geometry, FieldSign::Negative);
        let own = geometry.readout_times();
        let coils = self.maps.len() / self.field.len();
        let calibration = Calibration::new(coils, &self.dims, self.maps.clone()).unwrap();
        let times = segment_centres(own, terms).unwrap().repeat(geometry.len() / own.len());
        let shift = FieldShift { field: &self.field, times: &times };
        let form = ClosedForm::with_field(&calibration, geometry, 1e-3, shift, sign).unwrap();
        let mut gridded = form.grid(&self.samples, geometry).unwrap();
        let phase = FieldPhase::off_resonance(&self.field, own, sign).unwrap();
        let segments = Segments::new(&phase, terms, FieldMethod::ZeroOrder, 256).unwrap();
        let grid = GridOperator::new(geometry.targets(), &self.dims, 1.0).unwrap();
        let field = FieldOperator::new(grid, segments).unwrap();
        let weighted = Weighted::new(field, self.weights.clone()).unwrap();
        weighted.weigh(&mut gridded).unwrap();
        let sense = Sense::new(weighted, coils, &self.dims, self.maps.clone()).unwrap();
        let mut right = vec![Complex::default(); sense.domain()];
        sense.adjoint(&gridded, &mut right);
        let mut image = vec![Complex::default(); right.len()];
        let settings = ConjugateGradient { lambda: 0.0, iterations: 10, tolerance: 0.0 };
        let go_on = |_: crate::Step<'_, f32>| ControlFlow::Continue(());
        conjugate_gradient(&sense, &right, &mut image, &settings, go_on).unwrap();
        image.into_iter().map(wide).collect()
    }
}

#[test]
fn reconstructs_the_brain_as_the_reference() {
    let files = ["brain_common", "brain_spiral", "brain_spiral_recon"].map(load);
    let [Some(common), Some(spiral), Some(recon)] = files else { return };
    let brain = Brain::new(&common, &spiral);
    for (terms, name, expected) in
        [(8, "b0_igrog_closed_L8", 0.08901), (4, "b0_igrog_closed_L4", 0.18766)]
    {
        let image = brain.reconstruct(terms);
        let nrmse = distance(&image, &common.complex("img"));
        assert!((nrmse - expected).abs() < 1e-3, "{name}: {nrmse}");
        let apart = distance(&image, &recon.complex(name));
        assert!(apart < 4e-3, "{name}: {apart}");
    }
}
