//! Numbers of 16 bits between operations on a GPU: half the memory, and half of what is moved.
//!
//! They come from convolutions, products and attention within [`in_half`], whose operands are rounded. What follows goes
//! by the type that it is given ([`InHalf`]); every operation computes in f32. Gradients have the types of what they
//! belong to, so that those of parameters are f32.

use crate::autograd::{Recorded, State, register_view, state};
use crate::op::Backward;
use crate::{Precision, Result, precision};
use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Storage, Tensor};
use std::cell::Cell;

/// What an operation does with operands of 16 bits, or some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InHalf {
    /// It has no kernels for them: they are widened, and its result is rounded again.
    Widened,
    /// It takes them if all have 16 bits; else all are widened.
    Common,
    /// All others take the type of the first.
    First,
    /// Its images take the type of the first; its parameters are f32, and so are their gradients.
    Kept,
    /// Those of f32 are rounded if others have 16 bits, or within [`in_half`].
    Rounded,
}

thread_local! {
    static STORED: Cell<Option<DType>> = const { Cell::new(None) };
}

/// Runs `f` with the results of convolutions, linear maps, products and attention in the 16 bits that the precision
/// names, if it names such and the device is a GPU; else as it is.
pub fn in_half<R>(device: &Device, f: impl FnOnce() -> R) -> R {
    let dtype = match precision() {
        _ if !device.is_cuda() => None,
        Precision::Bf16 => Some(DType::BF16),
        Precision::F16 => Some(DType::F16),
        Precision::F32 | Precision::Tf32 => None,
    };
    stored_as(dtype, f)
}

/// The choice of the innermost [`in_half`].
pub(crate) fn stored() -> Option<DType> {
    STORED.get()
}

/// Runs `f` with a choice made before.
pub(crate) fn stored_as<R>(dtype: Option<DType>, f: impl FnOnce() -> R) -> R {
    struct Restored(Option<DType>);
    impl Drop for Restored {
        fn drop(&mut self) {
            STORED.set(self.0);
        }
    }
    let _restored = Restored(STORED.replace(dtype));
    f()
}

/// Whether numbers have 16 bits.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// The types that an operation wants.
#[derive(Clone, Copy)]
pub(crate) struct Types {
    /// Of its images.
    pub operands: DType,
    /// Of what comes after these.
    pub parameters: DType,
    /// Of what it returns.
    pub result: DType,
}

/// The types for an operation of these tensors, the first `images` of which are no parameters, unless they are to be
/// taken as they are.
pub(crate) fn types(how: InHalf, images: usize, args: &[&Tensor]) -> Option<Types> {
    let first = args.first().filter(|t| t.device().is_cuda())?.dtype();
    let half = args.iter().map(|t| t.dtype()).find(|&dtype| is_half(dtype));
    let all = |operands| Types { operands, parameters: operands, result: operands };
    let types = match how {
        InHalf::Rounded if first != DType::F64 => all(half.or(stored())?),
        _ if half.is_none() => return None,
        InHalf::Widened => Types { result: half?, ..all(DType::F32) },
        InHalf::Kept => Types { parameters: DType::F32, ..all(first) },
        InHalf::First => all(first),
        InHalf::Common if args.iter().all(|t| t.dtype() == first) => return None,
        InHalf::Common | InHalf::Rounded => all(DType::F32),
    };
    let (own, rest) = args.split_at(images.min(args.len()));
    let same = types.result == types.operands
        && own.iter().all(|t| t.dtype() == types.operands)
        && rest.iter().all(|t| t.dtype() == types.parameters);
    (!same).then_some(types)
}

/// A tensor in numbers of another type.
///
/// # Errors
/// Those of candle.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    if !x.track_op() || state() != State::Recording {
        return Ok(x.to_dtype(dtype)?);
    }
    // not candle's own operation, which would keep x in memory
    let storage = {
        let (storage, layout) = x.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Storage::Cpu(storage.to_dtype(layout, dtype)?),
            Storage::Cuda(storage) => Storage::Cuda(storage.to_dtype(layout, dtype)?),
            Storage::Metal(storage) => Storage::Metal(storage.to_dtype(layout, dtype)?),
        }
    };
    let y = Tensor::from_storage(storage, x.shape(), BackpropOp::none(), true);
    register_view(Cast(x.dtype()), x, &y);
    Ok(y)
}

/// A tensor of 16 bits in f32, for sums; others as they are.
///
/// # Errors
/// Those of candle.
pub fn widened(x: &Tensor) -> Result<Tensor> {
    if is_half(x.dtype()) { cast(x, DType::F32) } else { Ok(x.clone()) }
}

/// From numbers of this type.
struct Cast(DType);

impl Recorded for Cast {
    fn gradients(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(cast(&at.grad, self.0)?)])
    }
}

#[cfg(test)]
mod tests {
    use super::{cast, stored, stored_as};
    use crate::autograd::{backward, record};
    use candle_core::{DType, Device, Var};

    #[test]
    fn gradients_have_the_type_of_what_they_belong_to() {
        let x = Var::new(&[1.5f64, -2.0], &Device::Cpu).unwrap();
        let gradients = record(|| {
            let y = cast(x.as_tensor(), DType::F32).unwrap();
            assert_eq!(y.dtype(), DType::F32);
            backward(&crate::scale(&y, 3.0).unwrap().sum_all().unwrap()).unwrap()
        });
        let gradient = gradients.get(x.as_tensor()).unwrap();
        assert_eq!(gradient.to_vec1::<f64>().unwrap(), [3.0, 3.0]);
    }

    #[test]
    fn a_choice_ends_with_its_function_whatever_happens_there() {
        let panicked = std::panic::catch_unwind(|| {
            stored_as(Some(DType::BF16), || {
                assert_eq!(stored_as(None, stored), None);
                assert_eq!(stored(), Some(DType::BF16));
                panic!("as planned");
            });
        });
        assert!(panicked.is_err());
        assert_eq!(stored(), None);
    }
}
