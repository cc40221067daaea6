//! Samples of kernels to learn from: sources and targets of calibration data.

use super::calibration::Calibration;
use super::geometry::Geometry;
use crate::error::expect_len;
use crate::real::{is_single, narrow, turn, wide};
use crate::{Complex, Error, Nufft, Real, Result, Trajectory};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Sources and targets of `n` kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelSamples<T: Real> {
    /// `[n, S, C]`
    pub sources: Vec<Complex<T>>,
    /// `[n, C]`
    pub targets: Vec<Complex<T>>,
}

/// A field that turns the phase of samples, and the times to which kernels move their targets.
#[derive(Clone, Copy, Debug)]
pub struct FieldShift<'a> {
    /// The field at every voxel of the calibration, in hertz.
    pub field: &'a [f64],
    /// The time of each target, `[n]`, in seconds.
    pub times: &'a [f64],
}

impl FieldShift<'_> {
    /// Refuses fields of other sizes than `dims`, other numbers of targets, and what is not finite.
    pub(super) fn check(&self, op: &'static str, dims: &[usize], targets: usize) -> Result<()> {
        let Self { field, times } = self;
        expect_len(op, "field", dims, field.len())?;
        expect_len(op, "times of targets", &[targets], times.len())?;
        if let Some(at) = field.iter().position(|b| !b.is_finite()) {
            let problem = format!("the field is {} at voxel {at}; mask such voxels", field[at]);
            return Err(Error::value(op, problem));
        }
        if let Some(at) = times.iter().position(|t| !t.is_finite()) {
            return Err(Error::value(op, format!("time {at} is {}", times[at])));
        }
        Ok(())
    }
}

/// Pairs of a geometry and a voxel: the target is what the coils see of a point there, the sources what
/// they see at the offsets. Over all voxels these are the least squares of all shifts in k-space. Targets
/// have the phase of the field at the time that they are moved to, to which the phase of sources is
/// relative.
///
/// # Errors
/// If the lists have other lengths than each other, or an index is out of range, or the ranks differ.
pub fn image_samples<T: Real>(
    calibration: &Calibration<T>,
    geometry: &Geometry,
    indices: &[usize],
    voxels: &[usize],
    shift: Option<FieldShift>,
) -> Result<KernelSamples<T>> {
    const OP: &str = "image samples";
    check(OP, calibration, geometry, indices)?;
    expect_len(OP, "voxels", &[indices.len()], voxels.len())?;
    expect_below(OP, "voxel", voxels, calibration.voxels())?;
    if let Some(shift) = shift {
        shift.check(OP, calibration.dims(), indices.len())?;
    }
    let (coils, count) = (calibration.coils(), geometry.sources());
    let mut targets = vec![Complex::default(); indices.len() * coils];
    let mut sources = vec![Complex::default(); indices.len() * count * coils];
    let rows = targets.par_chunks_mut(coils).zip(sources.par_chunks_mut(count * coils));
    rows.enumerate().with_min_len(256).for_each(|(n, (target, sources))| {
        let (index, voxel) = (indices[n], voxels[n]);
        for (c, value) in target.iter_mut().enumerate() {
            *value = calibration.image(c)[voxel];
        }
        let position = calibration.position(voxel);
        let offsets = geometry.offsets_of(index).chunks_exact(geometry.rank());
        for (s, (offset, source)) in offsets.zip(sources.chunks_exact_mut(coils)).enumerate() {
            let mut turns: f64 = offset.iter().zip(position).map(|(d, r)| d * r).sum();
            if let Some(FieldShift { field, times }) = shift {
                turns += field[voxel] * (geometry.times()[index * count + s] - times[n]);
            }
            let phase = turn::<f64>(-turns);
            for (value, &target) in source.iter_mut().zip(&*target) {
                *value = narrow(wide(target) * phase);
            }
        }
    });
    Ok(KernelSamples { sources, targets })
}

