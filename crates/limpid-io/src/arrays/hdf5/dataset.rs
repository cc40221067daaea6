//! Data sets: their shape, type and bytes.

use super::super::flaw::{Fields, Parsed, count, damaged, unsupported};
use super::Hdf5;
use super::chunks::{Chunk, Filter, Index, unpack};
use super::header::{self, Message};
use super::types::{Type, dataspace};

/// Everything about a data set but its bytes.
pub(in crate::arrays) struct Dataset {
    /// The size along each axis, slowest first.
    pub(in crate::arrays) dims: Vec<usize>,
    /// The size to which each may grow.
    most: Vec<usize>,
    pub(in crate::arrays) kind: Type,
    layout: Layout,
    filters: Vec<Filter>,
    /// The bytes of an element that was never written, if not zeros.
    fill: Vec<u8>,
}

/// Where the bytes are.
enum Layout {
    Compact(Vec<u8>),
    /// Nowhere, if nothing was ever written.
    Contiguous(Option<u64>),
    /// The size of a chunk, and where the chunks are.
    Chunked(Vec<usize>, Index),
}

impl Dataset {
    /// Whether these are the messages of a data set rather than of a group.
    pub(super) fn is_one(messages: &[Message]) -> bool {
        messages.iter().any(|message| message.kind == header::LAYOUT)
    }

    /// The data set at an address.
    pub(in crate::arrays) fn at(file: &mut Hdf5, address: u64) -> Parsed<Self> {
        let messages = file.messages(address)?;
        Self::parse(file, &messages)
    }

    pub(super) fn parse(file: &Hdf5, messages: &[Message]) -> Parsed<Self> {
        let part = |kind, name: &str| match header::find(messages, kind)? {
            Some(body) => Ok(body),
            None => damaged(format!("a data set without {name}")),
        };
        let kind = Type::parse(&mut Fields::new(part(header::DATATYPE, "a type")?))?;
        let space = dataspace(part(header::DATASPACE, "a shape")?, file.lengths)?;
        let [dims, most] = space.unwrap_or_else(|| [vec![0], vec![0]]);
        if messages.iter().any(|message| message.kind == header::EXTERNAL) {
            return unsupported("data in other files; rewrite the file with `h5repack`");
        }
        let layout = Layout::parse(file, part(header::LAYOUT, "a layout")?, &dims, kind.size)?;
        let filters = match header::find(messages, header::FILTERS)? {
            Some(body) => Filter::parse(body)?,
            None => Vec::new(),
        };
        let fill = match header::find(messages, header::FILL_VALUE)? {
            Some(body) => fill_value(body)?.filter(|fill| fill.len() == kind.size),
            None => None,
        };
        Ok(Self { dims, most, kind, layout, filters, fill: fill.unwrap_or_default() })
    }

    /// The bytes of all elements, in row-major order.
    pub(in crate::arrays) fn read(&self, file: &mut Hdf5) -> Parsed<Vec<u8>> {
        let size = self.kind.size;
        let total = count(&self.dims, size)? * size;
        match &self.layout {
            Layout::Compact(bytes) if bytes.len() >= total => Ok(bytes[..total].to_vec()),
            Layout::Compact(bytes) => {
                damaged(format!("{} bytes, expected {total} for {:?}", bytes.len(), self.dims))
            }
            Layout::Contiguous(Some(at)) => file.block(*at, total as u64),
            Layout::Contiguous(None) => self.unwritten(file, total),
            Layout::Chunked(shape, index) => {
                let chunk_bytes = count(shape, size)? * size;
                let chunks = file.chunks(index, &self.most, shape, chunk_bytes)?;
                let stored = chunks.iter().fold(0u64, |n, chunk| n.saturating_add(chunk.size));
                let most = stored.saturating_mul(super::chunks::most_per_byte(&self.filters));
                let whole = chunks.len().saturating_mul(chunk_bytes) as u64;
                // what holds all elements is as large; the rest was never written
                let mut bytes = match total as u64 <= most.min(whole) {
                    true => self.filled(total),
                    false => self.unwritten(file, total)?,
                };
                for chunk in &chunks {
                    let packed = file.block(chunk.at, chunk.size)?;
                    let plain = unpack(packed, &self.filters, chunk.mask, chunk_bytes, size)?;
                    self.place(chunk, shape, &plain, &mut bytes);
                }
                Ok(bytes)
            }
        }
    }

    /// As [`filled`](Self::filled), for elements that the file does not hold: as many as it has bytes.
    fn unwritten(&self, file: &mut Hdf5, total: usize) -> Parsed<Vec<u8>> {
        if total as u64 > file.length {
            return unsupported(format!(
                "shape {:?} needs {total} bytes, of which most were never written",
                self.dims
            ));
        }
        file.spend(total as u64)?;
        Ok(self.filled(total))
    }

