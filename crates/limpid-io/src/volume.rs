//! Images and volumes in memory: named axes, spacing, affine, and what else the file said.

use crate::data::{DType, Data};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::nifti::Header;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// One axis of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// Time, or repeats of one acquisition.
    T,
    /// Channel: colour, stain, contrast.
    C,
    /// Slice.
    Z,
    /// Row.
    Y,
    /// Column.
    X,
}

impl Axis {
    pub(crate) fn from_char(letter: char) -> Option<Self> {
        Some(match letter {
            'T' => Self::T,
            'C' => Self::C,
            'Z' => Self::Z,
            'Y' => Self::Y,
            'X' => Self::X,
            _ => return None,
        })
    }
}

/// Names of the axes of an array, slowest first, each at most once, as in `"ZYX"`.
///
/// Every [`VolumeInfo`] has them in the order T, C, Z, Y, X, however the file is laid out; any
/// order can be parsed, to describe a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Axes(Vec<Axis>);

impl Axes {
    /// What an array without names is taken for: `YX`, `ZYX`, `CZYX`, `TCZYX`.
    pub fn of_rank(rank: usize) -> Option<Self> {
        "YX ZYX CZYX TCZYX".split(' ').find(|s| s.len() == rank)?.parse().ok()
    }

    /// The axes, slowest first.
    pub fn as_slice(&self) -> &[Axis] {
        &self.0
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Where `axis` stands.
    pub fn position(&self, axis: Axis) -> Option<usize> {
        self.0.iter().position(|a| *a == axis)
    }

    /// The same axes in the order T, C, Z, Y, X.
    pub fn canonical(&self) -> Self {
        let mut axes = self.0.clone();
        axes.sort();
        Self(axes)
    }

    /// Axes from a list that the caller knows to have no duplicates.
    pub(crate) fn from_distinct(axes: Vec<Axis>) -> Self {
        Self(axes)
    }
}

impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|axis| write!(f, "{axis:?}"))
    }
}

impl FromStr for Axes {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let axes: Option<Vec<Axis>> = text.chars().map(Axis::from_char).collect();
        let distinct = |axes: &Vec<Axis>| (1..axes.len()).all(|i| !axes[..i].contains(&axes[i]));
        match axes.filter(distinct).map(Self) {
            Some(axes) if axes.position(Axis::Y).and(axes.position(Axis::X)).is_some() => Ok(axes),
            _ => Err(Error::shape(
                "axes",
                "Y and X, and if there are more T, C and Z, each once, slowest first, as in `ZYX`",
                format!("`{text}`"),
            )),
        }
    }
}

impl TryFrom<String> for Axes {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Axes> for String {
    fn from(axes: Axes) -> Self {
        axes.to_string()
    }
}

/// A box of samples: the first index and the number of indices along each axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// First index along each axis.
    pub start: Vec<usize>,
    /// Number of indices along each axis.
    pub size: Vec<usize>,
}

impl Region {
    /// All of an array of this shape.
    pub fn full(shape: &[usize]) -> Self {
        Self { start: vec![0; shape.len()], size: shape.to_vec() }
    }
}

/// What a file says beyond the geometry; carried from input to output.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    /// Format of the file it came from, nothing for an array made in memory.
    pub format: Option<Format>,
    /// Whether C holds the red, green, blue and perhaps alpha of one colour picture.
    pub rgb: bool,
    /// Free text by key: `imagej.*` fields, TIFF `description`, `photometric`.
    pub text: BTreeMap<String, String>,
    /// The header of a NIfTI file.
    pub nifti: Option<Box<Header>>,
}

/// Everything about an image but its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeInfo {
    /// Samples along each axis.
    pub shape: Vec<usize>,
    /// Names of the axes, always in the order T, C, Z, Y, X.
    pub axes: Axes,
    /// Type of the samples.
    pub dtype: DType,
    /// Distance of neighbouring samples along each axis: Z, Y, X in [`unit`](Self::unit), T in
    /// seconds; 0 where it is unknown or means nothing, as for C.
    pub spacing: Option<Vec<f64>>,
    /// Unit of length: `m`, `mm`, `µm`, `nm`, or whatever the file says.
    pub unit: Option<String>,
    /// From the index (x, y, z, 1) of a voxel centre to world coordinates, in
    /// [`unit`](Self::unit); rows are the world axes right, anterior, superior, as in NIfTI.
    pub affine: Option<[[f64; 4]; 4]>,
    /// What else the file says.
    pub meta: Meta,
}

