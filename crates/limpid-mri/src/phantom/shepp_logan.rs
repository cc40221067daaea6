//! The head phantom of Shepp and Logan.

use super::Ellipsoid;

/// Value, half axes `a, b, c` and centre `x, y, z`, angle in degrees from x to y.
type Row = [f64; 8];

/// The plane phantom: Shepp and Logan (IEEE Trans. Nucl. Sci. 1974), with the values of Toft (thesis, DTU 1996)
/// that show its insides; `c` and `z` are unused.
const PLANE: [Row; 10] = [
    [1.0, 0.69, 0.92, 0.0, 0.0, 0.0, 0.0, 0.0],
    [-0.8, 0.6624, 0.874, 0.0, 0.0, -0.0184, 0.0, 0.0],
    [-0.2, 0.11, 0.31, 0.0, 0.22, 0.0, 0.0, -18.0],
    [-0.2, 0.16, 0.41, 0.0, -0.22, 0.0, 0.0, 18.0],
    [0.1, 0.21, 0.25, 0.0, 0.0, 0.35, 0.0, 0.0],
    [0.1, 0.046, 0.046, 0.0, 0.0, 0.1, 0.0, 0.0],
    [0.1, 0.046, 0.046, 0.0, 0.0, -0.1, 0.0, 0.0],
    [0.1, 0.046, 0.023, 0.0, -0.08, -0.605, 0.0, 0.0],
    [0.1, 0.023, 0.023, 0.0, 0.0, -0.606, 0.0, 0.0],
    [0.1, 0.023, 0.046, 0.0, 0.06, -0.605, 0.0, 0.0],
];

/// `c`, `z` and the angle that make a volume of it.
const VOLUME: [[f64; 3]; 10] = [
    [0.81, 0.0, 0.0],
    [0.78, 0.0, 0.0],
    [0.22, 0.0, -8.0],
    [0.28, 0.0, 28.0],
    [0.41, -0.15, 0.0],
    [0.05, 0.25, 0.0],
    [0.05, 0.25, 0.0],
    [0.05, 0.0, 0.0],
    [0.02, 0.0, 0.0],
    [0.02, 0.0, 0.0],
];

/// The modified Shepp–Logan phantom in the plane: the nose, +y, towards the first row, +x to the right.
pub fn shepp_logan() -> Vec<Ellipsoid<2>> {
    let ellipse = |&[value, a, b, _, x, y, _, degrees]: &Row| Ellipsoid {
        value,
        centre: [-y, x],
        axes: [b, a],
        angle: degrees.to_radians(),
    };
    PLANE.iter().map(ellipse).collect()
}

/// The modified Shepp–Logan phantom in space, as SigPy and MATLAB's `phantom3d` have it; slices along the
/// first axis.
pub fn shepp_logan_3d() -> Vec<Ellipsoid<3>> {
    let ellipsoid = |(&[value, a, b, _, x, y, ..], &[c, z, degrees]): (&Row, &[f64; 3])| {
        Ellipsoid { value, centre: [z, -y, x], axes: [c, b, a], angle: degrees.to_radians() }
    };
    PLANE.iter().zip(&VOLUME).map(ellipsoid).collect()
}

#[cfg(test)]
mod tests {
    use super::super::phantom_image;
    use super::*;

    #[test]
    fn values_are_those_of_the_phantom() {
        let n = 200;
        let image = phantom_image::<f64, 2>(&shepp_logan(), [n, n]).expect("an image");
        // x to the right, y up
        let at = |x: f64, y: f64| {
            let [row, column] = [-y, x].map(|u| (100.0 + 100.0 * u).round() as usize);
            image[row * n + column].re
        };
        let close = |x: f64, y: f64, value: f64| (at(x, y) - value).abs() < 1e-12;
        assert!(close(0.0, 0.9, 1.0) && close(0.0, -0.91, 1.0) && close(0.0, 0.95, 0.0));
        assert!(close(0.5, 0.2, 0.2) && close(0.0, 0.4, 0.3) && close(0.0, -0.4, 0.2));
        assert!(close(0.22, 0.0, 0.0) && close(-0.22, 0.0, 0.0) && close(0.0, 0.08, 0.3));
        // the ventricles lean outwards at the top
        assert!(close(0.3, 0.25, 0.0) && close(0.14, -0.25, 0.0) && !close(0.14, 0.25, 0.0));
        assert!(close(-0.32, 0.35, 0.0) && close(-0.08, -0.605, 0.3) && close(0.08, -0.4, 0.2));
        // the middle slice of the volume is the plane but for the angles and what lies elsewhere
        let volume = phantom_image::<f64, 3>(&shepp_logan_3d(), [8, n, n]).expect("an image");
        let slice = &volume[4 * n * n..5 * n * n];
        let differ = slice.iter().zip(&image).filter(|(a, b)| (*a - *b).norm() > 1e-12).count();
        assert!(differ < n * n / 25, "{differ}");
        assert!(volume[..n * n].iter().all(|v| v.re == 0.0));
    }
}
