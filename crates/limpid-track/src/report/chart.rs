//! Line charts as SVG, for reports and for documentation.
//!
//! Everything that is seen is an attribute, so that a chart needs no style sheet; the classes let
//! that of a report follow its theme. The colours are told apart with any kind of colour vision
//! (Okabe and Ito 2008), and series by their marks too.

use super::axis::{Axis, Tick};
use super::escape;
use std::fmt::Write as _;

/// Colours of the series.
const COLORS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444"];
/// Marks of points around (0, 0): disc, square, triangle, diamond.
const MARKS: [&str; 4] = [
    "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0z",
    "M-3-3h6v6h-6z",
    "M0-4L3.8 3h-7.6z",
    "M0-4.4L4 0L0 4.4L-4 0z",
];
/// Points of a series up to which each has a mark.
const MARKED: usize = 40;

const TITLE: f64 = 14.0;
const TEXT: f64 = 12.0;
const FG: &str = "#1c2126";
const DIM: &str = "#57606a";
const LINE: &str = "#dfe3e8";

/// Lines of one or several series.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What is drawn.
    pub title: String,
    /// What the values along the horizontal axis are, with their unit.
    pub x_title: String,
    /// What the values along the vertical axis are, with their unit.
    pub y_title: String,
    /// Equal factors of x are equally far apart; values not above 0 are left out.
    pub x_log: bool,
    /// The same of y.
    pub y_log: bool,
    /// Names and points of the lines, in the order of x. Points that are not finite are left out.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
    /// Marks the best point of each series, if it is known which way is better.
    pub higher_is_better: Option<bool>,
}

impl Chart {
    /// One value over the steps of a training: logarithmic if it spans more than a factor of 50.
    #[must_use]
    pub fn curve(title: String, points: Vec<(f64, f64)>, higher_is_better: Option<bool>) -> Self {
        let values = || points.iter().map(|p| p.1).filter(|y| y.is_finite());
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let y_log = low > 0.0 && high / low > 50.0;
        let series = vec![(String::new(), points)];
        Self { title, y_log, series, higher_is_better, ..Self::default() }
    }

    /// The text of an SVG file on white, for documentation; empty with fewer than two points.
    #[must_use]
    pub fn svg(&self) -> String {
        self.draw(true)
    }

    /// The SVG element for an HTML page.
    pub(super) fn inline(&self) -> String {
        self.draw(false)
    }

    fn draw(&self, alone: bool) -> String {
        let series = self.shown();
        let points = || series.iter().flat_map(|(_, points)| points);
        if points().count() < 2 {
            return String::new();
        }
        // a curve among many is small; a chart of results stands alone
        let small = self.x_title.is_empty() && self.y_title.is_empty();
        let [plot_width, plot_height] = if small { [396.0, 150.0] } else { [560.0, 320.0] };
        let x = Axis::of(points().map(|p| p.0), self.x_log, if small { 0.0 } else { 0.02 });
        let y = Axis::of(points().map(|p| p.1), self.y_log, 0.05);
        let y_ticks = y.ticks(plot_height / 45.0);
        let labels = y_ticks.iter().map(|t| width(&t.text)).fold(0.0, f64::max);
        let (legend, legend_height) = legend(&series, plot_width);
        let left = labels + 14.0 + if self.y_title.is_empty() { 0.0 } else { 22.0 };
        let head = if self.title.is_empty() { 10.0 } else { 30.0 };
        let top = head + legend_height;
        let (right, bottom) = (left + plot_width, top + plot_height);
        let (w, h) = (right + 14.0, bottom + if self.x_title.is_empty() { 26.0 } else { 46.0 });
        let plot = Plot {
            x: x.on([left, right]),
            y: y.on([bottom, top]),
            across: [left, right],
            down: [top, bottom],
        };
        let x_ticks = match counts(points().map(|p| p.0)) {
            Some(counts) if self.x_log => plot.x.ticks_at(&counts, 34.0),
            _ => plot.x.ticks(plot_width / 70.0),
        };

        let mut svg = "<svg ".to_owned();
        if alone {
            let _ = write!(
                svg,
                "xmlns=\"http://www.w3.org/2000/svg\" width=\"{w:.0}\" height=\"{h:.0}\" "
            );
        }
        let _ = write!(
            svg,
            "viewBox=\"0 0 {w:.0} {h:.0}\" role=\"img\" font-size=\"{TEXT}\" font-family=\"\
             system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif\">\
             <title>{}</title>",
            escape(&self.title)
        );
        if alone {
            svg.push_str("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>");
        }
        let _ = write!(
            svg,
            "<text x=\"{left:.1}\" y=\"19\" class=\"t\" font-size=\"{TITLE}\" font-weight=\"600\" \
             fill=\"{FG}\">{}</text><g transform=\"translate({left:.1} {head:.1})\">{legend}</g>",
            escape(&self.title)
        );
        plot.axes(&mut svg, &x_ticks, &y_ticks, [&self.x_title, &self.y_title]);
        for (i, (name, points)) in series.iter().enumerate() {
            plot.line(&mut svg, i, name, points, !small && points.len() <= MARKED);
        }
        if let Some(higher) = self.higher_is_better {
            series.iter().for_each(|(name, points)| plot.best(&mut svg, name, points, higher));
        }
        svg.push_str("</svg>");
        svg
    }

