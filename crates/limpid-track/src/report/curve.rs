//! Line charts as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 24.0;
const RIGHT: f64 = 10.0;

/// A chart of one value over the steps, with the best point marked if a direction is given.
#[must_use]
pub fn chart(title: &str, points: &[(f64, f64)], higher_is_better: Option<bool>) -> String {
    let finite: Vec<(f64, f64)> =
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    if finite.len() < 2 {
        return String::new();
    }
    let bound = |f: fn(f64, f64) -> f64, start: f64, of: fn(&(f64, f64)) -> f64| {
        finite.iter().map(of).fold(start, f)
    };
    let (x0, x1) = (bound(f64::min, f64::MAX, |p| p.0), bound(f64::max, f64::MIN, |p| p.0));
    let (mut y0, mut y1) = (bound(f64::min, f64::MAX, |p| p.1), bound(f64::max, f64::MIN, |p| p.1));
    let logarithmic = y0 > 0.0 && y1 / y0 > 50.0;
    if !logarithmic {
        let margin = ((y1 - y0) * 0.05).max(y1.abs() * 1e-6).max(1e-12);
        (y0, y1) = (y0 - margin, y1 + margin);
    }
    let level = |y: f64| if logarithmic { y.ln() } else { y };
    let px = |x: f64| LEFT + (x - x0) / (x1 - x0).max(1e-12) * (WIDTH - LEFT - RIGHT);
    let py = |y: f64| {
        let t = (level(y) - level(y0)) / (level(y1) - level(y0)).max(1e-12);
        HEIGHT - BOTTOM - t * (HEIGHT - BOTTOM - TOP)
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{0}</title>\
         <text x=\"{LEFT}\" y=\"15\" class=\"t\">{0}</text>",
        super::escape(title)
    );
    for i in 0..5 {
        let t = f64::from(i) / 4.0;
        let y = if logarithmic { y0 * (y1 / y0).powf(t) } else { y0 + t * (y1 - y0) };
        let at = py(y);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" class=\"g\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"y\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 5.0,
            at + 3.5,
            number(y)
        );
    }
    for (x, anchor) in [(x0, "start"), (x1, "end")] {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"x\" text-anchor=\"{anchor}\">{}</text>",
            px(x),
            HEIGHT - 12.0,
            number(x)
        );
    }
    let line: Vec<String> =
        finite.iter().map(|(x, y)| format!("{:.1},{:.1}", px(*x), py(*y))).collect();
    let _ = write!(svg, "<polyline points=\"{}\" class=\"l\"/>", line.join(" "));
    if let Some(higher) = higher_is_better {
        let sign = if higher { 1.0 } else { -1.0 };
        let best = finite.iter().max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)));
        if let Some((x, y)) = best {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" class=\"b\"><title>best {} at {}</title></circle>",
                px(*x),
                py(*y),
                number(*y),
                number(*x)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

/// A number as an axis shows it.
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
