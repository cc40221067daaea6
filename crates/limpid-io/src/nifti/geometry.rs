//! Between the header's geometry and ours: spacing, units, and the affine of sform and qform.
//!
//! Source: `nifti1.h`, METHOD 1 to 3, and `nifti_mat44_to_quatern` of nifti1_io.

use super::Header;
use crate::volume::{Axis, VolumeInfo, metres};

type Affine = [[f64; 4]; 4];

/// The units of length that the header can name.
const UNITS: [(i32, &str, f64); 3] = [(1, "m", 1.0), (2, "mm", 1e-3), (3, "µm", 1e-6)];

/// Which `pixdim` belongs to an axis.
fn pixdim(axis: Axis) -> usize {
    match axis {
        Axis::X => 1,
        Axis::Y => 2,
        Axis::Z => 3,
        Axis::T => 4,
        Axis::C => 5,
    }
}

/// Seconds per unit of time in the header.
fn seconds(xyzt_units: i32) -> f64 {
    match xyzt_units & 0x38 {
        16 => 1e-3,
        24 => 1e-6,
        _ => 1.0,
    }
}

fn unit(xyzt_units: i32) -> Option<&'static str> {
    UNITS.iter().find(|(code, ..)| *code == xyzt_units & 7).map(|(_, name, _)| *name)
}

/// Spacing along the axes of `info`, as far as the header knows it.
fn spacing(header: &Header, info: &VolumeInfo) -> Option<Vec<f64>> {
    let spacing = info.axes.as_slice().iter().map(|axis| {
        let size = header.pixdim[pixdim(*axis)].abs();
        let size = if size.is_finite() { size } else { 0.0 };
        match axis {
            Axis::T => size * seconds(header.xyzt_units),
            Axis::C => 0.0,
            _ => size,
        }
    });
    let spacing: Vec<f64> = spacing.collect();
    if spacing.ends_with(&[0.0, 0.0]) { None } else { Some(spacing) }
}

/// The affine of sform, or else of qform.
fn affine(header: &Header) -> Option<Affine> {
    let affine = if header.sform_code > 0 {
        let [x, y, z] = header.srow;
        [x, y, z, [0.0, 0.0, 0.0, 1.0]]
    } else if header.qform_code > 0 {
        from_quaternion(header)
    } else {
        return None;
    };
    affine.iter().flatten().all(|v| v.is_finite()).then_some(affine)
}

/// Fills in what the header says about geometry.
pub(super) fn to_info(header: &Header, info: &mut VolumeInfo) {
    info.spacing = spacing(header, info);
    info.unit = unit(header.xyzt_units).map(str::to_owned);
    info.affine = affine(header);
}

/// Sets the header's geometry from `info`. What `info` took from this header and did not change
/// stays as it is, to the bit.
pub(super) fn to_header(info: &VolumeInfo, header: &mut Header) {
    let mut factor = 1.0;
    if info.unit.as_deref() != unit(header.xyzt_units) {
        let (code, metres) = match info.unit.as_deref().and_then(metres) {
            None => (0, None), // not a length
            Some(metres) => match UNITS.iter().find(|(.., m)| *m == metres) {
                Some((code, ..)) => (*code, None),
                None => (3, Some(metres)), // the finest there is
            },
        };
        factor = metres.map_or(1.0, |m| (m / 1e-6 * 1e12).round() / 1e12);
        header.xyzt_units = header.xyzt_units & !7 | code;
    }
    if factor != 1.0 || spacing(header, info) != info.spacing {
        if header.xyzt_units & 0x38 == 0 {
            header.xyzt_units |= 8; // seconds
        }
        for (i, axis) in info.axes.as_slice().iter().enumerate() {
            let size = info.spacing.as_ref().map_or(1.0, |spacing| spacing[i]);
            header.pixdim[pixdim(*axis)] = match axis {
                Axis::T => size / seconds(header.xyzt_units),
                Axis::C => 1.0,
                _ => size * factor,
            };
        }
    }
    if factor == 1.0 && affine(header) == info.affine {
        return;
    }
    let Some(mut affine) = info.affine else {
        (header.sform_code, header.qform_code) = (0, 0);
        return;
    };
    affine.iter_mut().take(3).flatten().for_each(|v| *v *= factor);
    // codes say which space it is: keep them, or say "aligned to something"
    let code = header.sform_code.max(header.qform_code).max(0);
    header.sform_code = if code == 0 { 2 } else { code };
    header.srow = [affine[0], affine[1], affine[2]];
    if header.qform_code > 0 && !to_quaternion(&affine, header) {
        header.qform_code = 0;
    }
}

