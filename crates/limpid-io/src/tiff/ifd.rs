//! The skeleton of a TIFF: header, and the chain of directories with their tags.

use crate::error::{Error, Result};
use crate::layout::Bytes;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// An open file with what its first bytes say.
pub(super) struct Skeleton<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    pub(super) length: u64,
    pub(super) big_endian: bool,
    big_tiff: bool,
}

/// One directory: its tags with their raw values.
pub(super) struct Ifd(Vec<Entry>);

struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Where the values are in the file.
    at: u64,
}

impl Ifd {
    fn entry(&self, tag: u16) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.tag == tag)
    }

    /// Whether the directory or one of its values is between these offsets.
    pub(super) fn reaches_into(&self, start: u64, end: u64) -> bool {
        self.0.iter().any(|entry| (start..end).contains(&entry.at))
    }
}

/// Bytes per value of a field type; values of unknown types are never read.
fn width(kind: u16) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}

impl<'a> Skeleton<'a> {
    /// Reads the header and every directory of the main chain.
    pub(super) fn read(file: &'a File, path: &'a Path) -> Result<(Self, Vec<Ifd>)> {
        let length = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let mut tiff = Skeleton { file, path, length, big_endian: false, big_tiff: false };
        let head = tiff.bytes(0, 8)?;
        tiff.big_endian = head.starts_with(b"MM");
        tiff.big_tiff = tiff.number(&head[2..4]) == 43;
        let mut next = if tiff.big_tiff {
            let rest = tiff.bytes(8, 8)?;
            if tiff.number(&head[4..6]) != 8 {
                return Err(tiff.damaged("bigtiff with offsets that are not 8 bytes"));
            }
            tiff.number(&rest)
        } else {
            tiff.number(&head[4..8])
        };
        let (mut ifds, mut seen) = (Vec::new(), BTreeSet::new());
        while next != 0 {
            if !seen.insert(next) {
                return Err(tiff.damaged("the chain of pages runs in a circle"));
            }
            let (ifd, following) = tiff.directory(next, ifds.len())?;
            ifds.push(ifd);
            next = following;
        }
        if ifds.is_empty() {
            return Err(tiff.damaged("no page; the file was not written to its end"));
        }
        Ok((tiff, ifds))
    }

    /// The directory at `at`, and where the next one is.
    fn directory(&self, at: u64, page: usize) -> Result<(Ifd, u64)> {
        let (count_size, entry_size, offset_size) =
            if self.big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let count = self.number(&self.bytes(at, count_size)?);
        let size = count.saturating_mul(entry_size).saturating_add(offset_size);
        // a directory with more than all numbers a tag can have is no directory
        if count > 1 << 16 || at.saturating_add(count_size + size) > self.length {
            let message = format!("the directory of page {page} is no directory, or is cut short");
            return Err(self.damaged(message));
        }
        let bytes = self.bytes(at + count_size, size)?;
        let (entries, next) = bytes.split_at((count * entry_size) as usize);
        let entries = entries.chunks_exact(entry_size as usize).enumerate();
        let half = offset_size as usize;
        let entries = entries.map(|(i, raw)| {
            let (kind, count) = (self.number(&raw[2..4]) as u16, self.number(&raw[4..4 + half]));
            let bytes = count.saturating_mul(width(kind));
            let value = &raw[4 + half..];
            let inline = at + count_size + i as u64 * entry_size + 4 + offset_size;
            let at = if bytes <= offset_size { inline } else { self.number(value) };
            Entry { tag: self.number(&raw[..2]) as u16, kind, count, at }
        });
        Ok((Ifd(entries.collect()), self.number(next)))
    }

    /// Bytes of the file, which must exist before they are allocated.
    pub(super) fn bytes(&self, at: u64, count: u64) -> Result<Vec<u8>> {
        if at.checked_add(count).is_none_or(|end| end > self.length) {
            let message = format!(
                "expected {count} bytes at {at}, but the file has {}; it is cut short, copy it again",
                self.length
            );
            return Err(self.damaged(message));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_at(at, &mut bytes).map_err(|e| Error::io("read", self.path, e))?;
        Ok(bytes)
    }

    /// An unsigned number of up to 8 bytes in the order of the file.
    fn number(&self, bytes: &[u8]) -> u64 {
        let shift = |n: u64, b: &u8| n << 8 | u64::from(*b);
        if self.big_endian {
            bytes.iter().fold(0, shift)
        } else {
            bytes.iter().rev().fold(0, shift)
        }
    }

    /// All unsigned integers of a tag.
    pub(super) fn integers(&self, ifd: &Ifd, tag: u16) -> Result<Option<Vec<u64>>> {
        let Some(entry) = ifd.entry(tag) else { return Ok(None) };
        let size = match entry.kind {
            1 | 3 | 4 | 13 | 16 | 18 => width(entry.kind),
            kind => {
                let message = format!("tag {tag} has field type {kind}, expected an integer");
                return Err(self.damaged(message));
            }
        };
        let bytes = self.bytes(entry.at, entry.count.saturating_mul(size))?;
        Ok(Some(bytes.chunks_exact(size as usize).map(|raw| self.number(raw)).collect()))
    }

    /// The first integer of a tag, or `default`.
    pub(super) fn integer(&self, ifd: &Ifd, tag: u16, default: u64) -> Result<u64> {
        match ifd.entry(tag) {
            Some(entry) if entry.count > 0 => {
                let first = Entry { count: 1, ..*entry };
                let values = self.integers(&Ifd(vec![first]), tag)?;
                Ok(values.and_then(|v| v.first().copied()).unwrap_or(default))
            }
            _ => Ok(default),
        }
    }

    /// A rational number above 0.
    pub(super) fn rational(&self, ifd: &Ifd, tag: u16) -> Option<f64> {
        let entry = ifd.entry(tag).filter(|entry| entry.kind == 5 && entry.count > 0)?;
        let bytes = self.bytes(entry.at, 8).ok()?;
        let (over, under) = (self.number(&bytes[..4]), self.number(&bytes[4..]));
        (over > 0 && under > 0).then(|| over as f64 / under as f64)
    }

    /// A text.
    pub(super) fn text(&self, ifd: &Ifd, tag: u16) -> Option<String> {
        let entry = ifd.entry(tag).filter(|entry| matches!(entry.kind, 1 | 2 | 7))?;
        let bytes = self.bytes(entry.at, entry.count).ok()?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    pub(super) fn damaged(&self, message: impl std::fmt::Display) -> Error {
        Error::damaged("tiff", self.path, message)
    }

    pub(super) fn unsupported(&self, message: impl std::fmt::Display) -> Error {
        Error::unsupported("tiff", self.path, message)
    }
}
