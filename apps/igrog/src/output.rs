//! Images and samples as files.

use crate::error::{Error, Result};
use crate::grogify::Gridded;
use crate::prepare::Prepared;
use limpid_cli::prediction::place;
use limpid_io::arrays::{Array, Arrays, Values, write_cfl, write_npy, write_npz};
use limpid_io::{Axes, Compression, Data, Volume};
use limpid_mri::Complex;
use std::path::{Path, PathBuf};

/// Writes an image `[matrix…]`: complex numbers to `.npy`, `.npz` and `.cfl`, magnitudes to what else images
/// can be written to (`.nii.gz`, `.tif`, `.png`). The first axis is that of slices of a volume.
///
/// # Errors
/// If the ending is unknown, or the file cannot be written.
pub fn write_image(
    path: &Path,
    image: &[Complex<f32>],
    matrix: &[usize],
    voxel_mm: Option<&[f64]>,
) -> Result<()> {
    let name = path.to_string_lossy().to_lowercase();
    if [".npy", ".npz", ".cfl"].iter().any(|ending| name.ends_with(ending)) {
        let array = complex(image, matrix)?;
        if name.ends_with(".npy") {
            write_npy(path, &array)?;
        } else if name.ends_with(".npz") {
            write_npz(path, &[("img".to_owned(), array)].into(), Compression::None)?;
        } else {
            write_cfl(path, &array)?;
        }
        return Ok(());
    }
    let magnitudes: Vec<f32> = image.iter().map(|v| v.norm()).collect();
    let axes = Axes::of_rank(matrix.len()).ok_or_else(|| {
        Error::scan(format!("an image of sizes {matrix:?}"), "it must have two or three axes")
    })?;
    let data = if name.ends_with(".png") {
        // grey from zero to the largest magnitude
        let top = magnitudes.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        Data::U16(magnitudes.iter().map(|v| (v / top * 65535.0).round() as u16).collect())
    } else {
        Data::F32(magnitudes)
    };
    let mut volume = Volume::new(data, matrix, axes)?;
    if let Some(voxel) = voxel_mm {
        volume.info.spacing = Some(voxel.to_vec());
        volume.info.unit = Some("mm".to_owned());
    }
    Ok(limpid_io::save(path, &volume)?)
}

/// Writes samples on the grid with all that their reconstruction needs: one `.npz`, or BART pairs
/// `NAME_ksp.cfl`, `NAME_trj.cfl` and so on for a name that ends in `.cfl`.
///
/// # Errors
/// If the ending is unknown, or a file cannot be written.
pub fn write_gridded(path: &Path, gridded: &Gridded, prepared: &Prepared) -> Result<Vec<PathBuf>> {
    let scan = &prepared.scan;
    let (shots, length) = (scan.trajectory.shots(), scan.trajectory.samples());
    let (coils, rank) = (scan.coils, scan.trajectory.rank());
    let real = |values: Vec<f64>, dims: &[usize]| Array::new(dims.to_vec(), Values::F64(values));
    let targets = gridded.geometry.targets().to_vec();
    let mut arrays = Arrays::from([
        ("ksp".to_owned(), complex(&gridded.samples, &[coils, shots, length])?),
        ("trj".to_owned(), real(targets, &[shots, length, rank])?),
        ("mps".to_owned(), complex(&prepared.maps, &[&[coils], &scan.matrix[..]].concat())?),
        ("oversampling".to_owned(), real(vec![gridded.oversampling], &[1])?),
    ]);
    let weights = prepared.weights.iter().map(|&w| f64::from(w)).collect();
    arrays.insert("dcf".to_owned(), real(weights, &[shots, length])?);
    if scan.timed {
        // to which kernels have moved the phase of a field
        let times = gridded.times.as_ref().unwrap_or(&scan.times);
        arrays.insert("t".to_owned(), real(times.clone(), &[length])?);
    }
    if let Some(field) = &scan.field {
        arrays.insert("b0_hz".to_owned(), real(field.clone(), &scan.matrix)?);
    }
    if let Some(truth) = &scan.truth {
        arrays.insert("img".to_owned(), complex(truth, &scan.matrix)?);
    }
    write_arrays(path, arrays)
}

