//! Real and complex numbers of two precisions, and how they come out of the bytes of a file.

use super::flaw::{Flaw, Parsed};
use crate::data::{DType, Encoding, Kind};
use std::io::Read;

/// The numbers of an [`Array`](super::Array), in row-major order; complex ones as `[re, im]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Real, single precision.
    F32(Vec<f32>),
    /// Real, double precision.
    F64(Vec<f64>),
    /// Complex, single precision.
    C64(Vec<[f32; 2]>),
    /// Complex, double precision.
    C128(Vec<[f64; 2]>),
}

/// Runs the same expression on the vector inside a [`Values`] and wraps it up again.
macro_rules! on_values {
    ($values:expr, $v:ident => $run:expr) => {
        match $values {
            Values::F32($v) => Values::F32($run),
            Values::F64($v) => Values::F64($run),
            Values::C64($v) => Values::C64($run),
            Values::C128($v) => Values::C128($run),
        }
    };
}

impl Values {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::C64(v) => v.len(),
            Self::C128(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the numbers are complex.
    pub fn is_complex(&self) -> bool {
        matches!(self, Self::C64(_) | Self::C128(_))
    }

    /// As complex numbers of single precision; double precision is rounded.
    pub fn into_c64(self) -> Vec<[f32; 2]> {
        match self {
            Self::F32(v) => v.into_iter().map(|x| [x, 0.0]).collect(),
            Self::F64(v) => v.into_iter().map(|x| [x as f32, 0.0]).collect(),
            Self::C64(v) => v,
            Self::C128(v) => v.into_iter().map(|z| z.map(|x| x as f32)).collect(),
        }
    }

    /// As complex numbers of double precision.
    pub fn into_c128(self) -> Vec<[f64; 2]> {
        match self {
            Self::F32(v) => v.into_iter().map(|x| [x.into(), 0.0]).collect(),
            Self::F64(v) => v.into_iter().map(|x| [x, 0.0]).collect(),
            Self::C64(v) => v.into_iter().map(|z| z.map(f64::from)).collect(),
            Self::C128(v) => v,
        }
    }

    /// As real numbers of double precision; `None` if an imaginary part is not zero.
    pub fn into_f64(self) -> Option<Vec<f64>> {
        match self {
            Self::F32(v) => Some(v.into_iter().map(f64::from).collect()),
            Self::F64(v) => Some(v),
            complex => {
                complex.into_c128().into_iter().map(|[re, im]| (im == 0.0).then_some(re)).collect()
            }
        }
    }

    /// Reads `count` numbers. Memory is filled as they come, so a file cut short costs little.
    pub(super) fn read(reader: &mut dyn Read, count: usize, stored: Stored) -> Parsed<Self> {
        let mut values = Self::with_room(count, stored)?;
        let mut buffer = vec![0; (1 << 20).min(count.saturating_mul(stored.size()))];
        let mut left = count;
        while left > 0 {
            let n = left.min((1 << 20) / stored.size());
            let bytes = &mut buffer[..n * stored.size()];
            reader.read_exact(bytes)?;
            values.append(bytes, stored);
            left -= n;
        }
        Ok(values)
    }

    /// No numbers yet, but room for `count`.
    pub(super) fn with_room(count: usize, stored: Stored) -> Parsed<Self> {
        fn room<T>(count: usize) -> Parsed<Vec<T>> {
            let mut v = Vec::new();
            match v.try_reserve_exact(count) {
                Ok(()) => Ok(v),
                Err(_) => Err(Flaw::Io(std::io::ErrorKind::OutOfMemory.into())),
            }
        }
        Ok(match (stored.is_double(), stored.complex) {
            (false, false) => Self::F32(room(count)?),
            (true, false) => Self::F64(room(count)?),
            (false, true) => Self::C64(room(count)?),
            (true, true) => Self::C128(room(count)?),
        })
    }

    /// Decodes `bytes` and puts the numbers behind those that are there.
    pub(super) fn append(&mut self, bytes: &[u8], stored: Stored) {
        use DType as D;
        let Encoding { kind, big_endian: big } = stored.encoding;
        match (self, kind) {
            (Self::F32(v), Kind::Plain(D::F32)) => each(v, bytes, big, f32::from_le_bytes),
            (Self::F32(v), Kind::Plain(D::U8)) => each(v, bytes, big, |[b]| b.into()),
            (Self::F32(v), Kind::Plain(D::I8)) => each(v, bytes, big, |[b]| (b as i8).into()),
            (Self::F32(v), Kind::Plain(D::U16)) => {
                each(v, bytes, big, |b| u16::from_le_bytes(b).into());
            }
            (Self::F32(v), Kind::Plain(D::I16)) => {
                each(v, bytes, big, |b| i16::from_le_bytes(b).into());
            }
            (Self::F32(v), Kind::Half) => {
                each(v, bytes, big, |b| half::f16::from_le_bytes(b).to_f32());
            }
            (Self::F32(v), Kind::Bool) => each(v, bytes, big, |[b]| f32::from(u8::from(b != 0))),
            (Self::F64(v), Kind::Plain(D::F64)) => each(v, bytes, big, f64::from_le_bytes),
            (Self::F64(v), Kind::Plain(D::U32)) => {
                each(v, bytes, big, |b| u32::from_le_bytes(b).into());
            }
            (Self::F64(v), Kind::Plain(D::I32)) => {
                each(v, bytes, big, |b| i32::from_le_bytes(b).into());
            }
            (Self::F64(v), Kind::Plain(D::U64)) => {
                each(v, bytes, big, |b| u64::from_le_bytes(b) as f64);
            }
            (Self::F64(v), Kind::Plain(D::I64)) => {
                each(v, bytes, big, |b| i64::from_le_bytes(b) as f64);
            }
            (Self::C64(v), _) => v.extend(bytes.chunks_exact(8).map(|z| {
                let part = |b| number(b, big, f32::from_le_bytes);
                [part(&z[..4]), part(&z[4..])]
            })),
            (Self::C128(v), _) => v.extend(bytes.chunks_exact(16).map(|z| {
                let part = |b| number(b, big, f64::from_le_bytes);
                [part(&z[..8]), part(&z[8..])]
            })),
            _ => debug_assert!(false, "room was made for another type"),
        }
    }

    /// All numbers as little-endian bytes, in blocks handed to `write`.
    pub(super) fn write_le(
        &self,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        const BLOCK: usize = 1 << 16;
        let mut bytes = Vec::with_capacity(16 * BLOCK.min(self.len()));
        let mut send = |fill: &mut dyn FnMut(&mut Vec<u8>)| {
            bytes.clear();
            fill(&mut bytes);
            write(&bytes)
        };
        match self {
            Self::F32(v) => v.chunks(BLOCK).try_for_each(|part| {
                send(&mut |to| to.extend(part.iter().flat_map(|x| x.to_le_bytes())))
            }),
            Self::F64(v) => v.chunks(BLOCK).try_for_each(|part| {
                send(&mut |to| to.extend(part.iter().flat_map(|x| x.to_le_bytes())))
            }),
            Self::C64(v) => v.chunks(BLOCK).try_for_each(|part| {
                send(&mut |to| to.extend(part.iter().flatten().flat_map(|x| x.to_le_bytes())))
            }),
            Self::C128(v) => v.chunks(BLOCK).try_for_each(|part| {
                send(&mut |to| to.extend(part.iter().flatten().flat_map(|x| x.to_le_bytes())))
            }),
        }
    }

    /// The same array in row-major order, if this is it in column-major order.
    pub(super) fn row_major(self, dims: &[usize]) -> Self {
        if self.is_empty() || dims.iter().filter(|n| **n > 1).count() < 2 {
            return self;
        }
        on_values!(self, v => row_major(&v, dims))
    }

    /// NumPy's name of the type.
    pub(super) fn descr(&self) -> &'static str {
        match self {
            Self::F32(_) => "<f4",
            Self::F64(_) => "<f8",
            Self::C64(_) => "<c8",
            Self::C128(_) => "<c16",
        }
    }
}

