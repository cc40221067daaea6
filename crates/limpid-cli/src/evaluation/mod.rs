//! How good restored images are: scores against references, beside those of the input and of
//! classical filters, as a table, a CSV file and a report.

mod baselines;
mod grid;
mod report;
mod scores;
mod tables;

pub use baselines::{best_of, described};
pub use grid::enlarged;
pub use report::{curves, of_model};
pub use scores::{Scores, has_ssim, space};

use crate::prediction::{goes_with, stem};
use crate::{Failure, print, report as say};
use baselines::BASELINES;
use limpid_datamodule::dataset::partners;
use limpid_io::{Data, Volume, atomic, list_images};
use limpid_track::report::{Case, Report};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Images that a report shows; the tables have all.
const SHOWN: usize = 12;

/// One image, measured.
struct Measured {
    name: String,
    before: Scores,
    after: Scores,
    /// Name with settings, and scores.
    baselines: Vec<(String, Scores)>,
    /// Its pictures, if the report shows it.
    case: Option<Case>,
    /// Whether it is too small for SSIM.
    small: bool,
}

/// What is compared, and how.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// Restored image, or folder of them.
    pub restored: &'a Path,
    /// What they were restored from: files of the same names, whatever their endings.
    pub input: &'a Path,
    /// References: files of the same names, whatever their endings.
    pub target: &'a Path,
    /// Span of valid intensities in the unit of the files.
    pub data_range: f64,
    /// Axes that count as space ([`space`]).
    pub dims: Option<u8>,
    /// Also run the classical filters, each at its best strength for the image.
    pub baselines: bool,
    /// Inputs may have fewer slices or pixels than their references: they are [`enlarged`].
    pub enlarge: bool,
    /// Folder for the report and the table of all images.
    pub out: &'a Path,
    /// Only say what went wrong.
    pub quiet: bool,
    /// Write the scores as JSON to standard output, instead of a table.
    pub json: bool,
}

impl Evaluation<'_> {
    /// Measures all images, writes `cases.csv` and `report.html`, and prints the comparison. What
    /// the report is to say of the model is in `about` ([`of_model`]).
    ///
    /// # Errors
    /// [`Kind::Config`](crate::Kind::Config) for a data range that is none,
    /// [`Kind::Data`](crate::Kind::Data) for images that are missing or do not go together.
    pub fn run(&self, about: Report) -> Result<(), Failure> {
        positive(self.data_range)?;
        let measured = self
            .files()?
            .iter()
            .enumerate()
            .map(|(i, files)| self.measure(files, i < SHOWN))
            .collect::<Result<Vec<_>, _>>()?;
        let warnings = warnings(&measured);
        let out = self.out;
        std::fs::create_dir_all(out)
            .map_err(|e| Failure::data(limpid_io::Error::io("make the folder", out, e)))?;
        atomic::write_bytes(out.join("cases.csv"), tables::csv(&measured).as_bytes())
            .map_err(Failure::data)?;
        let html = out.join("report.html");
        let report = report::fill(about, &measured, self.data_range);
        let report = Report { warnings: warnings.clone(), ..report };
        atomic::write_bytes(&html, report.html().as_bytes()).map_err(Failure::data)?;
        if !self.quiet {
            warnings.iter().for_each(|w| say(format!("warning: {w}")));
        }
        if self.json {
            return print(tables::json(&measured) + "\n");
        }
        if !self.quiet {
            print(tables::summary(&measured))?;
            print(format!("report: {}\n", html.display()))?;
        }
        Ok(())
    }

    /// Restored image, input and target of every case.
    fn files(&self) -> Result<Vec<[PathBuf; 3]>, Failure> {
        let places = [self.restored, self.input, self.target];
        let list = |place: &Path| list_images(place).map_err(Failure::data);
        let [restored, inputs, targets] = places.map(list);
        let (mut restored, inputs, targets) = (restored?, inputs?, targets?);
        // what `predict` wrote beside its results is no result, unless an input has its name
        let (all, names): (BTreeSet<PathBuf>, BTreeSet<String>) =
            (restored.iter().cloned().collect(), inputs.iter().map(|i| stem(i)).collect());
        restored.retain(|path| {
            names.contains(&stem(path))
                || goes_with(path).is_none_or(|result| !all.contains(&result))
        });
        let [here, input_place, target_place] = places.map(|p| p.display().to_string());
        let of_inputs = partners(&restored, &inputs, &here, &input_place).map_err(Failure::data)?;
        let of_targets =
            partners(&restored, &targets, &here, &target_place).map_err(Failure::data)?;
        let cases = restored.into_iter().zip(of_inputs).zip(of_targets);
        Ok(cases.map(|((r, i), t)| [r, inputs[i].clone(), targets[t].clone()]).collect())
    }

    /// Measures a case, with pictures if it is shown.
    fn measure(&self, files: &[PathBuf; 3], shown: bool) -> Result<Measured, Failure> {
        let [restored, input, target] = files;
        let (r, mut i, t) = (read(restored)?, read(input)?, read(target)?);
        if self.enlarge
            && let Some(values) = enlarged(&i, &t.info)
        {
            let axes = t.info.axes.clone();
            i = Volume::new(Data::F32(values), &t.info.shape, axes).map_err(Failure::data)?;
        }
        for (path, v) in [(restored, &r), (input, &i)] {
            let (got, expected) = (&v.info, &t.info);
            if (&got.shape, &got.axes) != (&expected.shape, &expected.axes) {
                return Err(Failure::data(format!(
                    "the image is {:?} ({}), its target {:?} ({})",
                    got.shape, got.axes, expected.shape, expected.axes
                ))
                .hint(format!("it is compared with {}, pixel by pixel", target.display()))
                .file(path));
            }
        }
        let shape = space(&t.info, self.dims).map_err(|e| e.file(target))?;
        let (r, i, t_values) = (r.data.to_f32(), i.data.to_f32(), t.data.to_f32());
        let score = |values: &[f32]| Scores::of(values, &t_values, shape, self.data_range);
        let mut baselines = Vec::new();
        if self.baselines {
            let noisy: Vec<f64> = i.iter().map(|&v| f64::from(v)).collect();
            for kind in BASELINES {
                let best = best_of(kind, &noisy, &t_values, shape, self.data_range)?;
                let image: Vec<f32> = best.image.iter().map(|&v| v as f32).collect();
                baselines.push((described(&best.filter)?, score(&image)?));
            }
        }
        let (before, after) = (score(&i)?, score(&r)?);
        let name =
            restored.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let case =
            shown.then(|| report::pictures(&name, &t.info, [&r, &i, &t_values], before, after));
        Ok(Measured { name, before, after, baselines, case, small: !has_ssim(shape) })
    }
}