/// Pairs of a geometry and a point of k-space `[n, rank]`, in cycles per field of view: the targets are the
/// transforms of the images at the points (in f32 within 2e-6 in the ℓ₂ norm), the sources at the offsets from them, with the
/// factor `1/√N` of orthonormal transforms. For targets in the middle of k-space that the images were made from, keep
/// points at least [`GeometryReport::reach`](super::GeometryReport) inside of its edge.
///
/// # Errors
/// As [`image_samples`], or if a point is not finite.
pub fn kspace_samples<T: Real>(
    calibration: &Calibration<T>,
    geometry: &Geometry,
    indices: &[usize],
    points: &[f64],
) -> Result<KernelSamples<T>> {
    const OP: &str = "k-space samples";
    check(OP, calibration, geometry, indices)?;
    let rank = geometry.rank();
    expect_len(OP, "points", &[indices.len(), rank], points.len())?;
    if let Some(at) = points.iter().position(|k| !k.is_finite()) {
        return Err(Error::value(OP, format!("a coordinate of point {} is not finite", at / rank)));
    }
    if is_single::<T>() && indices.len() * (1 + geometry.sources()) > calibration.voxels() {
        return many_kspace_samples(calibration, geometry, indices, points);
    }
    let (coils, count) = (calibration.coils(), geometry.sources());
    let planes = calibration.images().iter().map(|v| v.re).collect();
    let planes = [planes, calibration.images().iter().map(|v| v.im).collect()];
    let mut targets = vec![Complex::default(); indices.len() * coils];
    let mut sources = vec![Complex::default(); indices.len() * count * coils];
    let rows = targets.par_chunks_mut(coils).zip(sources.par_chunks_mut(count * coils));
    rows.enumerate().with_min_len(16).for_each_init(
        || Wave::new(calibration.dims()),
        |wave, (n, (target, sources))| {
            let point = &points[n * rank..][..rank];
            wave.set(point.iter().copied());
            wave.transform(&planes, target);
            let offsets = geometry.offsets_of(indices[n]).chunks_exact(rank);
            for (offset, source) in offsets.zip(sources.chunks_exact_mut(coils)) {
                wave.set(point.iter().zip(offset).map(|(k, d)| k + d));
                wave.transform(&planes, source);
            }
        },
    );
    Ok(KernelSamples { sources, targets })
}

/// The same by a non-uniform transform of a tolerance of 1e-6, whose cost hardly depends on the sizes of the images.
fn many_kspace_samples<T: Real>(
    calibration: &Calibration<T>,
    geometry: &Geometry,
    indices: &[usize],
    points: &[f64],
) -> Result<KernelSamples<T>> {
    let (rank, coils, dims) = (geometry.rank(), calibration.coils(), calibration.dims());
    let each = 1 + geometry.sources();
    // k-space of voxels is periodic; what lies beyond its edge is on the other side
    let wrapped = |(k, &n): (f64, &usize)| k - n as f64 * (k / n as f64).round();
    let mut all = Vec::with_capacity(indices.len() * each * rank);
    for (point, &index) in points.chunks_exact(rank).zip(indices) {
        all.extend(point.iter().copied().zip(dims).map(wrapped));
        for offset in geometry.offsets_of(index).chunks_exact(rank) {
            all.extend(point.iter().zip(offset).map(|(k, d)| k + d).zip(dims).map(wrapped));
        }
    }
    let trajectory = Trajectory::new(1, indices.len() * each, rank, all)?;
    let transform = Nufft::<T>::new(&trajectory, dims, 1e-6)?;
    let mut values = vec![Complex::default(); coils * trajectory.len()];
    transform.forward_many(calibration.images(), &mut values);
    let mut found = KernelSamples { sources: Vec::new(), targets: Vec::new() };
    for at in 0..trajectory.len() {
        let coils = values.iter().skip(at).step_by(trajectory.len()).copied();
        if at % each == 0 { found.targets.extend(coils) } else { found.sources.extend(coils) }
    }
    Ok(found)
}

/// The phases of one point of k-space over an image.
struct Wave<T> {
    dims: Vec<usize>,
    re: Vec<T>,
    im: Vec<T>,
}

impl<T: Real> Wave<T> {
    fn new(dims: &[usize]) -> Self {
        let voxels = dims.iter().product();
        Self { dims: dims.to_vec(), re: vec![T::default(); voxels], im: vec![T::default(); voxels] }
    }

    /// `exp(−2πi k·r/N)/√N`, as a product over the axes, from the last to the first.
    fn set(&mut self, point: impl Iterator<Item = f64>) {
        let axes: Vec<Vec<Complex<T>>> = point.zip(&self.dims).map(axis).collect();
        let mut filled = 1;
        (self.re[0], self.im[0]) = (T::one(), T::default());
        for axis in axes.iter().rev() {
            // the block of what is filled already comes first, and is overwritten last
            for (i, &phase) in axis.iter().enumerate().skip(1).rev() {
                let (re, re_next) = self.re.split_at_mut(i * filled);
                let (im, im_next) = self.im.split_at_mut(i * filled);
                for at in 0..filled {
                    re_next[at] = re[at] * phase.re - im[at] * phase.im;
                    im_next[at] = re[at] * phase.im + im[at] * phase.re;
                }
            }
            for (re, im) in self.re[..filled].iter_mut().zip(&mut self.im[..filled]) {
                let v = Complex::new(*re, *im) * axis[0];
                (*re, *im) = (v.re, v.im);
            }
            filled *= axis.len();
        }
    }

