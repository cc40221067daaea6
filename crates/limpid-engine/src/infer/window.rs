//! Where windows start: the rules of MONAI, nnU-Net and nucli-train, and ours.

/// Window starts along one axis by MONAI's `sliding_window_inference`: a step of
/// `int(size·(1 - overlap))`, the last window shifted back inside.
#[must_use]
pub fn monai_starts(image: usize, size: usize, overlap: f64) -> Vec<usize> {
    let step = if size >= image { size } else { ((size as f64 * (1.0 - overlap)) as usize).max(1) };
    let last = image.saturating_sub(size);
    let mut starts: Vec<usize> = (0..).map(|i| i * step).take_while(|&s| s < last).collect();
    starts.push(last);
    starts
}

/// Window starts along one axis by nnU-Net's `compute_steps_for_sliding_window`: evenly spread, at
/// most `size·step` apart, rounded half to even as Python does.
#[must_use]
pub fn nnunet_starts(image: usize, size: usize, step: f64) -> Vec<usize> {
    let last = image.saturating_sub(size);
    let count = (last as f64 / (size as f64 * step)).ceil() as usize + 1;
    let actual = if count > 1 { last as f64 / (count - 1) as f64 } else { 0.0 };
    (0..count).map(|i| (actual * i as f64).round_ties_even() as usize).collect()
}

/// Window starts along one axis by nucli-train: a fixed stride, the last window at the end.
#[must_use]
pub fn stride_starts(image: usize, size: usize, stride: usize) -> Vec<usize> {
    let last = image.saturating_sub(size);
    let mut starts: Vec<usize> = (0..last).step_by(stride.max(1)).collect();
    starts.push(last);
    starts
}

/// Window starts along one axis so that neighbours share at least `shared` positions, evenly
/// spread: as few windows as possible, none overlapping more than it must.
#[must_use]
pub fn even_starts(image: usize, size: usize, shared: usize) -> Vec<usize> {
    let last = image.saturating_sub(size);
    let count = last.div_ceil(size.saturating_sub(shared).max(1)) + 1;
    (0..count).map(|i| if count == 1 { 0 } else { last * i / (count - 1) }).collect()
}

/// How our windows share positions with their neighbours along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fade {
    /// Positions at a cut edge that do not count, for lack of context.
    pub halo: usize,
    /// Positions over which the weight rises.
    pub ramp: usize,
    /// Positions shared at least, a multiple of the divisor.
    pub shared: usize,
}

/// The sharing of windows of `size`, a multiple of `divisor`, for a network of receptive `field`.
///
/// The halo is half the receptive field, but no more than lets windows advance by 3/8 of their
/// size: at most a quarter of it.
#[must_use]
pub fn fade(size: usize, divisor: usize, field: usize) -> Fade {
    let divisor = divisor.max(1);
    let ramp = (size / 8).max(1);
    let wanted = (field / 2).saturating_mul(2).saturating_add(ramp);
    let most = size / divisor * 5 / 8;
    let shared = wanted.div_ceil(divisor).min(most) * divisor;
    Fade { halo: (field / 2).min(shared.saturating_sub(ramp) / 2), ramp, shared }
}

/// [`even_starts`] at multiples of `divisor`, as `image`, `size` and `shared` are: so pooling in a
/// window groups the same pixels as in the whole image.
#[must_use]
pub fn aligned_starts(image: usize, size: usize, shared: usize, divisor: usize) -> Vec<usize> {
    let d = divisor.max(1);
    even_starts(image / d, size / d, shared / d).into_iter().map(|s| s * d).collect()
}

/// All windows of the given starts per axis, the last axis fastest.
#[must_use]
pub fn product(starts: &[Vec<usize>]) -> Vec<Vec<usize>> {
    starts.iter().fold(vec![Vec::new()], |windows, axis| {
        windows
            .iter()
            .flat_map(|w| axis.iter().map(move |&s| [w.as_slice(), &[s]].concat()))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_rules_give_the_reference_starts() {
        assert_eq!(monai_starts(40, 16, 0.25), [0, 12, 24]);
        assert_eq!(monai_starts(16, 16, 0.5), [0]);
        assert_eq!(monai_starts(17, 16, 0.5), [0, 1]);
        // values of compute_steps_for_sliding_window
        assert_eq!(nnunet_starts(110, 64, 0.5), [0, 23, 46]);
        assert_eq!(nnunet_starts(50, 16, 0.5), [0, 7, 14, 20, 27, 34]);
        assert_eq!(nnunet_starts(100, 30, 0.75), [0, 18, 35, 52, 70]);
        assert_eq!(stride_starts(22, 12, 5), [0, 5, 10]);
        assert_eq!(stride_starts(23, 12, 5), [0, 5, 10, 11]);
    }

    proptest::proptest! {
        #[test]
        fn every_rule_covers_every_position(image in 1usize..90, size in 1usize..40, t in 0.0f64..0.9) {
            let size = size.min(image);
            let stride = ((size as f64 * (1.0 - t)) as usize).max(1);
            let shared = (size as f64 * t * 0.9) as usize;
            for starts in [
                monai_starts(image, size, t),
                nnunet_starts(image, size, 1.0 - t),
                stride_starts(image, size, stride),
                even_starts(image, size, shared),
            ] {
                let mut reached = 0;
                for s in &starts {
                    proptest::prop_assert!(*s <= reached, "gap before {s} in {starts:?}");
                    reached = s + size;
                }
                proptest::prop_assert_eq!(reached, image);
            }
            let even = even_starts(image, size, shared);
            for field in [1, 9, 1000] {
                for d in 1..6 {
                    let (image, size) = (image.div_ceil(d) * d, size.div_ceil(d) * d);
                    let fade = fade(size, d, field);
                    let starts = aligned_starts(image, size, fade.shared, d);
                    proptest::prop_assert!(starts.iter().all(|s| s % d == 0));
                    proptest::prop_assert_eq!(starts[starts.len() - 1] + size, image);
                    for pair in starts.windows(2) {
                        // what both keep leaves no gap
                        proptest::prop_assert!(pair[0] < pair[1]);
                        proptest::prop_assert!(pair[0] + size - fade.halo >= pair[1] + fade.halo);
                    }
                }
            }
            for pair in even.windows(2) {
                proptest::prop_assert!(pair[0] + size >= pair[1] + shared);
            }
        }
    }
}
