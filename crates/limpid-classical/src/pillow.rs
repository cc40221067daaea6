//! Operations on 8-bit images with the bits of Pillow 13 (`ImageFilter.GaussianBlur`,
//! `Image.resize`, `Image.rotate(90)`) and of EMDiffuse's conversions between bytes and `-1…1`: for
//! data that was prepared with them, and for comparison.
//!
//! Sources: `BoxBlur.c` (Gwosdek, Grewenig, Bruhn, Weickert, "Theoretical foundations of Gaussian
//! convolution by extended box filtering", SSVM 2011), `Resample.c` and `Geometry.c` of Pillow.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Passes of the box that make a Gaussian.
const PASSES: usize = 3;
/// Fractional bits of the weights of a box.
const BOX_BITS: u32 = 24;
/// Fractional bits of the weights of a resize.
const RESIZE_BITS: u32 = 22;
/// The largest radius and side that the weights have bits for.
const MOST_RADIUS: f64 = 1e4;

/// `image.filter(GaussianBlur(radius))` of a grey image `[rows, columns]`: the radius is the standard
/// deviation in pixels, edges are continued.
///
/// # Errors
/// A shape that does not fit, or a radius below 0 or beyond 10⁴.
pub fn pillow_blur(image: &[u8], shape: [usize; 2], radius: f64) -> Result<Vec<u8>> {
    check("pillow_blur", image, shape)?;
    if !(0.0..=MOST_RADIUS).contains(&radius) {
        let problem = format!("`radius` must be between 0 and {MOST_RADIUS} pixels, got {radius}");
        return Err(Error::parameter("pillow_blur", problem));
    }
    let kernel = ExtendedBox::new(radius as f32);
    let mut image = image.to_vec();
    let mut shape = shape;
    // rows, then columns, which are the rows of the transposed image
    for _ in 0..2 {
        for _ in 0..PASSES {
            kernel.run(&mut image, shape[1]);
        }
        image = transposed(&image, shape);
        shape = [shape[1], shape[0]];
    }
    Ok(image)
}

/// A box of fractional width.
struct ExtendedBox {
    /// Whole pixels on either side of the middle.
    side: usize,
    /// Weight of those.
    whole: u32,
    /// Weight of the next on either side.
    edge: u32,
}

impl ExtendedBox {
    /// The box whose [`PASSES`] passes have the standard deviation `radius`; in the precision that
    /// Pillow has.
    fn new(radius: f32) -> Self {
        let variance = radius * radius / PASSES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
            / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
        let radius = whole + part;
        let side = radius as usize;
        let one = 1u32 << BOX_BITS;
        let whole = (one as f32 / (radius * 2.0 + 1.0)) as u32;
        Self { side, whole, edge: (one - (2 * side as u32 + 1) * whole) / 2 }
    }

    /// One pass along the rows.
    fn run(&self, image: &mut [u8], columns: usize) {
        image.par_chunks_mut(columns).for_each(|row| {
            let source = row.to_vec();
            let side = self.side.cast_signed();
            let at =
                |x: isize| u32::from(source[x.clamp(0, columns.cast_signed() - 1).cast_unsigned()]);
            let mut sum: u32 = (-side..=side).map(at).sum();
            for (x, out) in (0..).zip(row) {
                let edges = at(x - side - 1) + at(x + side + 1);
                let value = self.whole * sum + self.edge * edges + (1 << (BOX_BITS - 1));
                *out = (value >> BOX_BITS) as u8;
                sum = sum + at(x + side + 1) - at(x - side);
            }
        });
    }
}

