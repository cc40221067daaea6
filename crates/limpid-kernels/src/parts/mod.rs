//! Images whose channels lie in one tensor or, one after the other, in several: an operation that
//! takes the channels of a skip connection beside its own reads and writes them where they are,
//! instead of joining them first.

#[cfg(test)]
mod tests;

use crate::op::Array;
use crate::output::Output;
use crate::{Error, Result};
use candle_core::Tensor;
use std::ops::Range;

/// The shape of tensors joined along `dim`.
///
/// # Errors
/// [`Error::Argument`] if there is no such dimension or no tensor, [`Error::Shape`] unless all other
/// dimensions are equal.
pub(crate) fn joined(op: &'static str, tensors: &[&Tensor], dim: usize) -> Result<Vec<usize>> {
    let Some((first, others)) = tensors.split_first() else {
        return Err(Error::argument(op, "there is no tensor to join"));
    };
    let mut dims = first.dims().to_vec();
    if dim >= dims.len() {
        let message = format!("`dim` is {dim}, but the tensors have {} dimensions", dims.len());
        return Err(Error::Argument { op, message });
    }
    for t in others {
        let fits = t.rank() == first.rank()
            && (0..t.rank()).all(|d| d == dim || t.dims()[d] == first.dims()[d]);
        if !fits {
            let expected = format!("{:?} but for dimension {dim}", first.dims());
            return Err(Error::shape(op, expected, t.dims()));
        }
        dims[dim] += t.dims()[dim];
    }
    Ok(dims)
}

/// The shape of images joined along their channels.
///
/// # Errors
/// As [`joined`].
pub(crate) fn joined_image(op: &'static str, parts: &[&Tensor]) -> Result<Vec<usize>> {
    match parts {
        [x] => Ok(x.dims().to_vec()),
        _ => joined(op, parts, 1),
    }
}

/// Which channels lie in which part.
#[derive(Clone)]
struct Split {
    /// The first channel of each part, and the number of all.
    bounds: Vec<usize>,
    /// Elements of a channel of one batch item.
    plane: usize,
}

impl Split {
    fn new(channels: impl Iterator<Item = usize>, plane: usize) -> Self {
        let ends = channels.scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        Self { bounds: std::iter::once(0).chain(ends).collect(), plane }
    }

    fn channels(&self) -> usize {
        self.bounds.last().copied().unwrap_or(0)
    }

    /// The part that has a channel.
    fn part(&self, channel: usize) -> usize {
        let inner = &self.bounds[1..self.bounds.len() - 1];
        inner.iter().take_while(|&&end| end <= channel).count()
    }

    /// The part that has the channels, which one part must have, and where in it they begin.
    fn place(&self, n: usize, channels: &Range<usize>) -> (usize, usize) {
        let part = self.part(channels.start);
        let own = self.bounds[part]..self.bounds[part + 1];
        assert!(channels.end <= own.end, "channels of two parts");
        (part, (n * own.len() + channels.start - own.start) * self.plane)
    }

    /// Channels cut to pieces of one part each.
    fn pieces(&self, channels: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let own = self.bounds.windows(2).map(move |b| {
            b[0].clamp(channels.start, channels.end)..b[1].clamp(channels.start, channels.end)
        });
        own.filter(|piece| !piece.is_empty())
    }
}

/// An image `[batch, channels, plane]`.
#[derive(Clone)]
pub(crate) struct Parts<'a, T> {
    data: Vec<&'a [T]>,
    split: Split,
}

impl<'a, T> Parts<'a, T> {
    /// The channels of `[N, C, s..]`, at least one, that differ in C only.
    pub(crate) fn new(arrays: &[Array<'a, T>]) -> Self {
        let plane = arrays.first().map_or(0, |a| a.dims[2..].iter().product());
        let split = Split::new(arrays.iter().map(|a| a.dims[1]), plane);
        Self { data: arrays.iter().map(|a| a.data).collect(), split }
    }

    /// All channels in one slice.
    #[cfg(test)]
    pub(crate) fn one(data: &'a [T], channels: usize, plane: usize) -> Self {
        Self { data: vec![data], split: Split::new(std::iter::once(channels), plane) }
    }

    /// Number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.split.channels()
    }

    /// One channel of a batch item.
    #[inline]
    pub(crate) fn plane(&self, n: usize, channel: usize) -> &'a [T] {
        self.planes(n, channel..channel + 1)
    }

    /// Some channels of a batch item, all from one of the [`Parts::pieces`].
    #[inline]
    pub(crate) fn planes(&self, n: usize, channels: Range<usize>) -> &'a [T] {
        let (part, start) = self.split.place(n, &channels);
        &self.data[part][start..][..channels.len() * self.split.plane]
    }

    /// Channels cut to pieces that lie together.
    pub(crate) fn pieces(&self, channels: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        self.split.pieces(channels)
    }

    /// Elements of one plane, counted through the joined image.
    #[inline]
    pub(crate) fn at(&self, elements: Range<usize>) -> &'a [T] {
        let (index, within) =
            (elements.start / self.split.plane, elements.start % self.split.plane);
        let channels = self.channels();
        &self.plane(index / channels, index % channels)[within..within + elements.len()]
    }

    /// The image itself, if its elements are f32.
    pub(crate) fn single(&self) -> Option<Parts<'a, f32>>
    where
        T: 'static,
    {
        let data = self.data.iter().map(|data| crate::element::single(data));
        Some(Parts { data: data.collect::<Option<_>>()?, split: self.split.clone() })
    }
}

/// An image under construction, whose tasks write disjoint planes.
pub(crate) struct Outputs<T> {
    data: Vec<Output<T>>,
    split: Split,
}

impl<T: Copy + 'static> Outputs<T> {
    /// Memory for an image whose channels are shared by as many buffers.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub(crate) fn new(
        op: &'static str,
        batch: usize,
        channels: &[usize],
        plane: usize,
    ) -> Result<Self> {
        let data = channels.iter().map(|count| Output::new(op, batch * count * plane));
        let split = Split::new(channels.iter().copied(), plane);
        Ok(Self { data: data.collect::<Result<_>>()?, split })
    }

    /// The image itself, if its elements are f32.
    pub(crate) fn single(&self) -> Option<&Outputs<f32>> {
        (self as &dyn std::any::Any).downcast_ref()
    }

    /// A pointer to some channels of a batch item, all from one of the [`Outputs::pieces`].
    #[inline]
    pub(crate) fn planes(&self, n: usize, channels: Range<usize>) -> *mut T {
        let (part, start) = self.split.place(n, &channels);
        self.data[part].at(start, channels.len() * self.split.plane)
    }

    /// Channels cut to pieces that lie together.
    pub(crate) fn pieces(&self, channels: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        self.split.pieces(channels)
    }

    /// The finished buffers.
    ///
    /// # Safety
    /// Every element has been written.
    #[allow(unsafe_code)] // the caller vouches for the buffers
    pub(crate) unsafe fn into_vecs(self) -> Vec<Vec<T>> {
        // SAFETY: the caller's.
        self.data.into_iter().map(|data| unsafe { data.into_vec() }).collect()
    }
}
