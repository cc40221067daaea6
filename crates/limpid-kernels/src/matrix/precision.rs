//! The precision of the factors of products, one for the process.

use std::sync::atomic::{AtomicBool, Ordering};

/// To what the factors of the products of linear maps are rounded; sums are f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Not at all.
    F32,
    /// To bf16 (8 significant bits), twice as many of which are multiplied at a time. A product of
    /// `k` random terms is off by about 2e-3 of its size.
    Bf16,
}

static HALF: AtomicBool = AtomicBool::new(false);

/// Chooses the precision of linear maps from now on, in all threads. It is used where no gradient is
/// recorded, for f32, on processors that multiply bf16 (AVX-512-BF16); training stays as it is.
///
/// Returns whether the choice has an effect on this machine.
pub fn set_precision(precision: Precision) -> bool {
    let half = precision == Precision::Bf16 && available();
    HALF.store(half, Ordering::Relaxed);
    half == (precision == Precision::Bf16)
}

/// Whether factors are rounded to bf16.
pub(crate) fn is_half() -> bool {
    HALF.load(Ordering::Relaxed)
}

fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::bf16::available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}
