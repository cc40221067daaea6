//! How good a volume with new layers is in every plane, beside interpolations of the slices.

use super::eval::mean_ring;
use limpid_cli::Failure;
use limpid_cli::evaluation::{Scores, has_ssim};
use limpid_io::{Axis, Volume};
use limpid_losses::metrics::{Image, psnr};
use limpid_track::report::Table;

/// The planes that a volume is cut into, in the order of the table.
const PLANES: [&str; 3] = ["XY", "XZ", "YZ"];

/// The table of a case: `coarse` is what was restored, `linear` its linear interpolation. None unless
/// layers were put between slices, and for volumes too thin for SSIM.
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
    let (&[slices, height, width], &[depth, ..]) =
        (coarse.info.shape.as_slice(), target.info.shape.as_slice())
    else {
        return Ok(None);
    };
    let shape = [depth, height, width];
    let zyx = |v: &Volume| v.info.axes.as_slice() == [Axis::Z, Axis::Y, Axis::X];
    let layered = slices >= 2 && depth > slices && target.info.shape == shape;
    if !(layered && zyx(coarse) && zyx(target) && has_ssim(&shape)) {
        return Ok(None);
    }
    let step = (depth - 1) / (slices - 1);
    let given: Vec<f64> = coarse.data.to_f32().iter().map(|v| f64::from(*v)).collect();
    let cubic =
        limpid_classical::zoom(&given, &coarse.info.shape, &shape).map_err(Failure::data)?;
    let cubic: Vec<f32> = cubic.into_iter().map(|v| v as f32).collect();
    let truth = target.data.to_f32();
    let methods: [(&str, &[f32]); 3] =
        [("linear interpolation", linear), ("cubic interpolation", &cubic), ("restored", restored)];
    let mut rows = methods.map(|(method, _)| (vec![method.to_owned()], method == "restored"));
    for plane in PLANES {
        let cut = |values: &[f32]| {
            let (all, size) = planes(values, shape, plane);
            // the slices that were given are as they were: only the others are measured
            let given = |i: usize| plane == "XY" && i.is_multiple_of(step);
            let cut = all.chunks(size[0] * size[1]).enumerate().filter(|(i, _)| !given(*i));
            (cut.flat_map(|(_, plane)| plane.to_vec()).collect::<Vec<_>>(), size)
        };
        let (truth, size) = cut(&truth);
        for ((_, values), (cells, _)) in methods.iter().zip(&mut rows) {
            let (values, _) = cut(values);
            // all planes in one image: one that is met exactly must not make the mean infinite
            let one = [values.len() / size[1], size[1]];
            let a = Image::new(values.as_slice(), &one).map_err(Failure::data)?;
            let b = Image::new(truth.as_slice(), &one).map_err(Failure::data)?;
            let psnr = psnr(&a, &b, range).map_err(Failure::data)?;
            cells.push(format!("{psnr:.2}"));
            cells.push(format!("{:.4}", Scores::of(&values, &truth, &size, range)?.ssim));
            cells.push(format!("{:.4}", mean_ring(&values, &truth, &size)?));
        }
    }
    let scores =
        PLANES.iter().flat_map(|plane| ["psnr", "ssim", "frc"].map(|m| format!("{plane} {m}")));
    Ok(Some(Table {
        title: format!("planes of {name}"),
        head: std::iter::once("method".to_owned()).chain(scores).collect(),
        rows: rows.to_vec(),
        note: "XY: the layers between the slices; XZ and YZ: all of them. PSNR of all \
               planes together, SSIM and ring correlation averaged over them."
            .to_owned(),
    }))
}

/// The planes of a volume one after the other, and their size.
fn planes(values: &[f32], shape: [usize; 3], plane: &str) -> (Vec<f32>, [usize; 2]) {
    let [d, h, w] = shape;
    match plane {
        "XY" => (values.to_vec(), [h, w]),
        "XZ" => {
            let rows = (0..h).flat_map(|y| (0..d).map(move |z| (z * h + y) * w));
            (rows.flat_map(|row| values[row..row + w].to_vec()).collect(), [d, w])
        }
        _ => {
            let columns = (0..w).flat_map(|x| (0..d * h).map(move |line| line * w + x));
            (columns.map(|i| values[i]).collect(), [d, h])
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
        let planes = |plane| planes(&values, [2, 3, 4], plane);
        assert_eq!(planes("XY"), (values.clone(), [3, 4]));
        let (xz, size) = planes("XZ");
        assert_eq!((&xz[..8], size), (&[0., 1., 2., 3., 12., 13., 14., 15.][..], [2, 4]));
        let (yz, size) = planes("YZ");
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
