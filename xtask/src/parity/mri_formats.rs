//! One small data set in every format of arrays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use limpid_io::arrays::{Array, Arrays, Values, open_arrays, read_ismrmrd};

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, relative, text};

/// Nothing is computed but the unit of a trajectory.
const SAME: Tolerance = absolute(0.0);
const SCALED: Tolerance = relative(1e-6);

/// An array as all formats have it: without axes of one at its end, as pairs.
struct Plain {
    file: String,
    dims: Vec<usize>,
    values: Vec<f64>,
    tolerance: Tolerance,
}

impl Plain {
    fn of(file: &Path, array: Array) -> Self {
        let (mut dims, values) = array.into_parts();
        while dims.last() == Some(&1) {
            dims.pop();
        }
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let values = values.into_c128().into_iter().flatten().collect();
        Self { file, dims, values, tolerance: SAME }
    }

    /// Positions without coordinates that are zero throughout: BART has three of every sample.
    fn within_its_plane(mut self) -> Self {
        while let Some(&rank @ 3..) = self.dims.last() {
            let points = || self.values.chunks(2 * rank);
            if points().any(|point| point[2 * rank - 2..] != [0.0; 2]) {
                break;
            }
            let kept: Vec<f64> =
                points().flat_map(|point| point[..2 * rank - 2].to_vec()).collect();
            let last = self.dims.len() - 1;
            self.dims[last] = rank - 1;
            self.values = kept;
        }
        self
    }
}

/// The arrays of a file; an ISMRMRD trajectory from cycles per voxel to cycles per field of view.
fn read(file: &Path) -> Result<Arrays, String> {
    let mut arrays = open_arrays(file).map_err(text)?;
    let Ok(raw) = read_ismrmrd(file) else { return Ok(arrays) };
    let encoding = raw.header.encodings.first().ok_or("the header says no matrix")?;
    if let Some(array) = arrays.remove("trj") {
        let (dims, values) = array.into_parts();
        let rank = dims.last().copied().unwrap_or(1).clamp(1, 3);
        let mut values = values.into_f64().ok_or("positions are complex")?;
        for (i, value) in values.iter_mut().enumerate() {
            *value *= encoding.encoded.matrix[i % rank] as f64;
        }
        arrays.insert("trj".into(), Array::new(dims, Values::F64(values)).map_err(text)?);
    }
    Ok(arrays)
}

/// The arrays of the files of a folder by what they are: `ksp` and `ksp_f_order` are both samples.
fn plain(folder: &Path) -> Result<BTreeMap<String, Vec<Plain>>, String> {
    let at = |e: std::io::Error| format!("{e}: `{}`", folder.display());
    let entries = std::fs::read_dir(folder).map_err(at)?.map(|entry| Ok(entry.map_err(at)?.path()));
    let mut files = entries.collect::<Result<Vec<PathBuf>, String>>()?;
    // a header belongs to the numbers beside it
    files.retain(|file| file.extension().is_some_and(|ending| ending != "hdr"));
    files.sort();
    let mut all: BTreeMap<String, Vec<Plain>> = BTreeMap::new();
    for file in &files {
        let scaled = read_ismrmrd(file).is_ok();
        for (name, array) in read(file)? {
            let kind = name.split('_').next().unwrap_or_default().to_owned();
            let mut array = Plain::of(file, array);
            if kind == "trj" {
                array = array.within_its_plane();
                array.tolerance = if scaled { SCALED } else { SAME };
            }
            all.entry(kind).or_default().push(array);
        }
    }
    Ok(all)
}

/// `io`: what one file has in common with others is the same.
pub(super) fn formats(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    for (kind, arrays) in plain(&fixture.path)? {
        // NumPy's own format is that of the other programs too
        let is_first = |array: &&Plain| array.file == format!("{kind}.npy");
        let Some(first) = arrays.iter().find(is_first) else { continue };
        for other in arrays.iter().filter(|other| other.file != first.file) {
            let what = format!("{kind} of {}", other.file);
            let same = other.dims == first.dims;
            worst.require(&format!("{what}: {:?}, not {:?}", other.dims, first.dims), same);
            worst.compare(&what, &other.values, &first.values, other.tolerance);
        }
    }
    worst.done()
}
