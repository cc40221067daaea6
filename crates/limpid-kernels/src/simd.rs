//! Runs plain loops with the widest vector instructions of the machine, chosen at run time.
//!
//! Rust never contracts or reorders float arithmetic, so a loop gives the same bits on every path;
//! only its speed differs. AArch64 needs nothing: NEON belongs to its baseline.

/// Calls `f`, compiled for the best instruction set present.
///
/// Pass the closure as `vectorised(#[inline(always)] || ...)`: what is not inlined keeps the
/// instruction set of the build.
#[inline(always)]
#[allow(unsafe_code)] // calls of functions that need CPU features
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
        {
            // SAFETY: the features that `avx512` enables were just detected.
            return unsafe { avx512(f) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature that `avx2` enables was just detected.
            return unsafe { avx2(f) };
        }
    }
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}
