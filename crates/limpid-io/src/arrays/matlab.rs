//! MATLAB files: Level 5 (`-v6`, `-v7`), and `-v7.3`, which is HDF5.
//!
//! Source: "MAT-File Format", The MathWorks. MATLAB lets the first dimension run fastest; here an
//! array keeps its dimensions as MATLAB shows them, and its numbers are put in row-major order.
//! Arrays of numbers and logicals are read; text, cells, structs and sparse matrices are left out.

use super::flaw::{self, Fields, Flaw, Parsed, damaged};
use super::hdf5;
use super::values::{Stored, Values};
use super::{Array, Arrays, not_empty};
use crate::data::{DType, Kind};
use crate::error::{Error, Result};
use crate::layout::{Bytes, Section};
use crate::npy::DEFLATE_RATIO;
use flate2::read::ZlibDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

const HEADER: u64 = 128;
/// Longer than the head of any array: names have at most 63 letters.
const LONGEST: u64 = 4096;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// Whether a file begins as MATLAB files do.
pub(super) fn is_mat(head: &[u8]) -> bool {
    matches!(head.get(124..128), Some([0, 1 | 2, b'I', b'M'] | [1 | 2, 0, b'M', b'I']))
}

/// Reads all arrays of numbers in a `.mat` of versions 6, 7 or 7.3.
///
/// # Errors
/// The file is missing, damaged, of an older version, or holds no array of numbers.
pub fn read_mat(path: impl AsRef<Path>) -> Result<Arrays> {
    let path = path.as_ref();
    let fail = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(fail)?;
    let mut head = [0; HEADER as usize];
    let known = file.read_at(0, &mut head).is_ok() && is_mat(&head);
    if !known {
        let message = "no header of version 6, 7 or 7.3; save it again with `save(…, '-v7')`";
        return Err(Error::unsupported("mat", path, message));
    }
    let big = head[126] == b'M';
    let read = match head[if big { 124 } else { 125 }] {
        1 => level_5(&file, big),
        _ => version_7_3(path)?,
    };
    let (arrays, left_out) = read.map_err(|flaw| flaw.in_file("mat", path))?;
    not_empty(arrays, &left_out, "mat", path)
}

/// HDF5 holds the dimensions in reverse, and helpers in groups whose names begin with `#`.
fn version_7_3(path: &Path) -> Result<Parsed<(Arrays, Vec<String>)>> {
    let mut file = hdf5::Hdf5::open(path)?;
    Ok(file.all_arrays().map(|(arrays, left_out)| {
        let own = arrays.into_iter().filter(|(name, _)| !name.starts_with('#'));
        let turned = own.map(|(name, Array { mut dims, data })| {
            dims.reverse();
            let data = data.row_major(&dims);
            (name, Array { dims, data })
        });
        (turned.collect(), left_out)
    }))
}

fn level_5(file: &File, big: bool) -> Parsed<(Arrays, Vec<String>)> {
    let length = file.metadata()?.len();
    let (mut arrays, mut left_out, mut at) = (Arrays::new(), Vec::new(), HEADER);
    while at < length {
        let mut tag = [0; 8];
        if length - at < 8 {
            return damaged("the last variable is cut short");
        }
        file.read_at(at, &mut tag)?;
        let mut fields = Fields { rest: &tag, big_endian: big };
        let (kind, size) = (fields.u32()?, u64::from(fields.u32()?));
        let (start, end) = (at + 8, at + 8 + size);
        if end > length {
            return damaged(format!(
                "a variable of {size} bytes at {at} ends beyond the file; copy it again"
            ));
        }
        let section = BufReader::new(Section { file: file.try_clone()?, at: start, end });
        let variable = match kind {
            COMPRESSED => {
                let mut plain = ZlibDecoder::new(section);
                let tag = take(&mut plain, 8)?;
                match (Fields { rest: &tag, big_endian: big }).u32()? {
                    MATRIX => {
                        let most = size.saturating_mul(DEFLATE_RATIO);
                        let variable = matrix(&mut plain, most, big)?;
                        // the checksum is compared at the end
                        std::io::copy(&mut plain.take(most), &mut std::io::sink())?;
                        variable
                    }
                    _ => Variable::Other(String::new()),
                }
            }
            MATRIX => matrix(&mut { section }, size, big)?,
            _ => Variable::Other(String::new()),
        };
        match variable {
            Variable::Array(name, array) => _ = arrays.insert(name, array),
            Variable::Other(what) if what.is_empty() => {}
            Variable::Other(what) => left_out.push(what),
        }
        at = end;
    }
    Ok((arrays, left_out))
}

enum Variable {
    Array(String, Array),
    /// Its name and what it is.
    Other(String),
}