/// How the numbers of an array lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Each number, or each part of a complex one.
    pub(super) encoding: Encoding,
    /// Whether two make one complex number; then they are `f32` or `f64`.
    pub(super) complex: bool,
}

impl Stored {
    pub(super) fn real(kind: Kind, big_endian: bool) -> Self {
        Self { encoding: Encoding { kind, big_endian }, complex: false }
    }

    /// Complex numbers with parts like this, if there are such.
    pub(super) fn into_complex(self) -> Option<Self> {
        let float = matches!(self.encoding.kind, Kind::Plain(DType::F32 | DType::F64));
        (float && !self.complex).then_some(Self { complex: true, ..self })
    }

    /// Bytes of one number.
    pub(super) fn size(self) -> usize {
        self.encoding.size() * (1 + usize::from(self.complex))
    }

    /// Whether it takes double precision to hold the numbers; of 64-bit integers it holds 53 bits.
    fn is_double(self) -> bool {
        self.encoding.dtype().size() == 8
            || matches!(self.encoding.kind, Kind::Plain(DType::U32 | DType::I32))
    }
}

/// Reads one number, of whose bytes the lowest comes first unless `big`.
#[inline(always)]
fn number<const N: usize, T>(bytes: &[u8], big: bool, from_le: impl Fn([u8; N]) -> T) -> T {
    let mut raw = [0; N];
    raw.copy_from_slice(bytes);
    if big {
        raw.reverse();
    }
    from_le(raw)
}

