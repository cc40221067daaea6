//! What every `predict` does around its prediction: inputs and their results, progress, intensities
//! of files that no training has seen.

use crate::args::CommonArgs;
use crate::failure::Failure;
use limpid_datamodule::normalise::{Normalisation, Normaliser, Normalisers, Transfer};
use limpid_engine::Sink;
use limpid_io::{DType, list_images};
use limpid_track::{JsonLines, Plain, Terminal};
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Inputs with their outputs: one image and its result, or with a folder `out` any number of images
/// and folders of images. No output is an input or another output, nor is what may be written beside it.
/// The folder is made unless `dry_run`.
///
/// # Errors
/// There are too many or too few paths, a folder cannot be read, or results would replace something.
pub fn jobs(
    paths: &[PathBuf],
    out: Option<&Path>,
    dry_run: bool,
) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let jobs = match out {
        None => match paths {
            [input, output] => vec![(input.clone(), output.clone())],
            _ => {
                return Err(Failure::config("there must be one image and one result")
                    .hint("give `--out DIR` to restore any number of images"));
            }
        },
        Some(dir) => {
            let mut jobs = Vec::new();
            for path in paths {
                for input in list_images(path).map_err(Failure::data)? {
                    let output = dir.join(result_name(&input));
                    jobs.push((input, output));
                }
            }
            jobs
        }
    };
    let mut seen = BTreeSet::new();
    let mut inputs = BTreeSet::new();
    for (input, _) in &jobs {
        // a folder is a volume, of slices that are files
        let parts = if input.is_dir() { list_images(input).ok() } else { None };
        inputs.extend(parts.unwrap_or_else(|| vec![input.clone()]).iter().map(|p| place(p)));
    }
    let outputs: BTreeSet<PathBuf> = jobs.iter().map(|(_, output)| place(output)).collect();
    for (input, output) in &jobs {
        if inputs.contains(&place(output)) {
            return Err(Failure::config("the result would replace an image that is read")
                .hint("choose another name or folder")
                .file(output));
        }
        if !seen.insert(place(output)) {
            return Err(Failure::config("two images would have one result")
                .hint("restore them into folders of their own")
                .file(input));
        }
        for path in [input, output] {
            if goes_with(&place(path)).is_some_and(|main| outputs.contains(&main)) {
                return Err(Failure::config("a file beside a result might replace this one")
                    .hint("choose another name or folder")
                    .file(path));
            }
        }
    }
    if let Some(dir) = out.filter(|_| !dry_run) {
        std::fs::create_dir_all(dir).map_err(|e| {
            Failure::data(format!("cannot make the folder: {e}"))
                .hint("choose a place that can be written with `--out DIR`")
                .file(dir)
        })?;
    }
    Ok(jobs)
}

/// The sample type that `--dtype` names; none for that of the input.
#[must_use]
pub fn sample_type(name: &str) -> Option<DType> {
    match name {
        "u8" => Some(DType::U8),
        "u16" => Some(DType::U16),
        "f32" => Some(DType::F32),
        _ => None,
    }
}

/// The name of an image's result: its own, or `.tif` for kinds that cannot be written.
fn result_name(input: &Path) -> PathBuf {
    let name = input.file_name().map(PathBuf::from).unwrap_or_default();
    let ending = name.extension().map(|e| e.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("jpg" | "jpeg") => name.with_extension("tif"),
        Some("hdr" | "img") => name.with_extension("nii"),
        _ => name,
    }
}

/// Where progress goes: to standard output as JSON lines, to nowhere, to a terminal, or as plain lines.
#[must_use]
pub fn progress(common: &CommonArgs) -> Box<dyn Sink> {
    if common.json {
        Box::new(JsonLines::new(std::io::stdout()))
    } else if common.quiet {
        Box::new(limpid_engine::Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Terminal::new())
    } else {
        Box::new(Plain::new(std::io::stderr()))
    }
}

/// Where a path leads to, whether there is a file or not.
#[must_use]
pub fn place(path: &Path) -> PathBuf {
    if let Ok(place) = path.canonicalize() {
        return place;
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// Checks that results of one `input` replace neither it nor each other.
///
/// # Errors
/// [`Kind::Config`](crate::Kind::Config) if they do.
pub fn apart(input: &Path, results: &[&Path]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for result in results {
        jobs(&[input.to_owned(), (*result).to_owned()], None, true)?;
        if !seen.insert(place(result)) {
            return Err(Failure::config("two results would be one file")
                .hint("give each a name of its own")
                .file(*result));
        }
    }
    Ok(())
}

/// `a.nii.gz` with a suffix: `a_std.nii.gz`.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let (stem, ending) = parts(path);
    path.with_file_name(format!("{stem}{suffix}{ending}"))
}

/// The result that a file goes with, by its name, if it is one of those that `predict` may write
/// beside results: `a_std.nii.gz`, `a_sigma.nii.gz`, `a_interval.nii.gz` and `a_q05.nii.gz` go with
/// `a.nii.gz`.
#[must_use]
pub fn goes_with(path: &Path) -> Option<PathBuf> {
    let (stem, ending) = parts(path);
    let (base, suffix) = stem.rsplit_once('_')?;
    let quantile = |q: &str| !q.is_empty() && q.bytes().all(|b| b.is_ascii_digit());
    let known = matches!(suffix, "std" | "sigma" | "interval")
        || suffix.strip_prefix('q').is_some_and(quantile);
    known.then(|| path.with_file_name(format!("{base}{ending}")))
}

/// The name of a file without its ending.
pub(crate) fn stem(path: &Path) -> String {
    parts(path).0
}

/// The name of a file without its ending, and the ending with its dot.
fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    match name.strip_suffix(".nii.gz") {
        Some(stem) => (stem.to_owned(), ".nii.gz".to_owned()),
        None => match name.rsplit_once('.') {
            Some((stem, ending)) => (stem.to_owned(), format!(".{ending}")),
            None => (name, String::new()),
        },
    }
}

