//! Kernels of least squares against the reference, and whole gridding.

use super::*;
use crate::fixture::load;
use crate::operator::tests::{distance, random};
use crate::real::{narrow, wide};
use crate::{CentredFft, Complex, Real, Trajectory};

/// A curve of slowly growing speed through a plane or a volume.
pub(super) fn curve(shots: usize, samples: usize, rank: usize) -> Trajectory {
    let mut points = Vec::new();
    for shot in 0..shots {
        for i in 0..samples {
            let at = i as f64 / samples as f64;
            let turn = 9.0 * at + shot as f64;
            let point = [turn.cos() * at, turn.sin() * at, 0.7 * at - 0.2];
            points.extend(point[..rank].iter().map(|v| v * 6.0));
        }
    }
    Trajectory::new(shots, samples, rank, points).unwrap()
}

fn geometry(trajectory: &Trajectory, readout: ReadoutInterpolation) -> Geometry {
    let config = GeometryConfig { readout, ..GeometryConfig::default() };
    Geometry::new(trajectory, &vec![0.0; trajectory.samples()], &config).unwrap()
}

/// Smooth maps of different coils.
pub(super) fn maps<T: Real>(coils: usize, dims: &[usize]) -> Calibration<T> {
    let voxels: usize = dims.iter().product();
    let flat = Calibration::new(1, dims, vec![Complex::new(1.0, 0.0); voxels]).unwrap();
    let value = |c: usize, v: usize| {
        let r = flat.position(v);
        let angle = c as f64 * std::f64::consts::TAU / coils as f64;
        let to = [angle.cos(), angle.sin(), 0.6 * (c % 3) as f64 - 0.6];
        let near: f64 = (0..dims.len()).map(|d| (r[d] - 0.7 * to[d]).powi(2)).sum();
        let phase: f64 = (0..dims.len()).map(|d| r[d] * to[d]).sum();
        narrow(Complex::from_polar((-1.5 * near).exp(), 2.0 * phase + angle))
    };
    let values = (0..coils).flat_map(|c| (0..voxels).map(move |v| value(c, v))).collect();
    Calibration::new(coils, dims, values).unwrap()
}

#[test]
fn kernels_agree_with_the_reference() {
    let Some(file) = load("unit/closed_form") else { return };
    let [count, sources, rank] = *file.shape("dk") else { panic!("three axes") };
    let shape = file.shape("mps");
    let (coils, dims, lam) = (shape[0], &shape[1..3], file.metadata("lam").parse().unwrap());
    let exact = Calibration::new(coils, dims, file.complex("mps")).unwrap();
    let size = sources * coils;
    let (normal, target) = (file.complex("AHA"), file.complex("AHb"));
    let (kernel, src, out) = (file.complex("kernel"), file.complex("src"), file.complex("out"));
    for (m, offsets) in file.values("dk").chunks(sources * rank).enumerate() {
        let got = exact_kernel(&exact, offsets, lam).unwrap();
        assert!(distance(&got.normal, &normal[m * size * size..][..size * size]) < 1e-12);
        assert!(distance(&got.target, &target[m * size * coils..][..size * coils]) < 1e-12);
        assert!(distance(&got.kernel, &kernel[m * size * coils..][..size * coils]) < 1e-9);
        let moved: Vec<Complex<f64>> = got
            .kernel
            .chunks(size)
            .map(|row| row.iter().zip(&src[m * size..]).map(|(w, v)| w * v).sum())
            .collect();
        assert!(distance(&moved, &out[m * coils..][..coils]) < 1e-9);
    }
    let geometry = Geometry::of_offsets([count, sources, rank], file.values("dk"));
    let gap = fast_gap::<f64>(&exact, &geometry, lam, &kernel);
    assert!(gap < 1e-4, "f64: {gap:e}");
    let gap = fast_gap::<f32>(&exact, &geometry, lam, &kernel);
    assert!(gap < 1e-3, "f32: {gap:e}");
}

/// How far the kernels from the table are from the exact ones.
fn fast_gap<T: Real>(
    maps: &Calibration<f64>,
    geometry: &Geometry,
    lam: f64,
    exact: &[Complex<f64>],
) -> f64 {
    let images = maps.images().iter().map(|&v| narrow(v)).collect();
    let maps = Calibration::<T>::new(maps.coils(), maps.dims(), images).unwrap();
    let form = ClosedForm::new(&maps, geometry, lam).unwrap();
    let mut got = vec![Complex::default(); exact.len()];
    form.kernels(geometry, 0..geometry.len(), &mut got).unwrap();
    distance(&got.into_iter().map(wide).collect::<Vec<_>>(), exact)
}

