//! One page: its geometry, its samples, and where its strips or tiles are.

use super::ifd::{Ifd, Skeleton};
use super::tag;
use crate::data::{DType, Encoding, Kind};
use crate::error::Result;
use crate::npy::DEFLATE_RATIO;

/// A page and everything it takes to decode it.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Samples per pixel.
    pub(super) samples: usize,
    /// Whether the samples of a pixel lie in planes of their own, not side by side.
    pub(super) planar: bool,
    /// Bits per stored sample.
    pub(super) bits: usize,
    /// Samples once unpacked to whole bytes.
    pub(super) encoding: Encoding,
    pub(super) photometric: u64,
    pub(super) packing: Packing,
    pub(super) predictor: Predictor,
    /// Whether the bits of each byte run from the lowest to the highest.
    pub(super) reversed_bits: bool,
    /// Columns and rows of a strip or tile.
    pub(super) chunk: (usize, usize),
    /// Whether chunks are tiles, which are whole even at the border.
    tiled: bool,
    /// Offset and byte count of every chunk.
    pub(super) chunks: Vec<(u64, u64)>,
}

/// Compression of the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Lzw,
    Deflate,
    PackBits,
}

/// What samples were replaced by before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Predictor {
    None,
    /// The difference to the pixel on the left.
    Horizontal,
    /// The same, of the bytes of floating point numbers sorted by significance.
    Float,
}

impl Page {
    /// Reads a directory; `number` counts pages from 0, for messages.
    pub(super) fn read(tiff: &Skeleton<'_>, ifd: &Ifd, number: usize) -> Result<Self> {
        let integer = |tag, default| tiff.integer(ifd, tag, default);
        let side = |tag| match integer(tag, 0)? {
            n @ 1..=0x7fff_ffff => Ok(n as usize),
            n => Err(tiff.damaged(format!("page {number}: a side of {n} pixels"))),
        };
        let (width, height) = (side(tag::WIDTH)?, side(tag::HEIGHT)?);
        let samples = integer(tag::SAMPLES, 1)? as usize;
        let planar = samples > 1 && integer(tag::PLANAR, 1)? == 2;
        let (bits, encoding) = samples_of(tiff, ifd, samples, number)?;
        let photometric = photometric(tiff, ifd)?;
        let packing = packing(tiff, ifd)?;
        let predictor = match integer(tag::PREDICTOR, 1)? {
            1 => Predictor::None,
            2 if bits % 8 == 0 => Predictor::Horizontal,
            3 if encoding.dtype().is_float() => Predictor::Float,
            n => return Err(tiff.unsupported(format!("predictor {n} of {bits}-bit samples"))),
        };
        if integer(tag::TILE_DEPTH, 1)? > 1 {
            return Err(tiff.unsupported("tiles with depth; save pages or plain tiles"));
        }
        let tiles = tiff.integers(ifd, tag::TILE_OFFSETS)?;
        let tiled = tiles.is_some();
        let (chunk, offsets, counts) = match tiles {
            Some(offsets) => {
                let chunk = (side(tag::TILE_WIDTH)?, side(tag::TILE_HEIGHT)?);
                (chunk, offsets, tiff.integers(ifd, tag::TILE_COUNTS)?)
            }
            None => {
                let rows = integer(tag::ROWS_PER_STRIP, height as u64)?.min(height as u64);
                let offsets = tiff.integers(ifd, tag::STRIP_OFFSETS)?.unwrap_or_default();
                ((width, rows as usize), offsets, tiff.integers(ifd, tag::STRIP_COUNTS)?)
            }
        };
        let mut page = Self {
            width,
            height,
            samples,
            planar,
            bits,
            encoding,
            photometric,
            packing,
            predictor,
            reversed_bits: integer(tag::FILL_ORDER, 1)? == 2,
            chunk,
            tiled,
            chunks: Vec::new(),
        };
        let expected = match page.chunk {
            (_, 0) => 0,
            (w, h) => width.div_ceil(w) * height.div_ceil(h) * if planar { samples } else { 1 },
        };
        // an uncompressed file may leave the byte counts out
        let counts = counts.unwrap_or_else(|| match packing {
            Packing::None => offsets.clone(),
            _ => Vec::new(),
        });
        if expected == 0 || offsets.len() < expected || counts.len() < expected {
            let found = offsets.len().min(counts.len());
            let message =
                format!("page {number}: expected {expected} strips or tiles, got {found}");
            return Err(tiff.damaged(message));
        }
        page.chunks = offsets.into_iter().zip(counts).take(expected).collect();
        page.check(tiff, number)?;
        Ok(page)
    }