    /// The sums of the products with the images, whose real and imaginary parts are apart.
    fn transform(&self, [re, im]: &[Vec<T>; 2], out: &mut [Complex<T>]) {
        let voxels = self.re.len();
        let images = re.chunks_exact(voxels).zip(im.chunks_exact(voxels));
        vectorised(
            #[inline(always)]
            || {
                for (value, (re, im)) in out.iter_mut().zip(images) {
                    *value = dot([&self.re, &self.im], [re, im]);
                }
            },
        );
    }
}

/// `exp(−2πi k r/N)/√N` of the voxels of an axis.
fn axis<T: Real>((k, &size): (f64, &usize)) -> Vec<Complex<T>> {
    let middle = (size / 2) as f64;
    let first = turn::<f64>(k * middle / size as f64) / (size as f64).sqrt();
    let step = turn::<f64>(-k / size as f64);
    std::iter::successors(Some(first), |phase| Some(phase * step)).take(size).map(narrow).collect()
}

/// `Σ a b`, in a fixed order of sums.
#[inline(always)]
fn dot<T: Real>([ar, ai]: [&[T]; 2], [br, bi]: [&[T]; 2]) -> Complex<T> {
    const LANES: usize = 16;
    let (mut re, mut im) = ([T::default(); LANES], [T::default(); LANES]);
    let (ar, ar_rest) = ar.as_chunks::<LANES>();
    let (ai, ai_rest) = ai.as_chunks::<LANES>();
    let (br, br_rest) = br.as_chunks::<LANES>();
    let (bi, bi_rest) = bi.as_chunks::<LANES>();
    for (((ar, ai), br), bi) in ar.iter().zip(ai).zip(br).zip(bi) {
        for l in 0..LANES {
            re[l] += ar[l] * br[l] - ai[l] * bi[l];
            im[l] += ar[l] * bi[l] + ai[l] * br[l];
        }
    }
    for i in 0..ar_rest.len() {
        re[i] += ar_rest[i] * br_rest[i] - ai_rest[i] * bi_rest[i];
        im[i] += ar_rest[i] * bi_rest[i] + ai_rest[i] * br_rest[i];
    }
    Complex::new(re.into_iter().sum(), im.into_iter().sum())
}

fn check<T: Real>(
    op: &'static str,
    calibration: &Calibration<T>,
    geometry: &Geometry,
    indices: &[usize],
) -> Result<()> {
    let (images, rank) = (calibration.dims(), geometry.rank());
    if images.len() != rank {
        let expected = format!("images of {rank} dimensions, as the trajectory has");
        return Err(Error::shape(op, expected, format!("{images:?}")));
    }
    expect_below(op, "geometry", indices, geometry.len())
}