/// `image.resize((columns, rows), Image.BILINEAR)`: a triangle over as many pixels as make one of a
/// smaller image.
///
/// # Errors
/// A shape that does not fit, or an empty size.
pub fn pillow_resize(image: &[u8], shape: [usize; 2], out: [usize; 2]) -> Result<Vec<u8>> {
    check("pillow_resize", image, shape)?;
    if out.contains(&0) {
        return Err(Error::shape("pillow_resize", "a size above 0", format!("{out:?}")));
    }
    let ([rows, columns], [new_rows, new_columns]) = (shape, out);
    // the pass that leaves the smaller image comes first: it was always the rows before Pillow 13
    if new_rows * columns < rows * new_columns {
        let tall = resized_columns(image, shape, new_rows);
        Ok(resized_rows(&tall, columns, new_columns))
    } else {
        let wide = resized_rows(image, columns, new_columns);
        Ok(resized_columns(&wide, [rows, new_columns], new_rows))
    }
}

/// Every row of `columns` pixels with `new` pixels.
fn resized_rows(image: &[u8], columns: usize, new: usize) -> Vec<u8> {
    let taps = taps(columns, new);
    let row = |row: &[u8]| -> Vec<u8> {
        let pixel = |(first, weights): &(usize, Vec<i32>)| {
            let sum: i32 = weights.iter().zip(&row[*first..]).map(|(w, v)| w * i32::from(*v)).sum();
            ((sum + (1 << (RESIZE_BITS - 1))) >> RESIZE_BITS).clamp(0, 255) as u8
        };
        taps.iter().map(pixel).collect()
    };
    image.par_chunks(columns).flat_map_iter(row).collect()
}

fn resized_columns(image: &[u8], shape: [usize; 2], new: usize) -> Vec<u8> {
    let turned = resized_rows(&transposed(image, shape), shape[0], new);
    transposed(&turned, [shape[1], new])
}

/// For each new pixel the first pixel that counts, and the weights from there on.
fn taps(size: usize, new: usize) -> Vec<(usize, Vec<i32>)> {
    let scale = size as f64 / new as f64;
    let support = scale.max(1.0);
    let of = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let last = ((centre + support + 0.5) as usize).min(size);
        let triangle =
            |x: usize| (1.0 - ((x as f64 - centre + 0.5) * (1.0 / support)).abs()).max(0.0);
        let weights: Vec<f64> = (first..last).map(triangle).collect();
        let unit = 1.0 / weights.iter().sum::<f64>();
        let fixed = |w: f64| (0.5 + w * unit * f64::from(1 << RESIZE_BITS)) as i32;
        (first, weights.into_iter().map(fixed).collect())
    };
    (0..new).map(of).collect()
}

/// `image.rotate(90)` of `[rows, columns]`: a quarter turn to the left about the middle on a canvas
/// that stays as it is; what comes from outside is 0.
///
/// # Errors
/// A shape that does not fit.
pub fn pillow_rotate90(image: &[u8], shape: [usize; 2]) -> Result<Vec<u8>> {
    check("pillow_rotate90", image, shape)?;
    let [rows, columns] = shape.map(usize::cast_signed);
    let (down, across) = ((rows - columns + 1).div_euclid(2), (rows + columns - 1) / 2);
    let places = (0..rows).flat_map(|y| (0..columns).map(move |x| (x + down, across - y)));
    let pixel = |(y, x): (isize, isize)| {
        let inside = (0..rows).contains(&y) && (0..columns).contains(&x);
        if inside { image[(y * columns + x).cast_unsigned()] } else { 0 }
    };
    Ok(places.map(pixel).collect())
}

/// Bytes as the network of the reference takes them: `(v/255 - 0.5)/0.5`.
#[must_use]
pub fn from_u8(values: &[u8]) -> Vec<f32> {
    values.iter().map(|v| (f32::from(*v) / 255.0 - 0.5) / 0.5).collect()
}

/// Values of `-1…1` as bytes, as the reference saves them: clamped, `(x + 1)·127.5`, halves to even.
#[must_use]
pub fn to_u8(values: &[f32]) -> Vec<u8> {
    let byte = |v: &f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even() as u8;
    values.iter().map(byte).collect()
}

fn check(filter: &'static str, image: &[u8], shape: [usize; 2]) -> Result<()> {
    let pixels = shape[0].checked_mul(shape[1]);
    if image.is_empty() || pixels != Some(image.len()) {
        let got = format!("{} values for shape {shape:?}", image.len());
        return Err(Error::shape(filter, "as many values as the shape says, at least one", got));
    }
    Ok(())
}

