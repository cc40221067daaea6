//! Samples of the slices that lie between two others, for generating slices that were not taken.

use super::{Listing, View};
use crate::images::ImageFile;
use crate::{Error, Result};
use limpid_io::{Axis, is_collection, list_images};
use std::path::PathBuf;

/// The volumes at a place: files with several slices each are volumes, files of single slices make
/// one together.
pub(super) fn list(volume: &str) -> Result<Listing> {
    Ok(Listing::single(volumes(volume)?))
}

/// The volumes at a place, as in [`DatasetConfig::Layers`](super::DatasetConfig::Layers): each a file,
/// or a folder or pattern of slices.
///
/// # Errors
/// There are none, or the first cannot be read.
pub fn volumes(volume: &str) -> Result<Vec<PathBuf>> {
    let files = list_images(volume)?;
    let flat = limpid_io::open(&files[0])?.info().axes.position(Axis::Z).is_none();
    Ok(if flat && is_collection(volume) { vec![PathBuf::from(volume)] } else { files })
}

/// All runs of `layers` + 2 neighbouring slices of a volume: the last, the first, then those
/// between in rising order.
pub(super) fn views(index: usize, file: &ImageFile, layers: usize) -> Result<Vec<Vec<View>>> {
    runs(index, file, layers + 2, |first| {
        [first + layers + 1, first].into_iter().chain(first + 1..=first + layers)
    })
}

/// All runs of `slices`·(`layers` + 1) neighbouring slices of a volume: those that are given, then
/// all, in rising order.
pub(super) fn thinned(
    index: usize,
    file: &ImageFile,
    layers: usize,
    slices: usize,
) -> Result<Vec<Vec<View>>> {
    let step = layers + 1;
    runs(index, file, slices * step, |first| {
        (0..slices).map(move |i| first + i * step).chain(first..first + slices * step)
    })
}

/// All runs of `length` neighbouring slices, whose frames `order` puts in order from the first.
fn runs<I: Iterator<Item = usize>>(
    index: usize,
    file: &ImageFile,
    length: usize,
    order: impl Fn(usize) -> I,
) -> Result<Vec<Vec<View>>> {
    let z = file.info.size(Axis::Z);
    if z < length || file.channels > 1 {
        return Err(Error::file(
            &file.path,
            format!(
                "samples of {length} neighbouring slices need a grey volume of {length} slices or more: this has the axes {} and shape {:?}",
                file.info.axes, file.info.shape
            ),
            "give a volume (ZYX) or a folder of slices, or set fewer `layers`",
        ));
    }
    let starts = (0..file.frames()).filter(|frame| frame % z + length <= z);
    let run = |first: usize| order(first).map(|frame| View { file: index, frame }).collect();
    Ok(starts.map(run).collect())
}
