//! Element types of torch storages and NumPy arrays, and the decoding of their bytes to tensors.

use crate::error::Fault;
use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};

/// Type of one stored element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
    C64,
    C128,
}

impl Element {
    /// Bytes per element.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 8,
            Self::C128 => 16,
        }
    }

    /// The type of a `torch.<name>` dtype object.
    pub(super) fn of_torch_dtype(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("torch.")? {
            "bool" => Self::Bool,
            "uint8" => Self::U8,
            "uint16" => Self::U16,
            "uint32" => Self::U32,
            "uint64" => Self::U64,
            "int8" => Self::I8,
            "int16" | "short" => Self::I16,
            "int32" | "int" => Self::I32,
            "int64" | "long" => Self::I64,
            "float16" | "half" => Self::F16,
            "bfloat16" => Self::BF16,
            "float32" | "float" => Self::F32,
            "float64" | "double" => Self::F64,
            "complex64" | "cfloat" => Self::C64,
            "complex128" | "cdouble" => Self::C128,
            _ => return None,
        })
    }

    /// The type of a NumPy type code such as `f4`.
    pub(super) fn of_numpy(code: &str) -> Option<Self> {
        Some(match code {
            "b1" => Self::Bool,
            "u1" => Self::U8,
            "u2" => Self::U16,
            "u4" => Self::U32,
            "u8" => Self::U64,
            "i1" => Self::I8,
            "i2" => Self::I16,
            "i4" => Self::I32,
            "i8" => Self::I64,
            "f2" => Self::F16,
            "f4" => Self::F32,
            "f8" => Self::F64,
            "c8" => Self::C64,
            "c16" => Self::C128,
            _ => return None,
        })
    }

    /// Bytes per element and type of a storage class such as `FloatStorage`; none for a class that
    /// is no storage, no type for storages whose elements we do not read.
    pub(super) fn of_storage(class: &str) -> Option<(usize, Option<Self>)> {
        let element = match class.rsplit('.').next()?.strip_suffix("Storage")? {
            "Bool" => Self::Bool,
            "Byte" => Self::U8,
            "Char" => Self::I8,
            "Short" => Self::I16,
            "Int" => Self::I32,
            "Long" => Self::I64,
            "Half" => Self::F16,
            "BFloat16" => Self::BF16,
            "Float" => Self::F32,
            "Double" => Self::F64,
            "ComplexFloat" => Self::C64,
            "ComplexDouble" => Self::C128,
            "QInt32" => return Some((4, None)),
            // the size of an untyped storage is counted in bytes
            "Untyped" | "_Untyped" | "QInt8" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => {
                return Some((1, None));
            }
            _ => return None,
        };
        Some((element.width(), Some(element)))
    }

    /// A CPU tensor from bytes that hold exactly the elements of `size`, row-major.
    ///
    /// Signed and wide integers become i64, booleans u8, complex numbers a trailing axis of two.
    pub(super) fn tensor(
        self,
        bytes: &[u8],
        size: &[usize],
        big_endian: bool,
    ) -> Result<Tensor, Fault> {
        let big = big_endian;
        match self {
            Self::Bool => build(decode(bytes, big, |[b]| u8::from(b != 0)), size),
            Self::U8 => build(bytes.to_vec(), size),
            Self::U16 => build(decode(bytes, big, |b| i64::from(u16::from_le_bytes(b))), size),
            Self::U32 => build(decode(bytes, big, |b| i64::from(u32::from_le_bytes(b))), size),
            Self::U64 => {
                let values = decode(bytes, big, i64::from_le_bytes);
                if values.iter().any(|&v| v < 0) {
                    return Err(Fault::Format {
                        problem: "an unsigned 64-bit tensor holds numbers above 2^63".to_owned(),
                        hint: "convert it to int64 before saving",
                    });
                }
                build(values, size)
            }
            Self::I8 => build(decode(bytes, big, |b| i64::from(i8::from_le_bytes(b))), size),
            Self::I16 => build(decode(bytes, big, |b| i64::from(i16::from_le_bytes(b))), size),
            Self::I32 => build(decode(bytes, big, |b| i64::from(i32::from_le_bytes(b))), size),
            Self::I64 => build(decode(bytes, big, i64::from_le_bytes), size),
            Self::F16 => build(decode(bytes, big, f16::from_le_bytes), size),
            Self::BF16 => build(decode(bytes, big, bf16::from_le_bytes), size),
            Self::F32 => build(decode(bytes, big, f32::from_le_bytes), size),
            Self::F64 => build(decode(bytes, big, f64::from_le_bytes), size),
            Self::C64 => build(decode(bytes, big, f32::from_le_bytes), &[size, &[2]].concat()),
            Self::C128 => build(decode(bytes, big, f64::from_le_bytes), &[size, &[2]].concat()),
        }
    }
}

fn decode<const N: usize, T>(bytes: &[u8], big: bool, read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let ordered = |&(mut b): &[u8; N]| {
        if big {
            b.reverse();
        }
        read(b)
    };
    bytes.as_chunks().0.iter().map(ordered).collect()
}

fn build<T: WithDType>(values: Vec<T>, size: &[usize]) -> Result<Tensor, Fault> {
    Ok(Tensor::from_vec(values, size, &Device::Cpu)?)
}
