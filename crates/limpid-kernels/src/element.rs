//! The two element types of the CPU kernels, f32 and f64, behind one trait.

use candle_core::{CpuStorage, Layout, WithDType};
use std::any::TypeId;
use std::cell::RefCell;

/// A float of the CPU kernels. [`WithDType`] brings the arithmetic and the conversions.
pub(crate) trait Element: WithDType {
    /// Absolute value.
    fn abs(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Neither infinite nor NaN.
    fn finite(self) -> bool;
    /// The elements of `storage`, if it holds this type.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
    /// Lends `f` a buffer of `len` elements with arbitrary content, kept per thread so that a task
    /// costs no page faults. Not to be nested: `f` must not start work on other threads.
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R;
}

macro_rules! element {
    ($t:ty, $variant:ident, $scratch:ident) => {
        thread_local!(static $scratch: RefCell<Vec<$t>> = const { RefCell::new(Vec::new()) });

        impl Element for $t {
            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }

            #[inline(always)]
            fn finite(self) -> bool {
                self.is_finite()
            }

            fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(data) => Some(data),
                    _ => None,
                }
            }

            fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R {
                $scratch.with_borrow_mut(|buffer| {
                    if buffer.len() < len {
                        buffer.resize(len, 0.0);
                    }
                    f(&mut buffer[..len])
                })
            }
        }
    };
}

element!(f32, F32, SCRATCH_F32);
element!(f64, F64, SCRATCH_F64);

/// The elements of a contiguous tensor as a slice.
pub(crate) fn contiguous<'a, T: Element>(
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("{op}: expected a contiguous tensor, got strides {:?}", layout.stride())
    };
    Ok(&T::cpu_storage_as_slice(storage)?[start..end])
}

/// The slice itself, if its elements are f32.
#[allow(unsafe_code)] // changes the type of a slice
pub(crate) fn single_mut<T: 'static>(x: &mut [T]) -> Option<&mut [f32]> {
    // SAFETY: `T` is f32.
    (TypeId::of::<T>() == TypeId::of::<f32>())
        .then(|| unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) })
}

/// The slice itself, if its elements are f32.
#[allow(unsafe_code)] // changes the type of a slice
pub(crate) fn single<T: 'static>(x: &[T]) -> Option<&[f32]> {
    // SAFETY: `T` is f32.
    (TypeId::of::<T>() == TypeId::of::<f32>())
        .then(|| unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) })
}
