//! The block of Swin transformers: attention inside windows, which every other block shifts (Liu et
//! al. 2021, arXiv:2103.14030), in 2-D and 3-D.
//!
//! ```text
//! x [N, s…, C] → norm1 → pad, roll by -shift, cut into windows [N, g…, L, C] → attention → back
//!   → x + · → x + mlp(norm2 x)
//! ```
//!
//! Rolling brings the two ends of the image together in the last windows of an axis, where pixels of
//! different ends must not see each other. Only those windows get a mask; all others share one bias
//! `[heads, L, L]`, so that nothing of the size of all scores is ever built.

use crate::Network;
use crate::transformer::{Mlp, SMALL, SelfAttention, Style, drop_path};
use candle_core::{Device, Tensor};
use limpid_nn::layers::LayerNorm;
use limpid_nn::{Ctx, Param, Result, Scope};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Added to scores that are masked. Not minus infinity: the references' masks are this soft.
const MASKED: f32 = -100.0;

/// Settings of a block.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) width: usize,
    pub(crate) heads: usize,
    /// Features inside the perceptron.
    pub(crate) mlp: usize,
    pub(crate) qkv_bias: bool,
    /// Size of a window.
    pub(crate) window: Vec<usize>,
    /// By how much windows are shifted.
    pub(crate) shift: Vec<usize>,
    /// Whether along axes where the image is no larger than a window, the window shrinks to it and
    /// does not shift.
    pub(crate) shrink: bool,
    /// Probability of stochastic depth.
    pub(crate) drop_path: f64,
    pub(crate) style: Style,
}

/// The block.
#[derive(Debug)]
pub(crate) struct SwinBlock {
    spec: Spec,
    norm1: LayerNorm,
    attn: SelfAttention,
    table: Param,
    norm2: LayerNorm,
    mlp: Mlp,
    uploaded: Tables,
}

/// Rows of the table of position biases: one per difference of positions in a window.
pub(crate) fn table_rows(window: &[usize]) -> usize {
    window.iter().map(|w| 2 * w - 1).product()
}

/// The side of the cubic window that has a table of so many rows.
pub(crate) fn window_of(rows: usize, dims: usize) -> Option<usize> {
    // wider windows than any network has are not looked for
    (1..=rows.div_ceil(2).min(64))
        .find(|&w| table_rows(&vec![w; dims]) >= rows)
        .filter(|&w| table_rows(&vec![w; dims]) == rows)
}

/// Features inside a perceptron, truncated as the references do; the ratio may have been computed
/// by a division.
pub(crate) fn mlp_width(width: usize, ratio: f64) -> usize {
    (width as f64 * ratio + 1e-6) as usize
}

/// The windows of one image.
struct Layout {
    window: Vec<usize>,
    shift: Vec<usize>,
    /// Position bias `[heads, L, L]`.
    bias: Tensor,
}

impl SwinBlock {
    pub(crate) fn new(spec: Spec, scope: &Scope) -> Result<Self> {
        let norm =
            |name: &str| LayerNorm::new(&[spec.width], spec.style.eps, true, &scope.pp(name));
        let attn = scope.pp("attn");
        let table = [table_rows(&spec.window), spec.heads];
        Ok(Self {
            norm1: norm("norm1")?,
            table: attn.param("relative_position_bias_table", &table, SMALL)?,
            attn: SelfAttention::new(spec.width, spec.heads, spec.qkv_bias, spec.style, &attn)?,
            norm2: norm("norm2")?,
            mlp: Mlp::new(spec.width, spec.mlp, spec.style, &scope.pp("mlp"))?,
            uploaded: Tables::default(),
            spec,
        })
    }
}

impl Network for SwinBlock {
    /// `x [N, s…, width]` → the same
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let h = self.windows(&self.norm1.forward(x)?)?;
        let x = limpid_kernels::add(x, &drop_path(&h, self.spec.drop_path, ctx)?)?;
        let h = self.mlp.forward(&self.norm2.forward(&x)?)?;
        limpid_kernels::add(&x, &drop_path(&h, self.spec.drop_path, ctx)?)
    }
}

