//! Typed sample buffers and their conversions: to and from `f32`, and from the bytes of a file.

use crate::error::{Error, Result};
use rayon::prelude::*;

/// The type of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum DType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl DType {
    /// Every sample type.
    pub const ALL: [Self; 10] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F32,
        Self::F64,
    ];

    /// Bytes per sample.
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Whether samples are floating point.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Whether samples can be negative.
    pub fn is_signed(self) -> bool {
        !matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// Samples in row-major order, in the type the file has.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the names say it
pub enum Data {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Runs the same expression on the vector inside a [`Data`].
macro_rules! on_samples {
    ($data:expr, $v:ident => $run:expr) => {
        match $data {
            Data::U8($v) => $run,
            Data::I8($v) => $run,
            Data::U16($v) => $run,
            Data::I16($v) => $run,
            Data::U32($v) => $run,
            Data::I32($v) => $run,
            Data::U64($v) => $run,
            Data::I64($v) => $run,
            Data::F32($v) => $run,
            Data::F64($v) => $run,
        }
    };
}

/// How samples lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) kind: Kind,
    pub(crate) big_endian: bool,
}

/// What one stored sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain(DType),
    /// IEEE half precision, read as `f32`.
    Half,
    /// One byte, zero or not, read as `u8` 0 or 1.
    Bool,
}

impl Encoding {
    /// Bytes per stored sample.
    pub(crate) fn size(self) -> usize {
        match self.kind {
            Kind::Plain(dtype) => dtype.size(),
            Kind::Half => 2,
            Kind::Bool => 1,
        }
    }

    /// The type samples have once read.
    pub(crate) fn dtype(self) -> DType {
        match self.kind {
            Kind::Plain(dtype) => dtype,
            Kind::Half => DType::F32,
            Kind::Bool => DType::U8,
        }
    }
}

/// What the conversions need of a sample type.
trait Sample: Copy + Send + Sync + PartialOrd {
    fn to_f64(self) -> f64;
    fn to_f32(self) -> f32;
    fn from_f64(value: f64) -> Self; // saturating
    fn read(bytes: &[u8], big_endian: bool) -> Self;
    fn write_le(self, out: &mut [u8]);
    const MIN: Self;
    const MAX: Self;
}

