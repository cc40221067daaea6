//! Chunks: where they are and how they are unpacked.

use super::super::flaw::{Fields, Flaw, Parsed, damaged, unsupported};
use super::Hdf5;
use crate::npy::DEFLATE_RATIO;
use flate2::read::ZlibDecoder;
use std::io::Read;

/// One stored chunk.
pub(super) struct Chunk {
    /// Its first element.
    pub(super) start: Vec<usize>,
    pub(super) at: u64,
    /// Bytes as stored.
    pub(super) size: u64,
    /// Filters that were left out for it, by bit.
    pub(super) mask: u32,
}

/// How the chunks of a data set are found.
pub(super) enum Index {
    /// A B-tree of version 1, if any chunk is stored.
    Tree(Option<u64>),
    /// One chunk holds all; its size and mask, where filtered.
    Single(Option<u64>, Option<(u64, u32)>),
    /// All chunks, one behind the other.
    Implicit(Option<u64>),
    /// A list of as many as there are.
    Fixed(Option<u64>),
}

impl Index {
    /// Parses the index of a version 4 layout.
    pub(super) fn parse(file: &Hdf5, fields: &mut Fields, flags: u8) -> Parsed<Self> {
        match fields.u8()? {
            1 => {
                let filtered = match flags & 2 > 0 {
                    true => Some((fields.uint(file.lengths)?, fields.u32()?)),
                    false => None,
                };
                Ok(Self::Single(file.address(fields)?, filtered))
            }
            2 => Ok(Self::Implicit(file.address(fields)?)),
            3 => {
                fields.take(1)?;
                Ok(Self::Fixed(file.address(fields)?))
            }
            kind @ (4 | 5) => unsupported(format!(
                "chunks found by an index of type {kind}; save the file with libver=\"earliest\""
            )),
            kind => damaged(format!("chunk index {kind}")),
        }
    }
}

impl Hdf5 {
    /// All stored chunks of a data set that may grow to `dims`; `bytes` is the size of one before it is filtered.
    pub(super) fn chunks(
        &mut self,
        index: &Index,
        dims: &[usize],
        shape: &[usize],
        bytes: usize,
    ) -> Parsed<Vec<Chunk>> {
        let bytes = bytes as u64;
        let mut chunks = Vec::new();
        match index {
            Index::Tree(Some(tree)) => self.tree(*tree, None, dims.len(), &mut chunks)?,
            Index::Single(Some(at), filtered) => {
                let (size, mask) = filtered.unwrap_or((bytes, 0));
                chunks.push(Chunk { start: vec![0; dims.len()], at: *at, size, mask });
            }
            Index::Implicit(Some(first)) => {
                for (i, start) in starts(dims, shape)?.enumerate() {
                    let at = (i as u64).checked_mul(bytes).and_then(|n| n.checked_add(*first));
                    match at.filter(|at| *at < self.length) {
                        Some(at) => chunks.push(Chunk { start, at, size: bytes, mask: 0 }),
                        None => return damaged("chunks beyond the end"),
                    }
                }
            }
            Index::Fixed(Some(at)) => self.fixed(*at, dims, shape, bytes, &mut chunks)?,
            _ => {}
        }
        // each has bytes of its own, so together they cannot be more than the file
        let stored = chunks.iter().fold(0u64, |n, chunk| n.saturating_add(chunk.size));
        if stored > self.length {
            return damaged(format!("chunks of {stored} bytes in a file of {}", self.length));
        }
        Ok(chunks)
    }

