//! Named streams over the Philox counter space, and the distributions drawn from them.

use super::philox::{philox4x32, philox4x32_lanes};
use rayon::prelude::*;

/// Elements that one rayon task fills; a constant, so the numbers cannot depend on the thread count.
const CHUNK: usize = 1 << 14;

/// A stream of random numbers, identified by seed, purpose, epoch, sample and operation.
///
/// Copy it freely: it holds no state. Two streams that differ in any part are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
    sub: u64,
}

/// Finaliser of SplitMix64 (Steele et al. 2014): spreads every input bit over all output bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn combine(state: u64, word: u64) -> u64 {
    mix(state.wrapping_add(0x9E37_79B9_7F4A_7C15) ^ mix(word.wrapping_add(0x632B_E59B_D9B4_E019)))
}

/// 64-bit FNV-1a of a name.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

impl Stream {
    /// The stream of one purpose (`"init"`, `"augment"`, `"dropout"` …) under a seed.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self { key: combine(seed, hash(purpose)), sub: 0 }
    }

    /// The part of the stream that belongs to a sample of an epoch.
    #[must_use]
    pub fn at(self, epoch: u64, sample: u64) -> Self {
        Self { sub: combine(combine(self.sub, epoch), sample), ..self }
    }

    /// The part of the stream that belongs to the `op`-th operation.
    #[must_use]
    pub fn op(self, op: u64) -> Self {
        Self { sub: combine(self.sub, op ^ 0xA5A5_0000_0000_0000), ..self }
    }

    /// The part of the stream that belongs to a name, such as a parameter's.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { sub: combine(self.sub, hash(name)), ..self }
    }

    /// The `i`-th 128 random bits.
    #[inline]
    #[must_use]
    pub fn block(&self, i: u64) -> [u32; 4] {
        philox4x32(
            [i as u32, (i >> 32) as u32, self.sub as u32, (self.sub >> 32) as u32],
            [self.key as u32, (self.key >> 32) as u32],
        )
    }

    /// The `N` times 128 random bits from the `first`-th on, word by word: word `k` of block
    /// `first + i` is `[k][i]`. To be called within [`crate::simd::vectorised`].
    #[inline(always)]
    pub(crate) fn blocks<const N: usize>(&self, first: u64) -> [[u32; N]; 4] {
        let mut counters = [[0; N], [0; N], [self.sub as u32; N], [(self.sub >> 32) as u32; N]];
        for i in 0..N {
            let block = first + i as u64;
            counters[0][i] = block as u32;
            counters[1][i] = (block >> 32) as u32;
        }
        philox4x32_lanes(counters, [self.key as u32, (self.key >> 32) as u32])
    }

    /// The words of the key, and of the upper half of the counters, for kernels that draw from it.
    #[cfg(feature = "cuda")]
    pub(crate) fn words(&self) -> [u64; 2] {
        [self.key, self.sub]
    }

    /// Scalar draws in order, for code that takes a few numbers at a time.
    #[must_use]
    pub fn draws(&self) -> Draws {
        Draws { stream: *self, block: 0, buffer: [0; 4], used: 4 }
    }

    /// Fills `out` with uniform numbers of `[0, 1)`.
    pub fn fill_uniform(&self, out: &mut [f32]) {
        self.fill(0, out, |w| w.map(unit_f32));
    }

    /// Fills `out` with standard normal numbers (Box–Muller on pairs, in f64).
    pub fn fill_normal(&self, out: &mut [f32]) {
        self.fill(0, out, four_normals);
    }

    /// As [`Stream::fill_normal`], from element `first` of the stream on: `out[i]` is element
    /// `first + i`, so any part of a field can be drawn by itself.
    pub fn fill_normal_from(&self, first: u64, out: &mut [f32]) {
        let (block, skipped) = (first / 4, (first % 4) as usize);
        if skipped == 0 {
            return self.fill(block, out, four_normals);
        }
        let (head, rest) = out.split_at_mut(out.len().min(4 - skipped));
        head.copy_from_slice(&four_normals(self.block(block))[skipped..][..head.len()]);
        self.fill(block + 1, rest, four_normals);
    }

    /// Fills `out` with what `of` makes of the blocks from `first` on.
    fn fill(&self, first: u64, out: &mut [f32], of: impl Fn([u32; 4]) -> [f32; 4] + Sync) {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(c, chunk)| {
            let first = first + (c * CHUNK / 4) as u64;
            for (b, four) in chunk.chunks_mut(4).enumerate() {
                let values = of(self.block(first + b as u64));
                four.copy_from_slice(&values[..four.len()]);
            }
        });
    }

    /// Poisson counts for a rate per element; element `i` draws from its own sub-stream.
    ///
    /// Rates that are not finite or not positive give 0.
    pub fn fill_poisson(&self, rates: &[f32], out: &mut [f32]) {
        out.par_chunks_mut(CHUNK).zip(rates.par_chunks(CHUNK)).enumerate().for_each(
            |(c, (out, rates))| {
                for (i, (o, &rate)) in out.iter_mut().zip(rates).enumerate() {
                    let mut draws = self.op((c * CHUNK + i) as u64).draws();
                    *o = draws.poisson(f64::from(rate)) as f32;
                }
            },
        );
    }

    /// A random permutation of `0..n` (Fisher–Yates).
    #[must_use]
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..n).collect();
        let mut draws = self.draws();
        for i in (1..n).rev() {
            p.swap(i, draws.below(i as u64 + 1) as usize);
        }
        p
    }
}