impl VolumeInfo {
    /// An image without physical geometry.
    ///
    /// # Errors
    /// The number of axes differs from that of the shape, the axes are not in the order
    /// T, C, Z, Y, X, a size is 0, or the bytes would not fit an address.
    pub fn new(shape: &[usize], axes: Axes, dtype: DType) -> Result<Self> {
        let info = Self {
            shape: shape.to_vec(),
            axes,
            dtype,
            spacing: None,
            unit: None,
            affine: None,
            meta: Meta::default(),
        };
        info.check()?;
        Ok(info)
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of samples along `axis`, 1 where the image does not have it.
    pub fn size(&self, axis: Axis) -> usize {
        self.axes.position(axis).and_then(|i| self.shape.get(i)).copied().unwrap_or(1)
    }

    /// Spacing along `axis`, where known.
    pub fn spacing_of(&self, axis: Axis) -> Option<f64> {
        let spacing = self.spacing.as_ref()?;
        spacing.get(self.axes.position(axis)?).copied().filter(|s| *s > 0.0)
    }

    /// The same field of view on another grid: `shape` replaces the sizes, spacing shrinks as
    /// they grow, and the affine moves by the half voxel between the old and the new centres.
    ///
    /// # Errors
    /// `shape` has another rank or a size of 0.
    pub fn resampled(&self, shape: &[usize]) -> Result<Self> {
        let mut new = Self { shape: shape.to_vec(), ..self.clone() };
        new.check()?;
        let ratio = |axis| match self.axes.position(axis) {
            Some(i) => self.shape[i] as f64 / shape[i] as f64,
            None => 1.0,
        };
        if let Some(spacing) = &mut new.spacing {
            for (i, axis) in self.axes.as_slice().iter().enumerate() {
                spacing[i] *= ratio(*axis);
            }
        }
        if let Some(affine) = &mut new.affine {
            for row in affine.iter_mut().take(3) {
                for (column, axis) in [Axis::X, Axis::Y, Axis::Z].into_iter().enumerate() {
                    let ratio = ratio(axis);
                    row[3] += row[column] * 0.5 * (ratio - 1.0);
                    row[column] *= ratio;
                }
            }
        }
        Ok(new)
    }

    /// What every reader guarantees and every writer asks for.
    pub(crate) fn check(&self) -> Result<()> {
        if self.axes != self.axes.canonical() {
            let expected = format!("the order `{}`", self.axes.canonical());
            return Err(Error::shape("axes", expected, format!("`{}`", self.axes)));
        }
        let rank = self.axes.rank();
        if self.shape.len() != rank || self.shape.contains(&0) {
            let expected = format!("{rank} sizes above 0 for the axes `{}`", self.axes);
            return Err(Error::shape("shape", expected, format!("{:?}", self.shape)));
        }
        let bytes = self.shape.iter().try_fold(self.dtype.size(), |n, s| n.checked_mul(*s));
        if bytes.is_none_or(|n| n > isize::MAX as usize) {
            return Err(Error::shape("shape", "fewer samples", format!("{:?}", self.shape)));
        }
        if let Some(spacing) = &self.spacing
            && (spacing.len() != rank || spacing.iter().any(|s| !s.is_finite() || *s < 0.0))
        {
            let expected = format!("{rank} finite lengths, 0 where unknown");
            return Err(Error::shape("spacing", expected, format!("{spacing:?}")));
        }
        Ok(())
    }

    /// Checks that `region` lies within, and returns its number of samples.
    pub(crate) fn check_region(&self, region: &Region, path: &Path) -> Result<usize> {
        let Region { start, size } = region;
        let fits = start.len() == self.shape.len()
            && size.len() == self.shape.len()
            && (0..size.len()).all(|i| {
                size[i] > 0 && start[i].checked_add(size[i]).is_some_and(|end| end <= self.shape[i])
            });
        if !fits {
            let (axes, shape) = (&self.axes, &self.shape);
            let message =
                format!("region of size {size:?} at {start:?} is not within {shape:?} ({axes})");
            return Err(Error::argument(path, message));
        }
        let samples = size.iter().product::<usize>();
        if samples.saturating_mul(self.dtype.size()) as u64 > MAX_READ_BYTES {
            let message = format!(
                "{samples} samples of {} are more than the {} GiB one read may take; read smaller regions",
                self.dtype,
                MAX_READ_BYTES >> 30
            );
            return Err(Error::argument(path, message));
        }
        Ok(samples)
    }
}

/// Metres per unit of length.
pub(crate) fn metres(unit: &str) -> Option<f64> {
    Some(match unit {
        "m" | "meter" | "metre" => 1.0,
        "cm" => 1e-2,
        "mm" | "millimeter" | "millimetre" => 1e-3,
        "µm" | "μm" | "um" | "micron" | "micrometer" | "micrometre" => 1e-6,
        "nm" | "nanometer" | "nanometre" => 1e-9,
        "Å" | "angstrom" => 1e-10,
        "pm" => 1e-12,
        _ => return None,
    })
}

/// The most one read may allocate: a guard against headers that promise the moon.
pub const MAX_READ_BYTES: u64 = 64 << 30;

/// An image or volume in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Shape, axes, geometry and the rest.
    pub info: VolumeInfo,
    /// The samples, row-major.
    pub data: Data,
}