    /// The series without the points that have no place.
    fn shown(&self) -> Vec<(&str, Vec<(f64, f64)>)> {
        let on = |log: bool, v: f64| v.is_finite() && (!log || v > 0.0);
        let shown = |(x, y): &(f64, f64)| on(self.x_log, *x) && on(self.y_log, *y);
        self.series
            .iter()
            .map(|(name, points)| (name.as_str(), points.iter().copied().filter(shown).collect()))
            .collect()
    }
}

/// Where the lines are drawn: the axes, and the pixels of the edges.
struct Plot {
    x: Axis,
    y: Axis,
    across: [f64; 2],
    down: [f64; 2],
}

impl Plot {
    /// Lines and numbers of both axes, and what they are.
    fn axes(&self, svg: &mut String, x_ticks: &[Tick], y_ticks: &[Tick], titles: [&str; 2]) {
        let ([left, right], [top, bottom]) = (self.across, self.down);
        for Tick { value, text } in y_ticks {
            let at = self.y.at(*value);
            let _ = write!(
                svg,
                "<path d=\"M{left:.1} {at:.1}H{right:.1}\" class=\"g\" stroke=\"{LINE}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"x\" text-anchor=\"end\" fill=\"{DIM}\">{text}</text>",
                left - 8.0,
                at + 4.0
            );
        }
        for Tick { value, text } in x_ticks {
            let at = self.x.at(*value);
            let _ = write!(
                svg,
                "<path d=\"M{at:.1} {bottom:.1}v5\" class=\"a\" stroke=\"{DIM}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" class=\"x\" text-anchor=\"middle\" fill=\"{DIM}\">{text}</text>",
                bottom + 19.0
            );
        }
        let _ = write!(
            svg,
            "<path d=\"M{left:.1} {bottom:.1}H{right:.1}\" class=\"a\" stroke=\"{DIM}\"/>"
        );
        let below = format!("{:.1} {:.1}", f64::midpoint(left, right), bottom + 38.0);
        let beside = format!("16 {:.1}) rotate(-90", f64::midpoint(top, bottom));
        for (title, place) in titles.into_iter().zip([below, beside]) {
            if !title.is_empty() {
                let _ = write!(
                    svg,
                    "<text transform=\"translate({place})\" class=\"t\" text-anchor=\"middle\" \
                     fill=\"{FG}\">{}</text>",
                    escape(title)
                );
            }
        }
    }

    /// A series, its points marked or not.
    fn line(&self, svg: &mut String, i: usize, name: &str, points: &[(f64, f64)], marked: bool) {
        let at = |p: &(f64, f64)| [self.x.at(p.0), self.y.at(p.1)];
        let line: Vec<String> =
            points.iter().map(at).map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, "{}<polyline points=\"{}\"/>", group(i), line.join(" "));
        for point in points.iter().filter(|_| marked) {
            svg.push_str(&mark(i, at(point), &described(name, "", *point)));
        }
        svg.push_str("</g>");
    }

    /// The best point of a series, in another colour.
    fn best(&self, svg: &mut String, name: &str, points: &[(f64, f64)], higher: bool) {
        let sign = if higher { 1.0 } else { -1.0 };
        let best = points.iter().max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)));
        if let Some(best) = best {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" class=\"b\" fill=\"#c8102e\">\
                 <title>{}</title></circle>",
                self.x.at(best.0),
                self.y.at(best.1),
                escape(&described(name, "best ", *best))
            );
        }
    }
}

/// Names of the series beside their line and mark, in rows of the given width, and the height of
/// the rows; nothing if no series has a name.
fn legend(series: &[(&str, Vec<(f64, f64)>)], most: f64) -> (String, f64) {
    const SWATCH: f64 = 26.0;
    const ROW: f64 = 20.0;
    let named = series.iter().enumerate().filter(|(_, (name, _))| !name.is_empty());
    let widest = named.clone().map(|(_, (name, _))| width(name)).fold(0.0, f64::max);
    let column = SWATCH + 6.0 + widest + 18.0;
    let columns = (most / column).floor().max(1.0) as usize;
    let mut svg = String::new();
    for (at, (i, (name, _))) in named.clone().enumerate() {
        let (x, y) = ((at % columns) as f64 * column, (at / columns) as f64 * ROW);
        let _ = write!(
            svg,
            "{}<polyline points=\"{x:.1},{:.1} {:.1},{:.1}\"/>{}</g>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"t\" fill=\"{FG}\">{}</text>",
            group(i),
            y + 8.0,
            x + SWATCH,
            y + 8.0,
            mark(i, [x + SWATCH / 2.0, y + 8.0], name),
            x + SWATCH + 6.0,
            y + 12.0,
            escape(name)
        );
    }
    let rows = named.count().div_ceil(columns);
    (svg, if rows > 0 { rows as f64 * ROW + 6.0 } else { 0.0 })
}

