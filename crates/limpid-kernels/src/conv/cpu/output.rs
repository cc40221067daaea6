//! Memory that several threads fill without zeroing it first, and the matrix product that writes it.

use super::multiply::multiply;
use super::single;
use crate::element::Element;
use crate::matrix::{Matrix, call_gemm};
use crate::simd::level;
use crate::{Error, Result};
use std::mem::MaybeUninit;

/// A buffer under construction. Tasks write disjoint elements through [`Output::at`].
pub(super) struct Output<T> {
    data: Vec<MaybeUninit<T>>,
    start: *mut T,
}

// SAFETY: `start` is only dereferenced through unsafe writes whose callers keep them disjoint.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T: Copy> Output<T> {
    /// Memory for `len` elements; an error, not an abort, if there is not enough of it.
    pub(super) fn new(op: &'static str, len: usize) -> Result<Self> {
        let mut data: Vec<MaybeUninit<T>> = Vec::new();
        if data.try_reserve_exact(len).is_err() {
            let message = format!("not enough memory for an output of {len} elements");
            return Err(Error::Argument { op, message });
        }
        // SAFETY: `MaybeUninit` needs no initialisation, and the capacity was just reserved.
        unsafe { data.set_len(len) };
        let start = data.as_mut_ptr().cast::<T>();
        Ok(Self { data, start })
    }

    /// The buffer itself, if its elements are f32.
    pub(super) fn single(&self) -> Option<&Output<f32>>
    where
        T: 'static,
    {
        (self as &dyn std::any::Any).downcast_ref()
    }

    /// A pointer to element `index` with `len` elements after it.
    #[inline]
    pub(super) fn at(&self, index: usize, len: usize) -> *mut T {
        assert!(index <= self.data.len() && len <= self.data.len() - index);
        // SAFETY: the index lies within the allocation, as just checked.
        unsafe { self.start.add(index) }
    }

    /// The finished buffer.
    ///
    /// # Safety
    /// Every element has been written.
    pub(super) unsafe fn into_vec(self) -> Vec<T> {
        let mut data = std::mem::ManuallyDrop::new(self.data);
        let (start, len, capacity) = (data.as_mut_ptr().cast::<T>(), data.len(), data.capacity());
        // SAFETY: the parts of a `Vec` of the same layout; the caller vouches for the content.
        unsafe { Vec::from_raw_parts(start, len, capacity) }
    }
}

/// The matrix itself, if its elements are f32.
fn single_matrix<T: 'static>(m: Matrix<T>) -> Option<Matrix<f32>> {
    single(m.data).map(|data| Matrix { data, row: m.row, column: m.column })
}

/// `dst[m × n] = a[m × k] · b[k × n]`, added to what is there if `accumulate`, on this thread.
/// `dst` has the given row and column strides.
///
/// # Safety
/// `dst` may be written at all those positions, no one else accesses them meanwhile, and they are
/// initialised if `accumulate`.
pub(super) unsafe fn product<T: Element>(
    [m, n, k]: [usize; 3],
    dst: *mut T,
    [row, column]: [usize; 2],
    accumulate: bool,
    a: Matrix<T>,
    b: Matrix<T>,
) {
    assert!(m > 0 && n > 0 && k > 0 && a.holds(m, k) && b.holds(k, n));
    if let (Some(a), Some(b)) = (single_matrix(a), single_matrix(b)) {
        // SAFETY: `T` is f32; the sizes were checked, the caller vouches for `dst`.
        unsafe { multiply(level(), [m, n, k], dst.cast(), [row, column], accumulate, a, b) };
        return;
    }
    let (size, strides, one) = ([m, n, k], [row, column], T::one());
    // SAFETY: as above.
    unsafe {
        call_gemm(size, dst, strides, accumulate, one, [a, b], gemm::Parallelism::None);
    }
}
