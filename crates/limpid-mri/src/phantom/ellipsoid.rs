//! Sums of ellipsoids, on a grid and in k-space.

use super::bessel::j1;
use super::{indices, position};
use crate::error::expect_matrix;
use crate::real::{narrow, turn};
use crate::{Complex, Real, Result, Trajectory};
use rayon::prelude::*;
use std::f64::consts::{PI, TAU};

/// An ellipse or ellipsoid of one value, in halves of the field of view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ellipsoid<const D: usize> {
    /// What it adds to the image.
    pub value: f64,
    /// Its centre.
    pub centre: [f64; D],
    /// Its half axes, before it is turned.
    pub axes: [f64; D],
    /// Radians by which it is turned in the plane of the last two axes, from the former to the latter.
    pub angle: f64,
}

impl<const D: usize> Ellipsoid<D> {
    /// A vector in the frame of the axes.
    fn turned(&self, mut v: [f64; D]) -> [f64; D] {
        let (sin, cos) = self.angle.sin_cos();
        let [a, b] = [v[D - 2], v[D - 1]];
        (v[D - 2], v[D - 1]) = (cos * a + sin * b, cos * b - sin * a);
        v
    }

    /// Its value, or zero outside.
    fn at(&self, r: [f64; D]) -> f64 {
        let r = self.turned(std::array::from_fn(|d| r[d] - self.centre[d]));
        let distance: f64 = r.iter().zip(&self.axes).map(|(r, a)| (r / a).powi(2)).sum();
        if distance <= 1.0 { self.value } else { 0.0 }
    }

    /// Its Fourier transform where the field of view is one.
    fn spectrum(&self, k: [f64; D]) -> Complex<f64> {
        let turned = self.turned(k);
        let square: f64 = turned.iter().zip(&self.axes).map(|(k, a)| (k * a / 2.0).powi(2)).sum();
        let x = TAU * square.sqrt();
        let size: f64 = self.axes.iter().map(|a| a / 2.0).product();
        let ball = if D == 2 { PI * disc(x) } else { 4.0 / 3.0 * PI * sphere(x) };
        let phase: f64 = k.iter().zip(&self.centre).map(|(k, c)| k * c / 2.0).sum();
        turn::<f64>(-phase) * (self.value * size * ball)
    }
}

/// `2 J₁(x) / x`.
fn disc(x: f64) -> f64 {
    if x < 1e-8 { 1.0 } else { 2.0 * j1(x) / x }
}

/// `3 (sin x − x cos x) / x³`.
fn sphere(x: f64) -> f64 {
    if x < 0.1 {
        // the difference cancels
        let square = x * x;
        return 1.0 - square / 10.0 * (1.0 - square / 28.0 * (1.0 - square / 54.0));
    }
    3.0 * (x.sin() - x * x.cos()) / x.powi(3)
}

/// The sum of ellipses or ellipsoids at the centres of voxels, `[matrix]`.
///
/// # Errors
/// If `D` is not two or three, or a size is zero.
pub fn phantom_image<T: Real, const D: usize>(
    ellipsoids: &[Ellipsoid<D>],
    matrix: [usize; D],
) -> Result<Vec<Complex<T>>> {
    expect_matrix("phantom on a grid", &matrix)?;
    let at = |voxel: usize| {
        let voxel = indices::<D>(voxel, &matrix);
        let r = std::array::from_fn(|d| position(voxel[d], matrix[d]));
        let value: f64 = ellipsoids.iter().map(|e| e.at(r)).sum();
        Complex::new(T::of(value), T::of(0.0))
    };
    Ok((0..matrix.iter().product()).into_par_iter().with_min_len(1 << 12).map(at).collect())
}

