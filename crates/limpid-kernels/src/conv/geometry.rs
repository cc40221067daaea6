//! The sizes of a convolution, checked, with missing leading dimensions filled in.

use super::{ConvSpec, ConvTransposeSpec};
use crate::check::{one_per_dim, shape_of};
use crate::{Error, Result};
use candle_core::Tensor;

/// No size or step may exceed this, so that positions can be computed without overflow.
const LIMIT: usize = 1 << 31;

/// A convolution from an image `[batch, channels, ..]` to a result `[batch, features, ..]`.
///
/// A transposed convolution has the same geometry and goes from result to image. One and two
/// spatial dimensions are three with leading ones.
#[derive(Debug)]
pub(super) struct Geometry {
    pub rank: usize,
    pub batch: usize,
    pub channels: usize,
    pub features: usize,
    pub groups: usize,
    pub image: [usize; 3],
    pub result: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub padding: [usize; 3],
    pub dilation: [usize; 3],
}

impl Geometry {
    pub(super) fn of_conv(
        x: &[usize],
        w: &Tensor,
        b: Option<&Tensor>,
        spec: &ConvSpec,
    ) -> Result<Self> {
        let op = "conv";
        let rank = check_operands(op, x, w)?;
        let ConvSpec { stride, padding, dilation, groups } = spec;
        check_steps(op, rank, stride, padding, dilation)?;
        let (channels, features) = (x[1], w.dims()[0]);
        check_groups(op, *groups, features, "output channels (the first dimension of w)")?;
        check_channels(op, channels, w.dims()[1].saturating_mul(*groups), w, *groups)?;
        shape_of(op, "b", b, &[features])?;

        let (image, kernel) = (&x[2..], &w.dims()[2..]);
        let mut result = vec![0; rank];
        for d in 0..rank {
            let span = dilation[d] * (kernel[d] - 1) + 1;
            let padded = image[d] + 2 * padding[d];
            if padded < span {
                let expected = format!(
                    "at least {span} pixels with padding in spatial dimension {d} (kernel {}, \
                     dilation {}); enlarge the image or the padding",
                    kernel[d], dilation[d]
                );
                return Err(Error::shape(op, expected, x));
            }
            result[d] = (padded - span) / stride[d] + 1;
        }
        Self {
            rank,
            batch: x[0],
            channels,
            features,
            groups: *groups,
            image: three(image, 1),
            result: three(&result, 1),
            kernel: three(kernel, 1),
            stride: three(stride, 1),
            padding: three(padding, 0),
            dilation: three(dilation, 1),
        }
        .checked_volume(op)
    }

