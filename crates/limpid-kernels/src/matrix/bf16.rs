//! Products of f32 matrices whose factors are rounded to bf16 on their way to the registers, by the
//! instructions of AVX-512-BF16, which multiply pairs and sum them in f32.
//!
//! Two neighbours of a row make one word. The left factor is converted as a whole, since it is the
//! small one, the right one panel by panel.

#![allow(unsafe_code)] // vector instructions

use crate::simd::{Avx512, Lanes, Level, level};
use core::arch::x86_64::*;
use std::cell::RefCell;

/// Rows and columns of a register tile.
const ROWS: usize = 8;
const COLUMNS: usize = 32;

/// Words of a row, and columns of the right factor, that are packed at a time: a quarter of a
/// megabyte for the second-level cache.
const WORDS: usize = 256;
const PANELS: usize = 8;

/// Elements that are converted at a time.
const RUN: usize = 32;

thread_local!(static PANEL: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) });

/// Whether this machine has the instructions, and kernels may use them.
pub(crate) fn available() -> bool {
    level() == Level::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16")
}

/// Rows of words, as many as whole register tiles have.
pub(super) struct Words {
    data: Vec<u32>,
    /// Words of a row.
    width: usize,
}

impl Words {
    /// Converts rows of `k` elements; the last word may have a zero for its second half.
    pub(super) fn new(x: &[f32], k: usize) -> Self {
        use rayon::prelude::*;
        let width = k.div_ceil(2);
        let rows = (x.len() / k.max(1)).next_multiple_of(ROWS);
        let mut data = vec![0; rows * width];
        data.par_chunks_mut(width.max(1)).zip(x.par_chunks(k.max(1))).for_each(|(to, from)| {
            let mut words = [0; RUN / 2];
            for (to, from) in to.chunks_mut(RUN / 2).zip(from.chunks(RUN)) {
                // SAFETY: words exist only where the instructions do, see `available`.
                unsafe { convert(from, &mut words) };
                to.copy_from_slice(&words[..to.len()]);
            }
        });
        Self { data, width }
    }
}

/// Up to [`RUN`] elements as words, zeros after them.
///
/// # Safety
/// The machine has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn convert(from: &[f32], to: &mut [u32; RUN / 2]) {
    let mut whole = [0f32; RUN];
    let from = if let Some(run) = from.first_chunk::<RUN>() {
        run
    } else {
        whole[..from.len()].copy_from_slice(from);
        &whole
    };
    // SAFETY: both arrays have the size of these registers.
    unsafe {
        let low = _mm512_loadu_ps(from.as_ptr());
        let high = _mm512_loadu_ps(from.as_ptr().add(16));
        let words: __m512i = core::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
        _mm512_storeu_si512(to.as_mut_ptr().cast(), words);
    }
}

