//! Usual bases of fields: spherical harmonics, and the fields that come with gradients.

use crate::{Error, Result};

/// Turns a second and tesla of a proton.
pub const PROTON: f64 = 42.577_478_518e6;

/// Real solid harmonics up to an order of at most three, `[(order + 1)², voxels]`, at `positions`
/// `[voxels, 3]` in metres. Units are those of field cameras: order `n` has coefficients in turns a metreⁿ, and
/// the functions come in the order 1; x, y, z; xy, yz, 3z²−r², xz, x²−y²; 3x²y−y³, xyz, 5yz²−yr², 5z³−3zr²,
/// 5xz²−xr², z(x²−y²), x³−3xy² (Barmet et al., MRM 2008; Wilm et al., MRM 2011).
///
/// # Errors
/// If the order is above three, or positions have not three coordinates.
pub fn spherical_harmonics(order: usize, positions: &[f64]) -> Result<Vec<f64>> {
    const OP: &str = "spherical harmonics";
    if order > 3 {
        let problem = format!("`order` must be at most 3, got {order}");
        return Err(Error::value(OP, problem));
    }
    let all = bases(OP, positions, |[x, y, z]| {
        let r = x * x + y * y + z * z;
        [
            1.0,
            x,
            y,
            z,
            x * y,
            y * z,
            3.0 * z * z - r,
            x * z,
            x * x - y * y,
            3.0 * x * x * y - y * y * y,
            x * y * z,
            y * (5.0 * z * z - r),
            z * (5.0 * z * z - 3.0 * r),
            x * (5.0 * z * z - r),
            z * (x * x - y * y),
            x * x * x - 3.0 * x * y * y,
        ]
    })?;
    let voxels = positions.len() / 3;
    Ok(all[..(order + 1) * (order + 1) * voxels].to_vec())
}

/// The places of the concomitant fields of a cylindrical magnet along z: z², x²+y², xz, yz, `[4, voxels]`, at
/// `positions` `[voxels, 3]` in metres from the isocentre (Bernstein et al., MRM 1998).
///
/// # Errors
/// If positions have not three coordinates.
pub fn concomitant_bases(positions: &[f64]) -> Result<Vec<f64>> {
    bases("concomitant fields", positions, |[x, y, z]| [z * z, x * x + y * y, x * z, y * z])
}

/// What [`concomitant_bases`] are multiplied with, in turns a square metre, `[4, times]`: the integrals, by
/// trapezoids from the first time on, of the products of `gradients` `[times, 3]` in tesla a metre, every
/// `interval` seconds, in a field of `tesla`.
///
/// # Errors
/// If gradients have not three components, or the interval or the field is not finite and above zero.
pub fn concomitant_phase(gradients: &[f64], interval: f64, tesla: f64) -> Result<Vec<f64>> {
    const OP: &str = "concomitant fields";
    for (name, value) in [("interval", interval), ("tesla", tesla)] {
        if !(value > 0.0 && value.is_finite()) {
            let problem = format!("`{name}` must be finite and above zero, got {value}");
            return Err(Error::value(OP, problem));
        }
    }
    let mut rows = bases(OP, gradients, |[x, y, z]| [x * x + y * y, z * z / 4.0, -x * z, -y * z])?;
    let factor = PROTON / (2.0 * tesla) * interval;
    for row in rows.chunks_mut(gradients.len() / 3) {
        let (mut sum, mut before) = (0.0, None);
        for value in row {
            sum += before.map_or(0.0, |before: f64| (before + *value) / 2.0 * factor);
            before = Some(*value);
            *value = sum;
        }
    }
    Ok(rows)
}

/// `N` functions of vectors `[any, 3]`, as rows.
fn bases<const N: usize>(
    op: &'static str,
    vectors: &[f64],
    f: impl Fn([f64; 3]) -> [f64; N],
) -> Result<Vec<f64>> {
    let (all, []) = vectors.as_chunks() else {
        let got = format!("{} values", vectors.len());
        return Err(Error::shape(op, "vectors of three coordinates", got));
    };
    if all.is_empty() {
        return Err(Error::shape(op, "one vector or more", "none"));
    }
    let mut out = vec![0.0; N * all.len()];
    for (i, &vector) in all.iter().enumerate() {
        for (n, value) in f(vector).into_iter().enumerate() {
            out[n * all.len() + i] = value;
        }
    }
    Ok(out)
}
