//! Whether a GPU repeats its bits, one choice for the process.

use std::sync::atomic::{AtomicBool, Ordering};

static DETERMINISTIC: AtomicBool = AtomicBool::new(true);

/// Whether a run repeats its bits on the same GPU; without this call it does.
pub fn set_deterministic(deterministic: bool) {
    DETERMINISTIC.store(deterministic, Ordering::Relaxed);
}

/// The present choice.
#[cfg(feature = "cuda")]
pub(crate) fn is_deterministic() -> bool {
    DETERMINISTIC.load(Ordering::Relaxed)
}
