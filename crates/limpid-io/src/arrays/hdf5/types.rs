//! Datatypes and dataspaces.

use super::super::flaw::{Fields, Parsed, damaged, unsupported};
use super::super::values::Stored;
use crate::data::{DType, Kind};

/// Types within types; more only come from damage.
const DEEPEST: usize = 8;

/// The type of one element.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::arrays) struct Type {
    /// Bytes in the file.
    pub(in crate::arrays) size: usize,
    pub(in crate::arrays) class: Class,
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::arrays) enum Class {
    Number(Stored),
    /// Text of fixed length.
    Text,
    /// Text of variable length.
    VariableText,
    /// Members with their names and offsets.
    Compound(Vec<(String, usize, Type)>),
    /// A fixed number of elements.
    Array(usize, Box<Type>),
    /// A variable number of elements.
    Sequence(Box<Type>),
    Other,
}

impl Type {
    pub(super) fn parse(fields: &mut Fields) -> Parsed<Self> {
        Self::nested(fields, DEEPEST)
    }

    fn nested(fields: &mut Fields, deeper: usize) -> Parsed<Self> {
        let Some(deeper) = deeper.checked_sub(1) else {
            return damaged("types within types without end");
        };
        let first = fields.u8()?;
        let (class, version) = (first & 15, first >> 4);
        let bits = fields.uint(3)?;
        let size = fields.size(4)?;
        if !(1..=5).contains(&version) || size == 0 {
            return damaged(format!("a type of version {version} and {size} bytes"));
        }
        let class = match class {
            0 => integer(fields.take(4)?, bits, size)?,
            1 => float(fields.take(12)?, bits, size)?,
            3 => Class::Text,
            6 => compound(fields, version, (bits & 0xffff) as usize, size, deeper)?,
            9 => {
                let base = Self::nested(fields, deeper)?;
                match bits & 15 {
                    1 => Class::VariableText,
                    _ => Class::Sequence(Box::new(base)),
                }
            }
            10 => {
                let rank = fields.u8()?;
                fields.take(if version < 3 { 3 } else { 0 })?;
                let mut count = 1usize;
                for _ in 0..rank {
                    count = count.saturating_mul(fields.size(4)?);
                }
                fields.take(if version < 3 { 4 * usize::from(rank) } else { 0 })?;
                let base = Self::nested(fields, deeper)?;
                if count.checked_mul(base.size) != Some(size) {
                    return damaged(format!("an array of {count} × {} in {size} bytes", base.size));
                }
                Class::Array(count, Box::new(base))
            }
            // these have properties of their own, which matter only within a compound
            4 => fields.take(4).map(|_| Class::Other)?,
            5 => fields.take((bits & 0xff) as usize).map(|_| Class::Other)?,
            7 => Class::Other,
            8 => enumeration(fields, version, (bits & 0xffff) as usize, size, deeper)?,
            2 | 11 => return unsupported(format!("type class {class} (time or native complex)")),
            _ => return damaged(format!("type class {class}")),
        };
        Ok(Self { size, class })
    }