#[test]
fn table_gives_the_kernels_of_all_voxels() {
    for (rank, dims) in [(2, vec![20, 17]), (3, vec![10, 9, 8])] {
        let maps = maps::<f64>(5, &dims);
        let geometry = geometry(&curve(2, 30, rank), ReadoutInterpolation::Nearest);
        let exact: Vec<_> = (0..geometry.len())
            .flat_map(|m| exact_kernel(&maps, geometry.offsets_of(m), 1e-3).unwrap().kernel)
            .collect();
        for (gap, most) in [
            (fast_gap::<f64>(&maps, &geometry, 1e-3, &exact), 2e-4),
            (fast_gap::<f32>(&maps, &geometry, 1e-3, &exact), 1e-3),
        ] {
            assert!(gap < most, "rank {rank}: {gap:e}");
        }
    }
}

/// The trait's own way, with kernels in memory.
pub(super) struct Stored<'a, T: Real>(pub(super) &'a ClosedForm<T>);

impl<T: Real> Kernels<T> for Stored<'_, T> {
    fn coils(&self) -> usize {
        self.0.coils()
    }

    fn kernels(
        &self,
        geometry: &Geometry,
        block: std::ops::Range<usize>,
        out: &mut [Complex<T>],
    ) -> crate::Result<()> {
        self.0.kernels(geometry, block, out)
    }
}

#[test]
fn gridding_applies_the_kernels_in_order() {
    let maps = maps::<f64>(5, &[16, 16]);
    // 90 samples make the last group smaller than the others
    let geometry = geometry(&curve(3, 30, 2), ReadoutInterpolation::Upsampled);
    let samples = random(3, 5 * geometry.len());
    let form = ClosedForm::new(&maps, &geometry, 1e-3).unwrap();
    let got = form.grid(&samples, &geometry).unwrap();
    let expected = Stored(&form).grid(&samples, &geometry).unwrap();
    assert!(distance(&got, &expected) < 1e-10);
    let mut kernels = vec![Complex::default(); geometry.len() * 125];
    form.kernels(&geometry, 0..geometry.len(), &mut kernels).unwrap();
    let mut part = vec![Complex::default(); 20 * 125];
    form.kernels(&geometry, 37..57, &mut part).unwrap();
    assert_eq!(part, kernels[37 * 125..57 * 125]);
    let given = GivenKernels::new(5, &geometry, &kernels).unwrap();
    assert_eq!(given.grid(&samples, &geometry).unwrap(), expected);
    assert!(GivenKernels::new(4, &geometry, &kernels).is_err());
}

#[test]
fn equal_offsets_are_solved_once_and_alike() {
    let maps = maps::<f32>(4, &[16, 16]);
    let one = curve(1, 40, 2);
    let points = one.points().repeat(3);
    let trajectory = Trajectory::new(3, 40, 2, points).unwrap();
    let all = geometry(&trajectory, ReadoutInterpolation::Nearest);
    assert_eq!(
        clusters::Clusters::of(&all, |_| 0.0).groups(40).map(|g| g.len()).sum::<usize>(),
        40
    );
    let samples = random::<f32>(3, 4 * 40);
    let repeated: Vec<_> = samples.chunks(40).flat_map(|coil| coil.repeat(3)).collect();
    let form = ClosedForm::new(&maps, &all, 1e-3).unwrap();
    let single = geometry(&one, ReadoutInterpolation::Nearest);
    let expected = form.grid(&samples, &single).unwrap();
    for (got, expected) in form.grid(&repeated, &all).unwrap().chunks(120).zip(expected.chunks(40))
    {
        assert_eq!(got, expected.repeat(3));
    }
}

