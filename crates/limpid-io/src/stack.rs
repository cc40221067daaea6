//! A volume whose slices are files of their own: `0.tif`, `1.tif`, … as microscopes and alignment
//! programs leave them.

use crate::data::{DType, Data};
use crate::error::{Error, Result};
use crate::format::{VolumeReader, open};
use crate::volume::{Axis, Region, VolumeInfo};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Opens grey 2-D images of one size and type as one volume `ZYX`, in the order given; at least
/// one. Spacing in the plane is that of the first, along Z it is unknown. A region opens only the
/// files of its slices, and none stays open.
///
/// # Errors
/// There are no files, one cannot be read, is not a single grey slice, or differs from the first.
pub fn open_stack(paths: &[PathBuf]) -> Result<Box<dyn VolumeReader>> {
    let Some(first_path) = paths.first() else {
        return Err(Error::shape("stack", "at least one slice", "none"));
    };
    let first = slice_info(first_path)?;
    let check = |path: &PathBuf| -> Result<()> {
        let info = slice_info(path)?;
        if (&info.shape, info.dtype) == (&first.shape, first.dtype) {
            return Ok(());
        }
        Err(Error::argument(
            path,
            format!(
                "the slices of a stack must be alike: this one is {}, the first, `{}`, {}",
                kind(&info.shape, info.dtype),
                first_path.display(),
                kind(&first.shape, first.dtype)
            ),
        ))
    };
    paths[1..].par_iter().try_for_each(check)?;
    let shape = [&[paths.len()], first.shape.as_slice()].concat();
    let mut info = VolumeInfo::new(&shape, "ZYX".parse()?, first.dtype)?;
    info.spacing = first.spacing.map(|plane| [&[0.0], plane.as_slice()].concat());
    (info.unit, info.meta) = (first.unit, first.meta);
    Ok(Box::new(Stack { info, paths: paths.to_vec() }))
}

/// What a slice says about itself, if it is a single grey one.
fn slice_info(path: &Path) -> Result<VolumeInfo> {
    let info = open(path)?.info().clone();
    if info.axes.as_slice() == [Axis::Y, Axis::X] {
        return Ok(info);
    }
    let (shape, axes) = (&info.shape, &info.axes);
    let message = format!(
        "a slice of a stack must be a grey image (YX), this file has {shape:?} ({axes}); give volumes one by one, and convert colours to grey"
    );
    Err(Error::argument(path, message))
}

fn kind(shape: &[usize], dtype: DType) -> String {
    format!("{shape:?} of {dtype}")
}

struct Stack {
    info: VolumeInfo,
    paths: Vec<PathBuf>,
}

impl VolumeReader for Stack {
    fn info(&self) -> &VolumeInfo {
        &self.info
    }

    fn read_region(&self, region: &Region) -> Result<Data> {
        let place = self.paths.first().map_or(Path::new(""), PathBuf::as_path);
        let samples = self.info.check_region(region, place)?;
        let plane = Region { start: region.start[1..].to_vec(), size: region.size[1..].to_vec() };
        let mut data = Data::zeros(self.info.dtype, samples)?;
        let each = samples / region.size[0];
        // a few at a time: slices are read in parallel, but not all held twice
        for first in (0..region.size[0]).step_by(AT_ONCE) {
            let last = (first + AT_ONCE).min(region.size[0]);
            let slices: Vec<Result<Data>> = (first..last)
                .into_par_iter()
                .map(|i| self.read_slice(region.start[0] + i, &plane))
                .collect();
            for (i, slice) in (first..last).zip(slices) {
                data.copy_from(i * each, &slice?);
            }
        }
        Ok(data)
    }
}

/// Slices read at a time.
const AT_ONCE: usize = 16;

impl Stack {
    fn read_slice(&self, index: usize, plane: &Region) -> Result<Data> {
        let path = &self.paths[index];
        let reader = open(path)?;
        // the file may have been replaced since
        let info = reader.info();
        if info.shape != self.info.shape[1..] || info.dtype != self.info.dtype {
            let expected = kind(&self.info.shape[1..], self.info.dtype);
            let got = kind(&info.shape, info.dtype);
            let message = format!("the slice has changed: it was {expected}, now it is {got}");
            return Err(Error::argument(path, message));
        }
        reader.read_region(plane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cut, noise, volume};
    use crate::{Volume, list_images, save};

    #[test]
    fn slices_are_the_volume_they_were_cut_from() {
        let dir = tempfile::tempdir().unwrap();
        let whole = volume("ZYX", &[21, 7, 9], DType::U16);
        for z in 0..21 {
            let slice = whole.data.slice(z * 63, 63).unwrap();
            let mut slice = Volume::new(slice, &[7, 9], "YX".parse().unwrap()).unwrap();
            slice.info.spacing = Some(vec![0.5, 0.25]);
            slice.info.unit = Some("µm".into());
            // formats may differ as long as the samples do not
            let ending = if z % 2 == 0 { "tif" } else { "npy" };
            save(dir.path().join(format!("{z}.{ending}")), &slice).unwrap();
        }
        let stack = open_stack(&list_images(dir.path()).unwrap()).unwrap();
        assert_eq!(stack.info().shape, [21, 7, 9]);
        assert_eq!(stack.info().axes.to_string(), "ZYX");
        assert_eq!(stack.info().spacing, Some(vec![0.0, 0.5, 0.25]));
        assert_eq!(stack.info().unit.as_deref(), Some("µm"));
        assert_eq!(stack.read().unwrap().data, whole.data);
        for (start, size) in [([3, 2, 1], [17, 4, 8]), ([20, 0, 0], [1, 7, 9])] {
            let region = Region { start: start.to_vec(), size: size.to_vec() };
            let expected = cut(&whole.data, &whole.info, &region);
            assert_eq!(stack.read_region(&region).unwrap(), expected);
        }
        let beyond = Region { start: vec![20, 0, 0], size: vec![2, 7, 9] };
        assert!(stack.read_region(&beyond).is_err());
    }

    #[test]
    fn what_is_no_stack_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, axes: &str, shape: &[usize], dtype| {
            let path = dir.path().join(name);
            save(&path, &volume(axes, shape, dtype)).unwrap();
            path
        };
        let first = file("0.tif", "YX", &[4, 5], DType::U8);
        for (name, axes, shape, dtype) in [
            ("size.tif", "YX", vec![5, 4], DType::U8),
            ("type.tif", "YX", vec![4, 5], DType::U16),
            ("volume.tif", "ZYX", vec![2, 4, 5], DType::U8),
            ("colour.png", "CYX", vec![3, 4, 5], DType::U8),
        ] {
            let other = file(name, axes, &shape, dtype);
            let error = open_stack(&[first.clone(), other]).err().unwrap().to_string();
            assert!(error.ends_with(&format!("{name}`")), "{error}");
        }
        assert!(open_stack(&[]).is_err());
        let stack = open_stack(std::slice::from_ref(&first)).unwrap();
        let new = Volume::new(noise(DType::U8, 6, 1), &[2, 3], "YX".parse().unwrap()).unwrap();
        save(&first, &new).unwrap();
        let error = stack.read().unwrap_err().to_string();
        assert!(error.contains("has changed"), "{error}");
    }
}