/// `dst[m × n] = a[m × k] · b[n × k]ᵀ`, added to what is there if `accumulate`, where `a` are rows of
/// words from row `first` on, `b` rows of `k` elements; rows of `dst` lie `stride` apart.
///
/// # Safety
/// [`available`]. `dst` may be written at those positions, no one else accesses them meanwhile, and
/// they are initialised if `accumulate`.
pub(super) unsafe fn multiply(
    [m, n, k]: [usize; 3],
    dst: *mut f32,
    stride: usize,
    accumulate: bool,
    (a, first): (&Words, usize),
    b: &[f32],
) {
    assert!(first % ROWS == 0 && b.len() >= n * k && a.data.len() >= (first + m) * a.width);
    let a = &a.data[first * a.width..];
    let width = k.div_ceil(2);
    PANEL.with_borrow_mut(|panel| {
        panel.resize(PANELS * COLUMNS * WORDS, 0);
        for j in (0..n).step_by(PANELS * COLUMNS) {
            for p in (0..width).step_by(WORDS) {
                let (columns, words) = ((PANELS * COLUMNS).min(n - j), WORDS.min(width - p));
                let add = accumulate || p > 0;
                for c in (0..columns).step_by(COLUMNS) {
                    let count = COLUMNS.min(columns - c);
                    let b = &b[(j + c) * k..(j + c + count) * k];
                    let to = &mut panel[c * words..(c + COLUMNS) * words];
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { pack(b, k, 2 * p, words, to) };
                }
                for c in (0..columns).step_by(COLUMNS) {
                    for r in (0..m).step_by(ROWS) {
                        let (rows, count) = (ROWS.min(m - r), COLUMNS.min(columns - c));
                        // SAFETY: the result is the caller's, the factors have whole tiles.
                        unsafe {
                            let left = a.as_ptr().add(r * width + p);
                            let right = panel.as_ptr().add(c * words);
                            let to = dst.add(r * stride + j + c);
                            if rows == ROWS && count == COLUMNS {
                                tile(words, left, width, right, to, stride, add);
                                continue;
                            }
                            let mut sums = [0f32; ROWS * COLUMNS];
                            tile(words, left, width, right, sums.as_mut_ptr(), COLUMNS, false);
                            for i in 0..rows {
                                for j in 0..count {
                                    let (to, sum) = (to.add(i * stride + j), sums[i * COLUMNS + j]);
                                    to.write(if add { to.read() + sum } else { sum });
                                }
                            }
                        }
                    }
                }
            }
        }
    });
}

/// Converts `words` words from element `start` of each of up to [`COLUMNS`] rows of `k` elements to
/// `[word][row]`; what stands for rows that are missing is arbitrary.
///
/// # Safety
/// The machine has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn pack(b: &[f32], k: usize, start: usize, words: usize, to: &mut [u32]) {
    const LANES: usize = 16;
    let mut square = [[0; RUN / 2]; LANES];
    let mut turned = [0u32; LANES * LANES];
    for first in (0..b.len() / k).step_by(LANES) {
        for p in (0..words).step_by(RUN / 2) {
            for (row, square) in b[first * k..].chunks_exact(k).zip(&mut square) {
                let at = start + 2 * p;
                convert(&row[at..k.min(at + RUN)], square);
            }
            // SAFETY: two squares of `LANES × LANES` words.
            unsafe {
                let from = square.as_ptr().cast();
                Avx512::transpose(from, LANES, LANES, turned.as_mut_ptr().cast(), LANES, 0..LANES);
            }
            let to = to[p * COLUMNS..].chunks_exact_mut(COLUMNS).take(words - p);
            for (to, from) in to.zip(turned.chunks_exact(LANES)) {
                to[first..first + LANES].copy_from_slice(from);
            }
        }
    }
}

/// One register tile: `words` words of [`ROWS`] rows, `width` words apart, times a panel.
///
/// # Safety
/// The machine has the instructions, and the pointers those elements.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile(
    words: usize,
    mut a: *const u32,
    width: usize,
    mut b: *const u32,
    dst: *mut f32,
    stride: usize,
    add: bool,
) {
    // SAFETY: the caller vouches for all elements.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for _ in 0..words {
            let right: [__m512bh; 2] = [
                b.cast::<__m512bh>().read_unaligned(),
                b.add(16).cast::<__m512bh>().read_unaligned(),
            ];
            for r in 0..ROWS {
                let left: __m512bh =
                    core::mem::transmute(_mm512_set1_epi32(a.add(r * width).read().cast_signed()));
                for n in 0..2 {
                    sums[r][n] = _mm512_dpbf16_ps(sums[r][n], left, right[n]);
                }
            }
            a = a.add(1);
            b = b.add(COLUMNS);
        }
        for r in 0..ROWS {
            for n in 0..2 {
                let to = dst.add(r * stride + 16 * n);
                let sum = sums[r][n];
                _mm512_storeu_ps(
                    to,
                    if add { _mm512_add_ps(_mm512_loadu_ps(to), sum) } else { sum },
                );
            }
        }
    }
}