    pub(super) fn of_conv_transpose(
        x: &[usize],
        w: &Tensor,
        b: Option<&Tensor>,
        spec: &ConvTransposeSpec,
    ) -> Result<Self> {
        let op = "conv_transpose";
        let rank = check_operands(op, x, w)?;
        let ConvTransposeSpec { stride, padding, output_padding, dilation, groups } = spec;
        check_steps(op, rank, stride, padding, dilation)?;
        one_per_dim(op, "output_padding", output_padding.len(), rank)?;
        let features = x[1];
        check_groups(op, *groups, features, "input channels of x")?;
        check_channels(op, features, w.dims()[0], w, 1)?;
        let channels = w.dims()[1].saturating_mul(*groups);
        shape_of(op, "b", b, &[channels])?;

        let (result, kernel) = (&x[2..], &w.dims()[2..]);
        let mut image = vec![0; rank];
        for d in 0..rank {
            if output_padding[d] >= stride[d].max(dilation[d]) {
                let message = format!(
                    "`output_padding` {} in spatial dimension {d} must be less than the stride {} \
                     or the dilation {}",
                    output_padding[d], stride[d], dilation[d]
                );
                return Err(Error::argument(op, message));
            }
            let full =
                (result[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + output_padding[d] + 1;
            if full <= 2 * padding[d] {
                let expected = format!(
                    "an output of more than {} pixels to cut the padding from in spatial \
                     dimension {d}; it has {full}: lessen the padding",
                    2 * padding[d]
                );
                return Err(Error::shape(op, expected, x));
            }
            image[d] = full - 2 * padding[d];
        }
        Self {
            rank,
            batch: x[0],
            channels,
            features,
            groups: *groups,
            image: three(&image, 1),
            result: three(result, 1),
            kernel: three(kernel, 1),
            stride: three(stride, 1),
            padding: three(padding, 0),
            dilation: three(dilation, 1),
        }
        .checked_volume(op)
    }

    /// Channels of the image in one group.
    pub(super) fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Channels of the result in one group.
    pub(super) fn group_features(&self) -> usize {
        self.features / self.groups
    }

    /// Taps of the kernel.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Pixels of the image in one channel.
    pub(super) fn image_pixels(&self) -> usize {
        self.image.iter().product()
    }

    /// Pixels of the result in one channel.
    pub(super) fn result_pixels(&self) -> usize {
        self.result.iter().product()
    }

    /// `[batch, channels, s..]`
    pub(super) fn image_shape(&self) -> Vec<usize> {
        [&[self.batch, self.channels], &self.image[3 - self.rank..]].concat()
    }

    /// `[batch, features, s..]`
    pub(super) fn result_shape(&self) -> Vec<usize> {
        [&[self.batch, self.features], &self.result[3 - self.rank..]].concat()
    }

    /// `[features, channels / groups, k..]`
    pub(super) fn weight_shape(&self) -> Vec<usize> {
        [&[self.features, self.group_channels()], &self.kernel[3 - self.rank..]].concat()
    }

    /// Refuses tensors whose number of elements overflows.
    fn checked_volume(self, op: &'static str) -> Result<Self> {
        for shape in [self.image_shape(), self.result_shape()] {
            let bytes = shape.iter().try_fold(8usize, |product, &n| product.checked_mul(n));
            if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
                return Err(Error::shape(op, "tensors that fit the address space", shape));
            }
        }
        Ok(self)
    }
}

/// Checks ranks and that nothing but the batch is empty; returns the spatial rank.
fn check_operands(op: &'static str, x: &[usize], w: &Tensor) -> Result<usize> {
    if !(3..=5).contains(&x.len()) {
        let expected = "x [N, C, s..] with one to three spatial dimensions";
        return Err(Error::shape(op, expected, x));
    }
    if w.rank() != x.len() {
        let expected = format!("w of rank {} for x {x:?}", x.len());
        return Err(Error::shape(op, expected, w.dims()));
    }
    for (name, sizes) in [("x", &x[1..]), ("w", w.dims())] {
        if sizes.iter().any(|&n| n == 0 || n >= LIMIT) {
            let expected = format!("no empty dimension in {name} (only the batch may be empty)");
            return Err(Error::shape(op, expected, if name == "x" { x } else { w.dims() }));
        }
    }
    Ok(x.len() - 2)
}

fn check_steps(
    op: &'static str,
    rank: usize,
    stride: &[usize],
    padding: &[usize],
    dilation: &[usize],
) -> Result<()> {
    for (name, values, least) in
        [("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)]
    {
        one_per_dim(op, name, values.len(), rank)?;
        if values.iter().any(|&v| v < least || v >= LIMIT) {
            let message = format!("`{name}` must be from {least} to 2^31, got {values:?}");
            return Err(Error::argument(op, message));
        }
    }
    Ok(())
}

fn check_groups(op: &'static str, groups: usize, channels: usize, of: &str) -> Result<()> {
    if groups > 0 && channels.is_multiple_of(groups) {
        return Ok(());
    }
    Err(Error::argument(op, format!("`groups` must divide the {channels} {of}, got {groups}")))
}

fn check_channels(
    op: &'static str,
    channels: usize,
    expected: usize,
    w: &Tensor,
    groups: usize,
) -> Result<()> {
    if channels == expected {
        return Ok(());
    }
    let expected = format!("x with {expected} channels for w {:?}, groups {groups}", w.dims());
    Err(Error::shape(op, expected, format_args!("{channels} channels")))
}

fn three(values: &[usize], fill: usize) -> [usize; 3] {
    let mut all = [fill; 3];
    all[3 - values.len()..].copy_from_slice(values);
    all
}
