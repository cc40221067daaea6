//! What EMDiffuse's own programs do with files, as far as it is not what ours do: their grids of
//! patches, which lose margins, their choice of slices, and their ways from 16 to 8 bits. For
//! comparison with their results; nothing here takes part in a prediction of ours.
//!
//! Source: `crop_single_file.py`, `vEM_test_pre.py`, `vEMa_pre.py` and `data/dataset.py` of
//! Luchixiang/EMDiffuse at 79c8045 (MIT).

use std::ops::{Range, RangeInclusive};

/// A patch that the reference cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferencePatch {
    /// The two numbers in the name of its file.
    pub name: [usize; 2],
    /// First row and column.
    pub start: [usize; 2],
    /// Rows and columns, less than asked for, or none, where the image ends before.
    pub size: [usize; 2],
}

/// Side and stride of the patches that [`recon_grid`] cuts.
const RECON: (usize, usize) = (256, 224);

/// The patches of `crop` of an image of `[rows, columns]`, named row and column: those that end
/// before the last row, and as far to the right as they would go down, whatever the width.
///
/// `stride` is `int(patch·(1 - overlap))` there, at least 1.
#[must_use]
pub fn crop_grid(shape: [usize; 2], patch: usize, stride: usize) -> Vec<ReferencePatch> {
    let starts = || (0..shape[0].saturating_sub(patch)).step_by(stride.max(1)).enumerate();
    let size = |start: usize, n: usize| patch.min(n.saturating_sub(start));
    starts()
        .flat_map(|row| starts().map(move |column| (row, column)))
        .map(|((i, y), (j, x))| ReferencePatch {
            name: [i, j],
            start: [y, x],
            size: [size(y, shape[0]), size(x, shape[1])],
        })
        .collect()
}

/// The patches of `recon_pre` of an image of `[rows, columns]`, which are whole, named column and row.
#[must_use]
pub fn recon_grid(shape: [usize; 2]) -> Vec<ReferencePatch> {
    let (patch, stride) = RECON;
    let starts = |n: usize| (0..(n + 1).saturating_sub(patch)).step_by(stride).enumerate();
    starts(shape[0])
        .flat_map(|row| starts(shape[1]).map(move |column| (row, column)))
        .map(|((i, y), (j, x))| ReferencePatch {
            name: [j, i],
            start: [y, x],
            size: [patch, patch],
        })
        .collect()
}

/// Slices below and above a centre that belong to it, of `z` gaps in all.
fn around(z: usize) -> (usize, usize) {
    (z / 2, z.div_ceil(2))
}

/// The two slices that are the condition of a centre, the upper first.
#[must_use]
pub fn condition_slices(centre: usize, z: usize) -> [usize; 2] {
    let (up, low) = around(z);
    [centre + low, centre - up]
}

/// The slices between those, which are to be made.
#[must_use]
pub fn target_slices(centre: usize, z: usize) -> Range<usize> {
    let [upper, lower] = condition_slices(centre, z);
    lower + 1..upper
}

/// The centres that are tested of a volume whose last slice is `last`.
#[must_use]
pub fn isotropic_centres(last: usize, z: usize) -> Vec<usize> {
    let (up, low) = around(z);
    (up..last.saturating_sub(low)).step_by(z.max(1)).collect()
}

/// The centres that training draws from in a volume whose last slice is `last`.
#[must_use]
pub fn layer_range(last: usize, z: usize) -> RangeInclusive<usize> {
    let (up, low) = around(z);
    up..=last.saturating_sub(low + 1)
}

/// The slices of a volume of `slices` that `vem_transpose` turns: the last is lost.
#[must_use]
pub fn transposed_slices(slices: usize) -> Range<usize> {
    0..slices.saturating_sub(1)
}

/// 16 bits as `crop` makes 8 of them: smallest value to 0, largest to 255, rounded half up.
#[must_use]
pub fn minmax_u8(values: &[u16]) -> Vec<u8> {
    let low = values.iter().copied().min().unwrap_or(0);
    let range = f64::from(values.iter().copied().max().unwrap_or(0) - low).max(1.0);
    let byte = |v: &u16| (f64::from(v - low) / range * 255.0 + 0.5) as u8;
    values.iter().map(byte).collect()
}

/// 16 bits as `pil_loader` makes 8 of them: all above 255 is 255.
#[must_use]
pub fn saturated_u8(values: &[u16]) -> Vec<u8> {
    values.iter().map(|v| u8::try_from(*v).unwrap_or(u8::MAX)).collect()
}

/// 16 bits as `cv2.imread` makes 8 of them: the upper eight.
#[must_use]
pub fn high_u8(values: &[u16]) -> Vec<u8> {
    values.iter().map(|v| (v >> 8) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn grids_lose_what_the_reference_loses() {
        // 256² gives no patch of 256, 257² one
        assert!(crop_grid([256, 256], 256, 224).is_empty());
        assert_eq!(crop_grid([257, 257], 256, 224).len(), 1);
        // a narrow image has patches beyond its right edge
        let grid = crop_grid([1000, 700], 128, 112);
        assert_eq!(grid.len(), 64);
        assert_eq!(grid[7], ReferencePatch { name: [0, 7], start: [0, 784], size: [128, 0] });
        let grid = recon_grid([1768, 2048]);
        assert_eq!((grid.len(), grid[62].name, grid[62].start), (63, [8, 6], [1344, 1792]));
        assert_eq!(recon_grid([256, 256]).len(), 1);
        assert!(recon_grid([255, 900]).is_empty());
    }

    #[test]
    fn slices_are_those_of_the_reference() {
        assert_eq!(isotropic_centres(7, 3), [1, 4]);
        assert_eq!([4, 5].map(|z| isotropic_centres(7, z)), [[2], [2]]);
        assert_eq!([4, 5].map(|z| layer_range(11, z)), [2..=8, 2..=7]);
        assert_eq!((condition_slices(4, 5), target_slices(4, 5)), ([7, 2], 3..7));
        assert_eq!(transposed_slices(12), 0..11);
    }

    #[test]
    fn bytes_are_those_of_the_reference() {
        let Some(t) = fixture::tensors_in(&fixture::emdiffuse(), "image_ops") else { return };
        let values: Vec<u16> = t["in.u16"].iter().map(|v| *v as u16).collect();
        let same = |got: &[u8], name: &str| {
            let expected = &t[name];
            assert!(got.iter().map(|v| f32::from(*v)).eq(expected.iter().copied()), "{name}");
        };
        same(&saturated_u8(&values), "out.u16.pil_loader");
        same(&high_u8(&values), "out.u16.cv2_imread_gray");
        // the range is that of what `crop` was given: a block of 20×20, whose first 16×16 were kept
        let block: Vec<u16> = values.chunks(30).flat_map(|row| &row[..20]).copied().collect();
        let bytes = minmax_u8(&block);
        let kept: Vec<u8> = bytes.chunks(20).take(16).flat_map(|row| &row[..16]).copied().collect();
        same(&kept, "out.u16.crop_to_u8.0_0");
        assert_eq!(minmax_u8(&[7, 7]), [0, 0]);
    }
}
