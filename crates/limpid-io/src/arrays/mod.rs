//! Real and complex arrays of any rank, as raw data of magnetic resonance imaging come in.
//!
//! [`open_arrays`] reads all arrays of a file by name; each format also has functions of its own:
//! NumPy and BART read and write, ISMRMRD, other HDF5 and MATLAB read. What is no array of numbers
//! (text, structs, cells) is left out of a collection, and is an error only if nothing else is there.
//!
//! Integers, halves and booleans are widened to the floating point type that holds them (of 64-bit
//! integers it holds 53 bits). Every array comes in row-major order, whatever the order in the file.

mod bart;
mod flaw;
mod hdf5;
mod ismrmrd;
mod matlab;
mod numpy;
#[cfg(test)]
mod tests;
mod values;

pub use bart::{read_cfl, write_cfl};
pub use hdf5::read_hdf5;
pub use ismrmrd::{
    Acquisition, AcquisitionHead, EncodedSpace, Encoding, Ismrmrd, IsmrmrdHeader, is_ismrmrd,
    read_ismrmrd,
};
pub use matlab::read_mat;
pub use numpy::{read_npy, read_npz, write_npy, write_npz};
pub use values::Values;

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Numbers with a shape, in row-major order: the last axis runs fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    dims: Vec<usize>,
    data: Values,
}

/// Arrays by name.
pub type Arrays = BTreeMap<String, Array>;

impl Array {
    /// An array of the given shape.
    ///
    /// # Errors
    /// The shape asks for more or fewer numbers than there are.
    pub fn new(dims: Vec<usize>, data: Values) -> Result<Self> {
        if dims.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim)) != Some(data.len()) {
            let got = format!("shape {dims:?}");
            return Err(Error::shape("array", format!("room for {} numbers", data.len()), got));
        }
        Ok(Self { dims, data })
    }

    /// The size along each axis, slowest first; none for a single number.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The numbers.
    pub fn data(&self) -> &Values {
        &self.data
    }

    /// Shape and numbers.
    pub fn into_parts(self) -> (Vec<usize>, Values) {
        (self.dims, self.data)
    }
}

/// What [`open_arrays`] reads, for error messages.
const READABLE: &str =
    "numpy (.npy, .npz), bart (.cfl with .hdr), ismrmrd and other hdf5 (.h5), matlab (.mat)";

/// Reads all arrays of a file, recognising its format by content.
///
/// The array of an `.npy` or a BART pair is named after the file; for BART, `path` may end in `.cfl`,
/// `.hdr` or neither. Data sets of HDF5 are named by their path within the file, those of ISMRMRD as
/// [`Ismrmrd::arrays`] says.
///
/// # Errors
/// The file is missing, damaged, of no readable format, or holds no array of numbers.
pub fn open_arrays(path: impl AsRef<Path>) -> Result<Arrays> {
    let path = path.as_ref();
    if bart::is_pair(path) {
        return Ok([(stem(path), read_cfl(path)?)].into());
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(128).read_to_end(&mut head))
        .map_err(|e| Error::io("read", path, e))?;
    if head.starts_with(b"\x93NUMPY") {
        Ok([(stem(path), read_npy(path)?)].into())
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        read_npz(path)
    } else if matlab::is_mat(&head) {
        read_mat(path)
    } else if hdf5::is_hdf5(path) {
        match is_ismrmrd(path)? {
            true => {
                read_ismrmrd(path)?.arrays().map_err(|e| Error::unsupported("ismrmrd", path, e))
            }
            false => read_hdf5(path),
        }
    } else {
        let found = match head.get(..8.min(head.len())) {
            Some([]) | None => "the file is empty".to_owned(),
            Some(start) => format!("it begins with {start:02x?}"),
        };
        Err(Error::unsupported("array file", path, format!("{found}; readable are {READABLE}")))
    }
}

/// The name of a file without folder and ending.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The arrays of a collection, or why there are none.
fn not_empty(
    arrays: Arrays,
    left_out: &[String],
    format: &'static str,
    path: &Path,
) -> Result<Arrays> {
    if !arrays.is_empty() {
        return Ok(arrays);
    }
    let message = match left_out {
        [] => "the file holds no arrays".to_owned(),
        _ => format!("no array of numbers; there are only {}", left_out.join(", ")),
    };
    Err(Error::unsupported(format, path, message))
}