macro_rules! sample {
    ($($t:ty),*) => {$(
        impl Sample for $t {
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn to_f32(self) -> f32 {
                self as f32
            }
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn read(bytes: &[u8], big_endian: bool) -> Self {
                let mut raw = [0; size_of::<Self>()];
                raw.copy_from_slice(bytes);
                if big_endian { Self::from_be_bytes(raw) } else { Self::from_le_bytes(raw) }
            }
            #[inline(always)]
            fn write_le(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
            const MIN: Self = <$t>::MIN;
            const MAX: Self = <$t>::MAX;
        }
    )*};
}
sample!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// Samples that one thread converts at a time.
const GRAIN: usize = 1 << 16;

impl Data {
    /// `len` zeros.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn zeros(dtype: DType, len: usize) -> Result<Self> {
        fn vec<T: Clone + Default>(len: usize) -> Option<Vec<T>> {
            let mut v = Vec::new();
            v.try_reserve_exact(len).ok()?;
            v.resize(len, T::default());
            Some(v)
        }
        let data = match dtype {
            DType::U8 => vec(len).map(Self::U8),
            DType::I8 => vec(len).map(Self::I8),
            DType::U16 => vec(len).map(Self::U16),
            DType::I16 => vec(len).map(Self::I16),
            DType::U32 => vec(len).map(Self::U32),
            DType::I32 => vec(len).map(Self::I32),
            DType::U64 => vec(len).map(Self::U64),
            DType::I64 => vec(len).map(Self::I64),
            DType::F32 => vec(len).map(Self::F32),
            DType::F64 => vec(len).map(Self::F64),
        };
        data.ok_or_else(|| {
            let expected = format!("room for {len} samples of {dtype}; read the image in parts");
            Error::shape("memory", expected, "less free memory")
        })
    }

    /// The type of the samples.
    pub fn dtype(&self) -> DType {
        match self {
            Self::U8(_) => DType::U8,
            Self::I8(_) => DType::I8,
            Self::U16(_) => DType::U16,
            Self::I16(_) => DType::I16,
            Self::U32(_) => DType::U32,
            Self::I32(_) => DType::I32,
            Self::U64(_) => DType::U64,
            Self::I64(_) => DType::I64,
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        on_samples!(self, v => v.len())
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All samples as `f32`; integers above 2²⁴ and `f64` are rounded.
    pub fn to_f32(&self) -> Vec<f32> {
        fn convert<T: Sample>(v: &[T]) -> Vec<f32> {
            v.par_iter().with_min_len(GRAIN).map(|x| x.to_f32()).collect()
        }
        on_samples!(self, v => convert(v))
    }

    /// As [`to_f32`](Self::to_f32), without a copy where the samples are `f32` already.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            other => other.to_f32(),
        }
    }

    /// `values` as `dtype`, and how many of them did not fit. Integers are rounded half to even
    /// and clipped to the range of the type; NaN becomes 0 and counts as clipped. Floating point
    /// types take every value, NaN too.
    pub fn from_f32(values: &[f32], dtype: DType) -> (Self, u64) {
        fn convert<T: Sample>(values: &[f32]) -> (Vec<T>, u64) {
            let (min, max) = (T::MIN.to_f64(), T::MAX.to_f64());
            let round = |x: &f32| f64::from(*x).round_ties_even();
            let misfit = |x: &&f32| !(min..=max).contains(&round(x));
            let values = values.par_iter().with_min_len(GRAIN);
            let clipped = values.clone().filter(misfit).count();
            (values.map(|x| T::from_f64(round(x))).collect(), clipped as u64)
        }
        fn with<T: Sample>(values: &[f32], wrap: fn(Vec<T>) -> Data) -> (Data, u64) {
            let (v, clipped) = convert(values);
            (wrap(v), clipped)
        }
        match dtype {
            DType::U8 => with(values, Self::U8),
            DType::I8 => with(values, Self::I8),
            DType::U16 => with(values, Self::U16),
            DType::I16 => with(values, Self::I16),
            DType::U32 => with(values, Self::U32),
            DType::I32 => with(values, Self::I32),
            DType::U64 => with(values, Self::U64),
            DType::I64 => with(values, Self::I64),
            DType::F32 => (Self::F32(values.to_vec()), 0),
            DType::F64 => (Self::F64(values.iter().map(|x| f64::from(*x)).collect()), 0),
        }
    }

    /// A copy of `count` samples from `start` on.
    ///
    /// # Errors
    /// The range reaches beyond the end.
    pub fn slice(&self, start: usize, count: usize) -> Result<Self> {
        let end = start.checked_add(count).filter(|end| *end <= self.len()).ok_or_else(|| {
            let got = format!("{count} from sample {start}");
            Error::shape("slice", format!("a range within {} samples", self.len()), got)
        })?;
        Ok(match self {
            Self::U8(v) => Self::U8(v[start..end].to_vec()),
            Self::I8(v) => Self::I8(v[start..end].to_vec()),
            Self::U16(v) => Self::U16(v[start..end].to_vec()),
            Self::I16(v) => Self::I16(v[start..end].to_vec()),
            Self::U32(v) => Self::U32(v[start..end].to_vec()),
            Self::I32(v) => Self::I32(v[start..end].to_vec()),
            Self::U64(v) => Self::U64(v[start..end].to_vec()),
            Self::I64(v) => Self::I64(v[start..end].to_vec()),
            Self::F32(v) => Self::F32(v[start..end].to_vec()),
            Self::F64(v) => Self::F64(v[start..end].to_vec()),
        })
    }

    /// How many samples are NaN or infinite, and the index of the first.
    pub(crate) fn nonfinite(&self) -> Option<(usize, usize)> {
        fn scan<T: Sample>(v: &[T]) -> Option<(usize, usize)> {
            let bad = |x: &T| !x.to_f64().is_finite();
            let first = v.par_iter().with_min_len(GRAIN).position_first(bad)?;
            Some((v[first..].iter().filter(|x| bad(x)).count(), first))
        }
        if !self.dtype().is_float() {
            return None;
        }
        on_samples!(self, v => scan(v))
    }

    /// `slope·x + inter`, in `f64` where the samples need it and in `f32` where that is exact.
    pub(crate) fn scaled(&self, slope: f64, inter: f64) -> Self {
        fn convert<T: Sample, U: Sample>(v: &[T], slope: f64, inter: f64) -> Vec<U> {
            let scale = |x: &T| U::from_f64(x.to_f64() * slope + inter);
            v.par_iter().with_min_len(GRAIN).map(scale).collect()
        }
        match scaled_dtype(self.dtype()) {
            DType::F64 => Self::F64(on_samples!(self, v => convert(v, slope, inter))),
            _ => Self::F32(on_samples!(self, v => convert(v, slope, inter))),
        }
    }

    /// The samples as little-endian bytes.
    pub(crate) fn to_le_bytes(&self) -> Vec<u8> {
        fn convert<T: Sample>(v: &[T]) -> Vec<u8> {
            let mut out = vec![0; size_of_val(v)];
            for (raw, x) in out.chunks_exact_mut(size_of::<T>()).zip(v) {
                x.write_le(raw);
            }
            out
        }
        on_samples!(self, v => convert(v))
    }

    /// Decodes `count` stored samples, `stride` bytes apart in `bytes`, to the places `start`,
    /// `start + step`, … Everything must be in range; `self` has the type `encoding.dtype()`.
    pub(crate) fn put(
        &mut self,
        (start, step, count): (usize, usize, usize),
        bytes: &[u8],
        stride: usize,
        encoding: Encoding,
    ) {
        fn plain<T: Sample>(
            v: &mut [T],
            (start, step, count): (usize, usize, usize),
            bytes: &[u8],
            stride: usize,
            big: bool,
        ) {
            let size = size_of::<T>();
            if step == 1 && stride == size && !big {
                // the common case, which the compiler turns into a copy
                let source = bytes[..count * size].chunks_exact(size);
                for (x, raw) in v[start..start + count].iter_mut().zip(source) {
                    *x = T::read(raw, false);
                }
                return;
            }
            for i in 0..count {
                v[start + i * step] = T::read(&bytes[i * stride..i * stride + size], big);
            }
        }
        let big = encoding.big_endian;
        match (encoding.kind, self) {
            (Kind::Half, Self::F32(v)) => {
                for i in 0..count {
                    let bits: u16 = Sample::read(&bytes[i * stride..i * stride + 2], big);
                    v[start + i * step] = half::f16::from_bits(bits).to_f32();
                }
            }
            (Kind::Bool, Self::U8(v)) => {
                for i in 0..count {
                    v[start + i * step] = u8::from(bytes[i * stride] != 0);
                }
            }
            (_, data) => {
                on_samples!(data, v => plain(v, (start, step, count), bytes, stride, big));
            }
        }
    }

    /// Copies all of `other`, which has the same type, to the place `start` on.
    pub(crate) fn copy_from(&mut self, start: usize, other: &Self) {
        fn put<T: Copy>(to: &mut [T], start: usize, from: &[T]) {
            to[start..start + from.len()].copy_from_slice(from);
        }
        match (self, other) {
            (Self::U8(a), Self::U8(b)) => put(a, start, b),
            (Self::I8(a), Self::I8(b)) => put(a, start, b),
            (Self::U16(a), Self::U16(b)) => put(a, start, b),
            (Self::I16(a), Self::I16(b)) => put(a, start, b),
            (Self::U32(a), Self::U32(b)) => put(a, start, b),
            (Self::I32(a), Self::I32(b)) => put(a, start, b),
            (Self::U64(a), Self::U64(b)) => put(a, start, b),
            (Self::I64(a), Self::I64(b)) => put(a, start, b),
            (Self::F32(a), Self::F32(b)) => put(a, start, b),
            (Self::F64(a), Self::F64(b)) => put(a, start, b),
            _ => debug_assert!(false, "types were checked by the caller"),
        }
    }
}