/// Uniform `[0, 1)` from the top 24 bits, so the result is exact in f32.
#[inline]
fn unit_f32(w: u32) -> f32 {
    (w >> 8) as f32 * (1.0 / 16_777_216.0)
}

#[inline]
fn normal_pair(a: u32, b: u32) -> (f64, f64) {
    // (a + 0.5) / 2^32 lies in (0, 1): the logarithm is finite
    let u = (f64::from(a) + 0.5) * (1.0 / 4_294_967_296.0);
    let v = f64::from(b) * (std::f64::consts::TAU / 4_294_967_296.0);
    let r = (-2.0 * u.ln()).sqrt();
    let (s, c) = v.sin_cos();
    (r * c, r * s)
}

/// The normal numbers of a block.
#[inline]
fn four_normals(w: [u32; 4]) -> [f32; 4] {
    let (a, b) = normal_pair(w[0], w[1]);
    let (c, d) = normal_pair(w[2], w[3]);
    [a as f32, b as f32, c as f32, d as f32]
}

/// Numbers of a [`Stream`] taken one after the other.
#[derive(Clone, Debug)]
pub struct Draws {
    stream: Stream,
    block: u64,
    buffer: [u32; 4],
    used: usize,
}

impl Draws {
    /// 32 random bits.
    pub fn u32(&mut self) -> u32 {
        if self.used == 4 {
            self.buffer = self.stream.block(self.block);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer of `0..n`, without bias (Lemire 2019); 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        loop {
            let wide = u128::from(self.u64()) * u128::from(n);
            if (wide as u64) >= n.wrapping_neg() % n.max(1) {
                return (wide >> 64) as u64;
            }
        }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        normal_pair(self.u32(), self.u32()).0
    }

    /// Poisson count of a rate: inversion below 10, transformed rejection above (Hörmann 1993, PTRS).
    pub fn poisson(&mut self, rate: f64) -> f64 {
        if !(rate > 0.0 && rate.is_finite()) {
            return 0.0;
        }
        if rate < 10.0 {
            let limit = (-rate).exp();
            let mut product = self.uniform();
            let mut k = 0.0;
            while product > limit {
                product *= self.uniform();
                k += 1.0;
            }
            return k;
        }
        let slope = 0.931 + 2.53 * rate.sqrt();
        let a = -0.059 + 0.02483 * slope;
        let inverse_alpha = 1.1239 + 1.1328 / (slope - 3.4);
        let v_r = 0.9277 - 3.6224 / (slope - 2.0);
        loop {
            let u = self.uniform() - 0.5;
            let v = self.uniform();
            let us = 0.5 - u.abs();
            let k = ((2.0 * a / us + slope) * u + rate + 0.43).floor();
            if us >= 0.07 && v <= v_r {
                return k;
            }
            if k < 0.0 || (us < 0.013 && v > us) {
                continue;
            }
            let accept = (v * inverse_alpha / (a / (us * us) + slope)).ln();
            if accept <= -rate + k * rate.ln() - ln_factorial(k) {
                return k;
            }
        }
    }
}

/// ln(k!) by Stirling's series with three correction terms; exact products below 10.
fn ln_factorial(k: f64) -> f64 {
    if k < 10.0 {
        return (2..=k as u32).map(|i| f64::from(i).ln()).sum();
    }
    let n = k + 1.0;
    let n2 = n * n;
    (n - 0.5) * n.ln() - n
        + 0.5 * std::f64::consts::TAU.ln()
        + (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * n2)) / n2) / n
}