fn transposed(image: &[u8], [rows, columns]: [usize; 2]) -> Vec<u8> {
    (0..columns).flat_map(|x| (0..rows).map(move |y| image[y * columns + x])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, load_from};

    fn bytes(fixture: &Fixture, name: &str) -> (Vec<u8>, [usize; 2]) {
        let shape = fixture.shape(name);
        let values = fixture.values(name).iter().map(|v| *v as u8).collect();
        (values, [shape[0], shape[1]])
    }

    #[test]
    fn blur_rotation_and_resize_have_the_bits_of_pillow() {
        let Some(f) = load_from("emdiffuse", "image_ops") else { return };
        let same = |got: Vec<u8>, name: &str| assert!(got == bytes(&f, name).0, "{name}");
        for image in ["em", "noise"] {
            let (input, shape) = bytes(&f, &format!("in.{image}"));
            let blurred = pillow_blur(&input, shape, 3.0).unwrap();
            same(blurred, &format!("out.{image}.gaussian_blur_r3"));
            same(pillow_rotate90(&input, shape).unwrap(), &format!("out.{image}.rotate90"));
            for (from, to) in [
                ([128, 128], [256, 256]),
                ([300, 300], [128, 128]),
                ([400, 300], [256, 256]),
                ([96, 150], [256, 256]),
            ] {
                let size = format!("{}x{}", from[0], from[1]);
                let (input, shape) = bytes(&f, &format!("in.resize.{image}.{size}"));
                assert_eq!(shape, from);
                let resized = pillow_resize(&input, shape, to).unwrap();
                same(resized, &format!("out.resize.{image}.{size}_{}x{}", to[0], to[1]));
            }
        }
        let single = |name: &str| f.values(name).iter().map(|v| *v as f32).collect::<Vec<_>>();
        assert_eq!(from_u8(&bytes(&f, "in.em").0), single("out.em.tensor"));
        let expected: Vec<u8> = f.values("out.tensor2img").iter().map(|v| *v as u8).collect();
        assert_eq!(to_u8(&single("in.tensor2img")), expected);
    }

    #[test]
    fn what_must_hold_for_any_image() {
        let image: Vec<u8> = (0..35).map(|i| (i * 67 % 251) as u8).collect();
        assert_eq!(pillow_blur(&image, [5, 7], 0.0).unwrap(), image);
        assert_eq!(pillow_resize(&image, [5, 7], [5, 7]).unwrap(), image);
        let even = vec![201; 35];
        for radius in [0.4, 3.0, 50.0] {
            assert_eq!(pillow_blur(&even, [5, 7], radius).unwrap(), even, "{radius}");
        }
        assert_eq!(pillow_resize(&even, [5, 7], [11, 2]).unwrap(), [201; 22]);
        // bytes survive the way to the network and back
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(to_u8(&from_u8(&all)), all);
        assert_eq!(to_u8(&[f32::NEG_INFINITY, 9.0, f32::NAN]), [0, 255, 0]);
        // a quarter turn of a square, four of which do nothing
        assert_eq!(pillow_rotate90(&[1, 2, 3, 4], [2, 2]).unwrap(), [2, 4, 1, 3]);
        let turn = |image: Vec<u8>| pillow_rotate90(&image, [5, 5]).unwrap();
        let square = image[..25].to_vec();
        assert_eq!(turn(turn(turn(turn(square.clone())))), square);
    }

    #[test]
    fn shapes_and_radii_that_do_not_fit_are_refused() {
        assert!(pillow_blur(&[1, 2, 3], [2, 2], 1.0).is_err());
        assert!(pillow_blur(&[], [0, 4], 1.0).is_err());
        assert!(pillow_blur(&[1, 2], [1, 2], f64::NAN).is_err());
        assert!(pillow_resize(&[1, 2], [1, 2], [0, 2]).is_err());
        assert!(pillow_rotate90(&[1, 2], [usize::MAX, 2]).is_err());
    }
}
