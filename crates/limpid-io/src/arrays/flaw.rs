//! What is wrong with bytes, found where neither the format nor the file is known, and a bounded
//! way through bytes in memory.

use crate::error::Error;
use std::path::Path;

/// An error that does not know its file yet.
#[derive(Debug)]
pub(super) enum Flaw {
    Damaged(String),
    Unsupported(String),
    Io(std::io::Error),
}

/// Result of taking bytes apart.
pub(super) type Parsed<T> = std::result::Result<T, Flaw>;

impl Flaw {
    /// The error of the whole crate.
    pub(super) fn in_file(self, format: &'static str, path: &Path) -> Error {
        match self {
            Self::Damaged(message) => Error::damaged(format, path, message),
            Self::Unsupported(message) => Error::unsupported(format, path, message),
            Self::Io(source) => Error::io("read", path, source),
        }
    }
}

impl From<std::io::Error> for Flaw {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// A [`Flaw::Damaged`].
pub(super) fn damaged<T>(message: impl Into<String>) -> Parsed<T> {
    Err(Flaw::Damaged(message.into()))
}

/// A [`Flaw::Unsupported`].
pub(super) fn unsupported<T>(message: impl Into<String>) -> Parsed<T> {
    Err(Flaw::Unsupported(message.into()))
}

/// Bytes read one field after the other.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    pub(super) rest: &'a [u8],
    pub(super) big_endian: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, big_endian: false }
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Parsed<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => damaged(format!("{n} bytes are expected where {} are left", self.rest.len())),
        }
    }

    /// The next integer of `n` bytes, at most 8.
    pub(super) fn uint(&mut self, n: usize) -> Parsed<u64> {
        let bytes = self.take(n)?;
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Ok(match self.big_endian {
            true => bytes.iter().fold(0, join),
            false => bytes.iter().rev().fold(0, join),
        })
    }

    pub(super) fn u8(&mut self) -> Parsed<u8> {
        Ok(self.uint(1)? as u8)
    }

    pub(super) fn u16(&mut self) -> Parsed<u16> {
        Ok(self.uint(2)? as u16)
    }

    pub(super) fn u32(&mut self) -> Parsed<u32> {
        Ok(self.uint(4)? as u32)
    }

    /// The next integer of `n` bytes as a size in memory.
    pub(super) fn size(&mut self, n: usize) -> Parsed<usize> {
        let value = self.uint(n)?;
        usize::try_from(value).or_else(|_| damaged(format!("a size of {value}")))
    }

    /// A text up to its closing zero, and that zero.
    pub(super) fn text(&mut self) -> Parsed<String> {
        let Some(end) = self.rest.iter().position(|b| *b == 0) else {
            return damaged("a name without an end");
        };
        let text = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }
}

/// The number of elements, if memory can hold that many of `size` bytes.
pub(super) fn count(dims: &[usize], size: usize) -> Parsed<usize> {
    // zeros aside, lest 0 × huge × huge slips through
    let full = dims.iter().filter(|n| **n > 0).try_fold(size, |n, dim| n.checked_mul(*dim));
    match full {
        Some(bytes) if bytes as u64 <= crate::volume::MAX_READ_BYTES => Ok(dims.iter().product()),
        _ => damaged(format!("shape {dims:?} is more than memory can hold")),
    }
}
