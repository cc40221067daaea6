//! Whether the tiles that an image was put together from can be seen.

use super::image::Image;
use limpid_kernels::{Error, Result};

/// How much rougher an image is at the edges of its tiles than elsewhere; 1: no seams.
///
/// The mean |second difference| across the edges over that at all other lines, weighted by the number
/// of edges along each axis. An edge at row `i` lies between rows `i - 1` and `i`, and roughens both;
/// edges at the border of the image are none. NaN if the image holds a NaN.
///
/// # Errors
/// [`Error::Shape`] unless the image is 2-D and at least 3 by 3; [`Error::Argument`] if edges leave no
/// other lines.
pub fn seam(image: &Image, rows: &[usize], columns: &[usize]) -> Result<f64> {
    const OP: &str = "seam";
    let [height, width] = *image.shape() else {
        return Err(Error::shape(OP, "a 2-D image", image.shape()));
    };
    if height < 3 || width < 3 {
        return Err(Error::shape(OP, "an image of at least 3 by 3", image.shape()));
    }
    let (mut at_edges, mut expected) = (0.0, 0.0);
    for (edges, lines, across, step, along) in
        [(rows, height, width, width, 1), (columns, width, height, 1, width)]
    {
        let mut sums = [0.0; 2];
        let mut counts = [0.0; 2];
        for line in 1..lines - 1 {
            let roughness: f64 = (0..across)
                .map(|i| {
                    let at = |line: usize| image.at(line * step + i * along);
                    (at(line - 1) - 2.0 * at(line) + at(line + 1)).abs()
                })
                .sum();
            let edge = edges.iter().any(|e| *e > 0 && *e < lines && (*e == line || *e == line + 1));
            sums[usize::from(edge)] += roughness;
            counts[usize::from(edge)] += across as f64;
        }
        if counts[1] > 0.0 && counts[0] == 0.0 {
            return Err(Error::argument(OP, "no line is without an edge; give larger tiles"));
        }
        if counts[1] > 0.0 {
            at_edges += sums[1];
            expected += counts[1] * sums[0] / counts[0];
        }
    }
    if image.has_nan() {
        return Ok(f64::NAN);
    }
    Ok(if at_edges == expected { 1.0 } else { at_edges / expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texture(height: usize, width: usize) -> Vec<f64> {
        let mut noise = vec![0f32; height * width];
        limpid_kernels::rng::Stream::new(1, "seam").fill_normal(&mut noise);
        noise.into_iter().map(f64::from).collect()
    }

    #[test]
    fn a_step_at_an_edge_is_seen_and_elsewhere_is_not() {
        let (height, width) = (64, 96);
        let shape = [height, width];
        let plain = texture(height, width);
        let score = |data: &[f64], rows: &[usize], columns: &[usize]| {
            seam(&Image::new(data, &shape).unwrap(), rows, columns).unwrap()
        };
        let none = score(&plain, &[20, 40], &[32, 64]);
        assert!((none - 1.0).abs() < 0.05, "{none}");
        assert_eq!(score(&plain, &[], &[]), 1.0);
        assert_eq!(score(&plain, &[0, height], &[width]), 1.0);
        let stepped: Vec<f64> = plain
            .iter()
            .enumerate()
            .map(|(i, v)| v + if i % width >= 32 { 10.0 } else { 0.0 })
            .collect();
        let seen = score(&stepped, &[], &[32]);
        let missed = score(&stepped, &[], &[64]);
        assert!(seen > 2.0 && missed < 1.0, "{seen} {missed}");
    }

    #[test]
    fn a_ramp_with_a_kink_has_a_closed_form() {
        // |second difference| 2 at the last row of the upper half, 1 elsewhere
        let second = |row: usize| if row == 4 { 2.0 } else { 1.0 };
        let (mut value, mut slope) = (0.0, 0.0);
        let mut data = Vec::new();
        for row in 0..9 {
            data.extend([value; 5]);
            slope += second(row);
            value += slope;
        }
        let image = Image::new(data.as_slice(), &[9, 5]).unwrap();
        // rows 4 and 5 belong to the edge at 5
        let got = seam(&image, &[5], &[]).unwrap();
        assert!((got - 1.5).abs() < 1e-12, "{got}");
    }

    #[test]
    fn what_has_no_second_difference_is_refused() {
        let data = [0.0; 12];
        assert!(seam(&Image::new(data.as_slice(), &[12]).unwrap(), &[], &[]).is_err());
        assert!(seam(&Image::new(data.as_slice(), &[2, 6]).unwrap(), &[], &[]).is_err());
        let flat = Image::new(data.as_slice(), &[3, 4]).unwrap();
        assert_eq!(seam(&flat, &[], &[1]).unwrap(), 1.0);
        assert!(seam(&flat, &[1], &[]).is_err());
        let nan = [f64::NAN; 12];
        assert!(seam(&Image::new(nan.as_slice(), &[3, 4]).unwrap(), &[], &[1]).unwrap().is_nan());
    }
}