/// Writes arrays to one `.npz`, or to BART pairs named after each.
///
/// # Errors
/// If the ending is unknown, or a file cannot be written.
pub fn write_arrays(path: &Path, arrays: Arrays) -> Result<Vec<PathBuf>> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "npz" => {
            write_npz(path, &arrays, Compression::None)?;
            Ok(vec![path.to_owned()])
        }
        "cfl" => arrays
            .into_iter()
            .map(|(name, array)| {
                let array = bart(&name, array)?;
                write_cfl(named(path, &name), &array)?;
                Ok(named(path, &name))
            })
            .collect(),
        _ => Err(Error::scan(
            "samples cannot be written to this kind of file",
            "the name must end in .npz, or in .cfl for pairs of BART",
        )
        .at(path)),
    }
}

/// An array as BART wants it: three coordinates, that of the fastest axis of images first; one sample of the
/// unused first dimension; maps with a third axis.
fn bart(name: &str, array: Array) -> Result<Array> {
    let (mut dims, values) = array.into_parts();
    let plane = dims.len() == 3;
    match name {
        "trj" => {
            let rank = dims.pop().unwrap_or(3);
            dims.push(3);
            let values = values.into_f64().unwrap_or_default();
            let point = |p: &[f64]| {
                let of = |axis: usize| p.get(axis).copied().unwrap_or(0.0);
                if rank == 2 { [of(1), of(0), 0.0] } else { [of(2), of(1), of(0)] }
            };
            return Ok(Array::new(
                dims,
                Values::F64(values.chunks(rank).flat_map(point).collect()),
            )?);
        }
        "ksp" | "dcf" | "t" => dims.push(1),
        "mps" if plane => dims.insert(1, 1),
        _ => {}
    }
    Ok(Array::new(dims, values)?)
}

/// Refuses a file that cannot be written because of its ending or folder, before anything is computed.
///
/// # Errors
/// If the ending is none of those, or there is no such folder.
pub(crate) fn check_place(path: &Path, endings: &[&str]) -> Result<()> {
    let name = path.to_string_lossy().to_lowercase();
    if !endings.iter().any(|ending| name.ends_with(ending)) {
        let hint = format!("the name must end in {}", endings.join(", "));
        return Err(Error::scan("this kind of file cannot be written", hint).at(path));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(Error::scan("there is no such folder", "make it, or check the name").at(path));
    }
    Ok(())
}

/// Endings of images: of volumes without `.png`.
pub(crate) const IMAGES: &[&str] =
    &[".nii", ".nii.gz", ".tif", ".tiff", ".npy", ".npz", ".cfl", ".png"];
/// Endings of samples.
pub(crate) const SAMPLES: &[&str] = &[".npz", ".cfl"];
/// What samples on the grid are written with.
const NAMES: [&str; 8] = ["ksp", "trj", "mps", "dcf", "t", "b0_hz", "img", "oversampling"];

/// The files that samples go to.
pub(crate) fn sample_files(path: &Path) -> Vec<PathBuf> {
    if path.extension().is_none_or(|ending| ending != "cfl") {
        return vec![path.to_owned()];
    }
    NAMES.iter().map(|name| named(path, name)).collect()
}

/// `NAME_trj.cfl` of `NAME.cfl`.
fn named(path: &Path, name: &str) -> PathBuf {
    let mut file = path.with_extension("").into_os_string();
    file.push(format!("_{name}.cfl"));
    PathBuf::from(file)
}

/// Refuses to replace a file that was read.
///
/// # Errors
/// If one of `written` is one of `read`; pairs of BART count as one, whichever of their names is used.
pub(crate) fn check_apart(read: &[PathBuf], written: &[PathBuf]) -> Result<()> {
    let place = |path: &PathBuf| {
        let pair = path.extension().is_none_or(|e| e == "cfl" || e == "hdr");
        if pair { place(&path.with_extension("cfl")) } else { place(path) }
    };
    let read: Vec<PathBuf> = read.iter().map(place).collect();
    match written.iter().find(|path| read.contains(&place(path))) {
        Some(path) => {
            let message = "the result would replace a file that is read";
            Err(Error::scan(message, "write it to another file or folder").at(path))
        }
        None => Ok(()),
    }
}

/// Complex numbers as an array.
pub(crate) fn complex(values: &[Complex<f32>], dims: &[usize]) -> Result<Array> {
    let pairs = values.iter().map(|v| [v.re, v.im]).collect();
    Ok(Array::new(dims.to_vec(), Values::C64(pairs))?)
}