/// The type [`Data::scaled`] gives: what holds a scaled sample without loss worth speaking of.
pub(crate) fn scaled_dtype(stored: DType) -> DType {
    match stored {
        DType::U32 | DType::I32 | DType::U64 | DType::I64 | DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_f32_rounds_half_to_even_clips_and_counts() {
        let values = [0.5, 1.5, 2.5, -0.5, -0.51, 254.5, 255.4, 255.5, f32::NAN, f32::INFINITY];
        let (data, clipped) = Data::from_f32(&values, DType::U8);
        assert_eq!(data, Data::U8(vec![0, 2, 2, 0, 0, 254, 255, 255, 0, 255]));
        assert_eq!(clipped, 4); // -0.51 rounds to -1; 255.5 to 256; NaN; inf
        let (data, clipped) = Data::from_f32(&[-40000.0, -32768.0, 2.5], DType::I16);
        assert_eq!((data, clipped), (Data::I16(vec![-32768, -32768, 2]), 1));
        let (data, clipped) = Data::from_f32(&[f32::NAN, 1.0], DType::F64);
        assert!(matches!(data, Data::F64(v) if v[0].is_nan()) && clipped == 0);
    }

    #[test]
    fn every_type_survives_f32_where_it_can() {
        for dtype in DType::ALL {
            let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
            let (data, clipped) = Data::from_f32(&values, dtype);
            assert_eq!((data.dtype(), clipped), (dtype, 0));
            assert_eq!(data.to_f32(), values);
            assert_eq!(data.into_f32(), values);
        }
    }

    #[test]
    fn bytes_round_trip_in_both_orders_and_with_strides() {
        for dtype in DType::ALL {
            let data = Data::from_f32(&[1.0, 2.0, 100.0, 7.0], dtype).0;
            let (little, size) = (data.to_le_bytes(), dtype.size());
            let big: Vec<u8> = little.chunks(size).flat_map(|c| c.iter().rev().copied()).collect();
            for (bytes, big_endian) in [(little, false), (big, true)] {
                let encoding = Encoding { kind: Kind::Plain(dtype), big_endian };
                let mut back = Data::zeros(dtype, 4).unwrap();
                back.put((0, 1, 4), &bytes, size, encoding);
                assert_eq!(back, data);
                let mut spread = Data::zeros(dtype, 5).unwrap();
                spread.put((1, 3, 2), &bytes, 2 * size, encoding);
                assert_eq!(spread.to_f32(), [0.0, 1.0, 0.0, 0.0, 100.0]);
            }
        }
    }

    #[test]
    fn nonfinite_and_slices() {
        let data = Data::F32(vec![0.0, f32::NAN, 1.0, f32::NEG_INFINITY]);
        assert_eq!(data.nonfinite(), Some((2, 1)));
        assert_eq!(Data::U8(vec![1]).nonfinite(), None);
        assert_eq!(Data::U8(vec![1, 2, 3]).slice(1, 2).unwrap(), Data::U8(vec![2, 3]));
        assert!(Data::U8(vec![1, 2, 3]).slice(2, usize::MAX).is_err());
        assert!(Data::zeros(DType::F64, usize::MAX / 16).is_err());
    }
}