/// Reads one variable, of which `available` bytes can follow.
fn matrix(reader: &mut dyn Read, available: u64, big: bool) -> Parsed<Variable> {
    let flags = element(reader, big)?;
    let flags = (Fields { rest: &flags, big_endian: big }).u32()?;
    let (class, complex) = (flags & 0xff, flags & 0x800 > 0);
    let class = match class {
        1 => "a cell",
        2 => "a struct",
        3 => "an object",
        4 => "text",
        5 => "a sparse matrix",
        6 => "double",
        7 => "single",
        8..=15 => "an integer",
        _ => "of an unknown class", // functions and such, whose heads differ
    };
    if class == "of an unknown class" {
        return Ok(Variable::Other(format!("a variable {class}")));
    }
    let dims = element(reader, big)?;
    let mut fields = Fields { rest: &dims, big_endian: big };
    let dims = (0..dims.len() / 4).map(|_| fields.size(4)).collect::<Parsed<Vec<_>>>()?;
    let name = String::from_utf8_lossy(&element(reader, big)?).into_owned();
    if !["double", "single", "an integer"].contains(&class) {
        return Ok(Variable::Other(format!("`{name}`, which is {class}")));
    }
    let count = flaw::count(&dims, 1)?;
    let parts = if complex { 2 } else { 1 };
    if (count * parts) as u64 > available {
        return damaged(format!("`{name}` of {dims:?} has fewer numbers than that"));
    }
    let real = numbers(reader, count, big)?;
    let data = match complex {
        false if class == "double" => Values::F64(real.into_f64().unwrap_or_default()),
        false => real,
        true => pair(real, numbers(reader, count, big)?, class),
    };
    let data = data.row_major(&dims);
    match Array::new(dims, data) {
        Ok(array) => Ok(Variable::Array(name, array)),
        Err(error) => damaged(error.to_string()),
    }
}

/// Complex numbers from real and imaginary parts, double if either part or the class is.
fn pair(re: Values, im: Values, class: &str) -> Values {
    match (re, im) {
        (Values::F32(re), Values::F32(im)) if class != "double" => {
            Values::C64(re.into_iter().zip(im).map(|(re, im)| [re, im]).collect())
        }
        (re, im) => {
            let [re, im] = [re, im].map(|part| part.into_f64().unwrap_or_default());
            Values::C128(re.into_iter().zip(im).map(|(re, im)| [re, im]).collect())
        }
    }
}

/// Reads an element of `count` numbers, which may be of a smaller type than the class.
fn numbers(reader: &mut dyn Read, count: usize, big: bool) -> Parsed<Values> {
    let (kind, size, small) = tag(reader, big)?;
    let dtype = match kind {
        1 => DType::I8,
        2 => DType::U8,
        3 => DType::I16,
        4 => DType::U16,
        5 => DType::I32,
        6 => DType::U32,
        7 => DType::F32,
        9 => DType::F64,
        12 => DType::I64,
        13 => DType::U64,
        _ => return damaged(format!("numbers of type {kind}")),
    };
    let stored = Stored::real(Kind::Plain(dtype), big);
    if size != (count * stored.size()) as u64 {
        return damaged(format!("{size} bytes for {count} numbers of {dtype}"));
    }
    match small {
        Some(bytes) => Values::read(&mut &bytes[..], count, stored),
        None => {
            let values = Values::read(reader, count, stored)?;
            take(reader, size.next_multiple_of(8) - size)?;
            Ok(values)
        }
    }
}

/// Reads a short element: flags, dimensions or a name.
fn element(reader: &mut dyn Read, big: bool) -> Parsed<Vec<u8>> {
    let (_, size, small) = tag(reader, big)?;
    if let Some(bytes) = small {
        return Ok(bytes[..size as usize].to_vec());
    }
    if size > LONGEST {
        return damaged(format!("{size} bytes in the head of a variable"));
    }
    let mut bytes = take(reader, size.next_multiple_of(8))?;
    bytes.truncate(size as usize);
    Ok(bytes)
}

/// Type and size of an element; up to 4 bytes are in the tag itself.
fn tag(reader: &mut dyn Read, big: bool) -> Parsed<(u32, u64, Option<[u8; 4]>)> {
    let bytes = take(reader, 8)?;
    let mut fields = Fields { rest: &bytes, big_endian: big };
    let first = fields.u32()?;
    match first >> 16 {
        0 => Ok((first, fields.u32()?.into(), None)),
        size @ 1..=4 => {
            let small = [bytes[4], bytes[5], bytes[6], bytes[7]];
            Ok((first & 0xffff, size.into(), Some(small)))
        }
        size => damaged(format!("a short element of {size} bytes")),
    }
}

fn take(reader: &mut dyn Read, count: u64) -> Parsed<Vec<u8>> {
    let mut bytes = vec![0; count as usize];
    reader.read_exact(&mut bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Flaw::Damaged("a variable is cut short".into()),
        _ => Flaw::Io(e),
    })?;
    Ok(bytes)
}
