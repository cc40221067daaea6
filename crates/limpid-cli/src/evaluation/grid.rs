//! Inputs of coarser grids: what the slices between others, and pixels of half the size, are
//! compared with is the input interpolated to where they lie.

use limpid_io::{Axis, Volume, VolumeInfo};

/// The values of an image on a finer grid in the same field, interpolated linearly: slices stay
/// where they are and others come between them, rows and columns are split into several, as
/// predictions make them. None if `grid` is not such a one.
#[must_use]
pub fn enlarged(image: &Volume, grid: &VolumeInfo) -> Option<Vec<f32>> {
    if image.info.axes != grid.axes {
        return None;
    }
    let mut values = image.data.to_f32();
    let mut shape = image.info.shape.clone();
    for (a, axis) in grid.axes.as_slice().iter().enumerate() {
        let (n, m) = (shape[a], grid.shape[a]);
        // pixels of the coarser grid to one of the finer, and where the first of these lies
        let (pace, first) = match axis {
            _ if n == m => continue,
            Axis::Z if n > 1 && m > n && (m - 1) % (n - 1) == 0 => {
                ((n - 1) as f64 / (m - 1) as f64, 0.0)
            }
            Axis::Y | Axis::X if m > n && m % n == 0 => {
                let pace = n as f64 / m as f64;
                (pace, (pace - 1.0) / 2.0)
            }
            _ => return None,
        };
        let step: usize = shape[a + 1..].iter().product();
        let mut finer = Vec::with_capacity(values.len() / n * m);
        for block in values.chunks_exact(n * step) {
            for i in 0..m {
                let at = (i as f64 * pace + first).clamp(0.0, (n - 1) as f64);
                let (below, part) = (at as usize, at.fract() as f32);
                let line = |i: usize| &block[i.min(n - 1) * step..][..step];
                let between = |(a, b): (&f32, &f32)| a + (b - a) * part;
                finer.extend(line(below).iter().zip(line(below + 1)).map(between));
            }
        }
        (values, shape[a]) = (finer, m);
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use limpid_io::Data;

    fn volume(axes: &str, shape: &[usize], value: impl Fn(usize) -> f32) -> Volume {
        let n: usize = shape.iter().product();
        Volume::new(Data::F32((0..n).map(value).collect()), shape, axes.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_ramp_is_met_where_it_lies() {
        let grid = volume("ZYX", &[5, 4, 6], |_| 0.0).info;
        let ramp = |i: usize| (100 * (i / 6) + 10 * (i / 3 % 2) + i % 3) as f32;
        let fine = enlarged(&volume("ZYX", &[3, 2, 3], ramp), &grid).unwrap();
        assert_eq!(fine.len(), 5 * 4 * 6);
        let at = |z: usize, y: usize, x: usize| fine[(z * 4 + y) * 6 + x];
        assert_eq!([at(0, 0, 0), at(4, 3, 5)], [0.0, 212.0], "edges are continued");
        assert_eq!(at(1, 0, 0), 50.0, "between two slices");
        assert_eq!(at(2, 1, 1), 100.0 + 2.5 + 0.25, "a slice, a quarter of a pixel on");
    }

    #[test]
    fn other_grids_are_none() {
        let grid = volume("ZYX", &[5, 4, 6], |_| 0.0).info;
        let values =
            |axes: &str, shape: &[usize]| enlarged(&volume(axes, shape, |i| i as f32), &grid);
        assert_eq!(
            values("ZYX", &[5, 4, 6]).unwrap(),
            volume("ZYX", &[5, 4, 6], |i| i as f32).data.to_f32()
        );
        for (axes, shape) in [
            ("ZYX", [4, 4, 6]),
            ("ZYX", [1, 4, 6]),
            ("ZYX", [9, 4, 6]),
            ("ZYX", [3, 3, 6]),
            ("TYX", [3, 2, 3]),
        ] {
            assert!(values(axes, &shape).is_none(), "{axes} {shape:?}");
        }
    }
}