    /// Walks a B-tree of chunks; a node below another must be one level lower.
    fn tree(
        &mut self,
        at: u64,
        level: Option<u8>,
        rank: usize,
        chunks: &mut Vec<Chunk>,
    ) -> Parsed<()> {
        let head = self.block(at, (8 + 2 * self.offsets) as u64)?;
        let mut fields = Fields::new(&head);
        if fields.take(4)? != b"TREE" || fields.u8()? != 1 {
            return damaged(format!("no tree of chunks at {at}"));
        }
        let (own, entries) = (fields.u8()?, fields.u16()?);
        if level.is_some_and(|level| own != level) || own > 16 {
            return damaged(format!("a node of level {own} at {at}"));
        }
        let each = 8 + 8 * (rank + 1) + self.offsets;
        let body = self.block(at + head.len() as u64, u64::from(entries) * each as u64)?;
        let mut fields = Fields::new(&body);
        for _ in 0..entries {
            let (size, mask) = (fields.u32()?, fields.u32()?);
            let start: Vec<usize> = (0..rank).map(|_| fields.size(8)).collect::<Parsed<_>>()?;
            fields.take(8)?; // within the element
            let child = fields.uint(self.offsets)?;
            match own {
                0 => chunks.push(Chunk { start, at: child, size: size.into(), mask }),
                _ => self.tree(child, Some(own - 1), rank, chunks)?,
            }
        }
        Ok(())
    }

    /// Reads a fixed array, in pages if it is long.
    fn fixed(
        &mut self,
        at: u64,
        dims: &[usize],
        shape: &[usize],
        bytes: u64,
        chunks: &mut Vec<Chunk>,
    ) -> Parsed<()> {
        let head = self.block(at, (8 + self.lengths + self.offsets) as u64)?;
        let mut fields = Fields::new(&head);
        if fields.take(4)? != b"FAHD" {
            return damaged(format!("no list of chunks at {at}"));
        }
        let (_version, filtered) = (fields.u8()?, fields.u8()? == 1);
        let (each, page_bits) = (fields.u8()?, fields.u8()?);
        let entries = fields.uint(self.lengths)?;
        let Some(block) = self.address(&mut fields)? else { return Ok(()) };
        let per_page = 1u64.checked_shl(page_bits.into()).unwrap_or(u64::MAX);
        let pages = if entries > per_page { entries.div_ceil(per_page) } else { 0 };
        let prefix = 6 + self.offsets as u64 + pages.div_ceil(8) + if pages > 0 { 4 } else { 0 };
        let mut next = block.saturating_add(prefix); // pages come behind a checksum of the prefix
        let width = match filtered {
            true => usize::from(each).checked_sub(self.offsets + 4).filter(|n| (1..=8).contains(n)),
            false => Some(0),
        };
        let Some(width) = width else { return damaged(format!("entries of {each} bytes")) };
        // a page that was never written has no content, and a bit says so
        let written = match pages {
            0 => vec![0x80],
            _ => self.block(block.saturating_add(6 + self.offsets as u64), pages.div_ceil(8))?,
        };
        let mut starts = starts(dims, shape)?;
        let mut left = entries;
        for page in 0..pages.max(1) as usize {
            let here = left.min(per_page);
            left -= here;
            if written[page / 8] & (0x80 >> (page % 8)) == 0 {
                for _ in 0..here {
                    starts.next();
                }
                next = next.saturating_add(here.saturating_mul(each.into())).saturating_add(4);
                continue;
            }
            let page = self.block(next, here.saturating_mul(each.into()))?;
            let mut fields = Fields::new(&page);
            for _ in 0..here {
                let at = self.address(&mut fields)?;
                let (size, mask) = match filtered {
                    true => (fields.uint(width)?, fields.u32()?),
                    false => (bytes, 0),
                };
                let start = starts.next();
                if let (Some(at), Some(start)) = (at, start) {
                    chunks.push(Chunk { start, at, size, mask });
                }
            }
            next = next.saturating_add(page.len() as u64 + 4); // checksum
        }
        Ok(())
    }
}

/// The first element of each chunk, in row-major order.
fn starts(dims: &[usize], shape: &[usize]) -> Parsed<impl Iterator<Item = Vec<usize>> + use<>> {
    let counts: Vec<usize> = dims.iter().zip(shape).map(|(n, chunk)| n.div_ceil(*chunk)).collect();
    let Some(all) = counts.iter().try_fold(1usize, |all, n| all.checked_mul(*n)) else {
        return damaged(format!("chunks {shape:?} of {dims:?}"));
    };
    let shape = shape.to_vec();
    Ok((0..all).map(move |flat: usize| {
        let (mut rest, mut start) = (flat, vec![0; counts.len()]);
        for i in (0..counts.len()).rev() {
            start[i] = rest % counts[i] * shape[i];
            rest /= counts[i];
        }
        start
    }))
}