impl SwinBlock {
    fn windows(&self, x: &Tensor) -> Result<Tensor> {
        let rank = self.spec.window.len();
        let size = x.dims()[1..=rank].to_vec();
        let layout = self.layout(&size)?;
        let mut h = x.clone();
        for (a, (&s, &w)) in size.iter().zip(&layout.window).enumerate() {
            h = h.pad_with_zeros(a + 1, 0, s.next_multiple_of(w) - s)?;
        }
        let padded = h.dims().to_vec();
        for (a, &shift) in layout.shift.iter().enumerate().filter(|(_, s)| **s > 0) {
            h = h.roll(-(shift as i32), a + 1)?;
        }

        let mut split = vec![padded[0]];
        for (p, &w) in padded[1..=rank].iter().zip(&layout.window) {
            split.extend([p / w, w]);
        }
        split.push(padded[rank + 1]);
        let mut grouped = vec![0];
        grouped.extend((0..rank).map(|a| 1 + 2 * a));
        grouped.extend((0..rank).map(|a| 2 + 2 * a));
        grouped.push(2 * rank + 1);
        let mut back = vec![0];
        back.extend((0..rank).flat_map(|a| [1 + a, 1 + rank + a]));
        back.push(2 * rank + 1);

        let h = h.reshape(split)?.permute(grouped)?.contiguous()?;
        let cut = h.dims().to_vec();
        let pixels: usize = layout.window.iter().product();
        let windows = h.reshape([&cut[..=rank], &[pixels, padded[rank + 1]]].concat())?;
        let h = self.attend(&windows, &layout, &[])?;
        let mut h = h.reshape(cut)?.permute(back)?.reshape(padded)?;

        for (a, (&shift, &s)) in layout.shift.iter().zip(&size).enumerate() {
            if shift > 0 {
                h = h.roll(shift as i32, a + 1)?;
            }
            h = h.narrow(a + 1, 0, s)?;
        }
        Ok(h.contiguous()?)
    }

    /// Attention inside windows `[N, g…, L, C]`; `last` says for each axis so far whether these are
    /// its last windows.
    fn attend(&self, x: &Tensor, layout: &Layout, last: &[bool]) -> Result<Tensor> {
        let axis = last.len();
        let with = |is: bool| [last, &[is]].concat();
        let Some(&shift) = layout.shift.get(axis) else {
            let mut bias = layout.bias.clone();
            if last.contains(&true) {
                let pixels = bias.dim(1)?;
                let ends = last.iter().map(|&is| usize::from(is)).collect::<Vec<_>>();
                let key = [layout.window.as_slice(), &layout.shift, &ends].concat();
                let mask = self.uploaded.get(key, x.device(), || {
                    let mask = mask(&layout.window, &layout.shift, last);
                    Ok(Tensor::from_vec(mask, (pixels, pixels), x.device())?)
                })?;
                bias = bias.broadcast_add(&mask.to_dtype(bias.dtype())?)?;
            }
            let dims = x.dims();
            let (pixels, width) = (dims[axis + 1], dims[axis + 2]);
            let rows = x.elem_count() / (pixels * width).max(1);
            let y = self.attn.forward(&x.reshape((rows, pixels, width))?, Some(&bias))?;
            return Ok(y.reshape(dims)?);
        };
        if shift == 0 {
            return self.attend(x, layout, &with(false));
        }
        let n = x.dim(axis + 1)?;
        let mut parts = Vec::with_capacity(2);
        if n > 1 {
            parts.push(self.attend(&x.narrow(axis + 1, 0, n - 1)?, layout, &with(false))?);
        }
        parts.push(self.attend(&x.narrow(axis + 1, n - 1, 1)?, layout, &with(true))?);
        limpid_kernels::cat(&parts.iter().collect::<Vec<_>>(), axis + 1)
    }

    fn layout(&self, size: &[usize]) -> Result<Layout> {
        let (mut window, mut shift) = (self.spec.window.clone(), self.spec.shift.clone());
        for (a, &s) in size.iter().enumerate() {
            if self.spec.shrink && s <= window[a] {
                (window[a], shift[a]) = (s, 0);
            }
        }
        let pixels: usize = window.iter().product();
        let table = self.table.tensor();
        let rows = self.uploaded.get(vec![pixels], table.device(), || {
            let rows = position_rows(&self.spec.window, pixels);
            Ok(Tensor::from_vec(rows, pixels * pixels, table.device())?)
        })?;
        let bias = table.index_select(&rows, 0)?.t()?.reshape((self.spec.heads, pixels, pixels))?;
        Ok(Layout { window, shift, bias })
    }
}

/// What does not depend on weights, made once for each layout of windows: on a GPU every upload is waited for, and a
/// recorded pass has none.
#[derive(Debug, Default)]
struct Tables(Mutex<HashMap<Vec<usize>, Tensor>>);