/// The values in order if they are few and whole, as numbers of samples or threads are.
fn counts(values: impl Iterator<Item = f64>) -> Option<Vec<f64>> {
    const FEW: usize = 9;
    let mut counts: Vec<f64> = Vec::new();
    for value in values {
        if value != value.round() {
            return None;
        }
        if !counts.contains(&value) {
            counts.push(value);
        }
    }
    counts.sort_by(f64::total_cmp);
    (counts.len() <= FEW).then_some(counts)
}

/// The beginning of what has the colour and line of a series.
fn group(series: usize) -> String {
    let color = series % COLORS.len();
    let dashes = if series < COLORS.len() { "" } else { " stroke-dasharray=\"6 3\"" };
    format!(
        "<g class=\"s{color}\" color=\"{}\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2\" \
         stroke-linejoin=\"round\"{dashes}>",
        COLORS[color]
    )
}

/// The mark of a point, with a text that shows when it is pointed at.
fn mark(series: usize, [x, y]: [f64; 2], text: &str) -> String {
    format!(
        "<path transform=\"translate({x:.1} {y:.1})\" d=\"{}\" fill=\"currentColor\" stroke=\"none\">\
         <title>{}</title></path>",
        MARKS[series % MARKS.len()],
        escape(text)
    )
}

/// A point in words.
fn described(name: &str, what: &str, (x, y): (f64, f64)) -> String {
    let colon = if name.is_empty() { "" } else { ": " };
    format!("{name}{colon}{what}{} at {}", number(y), number(x))
}

/// About how wide a text is, in pixels.
fn width(text: &str) -> f64 {
    text.chars().count() as f64 * TEXT * 0.56
}

/// A number as the text of a point shows it.
fn number(v: f64) -> String {
    let a = v.abs();
    if v == v.round() && a < 1e7 {
        format!("{v}")
    } else if (1e-2..1e5).contains(&a) {
        let digits = (3 - a.log10().floor() as i32).clamp(0, 4) as usize;
        format!("{v:.digits$}")
    } else {
        format!("{v:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gain() -> Chart {
        let line = |a: f64, b: f64| {
            [1, 2, 4, 8, 16, 32].map(|k| (f64::from(k), a - b / f64::from(k))).to_vec()
        };
        Chart {
            title: "Mean of K samples against the reference".into(),
            x_title: "samples K".into(),
            y_title: "PSNR (dB)".into(),
            x_log: true,
            series: vec![
                ("diffusion, 200 steps".into(), line(28.4, 2.9)),
                ("flow, 20 steps".into(), line(28.1, 1.7)),
                ("regression <U-Net>".into(), vec![(1.0, 27.4), (32.0, 27.4)]),
                ("bridge, 20 steps".into(), line(28.2, 1.3)),
            ],
            ..Chart::default()
        }
    }

    #[test]
    fn a_chart_has_all_series_with_names_and_stands_alone() {
        let svg = gain().svg();
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>"));
        for part in ["samples K", "PSNR (dB)", "regression &lt;U-Net&gt;", ">32</text>"] {
            assert!(svg.contains(part), "{part}");
        }
        assert_eq!(svg.matches("<polyline").count(), 8, "four lines, four in the legend");
        for text in ["class=\"s0\"", "class=\"s3\"", COLORS[3]] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(!gain().inline().contains("http"), "a report needs nothing else");
    }

    #[test]
    fn points_that_cannot_be_drawn_are_left_out() {
        let mut chart = gain();
        chart.series = vec![(
            String::new(),
            vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (f64::INFINITY, 1.0), (4.0, 5.0)],
        )];
        let line = |svg: &str| {
            svg.split_once("<polyline points=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
        };
        assert_eq!(line(&chart.svg()).split(' ').count(), 2);
        chart.series[0].1.truncate(3);
        assert_eq!(chart.svg(), "", "one point is no line");
    }

    #[test]
    fn a_curve_is_logarithmic_when_it_spans_much_and_marks_its_best() {
        let points = |low: f64| vec![(0.0, 1.0), (10.0, low), (20.0, f64::NAN), (30.0, 0.5)];
        assert!(!Chart::curve(String::new(), points(0.1), None).y_log);
        let curve = Chart::curve("train: loss".into(), points(0.01), Some(false));
        assert!(curve.y_log);
        assert!(curve.svg().contains("best 0.0100 at 10"), "{}", curve.svg());
    }
}
