//! Finding the regular part of a map: where the taps repeat.

use super::AxisMap;
use std::ops::Range;

/// Outputs whose taps repeat: those of output `i + period` are those of output `i`, `step` inputs
/// further on. All but the edges of most maps; what repeats can be computed for many outputs at once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    /// As many as some whole periods.
    pub outputs: Range<usize>,
    pub period: usize,
    pub step: usize,
}

/// The longest period and step that are looked for.
const LONGEST: usize = 8;

impl Run {
    /// The longest run in a map, if that is at least half of its outputs.
    pub(super) fn of(map: &AxisMap) -> Option<Self> {
        let mut best = Self { outputs: 0..0, period: 1, step: 1 };
        for (period, step) in (1..=LONGEST).flat_map(|n| [(1, n), (n, 1)]) {
            let mut begin = 0;
            for i in 0..(map.outputs() + 1).saturating_sub(period) {
                if repeats(map, i, period, step) {
                    continue;
                }
                // the outputs from `begin` to `i + period` are regular
                let end = i + period - (i - begin) % period;
                if end - begin > best.outputs.len() {
                    best = Self { outputs: begin..end, period, step };
                }
                begin = i + 1;
            }
            if best.outputs.len() + 2 * LONGEST >= map.outputs() {
                break;
            }
        }
        (best.outputs.len() * 2 >= map.outputs()).then_some(best)
    }
}

/// Whether output `i + period` has the taps of output `i`, `step` further on.
fn repeats(map: &AxisMap, i: usize, period: usize, step: usize) -> bool {
    if i + period >= map.outputs() {
        return false;
    }
    let (a, b) = (map.starts[i]..map.starts[i + 1], &map.starts[i + period..]);
    let b = b[0]..b[1];
    a.len() == b.len()
        && map.weight[a.clone()] == map.weight[b.clone()]
        && map.index[a].iter().zip(&map.index[b]).all(|(a, b)| a + step == *b)
}