impl Tables {
    fn get(
        &self,
        key: Vec<usize>,
        device: &Device,
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = made.get(&key).filter(|table| table.device().same_device(device)) {
            return Ok(table.clone());
        }
        let table = make()?;
        made.insert(key, table.clone());
        Ok(table)
    }
}

/// Row of the table for each pair of the first `pixels` pixels of a window.
///
/// A window that has shrunk takes the rows of the whole window's first pixels, although these lie
/// elsewhere: so does the reference.
fn position_rows(window: &[usize], pixels: usize) -> Vec<u32> {
    let place = |mut i: usize| {
        let mut at = vec![0; window.len()];
        for (a, w) in window.iter().enumerate().rev() {
            (at[a], i) = (i % w, i / w);
        }
        at
    };
    let places: Vec<Vec<usize>> = (0..pixels).map(place).collect();
    let row = |p: &[usize], q: &[usize]| {
        (0..window.len())
            .fold(0, |row, a| row * (2 * window[a] - 1) + (p[a] + window[a] - 1 - q[a]))
    };
    places.iter().flat_map(|p| places.iter().map(move |q| row(p, q) as u32)).collect()
}

/// What keeps apart the pixels of different ends of the image in the last windows of some axes.
fn mask(window: &[usize], shift: &[usize], last: &[bool]) -> Vec<f32> {
    let pixels: usize = window.iter().product();
    let ends = |mut i: usize| {
        let mut key = 0u32;
        for a in (0..window.len()).rev() {
            let at = i % window[a];
            i /= window[a];
            key = 2 * key + u32::from(last[a] && at >= window[a] - shift[a]);
        }
        key
    };
    let ends: Vec<u32> = (0..pixels).map(ends).collect();
    let score = |p: &u32, q: &u32| if p == q { 0.0 } else { MASKED };
    ends.iter().flat_map(|p| ends.iter().map(move |q| score(p, q))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_rows_tell_differences_apart() {
        // two by two: rows of a 3×3 table, the middle for equal positions
        let rows = position_rows(&[2, 2], 4);
        assert_eq!(rows, [4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4]);
        assert_eq!(position_rows(&[2, 2], 2), [4, 3, 5, 4]);
        let rows = position_rows(&[2, 3, 2], 12);
        assert_eq!(rows.iter().max().copied(), Some(table_rows(&[2, 3, 2]) as u32 - 1));
    }

    #[test]
    fn windows_follow_from_their_tables() {
        assert_eq!(window_of(169, 2), Some(7));
        assert_eq!(window_of(13 * 13 * 13, 3), Some(7));
        assert_eq!(window_of(49, 2), Some(4));
        assert_eq!(window_of(1, 2), Some(1));
        assert_eq!((window_of(50, 2), window_of(0, 2)), (None, None));
        assert_eq!(mlp_width(12, 31.0 / 12.0), 31);
        assert_eq!(mlp_width(12, 2.66), 31);
    }

    #[test]
    fn masks_part_the_ends_of_shifted_axes() {
        // window 2×2, shifted by one along the second axis only
        let m = mask(&[2, 2], &[0, 1], &[false, true]);
        let apart: Vec<bool> = m.iter().map(|v| *v != 0.0).collect();
        let (t, f) = (true, false);
        assert_eq!(apart, [f, t, f, t, t, f, t, f, f, t, f, t, t, f, t, f]);
        assert!(mask(&[2, 2], &[1, 1], &[false, false]).iter().all(|v| *v == 0.0));
    }

    /// The references number the regions of the whole rolled image and cut that into windows.
    #[test]
    fn masks_are_those_of_numbered_regions() {
        let (size, window, shift) = ([8usize, 9], [4usize, 3], [2usize, 1]);
        let region = |a: usize, i: usize| match i {
            i if i < size[a] - window[a] => 0,
            i if i < size[a] - shift[a] => 1,
            _ => 2,
        };
        for (gy, gx) in (0..2).flat_map(|y| (0..3).map(move |x| (y, x))) {
            let label = |i: usize| {
                let (y, x) = (gy * window[0] + i / window[1], gx * window[1] + i % window[1]);
                (region(0, y), region(1, x))
            };
            let expected: Vec<f32> = (0..12)
                .flat_map(|p| (0..12).map(move |q| (p, q)))
                .map(|(p, q)| if label(p) == label(q) { 0.0 } else { MASKED })
                .collect();
            assert_eq!(mask(&window, &shift, &[gy == 1, gx == 2]), expected, "{gy} {gx}");
        }
    }
}