    fn filled(&self, total: usize) -> Vec<u8> {
        match self.fill.iter().any(|byte| *byte != 0) {
            true => self.fill.iter().copied().cycle().take(total).collect(),
            false => vec![0; total],
        }
    }

    /// Copies the part of a chunk that lies within the data set to its place, row by row.
    fn place(&self, chunk: &Chunk, shape: &[usize], plain: &[u8], bytes: &mut [u8]) {
        let size = self.kind.size;
        let inside: Vec<usize> = (0..shape.len())
            .map(|i| shape[i].min(self.dims[i].saturating_sub(chunk.start[i])))
            .collect();
        if inside.contains(&0) {
            return;
        }
        let rows: usize = inside.iter().rev().skip(1).product();
        let row = inside.last().map_or(size, |n| n * size);
        for at in 0..rows {
            let (mut rest, mut from, mut to) = (at, 0, 0);
            let (mut from_step, mut to_step) = (size, size);
            for i in (0..shape.len()).rev() {
                let index = match i + 1 == shape.len() {
                    true => 0,
                    false => {
                        let index = rest % inside[i];
                        rest /= inside[i];
                        index
                    }
                };
                from += index * from_step;
                to += (chunk.start[i] + index) * to_step;
                from_step *= shape[i];
                to_step *= self.dims[i];
            }
            bytes[to..to + row].copy_from_slice(&plain[from..from + row]);
        }
    }
}

impl Layout {
    fn parse(file: &Hdf5, body: &[u8], dims: &[usize], size: usize) -> Parsed<Self> {
        let mut fields = Fields::new(body);
        let version = fields.u8()?;
        let sizes = |fields: &mut Fields, rank: u8, width: usize| -> Parsed<Vec<usize>> {
            let mut shape: Vec<usize> =
                (0..rank).map(|_| fields.size(width)).collect::<Parsed<_>>()?;
            let element = shape.pop();
            if element != Some(size) || shape.len() != dims.len() || shape.contains(&0) {
                return damaged(format!("chunks of {shape:?} for {dims:?}"));
            }
            Ok(shape)
        };
        match version {
            1 | 2 => {
                let (rank, class) = (fields.u8()?, fields.u8()?);
                fields.take(5)?;
                match class {
                    0 => {
                        fields.take(4 * usize::from(rank))?;
                        let size = fields.size(4)?;
                        Ok(Self::Compact(fields.take(size)?.to_vec()))
                    }
                    1 => Ok(Self::Contiguous(file.address(&mut fields)?)),
                    2 => {
                        let tree = file.address(&mut fields)?;
                        let shape = sizes(&mut fields, rank, 4)?;
                        Ok(Self::Chunked(shape, Index::Tree(tree)))
                    }
                    _ => damaged(format!("layout {class}")),
                }
            }
            3..=5 => match (fields.u8()?, version) {
                (0, _) => {
                    let size = fields.size(2)?;
                    Ok(Self::Compact(fields.take(size)?.to_vec()))
                }
                (1, _) => Ok(Self::Contiguous(file.address(&mut fields)?)),
                (2, 3) => {
                    let rank = fields.u8()?;
                    let tree = file.address(&mut fields)?;
                    Ok(Self::Chunked(sizes(&mut fields, rank, 4)?, Index::Tree(tree)))
                }
                (2, _) => {
                    let (flags, rank, width) = (fields.u8()?, fields.u8()?, fields.size(1)?);
                    if !(1..=8).contains(&width) {
                        return damaged(format!("sizes of {width} bytes"));
                    }
                    let shape = sizes(&mut fields, rank, width)?;
                    Ok(Self::Chunked(shape, Index::parse(file, &mut fields, flags)?))
                }
                (3, _) => unsupported("a virtual data set, whose data are in other files"),
                (class, _) => damaged(format!("layout {class}")),
            },
            _ => unsupported(format!("version {version} of a layout")),
        }
    }
}

/// The bytes of an element that was never written, if the file says.
fn fill_value(body: &[u8]) -> Parsed<Option<Vec<u8>>> {
    let mut fields = Fields::new(body);
    let version = fields.u8()?;
    let defined = match version {
        1 | 2 => {
            fields.take(2)?;
            fields.u8()? > 0 || version == 1
        }
        _ => fields.u8()? & 0x20 > 0,
    };
    if !defined {
        return Ok(None);
    }
    let size = fields.size(4)?;
    Ok(Some(fields.take(size)?.to_vec()))
}
