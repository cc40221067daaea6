//! Correlation with a kernel along one axis: the inner loop of every separable filter.

use rayon::prelude::*;

use crate::border::Border;

/// `out[i] = sum_k weights[k] * image[i + k - weights.len() / 2]` along `axis`.
///
/// Each output row is a sum over whole input rows in the order of the weights, so the loops
/// vectorise and no thread count changes a bit.
pub(crate) fn correlate(
    image: &[f64],
    dims: [usize; 3],
    axis: usize,
    weights: &[f64],
    border: Border,
) -> Vec<f64> {
    let n = dims[axis];
    let before = weights.len() / 2;
    let map = border.extended(n, before, weights.len() - 1 - before);
    let inner: usize = dims[axis + 1..].iter().product();
    let mut out = vec![0.0; image.len()];
    if inner == 1 {
        out.par_chunks_mut(n).zip(image.par_chunks(n)).for_each_init(
            || vec![0.0; map.len()],
            |line, (out, row)| {
                for (value, i) in line.iter_mut().zip(&map) {
                    *value = i.map_or(border.outside(), |i| row[i]);
                }
                for (k, w) in weights.iter().enumerate() {
                    add_scaled(out, *w, &line[k..k + n]);
                }
            },
        );
    } else {
        out.par_chunks_mut(inner).enumerate().for_each(|(row, out)| {
            let (outer, i) = (row / n, row % n);
            for (k, w) in weights.iter().enumerate() {
                match map[i + k] {
                    Some(j) => add_scaled(out, *w, &image[(outer * n + j) * inner..][..inner]),
                    None => out.iter_mut().for_each(|o| *o += w * border.outside()),
                }
            }
        });
    }
    out
}

fn add_scaled(out: &mut [f64], w: f64, values: &[f64]) {
    for (o, v) in out.iter_mut().zip(values) {
        *o += w * v;
    }
}
