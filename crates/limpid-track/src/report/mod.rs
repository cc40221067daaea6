//! The report of an evaluation: one HTML file that needs nothing else and opens offline.
//!
//! Before/after slider, residual, table of scores, curves, the configuration and the command to use
//! the model with.

mod axis;
mod chart;

pub use chart::Chart;

use base64::Engine as _;
use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");
const SLIDE: &str = "for(const p of document.querySelectorAll('.pair')){const i=p.querySelector('input');\
i.addEventListener('input',()=>{p.querySelector('.over').style.clipPath='inset(0 '+(100-i.value)+'% 0 0)';\
p.querySelector('.bar').style.left=i.value+'%'})}";

/// What a report shows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Heading.
    pub title: String,
    /// One line below it.
    pub lead: String,
    /// Names and values at the top.
    pub facts: Vec<(String, String)>,
    /// Tables of scores.
    pub tables: Vec<Table>,
    /// Charts of results, below the tables.
    pub charts: Vec<Chart>,
    /// Images.
    pub cases: Vec<Case>,
    /// Losses and scores over the steps of the training.
    pub curves: Vec<Chart>,
    /// Warnings collected on the way.
    pub warnings: Vec<String>,
    /// Titled blocks of text: configuration, commands.
    pub texts: Vec<(String, String)>,
}

/// A table of the report.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// Column heads.
    pub head: Vec<String>,
    /// Rows; the flag marks our own result.
    pub rows: Vec<(Vec<String>, bool)>,
    /// A remark below.
    pub note: String,
}

/// An image of the report.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// PNG of the image before and after, for the slider.
    pub before: Vec<u8>,
    /// PNG of the image after.
    pub after: Vec<u8>,
    /// What they are called, unless before and after.
    pub sides: Option<[String; 2]>,
    /// Further PNGs with captions: reference, residual.
    pub others: Vec<(String, Vec<u8>)>,
    /// A line of text: scores.
    pub caption: String,
}

impl Report {
    /// The HTML file.
    #[must_use]
    pub fn html(&self) -> String {
        let mut h = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title>\
             <style>{STYLE}</style><h1>{0}</h1><p class=\"lead\">{1}</p>",
            escape(&self.title),
            escape(&self.lead)
        );
        if !self.facts.is_empty() {
            h.push_str("<table>");
            for (k, v) in &self.facts {
                let _ = write!(h, "<tr><td>{}</td><td>{}</td></tr>", escape(k), escape(v));
            }
            h.push_str("</table>");
        }
        for warning in &self.warnings {
            let _ = write!(h, "<p><strong>warning:</strong> {}</p>", escape(warning));
        }
        for table in &self.tables {
            table.write(&mut h);
        }
        write_charts(&mut h, "charts", "wide", &self.charts);
        if !self.cases.is_empty() {
            h.push_str("<h2>images</h2><p class=\"lead\">drag across an image to compare</p>");
        }
        for case in &self.cases {
            case.write(&mut h);
        }
        write_charts(&mut h, "training", "charts", &self.curves);
        for (title, text) in &self.texts {
            let _ = write!(h, "<h2>{}</h2><pre>{}</pre>", escape(title), escape(text));
        }
        let _ = write!(h, "<script>{SLIDE}</script></html>");
        h
    }
}

impl Table {
    fn write(&self, h: &mut String) {
        let _ = write!(h, "<h2>{}</h2><table><tr>", escape(&self.title));
        for head in &self.head {
            let _ = write!(h, "<th>{}</th>", escape(head));
        }
        h.push_str("</tr>");
        for (row, own) in &self.rows {
            h.push_str(if *own { "<tr class=\"own\">" } else { "<tr>" });
            for cell in row {
                let _ = write!(h, "<td>{}</td>", escape(cell));
            }
            h.push_str("</tr>");
        }
        let _ = write!(h, "</table><p class=\"lead\">{}</p>", escape(&self.note));
    }
}

impl Case {
    fn write(&self, h: &mut String) {
        let sides = self.sides.as_ref().map_or(["before", "after"], |[a, b]| [a, b]);
        let [before, after] = sides.map(escape);
        let _ = write!(
            h,
            "<h3>{}</h3><p class=\"lead\">{}</p><div class=\"row\"><figure><div class=\"pair\">\
             <img alt=\"{after}\" src=\"{}\"><div class=\"over\"><img alt=\"{before}\" src=\"{}\"></div>\
             <div class=\"bar\"></div><span class=\"tag l\">{before}</span><span class=\"tag r\">{after}</span>\
             <input type=\"range\" min=\"0\" max=\"100\" value=\"50\" aria-label=\"{before} and {after}\">\
             </div></figure>",
            escape(&self.name),
            escape(&self.caption),
            data_url(&self.after),
            data_url(&self.before)
        );
        for (caption, png) in &self.others {
            let _ = write!(
                h,
                "<figure><img alt=\"{0}\" src=\"{1}\"><figcaption>{0}</figcaption></figure>",
                escape(caption),
                data_url(png)
            );
        }
        h.push_str("</div>");
    }
}

/// A section of charts, unless there is nothing to draw.
fn write_charts(h: &mut String, title: &str, class: &str, charts: &[Chart]) {
    let drawn: String = charts.iter().map(Chart::inline).collect();
    if !drawn.is_empty() {
        let _ = write!(h, "<h2>{title}</h2><div class=\"{class}\">{drawn}</div>");
    }
}

fn data_url(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(png))
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_needs_nothing_else_and_escapes_its_texts() {
        let report = Report {
            title: "a <b>".into(),
            cases: vec![Case { before: vec![1], after: vec![2], ..Case::default() }],
            curves: vec![Chart::curve(
                "loss".into(),
                vec![(0.0, 1.0), (10.0, 0.1), (20.0, f64::NAN), (30.0, 0.5)],
                Some(false),
            )],
            texts: vec![("config".into(), "x = \"1 & 2\"".into())],
            ..Report::default()
        };
        let html = report.html();
        assert!(html.contains("a &lt;b&gt;") && html.contains("1 &amp; 2"));
        assert!(html.contains("best 0.1000 at 10") && html.contains("data:image/png;base64,AQ=="));
        assert!(html.contains("<h2>training</h2>") && !html.contains("<h2>charts</h2>"));
        for outside in ["http://", "https://", "src=\"/", "@import", "<link"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