/// METHOD 2: rotation from the quaternion, sizes from `pixdim`, handedness from `pixdim[0]`.
fn from_quaternion(header: &Header) -> Affine {
    let [b, c, d] = header.quatern;
    let a = (1.0 - (b * b + c * c + d * d)).max(0.0).sqrt();
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    let qfac = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let sizes = [header.pixdim[1], header.pixdim[2], header.pixdim[3] * qfac];
    let mut affine = [[0.0; 4]; 4];
    for i in 0..3 {
        for j in 0..3 {
            affine[i][j] = rotation[i][j] * sizes[j];
        }
        affine[i][3] = header.qoffset[i];
    }
    affine[3][3] = 1.0;
    affine
}

/// Sets quaternion, offsets and sizes from an affine, if it is a rotation with sizes.
fn to_quaternion(affine: &Affine, header: &mut Header) -> bool {
    let mut r = [[0.0; 3]; 3];
    let mut sizes = [0.0; 3];
    for j in 0..3 {
        sizes[j] = (0..3).map(|i| affine[i][j].powi(2)).sum::<f64>().sqrt();
        for i in 0..3 {
            r[i][j] = affine[i][j] / sizes[j];
        }
    }
    let dot = |p: usize, q: usize| (0..3).map(|i| r[i][p] * r[i][q]).sum::<f64>();
    if sizes.contains(&0.0) || [dot(0, 1), dot(0, 2), dot(1, 2)].iter().any(|d| d.abs() > 1e-4) {
        return false;
    }
    let determinant = r[0][0] * (r[1][1] * r[2][2] - r[1][2] * r[2][1])
        - r[0][1] * (r[1][0] * r[2][2] - r[1][2] * r[2][0])
        + r[0][2] * (r[1][0] * r[2][1] - r[1][1] * r[2][0]);
    header.pixdim[0] = if determinant < 0.0 { -1.0 } else { 1.0 };
    r.iter_mut().for_each(|row| row[2] *= header.pixdim[0]);
    // the largest of the four components is found without cancellation
    let trace = 1.0 + r[0][0] + r[1][1] + r[2][2];
    let [a, b, c, d] = if trace > 0.5 {
        let a = 0.5 * trace.sqrt();
        let (x, y, z) = (r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]);
        [a, 0.25 * x / a, 0.25 * y / a, 0.25 * z / a]
    } else {
        let x = 1.0 + r[0][0] - (r[1][1] + r[2][2]);
        let y = 1.0 + r[1][1] - (r[0][0] + r[2][2]);
        let z = 1.0 + r[2][2] - (r[0][0] + r[1][1]);
        if x > 1.0 {
            let b = 0.5 * x.sqrt();
            let sums = [r[2][1] - r[1][2], r[0][1] + r[1][0], r[0][2] + r[2][0]];
            [0.25 * sums[0] / b, b, 0.25 * sums[1] / b, 0.25 * sums[2] / b]
        } else if y > 1.0 {
            let c = 0.5 * y.sqrt();
            let sums = [r[0][2] - r[2][0], r[0][1] + r[1][0], r[1][2] + r[2][1]];
            [0.25 * sums[0] / c, 0.25 * sums[1] / c, c, 0.25 * sums[2] / c]
        } else {
            let d = 0.5 * z.max(0.0).sqrt();
            let sums = [r[1][0] - r[0][1], r[0][2] + r[2][0], r[1][2] + r[2][1]];
            [0.25 * sums[0] / d, 0.25 * sums[1] / d, 0.25 * sums[2] / d, d]
        }
    };
    let sign = if a < 0.0 { -1.0 } else { 1.0 };
    header.quatern = [b * sign, c * sign, d * sign];
    header.qoffset = [affine[0][3], affine[1][3], affine[2][3]];
    header.pixdim[1..4].copy_from_slice(&sizes);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quaternions_and_matrices_are_inverse() {
        // rotations by all branches of the inverse, with and without a mirrored axis
        let quaternions = [
            [0.1, 0.2, 0.3],
            [0.99, 0.05, 0.02],
            [0.05, -0.99, 0.02],
            [0.03, 0.05, 0.99],
            [0.0, 0.0, 0.0],
            [1.0, 0.0, 0.0],
            [0.5, 0.5, 0.5],
        ];
        for quatern in quaternions {
            for qfac in [1.0, -1.0] {
                let pixdim = [qfac, 2.0, 0.5, 3.0, 1.0, 1.0, 1.0, 1.0];
                let qoffset = [-10.0, 20.0, 30.0];
                let header = Header { quatern, qoffset, pixdim, ..Header::empty() };
                let affine = from_quaternion(&header);
                let mut back = Header::empty();
                assert!(to_quaternion(&affine, &mut back));
                let again = from_quaternion(&back);
                for (x, y) in affine.iter().flatten().zip(again.iter().flatten()) {
                    assert!((x - y).abs() < 1e-6, "{quatern:?} {qfac}: {affine:?} {again:?}");
                }
                assert_eq!(back.pixdim[0], qfac);
            }
        }
        let mut sheared = from_quaternion(&Header::empty());
        sheared[0][1] = 0.5;
        assert!(!to_quaternion(&sheared, &mut Header::empty()));
    }
}
