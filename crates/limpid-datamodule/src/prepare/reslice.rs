//! Volumes cut across their slices.
//!
//! An anisotropic volume has no fine z to learn from. But its planes across z are as fine along one
//! side as the slices are, so a network that has learnt to fill in rows there fills in slices. Cut
//! this way, the fine lateral axis lies where the slices were: vEMDiffuse-a trains on such volumes.

use crate::{Error, Result};
use limpid_io::{Axes, Data, Region, VolumeInfo, VolumeReader, WriteOptions, create};
use std::path::Path;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 30;

/// The planes that become slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Rows of slices: the volume `[Z, Y, X]` becomes `[Y, Z, X]`.
    Xz,
    /// Columns of slices: the volume `[Z, Y, X]` becomes `[X, Z, Y]`.
    Yz,
}

impl Plane {
    /// Which axis of the volume each axis of the result is.
    fn order(self) -> [usize; 3] {
        match self {
            Self::Xz => [1, 0, 2],
            Self::Yz => [2, 0, 1],
        }
    }
}

/// What the volume says about itself once it is cut this way: shape, spacing and affine follow the
/// samples.
///
/// # Errors
/// The volume has other axes than Z, Y and X.
pub fn resliced_info(info: &VolumeInfo, plane: Plane) -> Result<VolumeInfo> {
    let axes: Axes = "ZYX".parse()?;
    if info.axes != axes {
        return Err(Error::setting(
            format!("cutting across slices needs a volume ZYX, got {} {:?}", info.axes, info.shape),
            "give one stack of grey slices; for a file that does not say so, name its axes",
        ));
    }
    let order = plane.order();
    let mut new = VolumeInfo::new(&order.map(|a| info.shape[a]), axes, info.dtype)?;
    new.unit.clone_from(&info.unit);
    new.spacing = info.spacing.as_ref().map(|spacing| order.map(|a| spacing[a]).to_vec());
    // columns of the affine are x, y, z, the samples z, y, x
    new.affine = info.affine.map(|rows| {
        rows.map(|row| [row[2 - order[2]], row[2 - order[1]], row[2 - order[0]], row[3]])
    });
    Ok(new)
}

/// Writes a volume `[Z, Y, X]` cut the other way to `out`, every slice of it, with its sample type
/// and geometry. Memory is bounded: about 2 GiB at most.
///
/// # Errors
/// The volume has other axes, cannot be read, or `out` cannot be written.
pub fn reslice(
    volume: &dyn VolumeReader,
    plane: Plane,
    out: &Path,
    options: &WriteOptions,
) -> Result<()> {
    reslice_within(volume, plane, out, options, PIECE)
}

/// [`reslice`], reading at most `bytes` at a time, but at least one of the new slices.
pub(super) fn reslice_within(
    volume: &dyn VolumeReader,
    plane: Plane,
    out: &Path,
    options: &WriteOptions,
    bytes: usize,
) -> Result<()> {
    let old = volume.info();
    let new = resliced_info(old, plane)?;
    let order = plane.order();
    let along = order[0];
    let slice = new.shape[1] * new.shape[2] * new.dtype.size();
    let step = (bytes / slice).clamp(1, new.shape[0]);
    let mut writer = create(out, &new, options)?;
    for first in (0..new.shape[0]).step_by(step) {
        let mut region = Region::full(&old.shape);
        region.start[along] = first;
        region.size[along] = step.min(new.shape[0] - first);
        let shape = [region.size[0], region.size[1], region.size[2]];
        let data = volume.read_region(&region)?;
        writer.write_slab(first, &permuted(&data, shape, order))?;
    }
    Ok(writer.finish()?)
}

/// The samples of an array of `shape` with its axes in another order, in their type.
fn permuted(data: &Data, shape: [usize; 3], order: [usize; 3]) -> Data {
    let strides = [shape[1] * shape[2], shape[2], 1];
    let [n0, n1, n2] = order.map(|a| shape[a]);
    let [s0, s1, s2] = order.map(|a| strides[a]);
    fn gather<T: Copy>(values: &[T], size: [usize; 3], [s0, s1, s2]: [usize; 3]) -> Vec<T> {
        let mut out = Vec::with_capacity(values.len());
        for i in 0..size[0] {
            for j in 0..size[1] {
                out.extend((0..size[2]).map(|k| values[i * s0 + j * s1 + k * s2]));
            }
        }
        out
    }
    let (size, strides) = ([n0, n1, n2], [s0, s1, s2]);
    match data {
        Data::U8(v) => Data::U8(gather(v, size, strides)),
        Data::I8(v) => Data::I8(gather(v, size, strides)),
        Data::U16(v) => Data::U16(gather(v, size, strides)),
        Data::I16(v) => Data::I16(gather(v, size, strides)),
        Data::U32(v) => Data::U32(gather(v, size, strides)),
        Data::I32(v) => Data::I32(gather(v, size, strides)),
        Data::U64(v) => Data::U64(gather(v, size, strides)),
        Data::I64(v) => Data::I64(gather(v, size, strides)),
        Data::F32(v) => Data::F32(gather(v, size, strides)),
        Data::F64(v) => Data::F64(gather(v, size, strides)),
    }
}
