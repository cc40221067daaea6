//! Arrays of the Berkeley Advanced Reconstruction Toolbox: `.cfl` with the numbers, `.hdr` with the
//! sizes.
//!
//! Numbers are complex, single precision, little-endian. BART lets its first dimension run fastest
//! and writes at least 16 dimensions. Here the same bytes are an array in row-major order, so the
//! dimensions come reversed: `1 224 2 4` in the `.hdr` is the shape `[4, 2, 224, 1]`. Dimensions of
//! size 1 at the end of the `.hdr` are dropped.

use super::Array;
use super::flaw::{self, Flaw};
use super::values::{Stored, Values};
use crate::atomic::AtomicFile;
use crate::data::{DType, Kind};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Dimensions that BART always writes.
const DIMS: usize = 16;
/// More than any `.hdr` has, with the commands that made the data.
const LONGEST: u64 = 1 << 20;
const TITLE: &str = "# Dimensions";

/// Whether `path` is one of a pair, or the name of a pair without its ending.
pub(super) fn is_pair(path: &Path) -> bool {
    let [data, header] = pair(path);
    let titled = || header_text(&header).is_ok_and(|text| text.contains(TITLE));
    path == data || (path == header || !path.exists()) && titled()
}

/// Reads a pair; `path` may end in `.cfl`, `.hdr` or neither.
///
/// # Errors
/// One of the two files is missing, or they contradict each other.
pub fn read_cfl(path: impl AsRef<Path>) -> Result<Array> {
    let [data, header] = pair(path.as_ref());
    let text = header_text(&header)?;
    let mut dims = dims(&text).ok_or_else(|| {
        let message = format!("no line of positive sizes below `{TITLE}`");
        Error::damaged("bart", &header, message)
    })?;
    while dims.len() > 1 && dims.last() == Some(&1) {
        dims.pop();
    }
    dims.reverse();
    let real = Stored::real(Kind::Plain(DType::F32), false);
    let stored = Stored { complex: true, ..real };
    let at = |flaw: Flaw| flaw.in_file("bart", &data);
    let count = flaw::count(&dims, stored.size()).map_err(at)?;
    let fail = |e| Error::io("read", &data, e);
    let mut file = File::open(&data).map_err(fail)?;
    let (needed, length) = (count * stored.size(), file.metadata().map_err(fail)?.len());
    if needed as u64 != length {
        let message = format!(
            "{needed} bytes are expected for {dims:?} in `{}`, there are {length}; copy both files again",
            header.display()
        );
        return Err(Error::damaged("bart", &data, message));
    }
    let values = Values::read(&mut file, count, stored).map_err(at)?;
    Array::new(dims, values)
}

/// Writes a pair; `path` may end in `.cfl`, `.hdr` or neither. Real numbers become complex and double
/// precision is rounded, for BART knows no other type.
///
/// # Errors
/// The folder does not exist or cannot be written, the disk is full, or the array has no numbers or more than 16
/// dimensions.
pub fn write_cfl(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    let [data, header] = pair(path.as_ref());
    if array.dims.contains(&0) || array.dims.len() > DIMS {
        let message = format!("BART has up to {DIMS} dimensions above zero, not {:?}", array.dims);
        return Err(Error::argument(&header, message));
    }
    let complex: Values;
    let values = match &array.data {
        single @ Values::C64(_) => single,
        other => {
            complex = Values::C64(other.clone().into_c64());
            &complex
        }
    };
    // both are on the disk before either takes its name
    let [mut numbers, mut text] = [AtomicFile::create(&data)?, AtomicFile::create(&header)?];
    values
        .write_le(&mut |bytes| numbers.write_all(bytes))
        .map_err(|e| Error::io("write", &data, e))?;
    let ones = std::iter::repeat_n(&1, DIMS.saturating_sub(array.dims.len()));
    let sizes: Vec<String> = array.dims.iter().rev().chain(ones).map(usize::to_string).collect();
    let line = format!("{TITLE}\n{}\n", sizes.join(" "));
    text.write_all(line.as_bytes()).map_err(|e| Error::io("write", &header, e))?;
    numbers.commit()?;
    text.commit()
}

/// The `.cfl` and the `.hdr` that belong to a path.
fn pair(path: &Path) -> [PathBuf; 2] {
    let ended = path.extension().is_some_and(|ending| ending == "cfl" || ending == "hdr");
    let base = if ended { path.with_extension("") } else { path.to_owned() };
    ["cfl", "hdr"].map(|ending| {
        let mut name = base.clone().into_os_string(); // names with a dot are common, keep it
        name.push(".");
        name.push(ending);
        name.into()
    })
}

fn header_text(header: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = File::open(header).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    read.map_err(|e| Error::io("read", header, e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The sizes below the title, fastest first.
fn dims(text: &str) -> Option<Vec<usize>> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| *line == TITLE)?;
    let sizes: Option<Vec<usize>> =
        lines.next()?.split_whitespace().map(|size| size.parse().ok().filter(|n| *n > 0)).collect();
    sizes.filter(|sizes| !sizes.is_empty())
}
