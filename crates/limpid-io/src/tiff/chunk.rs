//! Decoding rows of a strip or tile: decompression, predictors, bits to bytes.

use super::page::{Packing, Page, Predictor};
use crate::layout::Bytes;
use std::fs::File;
use std::io::Read;
use std::ops::Range;

/// The rows `rows` of chunk `index`, whose samples are then as [`Page::encoding`] says. Of an
/// uncompressed chunk only these rows are read, of a compressed one all up to the last of them.
pub(super) fn read(
    file: &File,
    page: &Page,
    index: usize,
    rows: Range<usize>,
) -> std::io::Result<Vec<u8>> {
    let row = page.stored_row();
    let (offset, count) = page.chunks[index];
    let mut bytes = if page.packing == Packing::None {
        let mut bytes = vec![0; rows.len() * row];
        file.read_at(offset + (rows.start * row) as u64, &mut bytes)?;
        if page.reversed_bits {
            bytes.iter_mut().for_each(|b| *b = b.reverse_bits());
        }
        bytes
    } else {
        let mut packed = vec![0; count as usize]; // checked against the length of the file
        file.read_at(offset, &mut packed)?;
        if page.reversed_bits {
            packed.iter_mut().for_each(|b| *b = b.reverse_bits());
        }
        let (across, down) = page.grid();
        let whole = rows.end == page.rows_of(index / across % down);
        let mut bytes = vec![0; rows.end * row];
        match page.packing {
            Packing::Lzw => unpack_lzw(&packed, &mut bytes)?,
            Packing::PackBits => unpack_packbits(&packed, &mut bytes)?,
            Packing::Deflate | Packing::None => {
                let mut decoder = flate2::read::ZlibDecoder::new(&packed[..]);
                decoder.read_exact(&mut bytes)?;
                if whole {
                    // the sum comes at the very end
                    std::io::copy(&mut decoder, &mut std::io::sink())?;
                }
            }
        }
        bytes.drain(..rows.start * row);
        bytes
    };
    for row in bytes.chunks_exact_mut(row) {
        undo_predictor(page, row);
    }
    if !page.bits.is_multiple_of(8) {
        bytes = unpack_bits(page, &bytes, rows.len());
    }
    Ok(bytes)
}

fn damaged(message: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, message)
}

fn unpack_lzw(mut packed: &[u8], out: &mut [u8]) -> std::io::Result<()> {
    use weezl::{BitOrder, LzwStatus, decode::Decoder};
    let mut decoder = Decoder::with_tiff_size_switch(BitOrder::Msb, 8);
    let mut done = 0;
    while done < out.len() {
        let step = decoder.decode_bytes(packed, &mut out[done..]);
        packed = &packed[step.consumed_in..];
        done += step.consumed_out;
        match step.status.map_err(damaged)? {
            LzwStatus::Ok if step.consumed_in + step.consumed_out > 0 => {}
            _ => break,
        }
    }
    enough(done, out.len())
}

/// A byte `n` is followed by `n + 1` bytes to copy, or by one to repeat `1 - n` times.
fn unpack_packbits(mut packed: &[u8], out: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while let Some((n, rest)) = packed.split_first().filter(|_| done < out.len()) {
        packed = rest;
        match i32::from(*n as i8) {
            -128 => {}
            n @ 0.. => {
                let n = (n as usize + 1).min(packed.len()).min(out.len() - done);
                out[done..done + n].copy_from_slice(&packed[..n]);
                packed = &packed[n..];
                done += n;
            }
            n => {
                let Some((value, rest)) = packed.split_first() else { break };
                packed = rest;
                let n = ((1 - n) as usize).min(out.len() - done);
                out[done..done + n].fill(*value);
                done += n;
            }
        }
    }
    enough(done, out.len())
}

fn enough(got: usize, expected: usize) -> std::io::Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(damaged(format!("expected {expected} bytes, got {got}")))
}

fn undo_predictor(page: &Page, row: &mut [u8]) {
    let (channels, big) = (page.samples_per_chunk(), page.encoding.big_endian);
    match (page.predictor, page.bits / 8) {
        (Predictor::None, _) => {}
        (Predictor::Horizontal, 1) => add_left_bytes(row, channels),
        (Predictor::Horizontal, 2) => add_left::<2>(row, channels, big),
        (Predictor::Horizontal, 4) => add_left::<4>(row, channels, big),
        (Predictor::Horizontal, _) => add_left::<8>(row, channels, big),
        (Predictor::Float, size) => {
            add_left_bytes(row, channels);
            let (planes, count) = (row.to_vec(), row.len() / size);
            for (i, sample) in row.chunks_exact_mut(size).enumerate() {
                for (k, byte) in sample.iter_mut().enumerate() {
                    // the planes hold the most significant byte first
                    let plane = if big { k } else { size - 1 - k };
                    *byte = planes[plane * count + i];
                }
            }
        }
    }
}

fn add_left_bytes(row: &mut [u8], channels: usize) {
    for i in channels..row.len() {
        row[i] = row[i].wrapping_add(row[i - channels]);
    }
}

/// Adds to each sample of `N` bytes the one of the same channel on its left.
fn add_left<const N: usize>(row: &mut [u8], channels: usize, big_endian: bool) {
    let load = |raw: &[u8]| {
        let mut value = [0; 8];
        value[..N].copy_from_slice(raw);
        if big_endian {
            value[..N].reverse();
        }
        u64::from_le_bytes(value)
    };
    for i in channels..row.len() / N {
        let left = load(&row[(i - channels) * N..(i - channels + 1) * N]);
        let here = &mut row[i * N..(i + 1) * N];
        let mut sum = load(here).wrapping_add(left).to_le_bytes();
        if big_endian {
            sum[..N].reverse();
        }
        here.copy_from_slice(&sum[..N]);
    }
}

/// Spreads samples of 1 to 15 bits, highest bit first and rows padded to bytes, over 1 or 2 bytes.
fn unpack_bits(page: &Page, bytes: &[u8], rows: usize) -> Vec<u8> {
    let per_row = page.chunk.0 * page.samples_per_chunk();
    let mut out = Vec::with_capacity(rows * per_row * page.encoding.size());
    for row in bytes.chunks_exact(page.stored_row()) {
        let (mut window, mut held, mut next) = (0u32, 0, row.iter());
        for _ in 0..per_row {
            while held < page.bits {
                window = window << 8 | u32::from(next.next().copied().unwrap_or(0));
                held += 8;
            }
            held -= page.bits;
            let value = (window >> held) & ((1 << page.bits) - 1);
            out.extend(&value.to_le_bytes()[..page.encoding.size()]);
        }
    }
    out
}
