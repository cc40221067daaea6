//! Memory that several threads fill without zeroing it first, and the matrix product that writes it.

use crate::element::Element;
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

/// A matrix in memory: element `(i, j)` lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub column: usize,
}

impl<T> Matrix<'_, T> {
    /// Whether a matrix of this many rows and columns lies within `data`.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// `dst[m × n] = a[m × k] · b[k × n]`, added to what is there if `accumulate`, on this thread.
/// `dst` has the given row and column strides, one of which is 1.
///
/// The product is cut to strips of two cache lines along the contiguous dimension of `dst`: the
/// gemm crate then works from the first-level cache, up to twice as fast as on the whole (Zen 5).
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
    let strip = |other: usize| if other < 16 { usize::MAX } else { 128 / size_of::<T>() };
    // 128 rows of `a` stay in the second-level cache while the strips of `b` pass
    let (rows, columns) = if column == 1 { (128, strip(m)) } else { (strip(n), usize::MAX) };
    for i in (0..m).step_by(rows) {
        for j in (0..n).step_by(columns) {
            // SAFETY: the block lies within the matrices: `a` and `b` were checked, the caller
            // vouches for `dst`.
            unsafe {
                gemm::gemm(
                    rows.min(m - i),
                    columns.min(n - j),
                    k,
                    dst.add(i * row + j * column),
                    column as isize,
                    row as isize,
                    accumulate,
                    a.data.as_ptr().add(i * a.row),
                    a.column as isize,
                    a.row as isize,
                    b.data.as_ptr().add(j * b.column),
                    b.column as isize,
                    b.row as isize,
                    T::one(),
                    T::one(),
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
    }
}
