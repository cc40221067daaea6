//! The header of an npy array: magic, version, and a Python dict with type, order and shape.

use crate::data::{DType, Encoding, Kind};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::volume::{Axes, Axis};
use std::io::Read;
use std::path::Path;

/// Longer than any header of a plain array.
const LONGEST: usize = 1 << 16;

/// What a header says.
pub(crate) struct Header {
    /// Bytes before the samples.
    pub(crate) offset: u64,
    /// The type as NumPy spells it, such as `<u2`.
    pub(crate) descr: String,
    /// Whether the first axis runs fastest.
    pub(crate) fortran: bool,
    /// The size along each axis.
    pub(crate) shape: Vec<usize>,
}

/// Reads the header; what follows it in `reader` are the samples.
pub(crate) fn read(reader: &mut dyn Read, path: &Path) -> Result<Header> {
    let damaged = |message: String| Error::damaged("npy", path, message);
    let mut take = |n: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        match reader.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(e) => Err(Error::damaged("npy", path, format!("the header cannot be read: {e}"))),
        }
    };
    let start = take(8)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(damaged(format!("expected the magic \\x93NUMPY, got {:02x?}", &start[..6])));
    }
    let size_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(Error::unsupported("npy", path, format!("version {version}"))),
    };
    let length = take(size_bytes)?.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
    if length > LONGEST {
        return Err(damaged(format!("a header of {length} bytes, expected at most {LONGEST}")));
    }
    let text = String::from_utf8_lossy(&take(length)?).into_owned();
    parse(&text, (8 + size_bytes + length) as u64, path)
}

/// The header of an image, with its axes named. The offset counts from where `reader` stood.
pub(super) fn layout(reader: &mut dyn Read, axes: Option<&Axes>, path: &Path) -> Result<Layout> {
    let Header { offset, descr, fortran, mut shape } = read(reader, path)?;
    let encoding = encoding(&descr, path)?;
    let mut axes = match axes {
        Some(axes) if axes.rank() != shape.len() => {
            let message = format!("axes `{axes}` were asked for, but the shape is {shape:?}");
            return Err(Error::argument(path, message));
        }
        Some(axes) => axes.clone(),
        None => Axes::of_rank(shape.len()).ok_or_else(|| {
            let message = format!("an array of shape {shape:?} is no image; 2 to 5 axes are");
            Error::unsupported("npy", path, message)
        })?,
    };
    if fortran {
        let reversed: Vec<Axis> = axes.as_slice().iter().rev().copied().collect();
        axes = Axes::from_distinct(reversed);
        shape.reverse();
    }
    Ok(Layout { offset, encoding, shape, axes })
}

/// Takes `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }` apart.
fn parse(text: &str, offset: u64, path: &Path) -> Result<Header> {
    let value = |key: &str| {
        let missing = || Error::damaged("npy", path, format!("no `{key}` in the header `{text}`"));
        let at = text.find(&format!("'{key}'")).ok_or_else(missing)?;
        let rest = text[at + key.len() + 2..].trim_start();
        Ok(rest.strip_prefix(':').ok_or_else(missing)?.trim_start())
    };
    let descr = value("descr")?;
    let Some(descr) = descr.strip_prefix('\'').and_then(|d| d.split('\'').next()) else {
        let message = "structured arrays; save one of the fields by itself";
        return Err(Error::unsupported("npy", path, message));
    };
    let descr = descr.to_owned();
    let order = value("fortran_order")?;
    let fortran = match (order.starts_with("True"), order.starts_with("False")) {
        (true, _) => true,
        (_, true) => false,
        _ => return Err(Error::damaged("npy", path, format!("`fortran_order` in `{text}`"))),
    };
    let shape = value("shape")?.strip_prefix('(').and_then(|s| s.split_once(')'));
    let sizes = shape.map(|(inside, _)| inside.split(',').map(str::trim).filter(|s| !s.is_empty()));
    let shape: Option<Vec<usize>> =
        sizes.and_then(|sizes| sizes.map(|size| size.trim_end_matches('L').parse().ok()).collect());
    let shape = shape.ok_or_else(|| Error::damaged("npy", path, format!("`shape` in `{text}`")))?;
    Ok(Header { offset, descr, fortran, shape })
}

/// The type behind a NumPy type string such as `<u2`.
pub(crate) fn encoding(descr: &str, path: &Path) -> Result<Encoding> {
    let (order, name) = match descr.split_at_checked(1) {
        Some((order @ ("<" | ">" | "|" | "="), name)) => (order, name),
        _ => ("=", descr),
    };
    let kind = match name {
        "u1" => Kind::Plain(DType::U8),
        "i1" => Kind::Plain(DType::I8),
        "u2" => Kind::Plain(DType::U16),
        "i2" => Kind::Plain(DType::I16),
        "u4" => Kind::Plain(DType::U32),
        "i4" => Kind::Plain(DType::I32),
        "u8" => Kind::Plain(DType::U64),
        "i8" => Kind::Plain(DType::I64),
        "f4" => Kind::Plain(DType::F32),
        "f8" => Kind::Plain(DType::F64),
        "f2" => Kind::Half,
        "b1" => Kind::Bool,
        _ => {
            let message = if name.starts_with('c') {
                format!(
                    "complex samples (`{descr}`); save the magnitude, or real and imaginary part as channels"
                )
            } else {
                format!("samples of type `{descr}`; save integers or floating point numbers")
            };
            return Err(Error::unsupported("npy", path, message));
        }
    };
    Ok(Encoding { kind, big_endian: order == ">" })
}

/// NumPy's name of a type.
pub(super) fn descr(dtype: DType) -> String {
    let kind = match (dtype.is_float(), dtype.is_signed()) {
        (true, _) => 'f',
        (_, true) => 'i',
        _ => 'u',
    };
    let order = if dtype.size() == 1 { '|' } else { '<' };
    format!("{order}{kind}{}", dtype.size())
}

/// The header of an array in C order, padded so that the samples start at a multiple of 64.
pub(crate) fn bytes(descr: &str, shape: &[usize]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let mut dict = format!(
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}",
        sizes.trim_end_matches(' ').trim_end_matches(if shape.len() > 1 { "," } else { "" })
    );
    let padding = 63 - (10 + dict.len()) % 64;
    dict.push_str(&" ".repeat(padding));
    dict.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.into_bytes());
    bytes
}
