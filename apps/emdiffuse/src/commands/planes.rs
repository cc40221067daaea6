//! How good a volume with new layers is in every plane, beside interpolations of the slices.

use super::eval::mean_ring;
use limpid_cli::Failure;
use limpid_cli::evaluation::Scores;
use limpid_io::{Axis, Volume};
use limpid_track::report::Table;

/// A volume of grey values, slices first.
#[derive(Clone, Copy)]
struct Cube<'a> {
    values: &'a [f32],
    shape: [usize; 3],
}

/// The table of a case: `coarse` is what was restored, `linear` its linear interpolation. None unless
/// layers were put between slices.
///
/// # Errors
/// The volumes are too small for the metrics.
pub(super) fn table(
    name: &str,
    coarse: &Volume,
    linear: &[f32],
    restored: &[f32],
    target: &Volume,
    range: f64,
) -> Result<Option<Table>, Failure> {
    let axes = |volume: &Volume| volume.info.axes.as_slice().to_vec();
    let zyx = [Axis::Z, Axis::Y, Axis::X];
    let (&[slices, rows, columns], &[depth, height, width]) =
        (coarse.info.shape.as_slice(), target.info.shape.as_slice())
    else {
        return Ok(None);
    };
    let layered = slices >= 2 && depth > slices && [rows, columns] == [height, width];
    if axes(coarse) != zyx || axes(target) != zyx || !layered {
        return Ok(None);
    }
    if shape_is_small([depth, height, width]) {
        return Ok(None);
    }
    let shape = [depth, height, width];
    let truth = target.data.to_f32();
    let given: Vec<f64> = coarse.data.to_f32().iter().map(|v| f64::from(*v)).collect();
    let cubic =
        limpid_classical::zoom(&given, &[slices, height, width], &shape).map_err(Failure::data)?;
    let cubic: Vec<f32> = cubic.into_iter().map(|v| v as f32).collect();
    let mut rows = Vec::new();
    for (method, values, ours) in [
        ("linear interpolation", linear, false),
        ("cubic interpolation", cubic.as_slice(), false),
        ("restored", restored, true),
    ] {
        let cube = |values| Cube { values, shape };
        let mut cells = vec![method.to_owned()];
        for plane in 0..3 {
            let of = |values| cube(values).planes(plane);
            let ((a, size), (b, _)) = (of(values), of(&truth));
            // of the slices those that were drawn; the others are as they were
            let step = (depth - 1) / (slices - 1);
            let pixels = size[0] * size[1];
            let drawn = |i: usize| plane > 0 || !i.is_multiple_of(step);
            let pick = |planes: &[f32]| -> Vec<f32> {
                planes
                    .chunks(pixels)
                    .enumerate()
                    .filter(|(i, _)| drawn(*i))
                    .flat_map(|(_, p)| p.to_vec())
                    .collect()
            };
            let (a, b) = (pick(&a), pick(&b));
            let ssim = Scores::of(&a, &b, &size, range)?.ssim;
            let mut ring = 0.0;
            for (a, b) in a.chunks(pixels).zip(b.chunks(pixels)) {
                ring += mean_ring(a, b, &size)?;
            }
            let ring = ring * pixels as f64 / a.len().max(1) as f64;
            cells.push(format!("{:.2}", psnr_of_all(&a, &b, range)));
            cells.push(format!("{ssim:.4}"));
            cells.push(format!("{ring:.4}"));
        }
        rows.push((cells, ours));
    }
    let mut head = vec!["method".to_owned()];
    for plane in ["XY", "XZ", "YZ"] {
        head.extend(["psnr", "ssim", "frc"].map(|metric| format!("{plane} {metric}")));
    }
    Ok(Some(Table {
        title: format!("planes of {name}"),
        head,
        rows,
        note: "XY: the layers between the slices; XZ and YZ: all of them. PSNR of all \
               planes together, SSIM and ring correlation averaged over them."
            .to_owned(),
    }))
}

/// Whether a plane has no SSIM: its window needs 7 pixels along every axis.
fn shape_is_small(shape: [usize; 3]) -> bool {
    shape.iter().any(|n| *n < 7)
}

/// PSNR of all planes together: one that is met exactly must not make it infinite.
fn psnr_of_all(a: &[f32], b: &[f32], range: f64) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.len().max(1) as f64;
    10.0 * (range * range / mean).log10()
}

impl Cube<'_> {
    /// Its planes one after the other, and their size: XY, XZ, YZ.
    fn planes(&self, plane: usize) -> (Vec<f32>, [usize; 2]) {
        let [d, h, w] = self.shape;
        match plane {
            0 => (self.values.to_vec(), [h, w]),
            1 => {
                let rows = (0..h).flat_map(|y| (0..d).map(move |z| (z * h + y) * w));
                (rows.flat_map(|row| self.values[row..row + w].to_vec()).collect(), [d, w])
            }
            _ => {
                let columns = (0..w).flat_map(|x| (0..d * h).map(move |line| line * w + x));
                (columns.map(|i| self.values[i]).collect(), [d, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limpid_io::Data;

    #[test]
    fn planes_are_cut_as_they_lie() {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let cube = Cube { values: &values, shape: [2, 3, 4] };
        assert_eq!(cube.planes(0), (values.clone(), [3, 4]));
        let (xz, size) = cube.planes(1);
        assert_eq!((&xz[..8], size), (&[0., 1., 2., 3., 12., 13., 14., 15.][..], [2, 4]));
        let (yz, size) = cube.planes(2);
        assert_eq!((&yz[..6], size), (&[0., 4., 8., 12., 16., 20.][..], [2, 3]));
    }

    #[test]
    fn a_wave_is_met_by_the_cubic_better_than_by_the_linear() {
        let volume = |depth: usize, z: &dyn Fn(usize) -> f64| {
            let values =
                (0..depth * 64).map(|i| (z(i / 64) + (i % 64 % 7) as f64) as f32).collect();
            Volume::new(Data::F32(values), &[depth, 8, 8], "ZYX".parse().unwrap()).unwrap()
        };
        let wave = |z: f64| 9.0 * (std::f64::consts::PI * z / 6.0).cos();
        let target = volume(13, &|z| wave(z as f64));
        let coarse = volume(7, &|z| wave(2.0 * z as f64));
        let linear = limpid_cli::evaluation::enlarged(&coarse, &target.info).unwrap();
        let perfect = target.data.to_f32();
        let table = table("a", &coarse, &linear, &perfect, &target, 36.0).unwrap().unwrap();
        let psnr = |row: usize, column: usize| table.rows[row].0[column].parse::<f64>().unwrap();
        for column in [1, 4, 7] {
            assert!(psnr(1, column) > psnr(0, column), "{table:?}");
            assert_eq!(table.rows[2].0[column], "inf");
        }
        // too thin for SSIM across its slices, and more pixels: no table
        let thin = volume(5, &|z| wave(z as f64));
        let three = volume(3, &|z| wave(2.0 * z as f64));
        let values = thin.data.to_f32();
        assert!(super::table("a", &three, &values, &values, &thin, 36.0).unwrap().is_none());
        // no layers, no table
        let same = super::table("a", &target, &perfect, &perfect, &target, 36.0);
        assert!(same.unwrap().is_none());
    }
}