/// Steps of packing that the format allows.
const MOST_FILTERS: u8 = 32;

/// One step of packing.
pub(super) enum Filter {
    Deflate,
    /// Bytes of the same significance lie together.
    Shuffle,
    /// A checksum of 4 bytes at the end.
    Fletcher32,
}

impl Filter {
    pub(super) fn parse(body: &[u8]) -> Parsed<Vec<Self>> {
        let mut fields = Fields::new(body);
        let (version, count) = (fields.u8()?, fields.u8()?);
        fields.take(if version == 1 { 6 } else { 0 })?;
        if count > MOST_FILTERS {
            return damaged(format!("{count} filters, expected at most {MOST_FILTERS}"));
        }
        let mut filters = Vec::new();
        for _ in 0..count {
            let id = fields.u16()?;
            let name = if version == 1 || id >= 256 { fields.size(2)? } else { 0 };
            fields.take(2)?;
            let values = fields.size(2)?;
            fields.take(if version == 1 { name.next_multiple_of(8) } else { name })?;
            fields.take(4 * (values + if version == 1 { values % 2 } else { 0 }))?;
            filters.push(match id {
                1 => Self::Deflate,
                2 => Self::Shuffle,
                3 => Self::Fletcher32,
                _ => {
                    return unsupported(format!(
                        "filter {id}; rewrite the file with `h5repack -f GZIP=4`"
                    ));
                }
            });
        }
        // twice deflated, one byte would stand for a million
        if filters.iter().filter(|f| matches!(f, Self::Deflate)).count() > 1 {
            return damaged("chunks that are deflated twice");
        }
        Ok(filters)
    }
}

/// The most bytes that one stored byte can stand for.
pub(super) fn most_per_byte(filters: &[Filter]) -> u64 {
    filters
        .iter()
        .filter(|f| matches!(f, Filter::Deflate))
        .fold(1, |n: u64, _| n.saturating_mul(DEFLATE_RATIO))
}

/// Undoes the filters, last first; what comes out has `expected` bytes.
pub(super) fn unpack(
    mut bytes: Vec<u8>,
    filters: &[Filter],
    mask: u32,
    expected: usize,
    element: usize,
) -> Parsed<Vec<u8>> {
    for (i, filter) in filters.iter().enumerate().rev() {
        if mask.checked_shr(i as u32).unwrap_or(0) & 1 > 0 {
            continue;
        }
        bytes = match filter {
            Filter::Deflate => inflate(&bytes, expected)?,
            Filter::Shuffle => unshuffle(&bytes, element),
            Filter::Fletcher32 => match bytes.len().checked_sub(4) {
                Some(length) => {
                    bytes.truncate(length);
                    bytes
                }
                None => return damaged("a chunk without room for its checksum"),
            },
        };
    }
    if bytes.len() != expected {
        return damaged(format!("a chunk of {} bytes, expected {expected}", bytes.len()));
    }
    Ok(bytes)
}

/// At most 4 bytes more than expected, for a checksum.
fn inflate(bytes: &[u8], expected: usize) -> Parsed<Vec<u8>> {
    let mut plain = Vec::new();
    let most = expected as u64 + 4;
    match ZlibDecoder::new(bytes).take(most).read_to_end(&mut plain) {
        Ok(_) => Ok(plain),
        Err(e) => Err(Flaw::Damaged(format!("a chunk cannot be unpacked: {e}"))),
    }
}

fn unshuffle(bytes: &[u8], element: usize) -> Vec<u8> {
    let count = bytes.len() / element;
    let mut plain = bytes.to_vec(); // what is no whole element stays at the end
    for (place, plane) in bytes.chunks_exact(count.max(1)).take(element).enumerate() {
        for (i, byte) in plane.iter().enumerate().take(count) {
            plain[i * element + place] = *byte;
        }
    }
    plain
}