fn each<const N: usize, T>(
    to: &mut Vec<T>,
    bytes: &[u8],
    big: bool,
    from_le: impl Fn([u8; N]) -> T + Copy,
) {
    to.extend(bytes.chunks_exact(N).map(|b| number(b, big, from_le)));
}

/// Reverses the order of the axes in memory, in square tiles of the first and the last axis, so
/// that reading and writing both stay within the cache.
fn row_major<T: Copy + Default>(from: &[T], dims: &[usize]) -> Vec<T> {
    const TILE: usize = 16;
    let (first, last) = (dims[0], dims[dims.len() - 1]);
    let middle = &dims[1..dims.len() - 1];
    let (from_step, to_step) = (from.len() / last, from.len() / first);
    let mut to = vec![T::default(); from.len()];
    for at in 0..middle.iter().product() {
        // `at` counts the middle axes in row-major order; `mirrored` is their column-major offset
        let (mut rest, mut mirrored, mut size) = (at, 0, from_step / first);
        for n in middle.iter().rev() {
            size /= n;
            mirrored += rest % n * size;
            rest /= n;
        }
        let (source, target) = (mirrored * first, at * last);
        for i0 in (0..first).step_by(TILE) {
            for j0 in (0..last).step_by(TILE) {
                for i in i0..first.min(i0 + TILE) {
                    for j in j0..last.min(j0 + TILE) {
                        to[target + i * to_step + j] = from[source + i + j * from_step];
                    }
                }
            }
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_major_arrays_are_turned() {
        for dims in [vec![2, 3], vec![3, 1, 4], vec![2, 3, 4, 5], vec![17, 3, 20], vec![1, 5, 2, 1]]
        {
            let count: usize = dims.iter().product();
            let from: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let Values::F32(to) = Values::F32(from.clone()).row_major(&dims) else { panic!() };
            for flat in 0..count {
                let (mut rest, mut column, mut stride) = (flat, 0, count);
                for n in dims.iter().rev() {
                    stride /= n;
                    column += rest % n * stride;
                    rest /= n;
                }
                assert_eq!(to[flat], from[column], "{dims:?} at {flat}");
            }
        }
    }

    #[test]
    fn integers_are_widened_in_either_order() {
        let read = |dtype, big, bytes: &[u8]| {
            let stored = Stored::real(Kind::Plain(dtype), big);
            let count = bytes.len() / stored.size();
            Values::read(&mut &*bytes, count, stored).unwrap()
        };
        assert_eq!(read(DType::U8, true, &[0, 255]), Values::F32(vec![0.0, 255.0]));
        assert_eq!(read(DType::I8, false, &[128]), Values::F32(vec![-128.0]));
        assert_eq!(read(DType::U16, true, &[255, 254]), Values::F32(vec![65534.0]));
        assert_eq!(read(DType::I16, false, &[254, 255]), Values::F32(vec![-2.0]));
        assert_eq!(read(DType::U32, true, &[255; 4]), Values::F64(vec![4294967295.0]));
        assert_eq!(read(DType::I32, false, &[254, 255, 255, 255]), Values::F64(vec![-2.0]));
        assert_eq!(read(DType::U64, true, &[0, 0, 0, 0, 0, 0, 1, 0]), Values::F64(vec![256.0]));
        assert_eq!(read(DType::I64, false, &[255; 8]), Values::F64(vec![-1.0]));
        let half = Stored::real(Kind::Half, true);
        assert_eq!(Values::read(&mut &[0xc0, 0][..], 1, half).unwrap(), Values::F32(vec![-2.0]));
        assert!(half.into_complex().is_none());
    }

    #[test]
    fn complex_numbers_become_real_only_without_imaginary_part() {
        assert_eq!(Values::C64(vec![[2.0, 0.0]]).into_f64(), Some(vec![2.0]));
        assert_eq!(Values::C128(vec![[2.0, 1e-9]]).into_f64(), None);
        assert_eq!(Values::F32(vec![2.0]).into_c64(), [[2.0, 0.0]]);
        assert_eq!(Values::F64(vec![2.0]).into_c128(), [[2.0, 0.0]]);
    }
}
