//! The size of windows: as configured, or the largest that the memory budget allows.

use super::blend::RollingBlend;
use super::plan::{network_bytes, setting};
use super::{Blend, Needs, TileConfig, Tta, window};
use crate::Result;

/// Pixels of a configured window up to which it may be far larger than the image.
const SMALL: usize = 1 << 28;

/// Bytes of activations per pixel that are assumed at least.
const LEAST_BYTES: usize = 64;

/// The only window the network takes, or the configured one, or the largest that fits the budget: a
/// multiple of the divisor, unless it is an image in one piece that the network takes as it is.
pub(super) fn window_size(
    config: &TileConfig,
    needs: &Needs,
    image: &[usize],
) -> Result<Vec<usize>> {
    let rank = image.len();
    if needs.divisor.len() != rank || needs.receptive_field.len() != rank {
        return Err(setting(
            format!("the model restores {}-D images, the input is {rank}-D", needs.divisor.len()),
            "check the axes of the input, or use a model of that rank",
        ));
    }
    let whole: Vec<usize> = (0..rank)
        .map(|a| image[a].checked_next_multiple_of(needs.divisor[a].max(1)).unwrap_or(usize::MAX))
        .collect();
    if let Some(fixed) = &needs.fixed_size {
        if !config.size.is_empty() && config.size != *fixed {
            return Err(setting(
                format!("`tile.size` is {:?}, the network takes {fixed:?} only", config.size),
                "leave `tile.size` out",
            ));
        }
        return in_proportion(fixed.clone(), image);
    }
    let mut size = if config.size.is_empty() {
        chosen(config, needs, image, &whole)
    } else {
        configured(config, needs, &whole)?
    };
    let transposed = config.tta == Tta::Dihedral && rank >= 2;
    if transposed {
        make_square(&mut size, config, needs);
    }
    let in_one_piece = config.blend == (Blend::Cosine {}) && size == whole;
    let square = rank < 2 || image[rank - 1] == image[rank - 2];
    let taken = needs.any_size_from.is_some_and(|least| image.iter().all(|&n| n >= least));
    if taken && in_one_piece && (square || !transposed) {
        size = image.to_vec();
    }
    in_proportion(size, image)
}

/// The size asked for; ours no larger than the whole image, those of other tools padded as they do.
fn configured(config: &TileConfig, needs: &Needs, whole: &[usize]) -> Result<Vec<usize>> {
    let rank = whole.len();
    if config.size.len() != rank {
        return Err(setting(
            format!("`tile.size` has {} numbers, the image {rank} axes", config.size.len()),
            "give one size per spatial axis",
        ));
    }
    if let Some(a) = config.size.iter().position(|&n| n == 0) {
        return Err(setting(format!("`tile.size` is 0 on axis {a}"), "give at least 1"));
    }
    let clamp = config.blend == Blend::Cosine {};
    let size: Vec<usize> = (0..rank)
        .map(|a| {
            let size = if clamp { config.size[a].min(whole[a]) } else { config.size[a] };
            size.checked_next_multiple_of(needs.divisor[a].max(1)).unwrap_or(usize::MAX)
        })
        .collect();
    Ok(size)
}

/// The window, unless it is out of all proportion to the image.
fn in_proportion(size: Vec<usize>, image: &[usize]) -> Result<Vec<usize>> {
    let pixels = |v: &[usize]| v.iter().fold(1usize, |p, n| p.saturating_mul(*n));
    if pixels(&size) > pixels(image).saturating_mul(8).max(SMALL) {
        return Err(setting(
            format!("windows of {size:?} are far larger than the image of {image:?}"),
            "give a smaller `tile.size`, or a network that is content with smaller images",
        ));
    }
    Ok(size)
}

/// The largest window that fits the budget, or nearly: below 16 pixels or four divisors it is not
/// cut further.
fn chosen(config: &TileConfig, needs: &Needs, image: &[usize], whole: &[usize]) -> Vec<usize> {
    let rank = whole.len();
    let divisor = |a: usize| needs.divisor[a].max(1);
    let budget = (config.budget_mib as u64).saturating_mul(1 << 20);
    let blend = |size: &[usize]| {
        let fade = window::fade(size[0], divisor(0), needs.receptive_field[0]);
        let dropped = config.blend == Blend::Cosine {} && size[0] < whole[0];
        let rows = size[0] - if dropped { fade.halo } else { 0 };
        RollingBlend::bytes(needs.channels.max(1), image, rows)
    };
    let network = |size: &[usize]| {
        let bytes = needs.bytes_per_pixel.max(LEAST_BYTES);
        network_bytes(size, config.batch.max(1), bytes, config.tta, needs.channels.max(1))
    };
    let fits = |size: &[usize]| blend(size).saturating_add(network(size)) <= budget;
    let can_halve = |size: &[usize], a: usize| size[a] > 4 * divisor(a) && size[a] > 16;
    let half =
        |size: &[usize], a: usize| (size[a] / 2).next_multiple_of(divisor(a)).max(4 * divisor(a));
    // context of an axis is whole if its halo is
    let is_whole = |size: usize, a: usize| {
        let field = needs.receptive_field[a];
        size >= whole[a] || window::fade(size, divisor(a), field).halo >= field / 2
    };

    let mut size = whole.to_vec();
    while !fits(&size) {
        // only the rows of a window decide what blending takes; half the budget may go there
        let axis = if blend(&size) > budget / 2 && can_halve(&size, 0) {
            Some(0)
        } else if network(&size) > budget.saturating_sub(blend(&size)).max(budget / 2) {
            // the longest, of those that keep their context if there are any
            (0..rank)
                .filter(|&a| can_halve(&size, a))
                .max_by_key(|&a| (is_whole(half(&size, a), a), size[a], rank - a))
        } else {
            None
        };
        let Some(a) = axis else { break };
        size[a] = half(&size, a);
    }
    // where context is cut, give back what the budget has left
    for a in 0..rank {
        while !is_whole(size[a], a) {
            let mut larger = size.clone();
            larger[a] = (size[a] + (size[a] / 8).max(1)).next_multiple_of(divisor(a)).min(whole[a]);
            if !fits(&larger) {
                break;
            }
            size = larger;
        }
    }
    size
}

/// Gives the last two axes one size, for windows that are transposed.
fn make_square(size: &mut [usize], config: &TileConfig, needs: &Needs) {
    let (y, x) = (size.len() - 2, size.len() - 1);
    let divisor = needs.divisor[y].max(needs.divisor[x]).max(1);
    let side = if config.size.is_empty() {
        size[y].min(size[x])
    } else if config.blend == (Blend::Cosine {}) && config.size[y] == config.size[x] {
        size[y].max(size[x]) // equal before they were clamped to the image
    } else {
        return;
    };
    size[y] = side.next_multiple_of(divisor);
    size[x] = size[y];
}