#[test]
fn threads_do_not_change_bits() {
    let maps = maps::<f32>(4, &[16, 16]);
    let geometry = geometry(&curve(4, 50, 2), ReadoutInterpolation::Nearest);
    let samples = random::<f32>(3, 4 * 200);
    let run = || {
        let form = ClosedForm::new(&maps, &geometry, 1e-3).unwrap();
        form.grid(&samples, &geometry).unwrap()
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(pool.install(run), one.install(run));
}

#[test]
fn refuses_what_does_not_fit() {
    let maps = maps::<f32>(4, &[16, 16]);
    let narrow = geometry(&curve(1, 40, 2), ReadoutInterpolation::Nearest);
    let volume = geometry(&curve(1, 40, 3), ReadoutInterpolation::Nearest);
    let refused = |geometry: &Geometry, lam: f64| {
        ClosedForm::new(&maps, geometry, lam).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(refused(&narrow, 0.0).contains("lam must be above zero"));
    assert!(refused(&volume, 1e-3).contains("3 dimensions"));
    let form = ClosedForm::new(&maps, &narrow, 1e-3).unwrap();
    let grid = |samples: usize, geometry: &Geometry| {
        form.grid(&random::<f32>(1, samples), geometry).unwrap_err().to_string()
    };
    assert!(grid(100, &narrow).contains("100 values"));
    assert!(grid(160, &volume).contains("rank 3"));
    let config = GeometryConfig { kern_width: 4.0, ..GeometryConfig::default() };
    let wide = Geometry::new(&curve(1, 40, 2), &[0.0; 40], &config).unwrap();
    assert!(grid(160, &wide).contains("prepare them for this geometry"));
    assert!(exact_kernel(&maps, &[0.0; 3], 1e-3).is_err());
    let short = form.kernels(&narrow, 0..2, &mut random::<f32>(1, 16)).unwrap_err().to_string();
    assert!(short.contains("[2, 4, 20]"), "{short}");
    let beyond = form.kernels(&narrow, 39..41, &mut random::<f32>(1, 160)).unwrap_err();
    assert!(beyond.to_string().contains("39..41 of 40"));
}

#[test]
fn grids_the_brain() {
    let files = ["brain_common", "brain_spiral", "brain_spiral_recon"].map(load);
    let [Some(common), Some(spiral), Some(recon)] = files else { return };
    let shape = common.shape("mps");
    let (coils, dims) = (shape[0], &shape[1..3]);
    let voxels: usize = dims.iter().product();
    let sigma: f64 = spiral.metadata("sigma").parse().unwrap();
    let noise = spiral.complex("noise_unit");
    let clean = spiral.complex("ksp_clean").into_iter().zip(noise);
    let samples: Vec<Complex<f32>> = clean.map(|(v, n)| narrow(v + n * sigma)).collect();
    let maps = common.complex("mps").into_iter().map(narrow).collect();
    let maps = Calibration::<f32>::new(coils, dims, maps).unwrap();
    let [shots, length, rank] = *spiral.shape("trj") else { panic!("three axes") };
    let points = spiral.values("trj").to_vec();
    let trajectory = Trajectory::new(shots, length, rank, points).unwrap();

    // the grid's own samples of the image
    let image = common.complex("img");
    let mut grid: Vec<_> = common
        .complex("mps")
        .chunks(voxels)
        .flat_map(|m| m.iter().zip(&image))
        .map(|(m, v)| m * v)
        .collect();
    CentredFft::new(dims).forward(&mut grid);

    for (readout, most) in
        [(ReadoutInterpolation::Upsampled, 0.009), (ReadoutInterpolation::Nearest, 0.009)]
    {
        let config = GeometryConfig { readout, ..GeometryConfig::default() };
        let geometry = Geometry::new(&trajectory, spiral.values("t"), &config).unwrap();
        let form = ClosedForm::new(&maps, &geometry, 1e-3).unwrap();
        let gridded = form.grid(&samples, &geometry).unwrap();
        let exact: Vec<Complex<f32>> = grid
            .chunks(voxels)
            .flat_map(|coil| {
                geometry.targets().chunks(2).map(|k| {
                    let at =
                        |d: usize| (k[d] as i64 + dims[d] as i64 / 2).rem_euclid(dims[d] as i64);
                    narrow(coil[at(0) as usize * dims[1] + at(1) as usize])
                })
            })
            .collect();
        let gap = distance(&gridded, &exact);
        let reference: Vec<_> =
            recon.complex("ksp_grid_igrog_closed_os1").into_iter().map(narrow).collect();
        let apart = distance(&gridded, &reference);
        assert!(gap <= most, "{readout:?}: {gap}");
        if readout == ReadoutInterpolation::Upsampled {
            assert!(apart < 1e-3, "{apart:e}");
        }
    }
}
