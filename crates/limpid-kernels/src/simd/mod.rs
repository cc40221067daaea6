//! Vector instructions, chosen at run time: AVX-512, AVX2 with FMA, NEON, or what the build has.
//!
//! [`vectorised`] runs plain loops with the widest registers. Rust never contracts or reorders float
//! arithmetic, so a loop gives the same bits on every level; only its speed differs. SiLU and GELU ask
//! for fused operations where the level has them ([`is_fused`]). Kernels that need more than the
//! compiler finds (fused multiply-add, transposition in registers) are written over [`Lanes`]. The
//! last bits of both may differ between levels.

mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use lanes::Lanes;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

use std::sync::OnceLock;

/// The elements of the largest register.
pub(crate) const MOST_LANES: usize = 16;

/// An instruction set that kernels are compiled for. A value exists only where the machine has it:
/// all come from [`Level::available`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Level {
    /// What this machine has, best first.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx2 && avx512 {
                levels.push(Self::Avx512);
            }
            if avx2 {
                levels.push(Self::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            levels.push(Self::Neon);
        }
        levels.push(Self::Portable);
        levels
    }

    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }
}

/// The level of this process: the best of the machine, or the one that the environment variable
/// `LIMPID_SIMD` names if the machine has it. Read once.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| chosen(std::env::var("LIMPID_SIMD").ok().as_deref()))
}

fn chosen(name: Option<&str>) -> Level {
    let levels = Level::available();
    let named = levels.iter().copied().find(|level| Some(level.name()) == name);
    named.or(levels.first().copied()).unwrap_or(Level::Portable)
}

/// The vector instructions that the kernels use: `avx512`, `avx2`, `neon` or `portable`.
///
/// It is the best that the machine has, unless the environment variable `LIMPID_SIMD` names another
/// that it has; other values of the variable are ignored.
#[must_use]
pub fn simd_level() -> &'static str {
    level().name()
}

/// Whether that instruction set multiplies and adds at once.
pub(crate) fn is_fused() -> bool {
    level() != Level::Portable
}

/// Calls `f`, compiled for the instruction set of [`level`].
///
/// Pass the closure as `vectorised(#[inline(always)] || ...)`: what is not inlined keeps the
/// instruction set of the build.
#[inline(always)]
#[allow(unsafe_code)] // calls of functions that need CPU features
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    match level() {
        // SAFETY: the machine has the features of the levels that `level` gives.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { Avx512::run(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { Avx2::run(f) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => f(), // belongs to the baseline of AArch64
        Level::Portable => f(),
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_give_the_best_level() {
        let best = Level::available()[0];
        assert_eq!(chosen(None), best);
        assert_eq!(chosen(Some("sse9")), best);
        assert_eq!(chosen(Some("portable")), Level::Portable);
    }

    fn check<S: Lanes>() {
        let n = S::LANES;
        let a: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
        let mut out = vec![-1f32; n * n];
        // SAFETY: the caller chose a level that the machine has; all accesses are within the arrays.
        unsafe {
            S::run(|| {
                let (x, y) = (S::load(a.as_ptr()), S::splat(2.0));
                S::store(out.as_mut_ptr(), S::mul_add(x, y, S::sub(S::add(x, y), S::mul(x, y))));
            });
            let want: Vec<f32> = (0..n).map(|i| i as f32 + 2.0).collect();
            assert_eq!(out[..n], want);
            S::run(|| S::transpose(a.as_ptr(), n, n, out.as_mut_ptr(), n, 0..n));
            assert!((0..n * n).all(|i| out[i] == a[i % n * n + i / n]));
            // rows that are missing repeat the last one; rows that are not asked for stay
            out.fill(-1.0);
            S::run(|| S::transpose(a.as_ptr(), n, n - 1, out.as_mut_ptr(), n, 1..n - 1));
            for i in 0..n * n {
                let (row, column) = (i / n, i % n);
                let want = a[column.min(n - 2) * n + row];
                assert_eq!(out[i], if (1..n - 1).contains(&row) { want } else { -1.0 });
            }
        }
    }

    #[test]
    fn lanes_compute_and_transpose() {
        for level in Level::available() {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => check::<Avx512>(),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => check::<Avx2>(),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => check::<Neon>(),
                Level::Portable => check::<Portable>(),
            }
        }
    }
}