/// What the reader of the scores should know.
fn warnings(measured: &[Measured]) -> Vec<String> {
    let mut warnings = Vec::new();
    let small: Vec<&str> = measured.iter().filter(|m| m.small).map(|m| m.name.as_str()).collect();
    if let Some(first) = small.first() {
        warnings.push(format!(
            "{} of {} images have no ssim, `{first}` is the first: its window needs 7 pixels along every axis; `--dims 2` measures stacks slice by slice",
            small.len(),
            measured.len()
        ));
    }
    warnings
}

/// Checks a `--data-range`.
///
/// # Errors
/// [`Kind::Config`](crate::Kind::Config) if it is not above 0.
pub fn positive(range: f64) -> Result<(), Failure> {
    if range.is_finite() && range > 0.0 {
        return Ok(());
    }
    Err(Failure::config(format!("`--data-range` must be above 0, got {range}"))
        .hint("the span of valid intensities: 255 for 8-bit images"))
}

/// Reads a whole image; values that are not finite are refused.
///
/// # Errors
/// [`Kind::Data`](crate::Kind::Data) if it cannot be read or used.
pub fn read(path: &Path) -> Result<Volume, Failure> {
    let volume = limpid_io::open(path).and_then(|r| r.read()).map_err(Failure::data)?;
    if let Some((count, first)) = volume.nonfinite() {
        return Err(Failure::data(format!(
            "{count} values are not finite, the first at {first:?}"
        ))
        .hint("replace them, or cut the image")
        .file(path));
    }
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use super::*;
    use limpid_io::Data;

    fn save(path: PathBuf) {
        let image = Volume::new(Data::U8(vec![7; 64]), &[8, 8], "YX".parse().unwrap()).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        limpid_io::save(&path, &image).unwrap();
    }

    #[test]
    fn what_lies_beside_results_is_no_result() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["in", "clean"] {
            save(at(folder).join("a.tif"));
            save(at(folder).join("b_std.tif"));
            save(at(folder).join("b.tif"));
        }
        for name in ["a.tif", "a_std.tif", "a_interval.tif", "a_q05.tif", "b.tif", "b_std.tif"] {
            save(at("restored").join(name));
        }
        let (restored, input, target, out) = (at("restored"), at("in"), at("clean"), at("eval"));
        let evaluation = Evaluation {
            restored: &restored,
            input: &input,
            target: &target,
            data_range: 255.0,
            dims: None,
            baselines: false,
            enlarge: false,
            out: &out,
            quiet: true,
            json: false,
        };
        let names: Vec<String> =
            evaluation.files().unwrap().iter().map(|[restored, ..]| stem(restored)).collect();
        assert_eq!(names, ["a", "b", "b_std"]);
        evaluation.run(Report::default()).unwrap();
        let csv = std::fs::read_to_string(out.join("cases.csv")).unwrap();
        assert_eq!(csv.lines().count(), 1 + 2 * 3, "{csv}");
        save(at("restored/c_std.tif"));
        assert_eq!(evaluation.run(Report::default()).unwrap_err().exit_code(), 3);
    }
}
