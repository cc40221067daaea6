//! Memory that several threads fill without zeroing it first.

#![allow(unsafe_code)] // hands out pointers to memory that is not initialised

use crate::{Error, Result};
use std::mem::MaybeUninit;

/// A buffer under construction. Tasks write disjoint elements through [`Output::at`].
pub(crate) struct Output<T> {
    data: Vec<MaybeUninit<T>>,
    start: *mut T,
}

// SAFETY: `start` is only dereferenced through unsafe writes whose callers keep them disjoint.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T: Copy> Output<T> {
    /// Memory for `len` elements; an error, not an abort, if there is not enough of it.
    pub(crate) fn new(op: &'static str, len: usize) -> Result<Self> {
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
    pub(crate) fn single(&self) -> Option<&Output<f32>>
    where
        T: 'static,
    {
        (self as &dyn std::any::Any).downcast_ref()
    }

    /// A pointer to element `index` with `len` elements after it.
    #[inline]
    pub(crate) fn at(&self, index: usize, len: usize) -> *mut T {
        assert!(index <= self.data.len() && len <= self.data.len() - index);
        // SAFETY: the index lies within the allocation, as just checked.
        unsafe { self.start.add(index) }
    }

    /// The finished buffer.
    ///
    /// # Safety
    /// Every element has been written.
    pub(crate) unsafe fn into_vec(self) -> Vec<T> {
        let mut data = std::mem::ManuallyDrop::new(self.data);
        let (start, len, capacity) = (data.as_mut_ptr().cast::<T>(), data.len(), data.capacity());
        // SAFETY: the parts of a `Vec` of the same layout; the caller vouches for the content.
        unsafe { Vec::from_raw_parts(start, len, capacity) }
    }
}
