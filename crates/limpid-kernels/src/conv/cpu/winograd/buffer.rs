//! Buffers that tasks share, kept between calls: fresh pages cost as much as the work on them.

use crate::{Error, Result};
use std::sync::Mutex;

/// Alignment of all buffers in elements: one cache line.
pub(super) const LINE: usize = 16;

/// Memory kept: so many buffers, none larger than this.
const KEPT: usize = 4;
const KEPT_ELEMENTS: usize = 1 << 24;

static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Elements of arbitrary content. Tasks write disjoint parts through [`Buffer::at`].
pub(in crate::conv::cpu) struct Buffer {
    data: Vec<f32>,
    start: *mut f32,
    len: usize,
}

// SAFETY: `start` points into `data`, which moves with it; it is only dereferenced in unsafe code
// whose authors keep the accesses of tasks disjoint.
unsafe impl Sync for Buffer {}
// SAFETY: as above.
unsafe impl Send for Buffer {}

impl Buffer {
    /// An error, not an abort, if there is not enough memory.
    pub(in crate::conv::cpu) fn new(op: &'static str, len: usize) -> Result<Self> {
        let mut data = taken(len + LINE);
        if data.len() < len + LINE {
            if data.try_reserve_exact(len + LINE).is_err() {
                let message = format!("not enough memory for {len} transformed elements");
                return Err(Error::Argument { op, message });
            }
            data.resize(len + LINE, 0.0);
        }
        let start = aligned(&mut data).as_mut_ptr();
        Ok(Self { data, start, len })
    }

    /// A pointer to element `index`, with `len` elements after it.
    #[inline]
    pub(in crate::conv::cpu) fn at(&self, index: usize, len: usize) -> *mut f32 {
        assert!(index <= self.len && len <= self.len - index);
        // SAFETY: within the allocation, as just checked.
        unsafe { self.start.add(index) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(mut pool) = POOL.lock()
            && pool.len() < KEPT
            && self.data.len() <= KEPT_ELEMENTS
        {
            pool.push(std::mem::take(&mut self.data));
        }
    }
}

/// The smallest kept buffer of this length, or an empty one.
fn taken(len: usize) -> Vec<f32> {
    let Ok(mut pool) = POOL.lock() else { return Vec::new() };
    let fitting = pool.iter().enumerate().filter(|(_, data)| data.len() >= len);
    if let Some(i) = fitting.min_by_key(|(_, data)| data.len()).map(|(i, _)| i) {
        return pool.swap_remove(i);
    }
    // make room for the one that will be made
    if pool.len() == KEPT {
        pool.pop();
    }
    Vec::new()
}

/// The part of `data` that starts at a cache line; up to [`LINE`] elements shorter.
pub(super) fn aligned(data: &mut [f32]) -> &mut [f32] {
    let skip = data.as_ptr().align_offset(4 * LINE).min(data.len());
    &mut data[skip..]
}

/// Lends `f` aligned scratch of this thread, cut to the given lengths. Not to be nested.
pub(super) fn with_scratch<const N: usize>(lengths: [usize; N], f: impl FnOnce([*mut f32; N])) {
    use crate::element::Element;
    let lengths = lengths.map(|len| len.next_multiple_of(LINE));
    f32::with_scratch(lengths.iter().sum::<usize>() + LINE, |scratch| {
        let mut rest = aligned(scratch);
        f(lengths.map(|len| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            part.as_mut_ptr()
        }));
    });
}
