//! Arrays on disk: images and volumes with axes, dtype, spacing and affine; atomic files.
//!
//! [`open`] recognises a file by its content and reads it whole or by [`Region`]; [`create`]
//! writes in slabs and [`save`] at once; [`open_stack`] takes slices in files of their own for one
//! volume; what a file says about geometry travels in [`VolumeInfo`]. One module per format; a new one is one file and its line in `format`.
//! [`arrays`] reads and writes real and complex arrays of any rank, such as raw data of MRI.
//!
//! ```no_run
//! # fn main() -> limpid_io::Result<()> {
//! let mut volume = limpid_io::open("brain.nii.gz")?.read()?;
//! let (data, clipped) = limpid_io::Data::from_f32(&volume.data.to_f32(), volume.info.dtype);
//! volume.data = data;
//! limpid_io::save("copy.nii.gz", &volume)?;
//! # assert_eq!(clipped, 0);
//! # Ok(())
//! # }
//! ```

pub mod arrays;
pub mod atomic;
mod data;
mod error;
mod format;
mod layout;
mod list;
pub mod nifti;
mod npy;
mod picture;
mod slabs;
mod stack;
mod tiff;
mod volume;

#[cfg(test)]
mod tests;

pub use data::{DType, Data};
pub use error::{Error, Result};
pub use format::{
    Compression, Format, OpenOptions, VolumeReader, VolumeWriter, WriteOptions, create, open,
    open_with, save,
};
pub use list::{is_collection, list_images, natural_order};
pub use stack::open_stack;
pub use volume::{Axes, Axis, MAX_READ_BYTES, Meta, Region, Volume, VolumeInfo};