    /// Samples of a pixel that lie side by side in one chunk.
    pub(super) fn samples_per_chunk(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    /// Bytes of one stored row of a chunk before compression.
    pub(super) fn stored_row(&self) -> usize {
        (self.chunk.0 * self.samples_per_chunk()).saturating_mul(self.bits).div_ceil(8)
    }

    /// Chunks along X and Y.
    pub(super) fn grid(&self) -> (usize, usize) {
        (self.width.div_ceil(self.chunk.0), self.height.div_ceil(self.chunk.1))
    }

    /// Rows that the chunk in row `down` of the grid holds.
    pub(super) fn rows_of(&self, down: usize) -> usize {
        if self.tiled { self.chunk.1 } else { self.chunk.1.min(self.height - down * self.chunk.1) }
    }

    /// Whether both pages can be planes of one volume.
    pub(super) fn matches(&self, other: &Self) -> bool {
        (self.width, self.height, self.samples, self.encoding.kind)
            == (other.width, other.height, other.samples, other.encoding.kind)
    }

    /// Checks that the file is long enough to hold what the page promises.
    pub(super) fn check(&self, tiff: &Skeleton<'_>, number: usize) -> Result<()> {
        let (across, down) = self.grid();
        for (i, (offset, count)) in self.chunks.iter().enumerate() {
            if *offset == 0 {
                // zeros would be a guess, and how large a one the file could claim at will
                let message = format!(
                    "page {number}: strip or tile {i} is missing; the file is not complete"
                );
                return Err(tiff.damaged(message));
            }
            let wanted = self.stored_row().saturating_mul(self.rows_of(i / across % down)) as u64;
            let (needed, most) = match self.packing {
                Packing::None => (wanted, wanted),
                Packing::Deflate => (*count, count.saturating_mul(DEFLATE_RATIO)),
                Packing::Lzw => (*count, count.saturating_mul(2732)), // 4098 bytes from 12 bits
                Packing::PackBits => (*count, count.saturating_mul(64)),
            };
            if offset.checked_add(needed).is_none_or(|end| end > tiff.length) {
                let message = format!(
                    "page {number}: strip or tile {i} ends at byte {}, but the file has {}; it is cut short, copy it again",
                    offset.saturating_add(needed),
                    tiff.length
                );
                return Err(tiff.damaged(message));
            }
            if wanted > most {
                let message =
                    format!("page {number}: {wanted} bytes cannot come from {count} packed ones");
                return Err(tiff.damaged(message));
            }
        }
        Ok(())
    }
}

/// Bits of a stored sample, and its type once unpacked.
fn samples_of(
    tiff: &Skeleton<'_>,
    ifd: &Ifd,
    samples: usize,
    number: usize,
) -> Result<(usize, Encoding)> {
    if !(1..=4096).contains(&samples) {
        return Err(tiff.damaged(format!("page {number}: {samples} samples per pixel")));
    }
    let same = |tag, default| -> Result<u64> {
        let values = tiff.integers(ifd, tag)?.unwrap_or_default();
        let first = values.first().copied().unwrap_or(default);
        if values.iter().any(|v| *v != first) {
            let message = format!("page {number}: channels of different types, {values:?}");
            return Err(tiff.unsupported(message));
        }
        Ok(first)
    };
    let (bits, format) = (same(tag::BITS, 1)?, same(tag::SAMPLE_FORMAT, 1)?);
    let kind = match (format, bits) {
        (1 | 4, 1..=8) => Kind::Plain(DType::U8),
        (1 | 4, 9..=16) => Kind::Plain(DType::U16),
        (1 | 4, 32) => Kind::Plain(DType::U32),
        (1 | 4, 64) => Kind::Plain(DType::U64),
        (2, 8) => Kind::Plain(DType::I8),
        (2, 16) => Kind::Plain(DType::I16),
        (2, 32) => Kind::Plain(DType::I32),
        (2, 64) => Kind::Plain(DType::I64),
        (3, 16) => Kind::Half,
        (3, 32) => Kind::Plain(DType::F32),
        (3, 64) => Kind::Plain(DType::F64),
        _ => {
            let name = match format {
                1 | 4 => "unsigned",
                2 => "signed",
                3 => "floating point",
                5 | 6 => "complex",
                _ => "unknown",
            };
            let message = format!("{bits}-bit {name} samples; save 8, 16 or 32 bits");
            return Err(tiff.unsupported(message));
        }
    };
    // unpacking leaves little endian samples
    Ok((bits as usize, Encoding { kind, big_endian: tiff.big_endian && bits % 8 == 0 }))
}

fn photometric(tiff: &Skeleton<'_>, ifd: &Ifd) -> Result<u64> {
    let value = tiff.integer(ifd, tag::PHOTOMETRIC, 1)?;
    let name = match value {
        6 => "YCbCr",
        8..=10 => "CIELab",
        32844 | 32845 => "LogLuv",
        _ => return Ok(value),
    };
    Err(tiff.unsupported(format!("{name} colours; save it as RGB")))
}

fn packing(tiff: &Skeleton<'_>, ifd: &Ifd) -> Result<Packing> {
    let name = match tiff.integer(ifd, tag::COMPRESSION, 1)? {
        1 => return Ok(Packing::None),
        5 => return Ok(Packing::Lzw),
        8 | 32946 => return Ok(Packing::Deflate),
        32773 => return Ok(Packing::PackBits),
        2..=4 => "fax",
        6 | 7 => "jpeg",
        34712 | 33003 | 33005 => "jpeg 2000",
        34887 => "lerc",
        34925 => "lzma",
        50000 | 34926 => "zstd",
        50001 => "webp",
        n => {
            return Err(
                tiff.unsupported(format!("compression {n}; save it uncompressed or deflate"))
            );
        }
    };
    Err(tiff.unsupported(format!("{name} compression; save it uncompressed or deflate")))
}