fn expect_below(op: &'static str, what: &str, indices: &[usize], count: usize) -> Result<()> {
    match indices.iter().find(|&&index| index >= count) {
        Some(index) => Err(Error::value(op, format!("{what} {index} is asked for of {count}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Trajectory;
    use crate::fixture::{Fixture, load};
    use crate::grog::{GeometryConfig, ReadoutInterpolation};
    use crate::operator::tests::{distance, random};

    fn geometry(file: &Fixture) -> Geometry {
        let [shots, samples, rank] = file.shape("trj") else { panic!("three axes") };
        let points = file.values("trj").to_vec();
        let trajectory = Trajectory::new(*shots, *samples, *rank, points).unwrap();
        let readout = ReadoutInterpolation::Upsampled;
        let config = GeometryConfig { readout, ..GeometryConfig::default() };
        Geometry::new(&trajectory, file.values("t"), &config).unwrap()
    }

    fn whole(values: &[f64]) -> Vec<usize> {
        values.iter().map(|&v| v as usize).collect()
    }

    #[test]
    fn agrees_with_the_reference() {
        let Some(file) = load("unit/training_samples") else { return };
        let Some(geometry) = load("unit/geometry").map(|file| geometry(&file)) else { return };
        let indices = whole(file.values("geom_index"));

        let dims = &file.shape("mps")[1..3];
        let maps = Calibration::new(file.shape("mps")[0], dims, file.complex("mps")).unwrap();
        let voxels: Vec<usize> =
            whole(file.values("voxel")).chunks(2).map(|v| v[0] * dims[1] + v[1]).collect();
        let plain = image_samples(&maps, &geometry, &indices, &voxels, None).unwrap();
        assert!(distance(&plain.sources, &file.complex("img_src")) < 1e-10);
        assert!(distance(&plain.targets, &file.complex("img_trg")) < 1e-14);
        let tau: f64 = file.metadata("tau").parse().unwrap();
        let times = vec![tau; indices.len()];
        let shift = FieldShift { field: file.values("b0"), times: &times };
        let turned = image_samples(&maps, &geometry, &indices, &voxels, Some(shift)).unwrap();
        assert!(distance(&turned.sources, &file.complex("img_src_field")) < 1e-10);
        assert_eq!(turned.targets, plain.targets);

        let shape = file.shape("kcal");
        let kspace = Calibration::from_kspace(shape[0], &shape[1..3], file.complex("kcal"));
        let points = file.values("k_target");
        let got = kspace_samples(&kspace.unwrap(), &geometry, &indices, points).unwrap();
        assert!(distance(&got.sources, &file.complex("ksp_src")) < 1e-10);
        assert!(distance(&got.targets, &file.complex("ksp_trg")) < 1e-12);
    }

    fn line() -> Geometry {
        let points = (0..40).flat_map(|i| [f64::from(i) * 0.3 - 6.1, 0.2, 0.7]).collect();
        let trajectory = Trajectory::new(1, 40, 3, points).unwrap();
        Geometry::new(&trajectory, &[0.0; 40], &GeometryConfig::default()).unwrap()
    }

    #[test]
    fn volumes_have_samples_too() {
        let (geometry, dims) = (line(), [5, 4, 6]);
        let images = Calibration::new(2, &dims, random::<f64>(1, 240)).unwrap();
        let point = [1.0, -2.0, 0.5];
        let got = kspace_samples(&images, &geometry, &[17], &point).unwrap();
        for (s, offset) in geometry.offsets_of(17).chunks(3).enumerate() {
            let value = |v: usize| {
                let r = images.position(v);
                let turns: f64 = (0..3).map(|d| (point[d] + offset[d]) * r[d]).sum();
                images.image(1)[v] * turn::<f64>(-turns)
            };
            let expected = (0..120).map(value).sum::<Complex<f64>>() / 120f64.sqrt();
            assert!((got.sources[2 * s + 1] - expected).norm() < 1e-12);
        }
    }

    #[test]
    fn many_samples_are_those_of_few() {
        let (geometry, dims) = (line(), [9, 8, 7]);
        let count = 200;
        let indices: Vec<usize> = (0..count).map(|i| i * 7 % 40).collect();
        let points: Vec<f64> =
            (0..3 * count).map(|i| ((i * 37) % 81) as f64 / 10.0 - 4.0).collect();
        let images = Calibration::new(2, &dims, random::<f32>(1, 2 * 504)).unwrap();
        let many = kspace_samples(&images, &geometry, &indices, &points).unwrap();
        let mut few = KernelSamples { sources: Vec::new(), targets: Vec::new() };
        for (i, point) in indices.iter().zip(points.chunks(3)) {
            let one = kspace_samples(&images, &geometry, &[*i], point).unwrap();
            few.sources.extend(one.sources);
            few.targets.extend(one.targets);
        }
        assert!(distance(&many.sources, &few.sources) < 2e-6);
        assert!(distance(&many.targets, &few.targets) < 2e-6);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let geometry = line();
        let flat = Calibration::new(2, &[4, 4], random::<f32>(1, 32)).unwrap();
        let images = Calibration::new(2, &[4, 4, 2], random::<f32>(1, 64)).unwrap();
        let refused = |result: Result<KernelSamples<f32>>| result.unwrap_err().to_string();
        let image = |images, indices: &[usize], voxels: &[usize], shift| {
            refused(image_samples(images, &geometry, indices, voxels, shift))
        };
        assert!(image(&flat, &[0], &[0], None).contains("3 dimensions"));
        assert!(image(&images, &[40], &[0], None).contains("geometry 40 is asked for of 40"));
        assert!(image(&images, &[0], &[32], None).contains("voxel 32 is asked for of 32"));
        assert!(image(&images, &[0], &[], None).contains("voxels"));
        let shift = FieldShift { field: &[0.0; 31], times: &[0.0] };
        assert!(image(&images, &[0], &[0], Some(shift)).contains("31 values"));
        let nan = [0.0, f64::NAN, 0.0];
        assert!(refused(kspace_samples(&images, &geometry, &[0], &nan)).contains("finite"));
    }
}
