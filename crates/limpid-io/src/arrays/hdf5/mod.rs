//! HDF5, as much of it as raw data of magnetic resonance imaging use, for reading.
//!
//! Source: the HDF5 File Format Specification, version 3.0. Superblocks 0 to 3, object headers 1 and
//! 2, groups by symbol table or by links in the header; numbers, compounds, arrays and
//! variable-length sequences; compact, contiguous and chunked data sets with deflate, shuffle and
//! Fletcher-32. Not read: soft and external links, dense groups, the chunk indices that only files of
//! `libver="latest"` with growing data sets have, virtual data sets, data in other files. Checksums are not compared.
//!
//! Every block that is read counts against what the file holds, so that a damaged file, however its
//! parts point at each other, takes no more time and memory than one of its length may.

mod chunks;
mod dataset;
mod group;
mod header;
mod heap;
mod types;

pub(super) use dataset::Dataset;
pub(super) use types::{Class, Type};

use super::flaw::{Fields, Parsed, damaged, unsupported};
use super::{Array, Arrays, Values, not_empty};
use crate::error::{Error, Result};
use crate::layout::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Groups within groups; more only come from a group that holds itself.
const DEEPEST: usize = 32;

/// An open file. Addresses count from the signature.
pub(super) struct Hdf5 {
    file: File,
    base: u64,
    /// Bytes from the signature to the end.
    length: u64,
    /// Bytes that may still be read.
    left: u64,
    /// Bytes of an address, and of a length.
    offsets: usize,
    lengths: usize,
    root: u64,
    heaps: BTreeMap<u64, heap::Objects>,
}

/// Whether a file has the signature, at its start or behind a user block.
pub(super) fn is_hdf5(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| signature(&file).is_some())
}

fn signature(file: &File) -> Option<u64> {
    let length = file.metadata().ok()?.len();
    let mut places = std::iter::once(0).chain((9..40).map(|power| 1 << power));
    places.find(|at| {
        let mut bytes = [0; SIGNATURE.len()];
        *at < length && file.read_at(*at, &mut bytes).is_ok() && bytes == SIGNATURE
    })
}

/// Reads all data sets of numbers, named by their path, such as `group/data`. Compounds of two equal
/// floating point numbers are complex.
///
/// # Errors
/// The file is missing, damaged, uses an unsupported part of HDF5, or holds no data set of numbers.
pub fn read_hdf5(path: impl AsRef<Path>) -> Result<Arrays> {
    let path = path.as_ref();
    let mut file = Hdf5::open(path)?;
    let (arrays, left_out) = file.all_arrays().map_err(|flaw| flaw.in_file("hdf5", path))?;
    not_empty(arrays, &left_out, "hdf5", path)
}

impl Hdf5 {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fail = |e| Error::io("read", path, e);
        let file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let Some(base) = signature(&file) else {
            return Err(Error::damaged("hdf5", path, "no hdf5 signature"));
        };
        let length = length - base;
        // everything is read once, structures that several data sets share a few times
        let left = length.saturating_mul(4).saturating_add(1 << 16);
        let heaps = BTreeMap::new();
        let mut hdf5 = Self { file, base, length, left, offsets: 8, lengths: 8, root: 0, heaps };
        hdf5.superblock().map_err(|flaw| flaw.in_file("hdf5", path))?;
        Ok(hdf5)
    }

    fn superblock(&mut self) -> Parsed<()> {
        let bytes = self.block(0, 120.min(self.length))?;
        let mut fields = Fields::new(&bytes[SIGNATURE.len()..]);
        let version = fields.u8()?;
        if version < 2 {
            fields.take(4)?;
        } else if version > 3 {
            return unsupported(format!("version {version} of the superblock"));
        }
        self.offsets = fields.size(1)?;
        self.lengths = fields.size(1)?;
        if ![2, 4, 8].contains(&self.offsets) || ![2, 4, 8].contains(&self.lengths) {
            return damaged(format!(
                "addresses of {} and lengths of {} bytes, expected 2, 4 or 8",
                self.offsets, self.lengths
            ));
        }
        match version {
            0 => fields.take(1 + 2 + 2 + 4)?,
            1 => fields.take(1 + 2 + 2 + 4 + 4)?,
            _ => fields.take(1)?,
        };
        fields.take(3 * self.offsets)?; // base, free space or extension, end of file
        if version < 2 {
            fields.take(2 * self.offsets)?; // driver; name of the root
        }
        self.root = fields.uint(self.offsets)?;
        Ok(())
    }

    /// The object header of the root group.
    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// `count` bytes at an address.
    fn block(&mut self, at: u64, count: u64) -> Parsed<Vec<u8>> {
        if at.checked_add(count).is_none_or(|end| end > self.length) {
            return damaged(format!(
                "{count} bytes at {at} lie beyond the end at {}; the file is cut short, copy it again",
                self.length
            ));
        }
        self.spend(count)?;
        let mut bytes = vec![0; count as usize];
        self.file.read_at(self.base + at, &mut bytes)?;
        Ok(bytes)
    }

    fn spend(&mut self, count: u64) -> Parsed<()> {
        match self.left.checked_sub(count) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => damaged("its parts point at each other in circles"),
        }
    }

    /// An address, unless it is the one that means none.
    fn address(&self, fields: &mut Fields) -> Parsed<Option<u64>> {
        let address = fields.uint(self.offsets)?;
        Ok((address != u64::MAX >> (64 - 8 * self.offsets)).then_some(address))
    }

    /// All data sets of numbers, and what else there is.
    pub(super) fn all_arrays(&mut self) -> Parsed<(Arrays, Vec<String>)> {
        let (mut arrays, mut left_out) = (Arrays::new(), Vec::new());
        let mut groups = vec![(String::new(), self.root, 0)];
        while let Some((path, address, depth)) = groups.pop() {
            for (name, child) in self.children(address)? {
                let name = format!("{path}{name}");
                self.spend(name.len() as u64)?; // groups within groups repeat their names
                let messages = self.messages(child)?;
                if !Dataset::is_one(&messages) {
                    match depth < DEEPEST {
                        true => groups.push((format!("{name}/"), child, depth + 1)),
                        false => return damaged(format!("`{name}` lies in too many groups")),
                    }
                    continue;
                }
                match self.array(&messages)? {
                    Some(array) => _ = arrays.insert(name, array),
                    None => left_out.push(format!("`{name}`, which is not numeric")),
                }
            }
        }
        Ok((arrays, left_out))
    }

    /// A data set as an array, if it is one of numbers. MATLAB marks text, which it keeps as numbers,
    /// and arrays without elements, for which it keeps the dimensions.
    fn array(&mut self, messages: &[header::Message]) -> Parsed<Option<Array>> {
        let dataset = Dataset::parse(self, messages)?;
        let Some(stored) = dataset.kind.stored() else { return Ok(None) };
        if header::attribute(messages, "MATLAB_class")?
            .is_some_and(|class| class.starts_with(b"char"))
        {
            return Ok(None);
        }
        let bytes = dataset.read(self)?;
        let mut dims = dataset.dims;
        let mut values = Values::with_room(bytes.len() / stored.size(), stored)?;
        values.append(&bytes, stored);
        if header::attribute(messages, "MATLAB_empty")?.is_some() {
            let sizes = values.into_f64().unwrap_or_default();
            dims = sizes.into_iter().rev().map(|n| n as usize).collect();
            values = Values::F64(Vec::new());
        }
        match Array::new(dims, values) {
            Ok(array) => Ok(Some(array)),
            Err(error) => damaged(error.to_string()),
        }
    }
}
