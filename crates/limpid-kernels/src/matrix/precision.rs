//! The precision of products and of what networks pass on, one for the process.

use std::sync::atomic::{AtomicU8, Ordering};

/// To what the factors of products are rounded, and what [`crate::in_half`] stores; sums are f32 in any case, and f64
/// stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To TF32 (11 significant bits, the range of f32): on a GPU, convolutions and products.
    Tf32,
    /// To bf16 (8 significant bits, the range of f32), twice as many of which are multiplied at a time. A
    /// product of `k` random terms is off by about 2e-3 of its size. On a GPU convolutions and products, and within
    /// [`crate::in_half`] what they give is stored so.
    Bf16,
    /// To f16 (11 significant bits, from 6e-8 to 65504), on a GPU as bf16. A training needs its loss
    /// scaled.
    F16,
}

const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16];

static CHOICE: AtomicU8 = AtomicU8::new(0);

/// Chooses the precision from now on, in all threads.
///
/// On a GPU it is that of convolutions, linear maps and products, and of what they give within [`crate::in_half`]. On a processor it is that of linear maps where no
/// gradient is recorded, bf16 or nothing, if it multiplies bf16 (AVX-512-BF16).
///
/// Returns whether the choice has an effect on this processor.
pub fn set_precision(precision: Precision) -> bool {
    CHOICE.store(precision as u8, Ordering::Relaxed);
    match precision {
        Precision::F32 => true,
        Precision::Bf16 => available(),
        Precision::Tf32 | Precision::F16 => false,
    }
}

/// The present choice.
#[must_use]
pub fn precision() -> Precision {
    ALL[usize::from(CHOICE.load(Ordering::Relaxed))]
}

/// Whether factors are rounded to bf16 on this processor.
pub(crate) fn is_half() -> bool {
    precision() == Precision::Bf16 && available()
}

fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::bf16::available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}