/// The two numbers of a `--range`, if it was given.
///
/// # Errors
/// [`Kind::Config`](crate::Kind::Config) unless the first is the lower.
pub fn range(numbers: &[f64]) -> Result<Option<(f64, f64)>, Failure> {
    match numbers {
        [low, high] if high > low && (high - low).is_finite() => Ok(Some((*low, *high))),
        [] => Ok(None),
        _ => Err(Failure::config(format!("`--range` is {numbers:?}"))
            .hint("give the lower number first")),
    }
}

/// The normalisation of a file for a network that takes intensities from 0 to 1: `range` becomes 0
/// and 1, without it the range of the sample type; `f32` stays as it is.
///
/// # Errors
/// The file cannot be read, or its type says nothing.
pub fn by_type(path: &Path, range: Option<(f64, f64)>) -> Result<Normalisers, Failure> {
    let (low, high) = match range {
        Some(range) => range,
        None => {
            let info = limpid_datamodule::ImageFile::open(path, 2, None).map_err(Failure::data)?;
            match info.info.dtype {
                DType::U8 => (0.0, 255.0),
                DType::U16 => (0.0, 65_535.0),
                DType::F32 | DType::F64 => (0.0, 1.0),
                other => {
                    return Err(Failure::config(format!(
                        "which values of `{other}` are 0 and 1 to the network is not known"
                    ))
                    .hint("say it with `--range LOW HIGH`")
                    .file(path));
                }
            }
        }
    };
    let transfer = Transfer::Linear { offset: low, scale: high - low };
    let normalisation = Normalisation { channels: vec![transfer] };
    Ok(Normalisers { input: Normaliser::Dataset { normalisation }, target: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_names_that_can_be_written() {
        let name = |input: &str| result_name(Path::new(input)).display().to_string();
        assert_eq!(name("in/a.tif"), "a.tif");
        assert_eq!(name("in/a.JPG"), "a.tif");
        assert_eq!(name("in/a.hdr"), "a.nii");
        let std = |path: &str| beside(Path::new(path), "_std").display().to_string();
        assert_eq!(std("out/a.nii.gz"), "out/a_std.nii.gz");
        assert_eq!(std("a.b.tif"), "a.b_std.tif");
        assert_eq!(std("a"), "a_std");
        let result = |path: &str| goes_with(Path::new(path)).map(|p| p.display().to_string());
        for suffix in ["_std", "_sigma", "_interval", "_q05"] {
            let path = beside(Path::new("out/a_1.nii.gz"), suffix).display().to_string();
            assert_eq!(result(&path).as_deref(), Some("out/a_1.nii.gz"), "{path}");
        }
        for other in ["a.tif", "a_1.tif", "a_q.tif", "a_quick.tif", "std.tif"] {
            assert_eq!(result(other), None, "{other}");
        }
    }

    #[test]
    fn intensities_go_by_the_sample_type_unless_a_range_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tif");
        let volume = limpid_io::Volume::new(
            limpid_io::Data::U16(vec![0, 65_535]),
            &[1, 2],
            "YX".parse().unwrap(),
        );
        limpid_io::save(&path, &volume.unwrap()).unwrap();
        let scaled = |range| match by_type(&path, range).unwrap().input {
            Normaliser::Dataset { normalisation } => {
                let mut values = [100.0, 65_535.0];
                normalisation.apply(&mut values);
                values
            }
            other @ Normaliser::Image { .. } => panic!("{other:?}"),
        };
        assert_eq!(scaled(None), [100.0 / 65_535.0, 1.0]);
        assert_eq!(scaled(Some((100.0, 200.0))), [0.0, 654.35]);
    }

    #[test]
    fn no_result_replaces_an_image_or_another_result() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["a", "b"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("x.tif"), "").unwrap();
        }
        let code = |paths: &[PathBuf], out: Option<&Path>| {
            jobs(paths, out, true).map_err(|failure| failure.exit_code())
        };
        let one = (at("a/x.tif"), at("c/x.tif"));
        assert_eq!(code(&[at("a")], Some(&at("c"))), Ok(vec![one]));
        assert!(!at("c").exists(), "a dry run makes nothing");
        assert_eq!(code(&[at("a"), at("b")], Some(&at("c"))), Err(2));
        assert_eq!(code(&[at("a")], Some(&at("a"))), Err(2));
        assert_eq!(code(&[at("a/x.tif"), at("a/x.tif")], None), Err(2));
        assert_eq!(code(&[at("a/x.tif")], None), Err(2));
    }
}
