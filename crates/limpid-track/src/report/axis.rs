//! An axis of a chart: where values lie, and the round ones that are written beside it.

/// Values from `low` to `high`, from one pixel to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    pixels: [f64; 2],
}

/// A value that is written beside an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) text: String,
}

impl Axis {
    /// The axis of these values, which are finite, and above 0 if it is logarithmic. `margin` is
    /// what is left free at both ends, as a share of the span.
    pub(super) fn of(values: impl Iterator<Item = f64>, log: bool, margin: f64) -> Self {
        let ends = |(low, high): (f64, f64), v: f64| (low.min(v), high.max(v));
        let (mut low, mut high) = values
            .map(|v| if log { v.log10() } else { v })
            .fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        if low == high {
            let around = if log { 0.5 } else { (low.abs() * 0.5).max(0.5) };
            (low, high) = (low - around, high + around);
        }
        let free = (high - low) * margin;
        Self { low: low - free, high: high + free, log, pixels: [0.0, 1.0] }
    }

    /// The same on a stretch of the picture.
    pub(super) fn on(self, pixels: [f64; 2]) -> Self {
        Self { pixels, ..self }
    }

    /// The pixel of a value.
    pub(super) fn at(&self, value: f64) -> f64 {
        let level = if self.log { value.log10() } else { value };
        let [from, to] = self.pixels;
        from + (level - self.low) / (self.high - self.low) * (to - from)
    }

    /// Round values, about as many as wanted.
    pub(super) fn ticks(&self, wanted: f64) -> Vec<Tick> {
        if self.log {
            let ticks = self.powers(wanted);
            if ticks.len() >= 2 {
                return ticks;
            }
            // too short a stretch for powers: as on a linear axis
            return linear(10f64.powf(self.low), 10f64.powf(self.high), wanted);
        }
        linear(self.low, self.high, wanted)
    }

    /// These values, as far as they leave `apart` pixels between each other.
    pub(super) fn ticks_at(&self, values: &[f64], apart: f64) -> Vec<Tick> {
        let mut ticks: Vec<Tick> = Vec::new();
        for &value in values {
            let free = |t: &Tick| (self.at(value) - self.at(t.value)).abs() >= apart;
            if ticks.last().is_none_or(free) {
                ticks.push(Tick { value, text: value.to_string() });
            }
        }
        ticks
    }

    /// Powers of ten, and 2 and 5 times these where there is room.
    fn powers(&self, wanted: f64) -> Vec<Tick> {
        let decades = self.high - self.low;
        let every = (decades / wanted).ceil().max(1.0) as i32;
        let steps: &[u32] = if decades * 3.0 <= wanted + 1.0 { &[1, 2, 5] } else { &[1] };
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        let mut ticks = Vec::new();
        for decade in (first..=last).filter(|d| d.rem_euclid(every) == 0) {
            for step in steps {
                let text = format!("{step}e{decade}");
                let Ok(value) = text.parse::<f64>() else { continue };
                if (self.low..=self.high).contains(&value.log10()) {
                    let plain = (-3..5).contains(&decade);
                    ticks.push(Tick { value, text: if plain { value.to_string() } else { text } });
                }
            }
        }
        ticks
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear(low: f64, high: f64, wanted: f64) -> Vec<Tick> {
    let rough = (high - low) / wanted;
    let power = rough.log10().floor();
    let unit = 10f64.powf(power);
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * unit >= rough * 0.999).unwrap_or(10.0);
    let step = factor * unit;
    let exponent = if factor == 10.0 { power + 1.0 } else { power };
    let text = |value: f64| match exponent {
        e if e < -5.0 => format!("{value:.1e}"),
        e if e >= 4.0 && value != 0.0 => format!("{}k", (value / 1000.0).round()),
        e => format!("{value:.*}", (-e).max(0.0) as usize),
    };
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    // `+ 0.0` turns -0 into 0
    let value = |i: i64| i as f64 * step + 0.0;
    (first..=last).map(|i| Tick { value: value(i), text: text(value(i)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[f64], log: bool, wanted: f64) -> Vec<String> {
        let axis = Axis::of(values.iter().copied(), log, 0.0);
        axis.ticks(wanted).into_iter().map(|t| t.text).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        for (values, log, expected) in [
            (&[0.0, 1.0][..], false, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"][..]),
            (&[-0.03, 0.02], false, &["-0.03", "-0.02", "-0.01", "0.00", "0.01", "0.02"]),
            (&[21.3, 29.9], false, &["22", "24", "26", "28"]),
            (&[0.0, 95_000.0], false, &["0", "20k", "40k", "60k", "80k"]),
            (&[1.0, 32.0], true, &["1", "2", "5", "10", "20"]),
            (&[1e-7, 0.2], true, &["1e-6", "1e-4", "0.01"]),
            (&[30.0, 45.0], true, &["30", "35", "40", "45"]),
        ] {
            assert_eq!(texts(values, log, 5.0), expected, "{values:?}");
        }
        let counts = [1.0, 2.0, 4.0, 8.0, 9.0];
        let axis = Axis::of(counts.iter().copied(), true, 0.0).on([0.0, 100.0]);
        let at = axis.ticks_at(&counts, 20.0).into_iter().map(|t| t.text);
        assert_eq!(at.collect::<Vec<_>>(), ["1", "2", "4", "8"]);
        assert!(texts(&[3.0], false, 5.0).len() > 2, "one value has an axis too");
    }

    #[test]
    fn values_lie_in_proportion() {
        let axis = Axis::of([10.0, 30.0].into_iter(), false, 0.0).on([100.0, 0.0]);
        assert_eq!([10.0, 15.0, 30.0].map(|v| axis.at(v)), [100.0, 75.0, 0.0]);
        let axis = Axis::of([1.0, 100.0].into_iter(), true, 0.0).on([0.0, 10.0]);
        assert_eq!([1.0, 10.0, 100.0].map(|v| axis.at(v)), [0.0, 5.0, 10.0]);
    }
}