/// The exact k-space `[shots, samples]` of a sum of ellipses or ellipsoids (Van de Walle et al., IEEE Trans.
/// Med. Imaging 2000; Koay et al., Magn. Reson. Med. 2007), scaled as samples of an image of `matrix` voxels
/// are, whose values are those of the phantom.
///
/// # Errors
/// If the trajectory has other than `D` coordinates or leaves the k-space of the matrix.
pub fn phantom_kspace<T: Real, const D: usize>(
    ellipsoids: &[Ellipsoid<D>],
    matrix: [usize; D],
    trajectory: &Trajectory,
) -> Result<Vec<Complex<T>>> {
    const OP: &str = "k-space of a phantom";
    expect_matrix(OP, &matrix)?;
    trajectory.check_matrix(OP, &matrix)?;
    let scale = matrix.iter().map(|&size| size as f64).product::<f64>().sqrt();
    let at = |k: &[f64; D]| {
        let sum: Complex<f64> = ellipsoids.iter().map(|e| e.spectrum(*k)).sum();
        narrow(sum * scale)
    };
    let points = trajectory.points().as_chunks().0;
    Ok(points.par_iter().with_min_len(1 << 9).map(at).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{Scene, shepp_logan, shepp_logan_3d};
    use super::*;
    use crate::operator::tests::distance;
    use crate::trajectories::{Angles, Koosh, Radial, Readouts, SphereOrder, Spoke};

    /// The samples of the phantom on a grid so many times as fine.
    fn fine<const D: usize>(
        ellipsoids: &[Ellipsoid<D>],
        matrix: [usize; D],
        factor: usize,
        readouts: &Readouts,
    ) -> Vec<Complex<f64>> {
        let matrix = matrix.map(|size| size * factor);
        let image = phantom_image::<f64, D>(ellipsoids, matrix).expect("an image");
        let scene = Scene { matrix: &matrix, image: &image, coils: None, field: None };
        let mut samples = scene.simulate(readouts).expect("samples");
        // the grid's scale is √voxels of the fine grid over that of the coarse
        let scale = (factor as f64).powi(D as i32).sqrt().recip();
        samples.iter_mut().for_each(|y| *y *= scale);
        samples
    }

    #[test]
    fn plane_spectrum_is_that_of_a_fine_phantom() {
        let spoke = Spoke { matrix: 32, oversampling: 1.0, ..Spoke::default() };
        let angles = Angles::Golden { order: 1 };
        let readouts =
            Radial { spoke, spokes: 9, angles, start: 3.0 }.readouts().expect("readouts");
        let phantom = shepp_logan();
        let exact =
            phantom_kspace::<f64, 2>(&phantom, [32, 32], &readouts.trajectory).expect("samples");
        let errors =
            [8, 32].map(|factor| distance(&fine(&phantom, [32, 32], factor, &readouts), &exact));
        // edges of voxels are half a fine voxel off; the finer the closer
        assert!(errors[0] < 0.02 && errors[1] < 0.003 && errors[1] < errors[0] / 3.0, "{errors:?}");
    }

    #[test]
    fn volume_spectrum_is_that_of_a_fine_phantom() {
        let spoke = Spoke { matrix: 12, oversampling: 1.0, ..Spoke::default() };
        let order = SphereOrder::GoldenMeans;
        let readouts = Koosh { spoke, spokes: 8, order }.readouts().expect("readouts");
        let phantom = shepp_logan_3d();
        let exact = phantom_kspace::<f64, 3>(&phantom, [12, 12, 12], &readouts.trajectory)
            .expect("samples");
        let error = distance(&fine(&phantom, [12, 12, 12], 10, &readouts), &exact);
        assert!(error < 0.01, "{error}");
    }

    #[test]
    fn centre_is_the_integral_and_shifts_are_phases() {
        let one = Ellipsoid { value: 2.0, centre: [0.0; 3], axes: [0.5, 0.4, 0.3], angle: 0.0 };
        let volume = 4.0 / 3.0 * PI * 0.06 / 8.0;
        assert!((one.spectrum([0.0; 3]).re - 2.0 * volume).abs() < 1e-15);
        let k = [3.0, -2.0, 1.5];
        let moved = Ellipsoid { centre: [0.2, -0.1, 0.4], ..one };
        let phase = turn::<f64>(-(3.0 * 0.1 + 2.0 * 0.05 + 1.5 * 0.2));
        assert!((moved.spectrum(k) - one.spectrum(k) * phase).norm() < 1e-15);
        // a quarter turn exchanges the last two axes
        let turned = Ellipsoid { angle: PI / 2.0, ..one };
        let exchanged = Ellipsoid { axes: [0.5, 0.3, 0.4], ..one };
        assert!((turned.spectrum(k) - exchanged.spectrum(k)).norm() < 1e-15);
        assert!(
            (turned.at([0.0, 0.0, 0.35]) - 2.0).abs() < 1e-15 && turned.at([0.0, 0.35, 0.0]) == 0.0
        );
        // the series and the closed form meet, where the slope is −x/5
        let gap = sphere(0.1 - 1e-9) - sphere(0.1 + 1e-9);
        assert!((gap - 4e-11).abs() < 1e-12, "{gap}");
    }

    #[test]
    fn refuses_other_ranks() {
        let flat = Trajectory::new(1, 1, 2, vec![0.0, 0.0]).expect("a position");
        let far = Trajectory::new(1, 1, 2, vec![0.0, 40.0]).expect("a position");
        assert!(phantom_kspace::<f32, 3>(&shepp_logan_3d(), [8, 8, 8], &flat).is_err());
        assert!(phantom_kspace::<f32, 2>(&shepp_logan(), [8, 8], &far).is_err());
        assert!(phantom_image::<f32, 2>(&shepp_logan(), [8, 0]).is_err());
    }
}