impl Volume {
    /// A volume without physical geometry; `shape` and `axes` as in [`VolumeInfo::new`].
    ///
    /// # Errors
    /// As [`VolumeInfo::new`], or `data` does not fill `shape`.
    pub fn new(data: Data, shape: &[usize], axes: Axes) -> Result<Self> {
        let volume = Self { info: VolumeInfo::new(shape, axes, data.dtype())?, data };
        volume.check()?;
        Ok(volume)
    }

    /// How many samples are NaN or infinite, and the index of the first along each axis.
    pub fn nonfinite(&self) -> Option<(usize, Vec<usize>)> {
        let (count, mut flat) = self.data.nonfinite()?;
        let mut index = vec![0; self.info.shape.len()];
        for (i, size) in self.info.shape.iter().enumerate().rev() {
            index[i] = flat % size;
            flat /= size;
        }
        Some((count, index))
    }

    /// Checks that the samples are as many and of the type that the information says.
    pub(crate) fn check(&self) -> Result<()> {
        self.info.check()?;
        let (info, data) = (&self.info, &self.data);
        if data.len() != info.samples() || data.dtype() != info.dtype {
            let expected = format!("{} samples of {}", info.samples(), info.dtype);
            let got = format!("{} of {}", data.len(), data.dtype());
            return Err(Error::shape("data", expected, got));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_parse_print_and_refuse() {
        for good in ["YX", "ZYX", "TCZYX", "YXC", "XYZ"] {
            assert_eq!(good.parse::<Axes>().unwrap().to_string(), good);
        }
        for bad in ["", "X", "ZY", "YXX", "ZYXQ", "zyx"] {
            let error = bad.parse::<Axes>().unwrap_err().to_string();
            assert!(error.contains(&format!("got `{bad}`")), "{error}");
        }
        assert_eq!("XYZC".parse::<Axes>().unwrap().canonical().to_string(), "CZYX");
        assert_eq!(Axes::of_rank(4).unwrap().to_string(), "CZYX");
        assert_eq!(Axes::of_rank(1), None);
    }

    #[test]
    fn contradictions_are_refused() {
        let yx: Axes = "YX".parse().unwrap();
        assert!(Volume::new(Data::U8(vec![0; 5]), &[2, 3], yx.clone()).is_err());
        assert!(Volume::new(Data::U8(vec![0; 6]), &[1, 2, 3], yx.clone()).is_err());
        assert!(Volume::new(Data::U8(vec![]), &[0, 3], yx).is_err());
        assert!(VolumeInfo::new(&[2, 3], "XY".parse().unwrap(), DType::U8).is_err());
        let zyx: Axes = "ZYX".parse().unwrap();
        assert!(VolumeInfo::new(&[usize::MAX, 2, 2], zyx, DType::U8).is_err());
    }

    #[test]
    fn resampling_keeps_the_field_of_view() {
        let mut info = VolumeInfo::new(&[4, 6, 8], "ZYX".parse().unwrap(), DType::U8).unwrap();
        info.spacing = Some(vec![3.0, 1.0, 2.0]);
        info.affine = Some([
            [2.0, 0.0, 0.0, 10.0],
            [0.0, 1.0, 0.0, 20.0],
            [0.0, 0.0, 3.0, 30.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        let new = info.resampled(&[12, 6, 8]).unwrap();
        assert_eq!(new.spacing, Some(vec![1.0, 1.0, 2.0]));
        // the lower face of the first voxel stays: 30 - 3/2 = 29 - 1/2
        assert_eq!(new.affine.unwrap()[2], [0.0, 0.0, 1.0, 29.0]);
        assert_eq!(new.affine.unwrap()[0], [2.0, 0.0, 0.0, 10.0]);
        assert!(info.resampled(&[12, 6]).is_err());
    }

    #[test]
    fn nonfinite_names_the_first() {
        let data = Data::F32(vec![0.0, 0.0, 0.0, 0.0, f32::NAN, f32::INFINITY]);
        let volume = Volume::new(data, &[2, 3], "YX".parse().unwrap()).unwrap();
        assert_eq!(volume.nonfinite(), Some((2, vec![1, 1])));
    }
}
