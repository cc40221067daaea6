//! The choice of algorithm, one for the process.

use std::sync::atomic::{AtomicU8, Ordering};

/// How convolutions are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvAlgorithm {
    /// The fastest: Winograd's minimal filtering for f32 kernels of 3×3 and 3×3×3 with stride 1,
    /// where the sizes make it faster, and sums of products for all others.
    Auto,
    /// Sums of products only.
    Direct,
}

const UNSET: u8 = 0;
const AUTO: u8 = 1;
const DIRECT: u8 = 2;

static CHOICE: AtomicU8 = AtomicU8::new(UNSET);

/// Chooses how convolutions are computed from now on, in all threads.
///
/// Without this call it is what the environment variable `LIMPID_CONV` says when the first
/// convolution is computed: `direct`, or [`ConvAlgorithm::Auto`] for anything else.
///
/// The rounding error of Winograd's algorithm is about three times that of sums of products. For
/// random images and weights of 64 to 512 channels, root mean squares in units of that of the exact
/// values are (those of sums of products in brackets)
///
/// | kernel | forward | data gradient | weight gradient |
/// |---|---|---|---|
/// | 3×3 | 8e-7 (3e-7) | 8e-7 (3e-7) | 6e-7 (3e-7) |
/// | 3×3×3 | 12e-7 (3e-7) | 9e-7 (3e-7) | 9e-7 (4e-7) |
///
/// and the largest errors among some ten thousand values 9e-6 (4e-6). Results have the same bits for
/// any number of threads, but their last bits depend on the instruction set
/// ([`crate::simd_level`]).
pub fn set_conv_algorithm(algorithm: ConvAlgorithm) {
    let choice = match algorithm {
        ConvAlgorithm::Auto => AUTO,
        ConvAlgorithm::Direct => DIRECT,
    };
    CHOICE.store(choice, Ordering::Relaxed);
}

/// The present choice.
pub(super) fn conv_algorithm() -> ConvAlgorithm {
    match CHOICE.load(Ordering::Relaxed) {
        AUTO => ConvAlgorithm::Auto,
        DIRECT => ConvAlgorithm::Direct,
        _ => {
            let algorithm = named(std::env::var("LIMPID_CONV").ok().as_deref());
            set_conv_algorithm(algorithm);
            algorithm
        }
    }
}

fn named(name: Option<&str>) -> ConvAlgorithm {
    if name == Some("direct") { ConvAlgorithm::Direct } else { ConvAlgorithm::Auto }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_direct_is_direct() {
        assert_eq!(named(Some("direct")), ConvAlgorithm::Direct);
        for other in [None, Some("auto"), Some("fft")] {
            assert_eq!(named(other), ConvAlgorithm::Auto);
        }
    }
}