    /// How the numbers lie in the file, if the elements are such; complex ones are compounds of two.
    pub(in crate::arrays) fn stored(&self) -> Option<Stored> {
        match &self.class {
            Class::Number(stored) => Some(*stored),
            Class::Compound(members) => match members.as_slice() {
                [(_, 0, re), (_, at, im)] if re == im && *at == re.size && self.size == 2 * at => {
                    re.stored()?.into_complex()
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Offset and type of a member.
    pub(in crate::arrays) fn member(&self, name: &str) -> Option<(usize, &Type)> {
        let Class::Compound(members) = &self.class else { return None };
        members.iter().find(|(found, ..)| found == name).map(|(_, at, kind)| (*at, kind))
    }
}

fn integer(properties: &[u8], bits: u64, size: usize) -> Parsed<Class> {
    let mut fields = Fields::new(properties);
    let (offset, precision) = (fields.u16()?, fields.u16()?);
    let dtype = match (size, bits & 8 > 0) {
        (1, false) => DType::U8,
        (1, true) => DType::I8,
        (2, false) => DType::U16,
        (2, true) => DType::I16,
        (4, false) => DType::U32,
        (4, true) => DType::I32,
        (8, false) => DType::U64,
        (8, true) => DType::I64,
        _ => return Ok(Class::Other),
    };
    let plain = offset == 0 && usize::from(precision) == 8 * size;
    Ok(if plain {
        Class::Number(Stored::real(Kind::Plain(dtype), bits & 1 > 0))
    } else {
        Class::Other
    })
}

fn float(properties: &[u8], bits: u64, size: usize) -> Parsed<Class> {
    let mut fields = Fields::new(properties);
    let (offset, precision) = (fields.u16()?, fields.u16()?);
    let (_place, exponent) = (fields.u8()?, fields.u8()?);
    let kind = match (size, exponent) {
        (2, 5) => Kind::Half,
        (4, 8) => Kind::Plain(DType::F32),
        (8, 11) => Kind::Plain(DType::F64),
        _ => return Ok(Class::Other),
    };
    let plain = offset == 0 && usize::from(precision) == 8 * size && bits & 0x40 == 0; // VAX order
    Ok(if plain { Class::Number(Stored::real(kind, bits & 1 > 0)) } else { Class::Other })
}

fn compound(
    fields: &mut Fields,
    version: u8,
    count: usize,
    size: usize,
    deeper: usize,
) -> Parsed<Class> {
    let mut members = Vec::new();
    for _ in 0..count {
        let name = padded_text(fields, version)?;
        let at = match version {
            1 | 2 => fields.size(4)?,
            _ => fields.size(1 + size.ilog2() as usize / 8)?,
        };
        let mut elements = None; // version 1 has arrays as members, not as types
        if version == 1 {
            let rank = fields.u8()?;
            fields.take(3 + 4 + 4)?;
            let mut dims = [0; 4];
            for dim in &mut dims {
                *dim = fields.size(4)?;
            }
            if rank > 4 {
                return damaged(format!("member `{name}` of {rank} dimensions"));
            }
            let dims = dims.iter().take(usize::from(rank));
            elements = (rank > 0).then(|| dims.fold(1usize, |n, dim| n.saturating_mul(*dim)));
        }
        let mut kind = Type::nested(fields, deeper)?;
        if let Some(count) = elements {
            let size = count.saturating_mul(kind.size);
            kind = Type { size, class: Class::Array(count, Box::new(kind)) };
        }
        if at.checked_add(kind.size).is_none_or(|end| end > size) {
            return damaged(format!("member `{name}` ends beyond its record of {size} bytes"));
        }
        members.push((name, at, kind));
    }
    Ok(Class::Compound(members))
}

/// Enumerations are read past; booleans of h5py are such, and count as numbers.
fn enumeration(
    fields: &mut Fields,
    version: u8,
    count: usize,
    size: usize,
    deeper: usize,
) -> Parsed<Class> {
    let base = Type::nested(fields, deeper)?;
    if base.size != size {
        return damaged(format!("an enumeration of {size} bytes on {}", base.size));
    }
    for _ in 0..count {
        padded_text(fields, version)?;
    }
    fields.take(count.saturating_mul(size))?;
    Ok(match base.class {
        number @ Class::Number(_) => number,
        _ => Class::Other,
    })
}

/// A name; before version 3 it is padded to a multiple of 8.
fn padded_text(fields: &mut Fields, version: u8) -> Parsed<String> {
    let before = fields.rest.len();
    let name = fields.text()?;
    if version < 3 {
        let used = before - fields.rest.len();
        fields.take(used.next_multiple_of(8) - used)?;
    }
    Ok(name)
}

/// The size along each axis, slowest first, and the size to which each may grow, by which chunks are numbered;
/// `None` for a space without elements.
pub(super) fn dataspace(body: &[u8], lengths: usize) -> Parsed<Option<[Vec<usize>; 2]>> {
    let mut fields = Fields::new(body);
    let (version, rank, flags) = (fields.u8()?, fields.u8()?, fields.u8()?);
    match version {
        1 => fields.take(5).map(|_| ())?,
        2 if fields.u8()? == 2 => return Ok(None),
        2 => {}
        _ => return damaged(format!("version {version} of a dataspace")),
    }
    if rank > 32 {
        return damaged(format!("{rank} dimensions, expected at most 32"));
    }
    let mut sizes = || (0..rank).map(|_| fields.size(lengths)).collect::<Parsed<Vec<_>>>();
    let dims = sizes()?;
    let most = if flags & 1 != 0 { sizes()? } else { dims.clone() };
    if most.iter().zip(&dims).any(|(most, size)| most < size) {
        return damaged(format!("a shape {dims:?} beyond its largest, {most:?}"));
    }
    Ok(Some([dims, most]))
}
