//! Samples of the slices that lie between two others, for generating slices that were not taken.

use super::{Listing, View};
use crate::images::ImageFile;
use crate::{Error, Result};
use limpid_io::{Axis, is_collection, list_images};
use std::path::PathBuf;

/// The volumes at a place: files with several slices each are volumes, files of single slices make
/// one together.
pub(super) fn list(volume: &str) -> Result<Listing> {
    let files = list_images(volume)?;
    let flat = limpid_io::open(&files[0])?.info().axes.position(Axis::Z).is_none();
    let paths = if flat && is_collection(volume) { vec![PathBuf::from(volume)] } else { files };
    Ok(Listing::single(paths))
}

/// All runs of `layers` + 2 neighbouring slices of a volume: the last, the first, then those
/// between in rising order.
pub(super) fn views(index: usize, file: &ImageFile, layers: usize) -> Result<Vec<Vec<View>>> {
    let z = file.info.size(Axis::Z);
    if z < layers + 2 || file.channels > 1 {
        return Err(Error::file(
            &file.path,
            format!(
                "{layers} layers between two slices need a grey volume of {} slices or more: this has the axes {} and shape {:?}",
                layers + 2,
                file.info.axes,
                file.info.shape
            ),
            "give a volume (ZYX) or a folder of slices, or set fewer `layers`",
        ));
    }
    let runs = (0..file.frames()).filter(|frame| frame % z + layers + 1 < z);
    let run = |first: usize| {
        let frames = [first + layers + 1, first].into_iter().chain(first + 1..=first + layers);
        frames.map(|frame| View { file: index, frame }).collect()
    };
    Ok(runs.map(run).collect())
}
