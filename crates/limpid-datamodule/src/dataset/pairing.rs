//! Which files belong together, and whether they fit.

use super::{Listing, Scene};
use crate::images::ImageFile;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names listed in one message.
const SHOWN: usize = 5;

/// Matches two lists of files by name without extension; two single files always match.
pub(super) fn pair(
    input: Vec<PathBuf>,
    target: Vec<PathBuf>,
    input_place: &str,
    target_place: &str,
) -> Result<Listing> {
    let partners = partners(&input, &target, input_place, target_place)?;
    let groups = partners.iter().enumerate().map(|(i, p)| vec![i, input.len() + p]).collect();
    Ok(Listing { paths: [input, target].concat(), groups })
}

/// For each of `input` the index of its partner in `target`: the file of the same name without
/// extension; two single files always match. The places are what messages call the lists.
///
/// # Errors
/// A file has no partner, or several.
pub fn partners(
    input: &[PathBuf],
    target: &[PathBuf],
    input_place: &str,
    target_place: &str,
) -> Result<Vec<usize>> {
    if input.len() == 1 && target.len() == 1 {
        return Ok(vec![0]);
    }
    let inputs = by_stem(input)?;
    let targets = by_stem(target)?;
    let alone: Vec<String> = inputs
        .iter()
        .filter(|(stem, _)| !targets.contains_key(*stem))
        .map(|(_, &i)| format!("`{}`", input[i].display()))
        .chain(
            targets
                .iter()
                .filter(|(stem, _)| !inputs.contains_key(*stem))
                .map(|(_, &i)| format!("`{}`", target[i].display())),
        )
        .collect();
    if !alone.is_empty() {
        let more = alone.len().saturating_sub(SHOWN);
        let mut names = alone[..alone.len() - more].join(", ");
        if more > 0 {
            names += &format!(" and {more} more");
        }
        return Err(Error::setting(
            format!(
                "{} of the images in `{input_place}` and `{target_place}` have no partner: {names}",
                alone.len()
            ),
            "partners have the same file name apart from the extension: rename them, or move those without a partner away",
        ));
    }
    Ok(input.iter().filter_map(|path| targets.get(&stem(path)).copied()).collect())
}

fn by_stem(paths: &[PathBuf]) -> Result<BTreeMap<String, usize>> {
    let mut stems = BTreeMap::new();
    for (i, path) in paths.iter().enumerate() {
        if let Some(before) = stems.insert(stem(path), i) {
            return Err(Error::file(
                path,
                format!(
                    "the name is that of `{}` too, so it is unclear which is meant",
                    paths[before].display()
                ),
                "keep one of them: partners are found by file name without extension",
            ));
        }
    }
    Ok(stems)
}

/// The file name without its extension, `.nii.gz` being one.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Checks that two files have as many frames of the same size.
pub(super) fn same_shape(input: &ImageFile, target: &ImageFile) -> Result<()> {
    let frames = |file: &ImageFile| -> Vec<usize> { file.leading().iter().map(|l| l.1).collect() };
    if input.spatial == target.spatial && frames(input) == frames(target) {
        return Ok(());
    }
    Err(Error::file(
        &target.path,
        format!(
            "the image has shape {:?} ({}), its partner `{}` {:?} ({})",
            target.info.shape,
            target.info.axes,
            input.path.display(),
            input.info.shape,
            input.info.axes
        ),
        "partners must show the same field pixel by pixel: crop or resample one of them",
    ))
}

/// Checks that all inputs have as many channels as the first, and so all targets.
pub(super) fn same_channels(scenes: &[Scene], files: &[ImageFile]) -> Result<()> {
    let Some(first) = scenes.first() else { return Ok(()) };
    for scene in scenes {
        for (view, of_first) in scene.views.iter().zip(&first.views) {
            let (file, expected) = (&files[view.file], &files[of_first.file]);
            if file.channels != expected.channels {
                return Err(Error::file(
                    &file.path,
                    format!(
                        "the image has {} channels (axes {}), `{}` has {}",
                        file.channels,
                        file.info.axes,
                        expected.path.display(),
                        expected.channels
                    ),
                    "all images of a dataset need the same channels: convert colour images to grey, or leave them out",
                ));
            }
        }
    }
    Ok(())
}
