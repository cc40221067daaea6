//! Images and samples as files.

use crate::error::{Error, Result};
use crate::grogify::Gridded;
use crate::prepare::Prepared;
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
    let mut volume = Volume::new(Data::F32(magnitudes), matrix, axes)?;
    if let Some(voxel) = voxel_mm {
        volume.info.spacing = Some(voxel.to_vec());
        volume.info.unit = Some("mm".to_owned());
    }
    if name.ends_with(".png") {
        // grey from zero to the largest magnitude
        let top = volume.data.to_f32().iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let grey =
            volume.data.to_f32().iter().map(|v| (v / top * 65535.0).round() as u16).collect();
        volume = Volume::new(Data::U16(grey), matrix, volume.info.axes)?;
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
    ]);
    let weights = prepared.weights.iter().map(|&w| f64::from(w)).collect();
    arrays.insert("dcf".to_owned(), real(weights, &[shots, length])?);
    if scan.timed {
        arrays.insert("t".to_owned(), real(scan.times.clone(), &[length])?);
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
        "cfl" => {
            let stem = path.with_extension("");
            let named = |name: &str| {
                let mut file = stem.clone().into_os_string();
                file.push(format!("_{name}.cfl"));
                PathBuf::from(file)
            };
            arrays
                .into_iter()
                .map(|(name, array)| {
                    let array = bart(&name, array)?;
                    write_cfl(named(&name), &array)?;
                    Ok(named(&name))
                })
                .collect()
        }
        _ => Err(Error::scan(
            "samples cannot be written to this kind of file",
            "the name must end in .npz, or in .cfl for pairs of BART",
        )
        .at(path)),
    }
}

/// Positions of BART have three coordinates.
fn bart(name: &str, array: Array) -> Result<Array> {
    if name != "trj" || array.dims().last() != Some(&2) {
        return Ok(array);
    }
    let (mut dims, values) = array.into_parts();
    let values = values.into_f64().unwrap_or_default();
    let points = values.as_chunks::<2>().0.iter().flat_map(|p| [p[0], p[1], 0.0]).collect();
    if let Some(last) = dims.last_mut() {
        *last = 3;
    }
    Ok(Array::new(dims, Values::F64(points))?)
}

/// Complex numbers as an array.
pub(crate) fn complex(values: &[Complex<f32>], dims: &[usize]) -> Result<Array> {
    let pairs = values.iter().map(|v| [v.re, v.im]).collect();
    Ok(Array::new(dims.to_vec(), Values::C64(pairs))?)
}
