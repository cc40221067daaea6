//! Where the channels of images lie in memory.
//!
//! An image `[N, C, s..]` whose channels lie last has the strides of one `[N, s.., C]`, as tensor cores want it. On a
//! GPU convolutions of numbers of 16 bits take and give such images, and what follows them goes on with these as long
//! as it has kernels for them ([`Order`]); other operations put the channels first again. To everything else such a
//! tensor is one that is not contiguous.

use crate::Result;
use crate::autograd::Recorded;
use crate::cast::is_half;
use crate::op::Backward;
use candle_core::{Layout, Tensor};

/// Where an operation wants the channels of its images: operands and results of three dimensions or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before the pixels.
    First,
    /// Last, if those of an operand lie so.
    AsGiven,
    /// Last, for numbers of 16 bits on a GPU.
    Last,
}

impl Order {
    /// Whether channels are to lie last for these operands.
    pub(crate) fn is_last(self, args: &[&Tensor]) -> bool {
        let able = |t: &Tensor| t.device().is_cuda() && is_half(t.dtype()) && t.rank() >= 3;
        match self {
            Self::First => false,
            Self::AsGiven => args.iter().any(|t| able(t) && lies_last(t)),
            Self::Last => args.iter().any(|t| able(t)),
        }
    }
}

/// The order of dimensions by which `[N, C, s..]` becomes `[N, s.., C]`.
pub(crate) fn to_last(rank: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    order[1..].rotate_left(1);
    order
}

/// That by which it becomes `[N, C, s..]` again.
pub(crate) fn from_last(rank: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    order[1..].rotate_right(1);
    order
}

/// The dimensions of `[N, C, s..]` in the order of the memory.
pub(crate) fn in_memory(dims: &[usize], last: bool) -> Vec<usize> {
    let mut dims = dims.to_vec();
    if last && dims.len() >= 3 {
        dims[1..].rotate_left(1);
    }
    dims
}

/// The part of the memory that a tensor without gaps takes, in one order or the other.
pub(crate) fn offsets(layout: &Layout, last: bool) -> Option<(usize, usize)> {
    let rank = layout.dims().len();
    match last && rank >= 3 {
        true => layout.permute(&to_last(rank)).ok()?.contiguous_offsets(),
        false => layout.contiguous_offsets(),
    }
}

/// Whether channels lie last, which is not where they lie first.
pub(crate) fn lies_last(t: &Tensor) -> bool {
    !t.is_contiguous() && offsets(t.layout(), true).is_some()
}

/// A tensor without gaps in one order or the other; not differentiated.
///
/// # Errors
/// Those of candle, and if there is no room on a GPU.
pub(crate) fn ordered(t: &Tensor, last: bool) -> Result<Tensor> {
    // with channels last kernels read packs, which lie where packs do if the first one does
    const PACK: usize = 8;
    let t = t.detach();
    let rank = t.rank();
    if !last || rank < 3 {
        if rank >= 3 && lies_last(&t) {
            let rows = t.permute(to_last(rank))?.flatten(1, rank - 2)?;
            return Ok(turned(&rows)?.reshape(t.shape())?);
        }
        return Ok(t.contiguous()?);
    }
    let is_placed = |(start, _): (usize, usize)| start.is_multiple_of(PACK);
    if offsets(t.layout(), true).is_some_and(is_placed) {
        return Ok(t);
    }
    let lying = if t.is_contiguous() {
        turned(&t.flatten_from(2)?)?.reshape(in_memory(t.dims(), true))?
    } else {
        t.permute(to_last(rank))?.force_contiguous()?
    };
    Ok(lying.permute(from_last(rank))?)
}

/// Contiguous `[n, rows, columns]` to `[n, columns, rows]`.
fn turned(t: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if t.device().is_cuda() {
        match t.dtype() {
            candle_core::DType::BF16 => return crate::gpu::turned::<half::bf16>(t),
            candle_core::DType::F16 => return crate::gpu::turned::<half::f16>(t),
            _ => {}
        }
    }
    Ok(t.transpose(1, 2)?.contiguous()?)
}

/// An operation whose result is on the tape in the order of its memory, its channels last.
pub(crate) struct LyingLast<R>(pub R);

impl<R: Recorded> Recorded for LyingLast<R> {
    fn gradients(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let seen = |t: &Tensor| t.permute(from_last(t.rank()));
        self.0.gradients(&Backward {
            args: at.args.clone(),
            wanted: at.wanted.clone(),
            result: at.result.as_ref().map(seen).transpose()?,
            // once for all that read it
            grad: ordered(&seen(&at.grad)?, true)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{from_last, in_memory, lies_last, ordered, to_last};
    use candle_core::{Device, Tensor};

    #[test]
    fn orders_are_views_of_each_other() {
        let x = Tensor::arange(0f32, 120.0, &Device::Cpu).unwrap().reshape((2, 3, 4, 5)).unwrap();
        let y = ordered(&x, true).unwrap();
        assert_eq!(y.dims(), x.dims());
        assert!(lies_last(&y) && !lies_last(&x));
        let memory = y.permute(to_last(4)).unwrap();
        assert!(memory.is_contiguous());
        assert_eq!(memory.dims(), in_memory(x.dims(), true));
        assert_eq!(memory.permute(from_last(4)).unwrap().dims(), x.dims());
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&y), values(&x));
        let back = ordered(&y, false).unwrap();
        assert!(back.is_contiguous());
        assert_eq!(values(&back), values(&x));
        // one channel lies where it lies either way
        let one = x.narrow(1, 0, 1).unwrap().contiguous().unwrap();
        assert!(!lies_last(&one) && !lies_last(&ordered(&one, true).unwrap()));
        // a part lies nowhere without gaps
        let part = y.narrow(1, 0, 2).unwrap();
        assert!(!lies_last(&part));
        assert_eq!(values(&ordered(&part, true).unwrap()), values(&part));
    }
}
