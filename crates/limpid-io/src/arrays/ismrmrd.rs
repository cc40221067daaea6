//! Raw data in the format of the ISMRM (ISMRMRD, version 1, in HDF5), for reading.
//!
//! Source: Inati et al., "ISMRM Raw data format", Magn Reson Med 77 (2017), and the schema of the
//! header. A file holds a group, usually `dataset`, with the header as `xml` and the readouts as `data`.

use super::flaw::{Parsed, damaged, unsupported};
use super::hdf5::{Class, Dataset, Hdf5, Type, is_hdf5};
use super::values::{Stored, Values};
use super::{Array, Arrays};
use crate::data::{DType, Kind};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// All of a raw data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Ismrmrd {
    /// What the XML header says.
    pub header: IsmrmrdHeader,
    /// The XML header itself.
    pub xml: String,
    /// All readouts but those of noise, in the order of the file.
    pub acquisitions: Vec<Acquisition>,
    /// Readouts of noise alone, for whitening.
    pub noise: Vec<Acquisition>,
}

/// The parts of the XML header that a reconstruction needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IsmrmrdHeader {
    /// Number of receiver channels.
    pub channels: Option<usize>,
    /// One for each kind of readout; see [`AcquisitionHead::encoding_space_ref`].
    pub encodings: Vec<Encoding>,
}

/// How k-space was sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoding {
    /// The space that was sampled.
    pub encoded: EncodedSpace,
    /// The space of the image.
    pub recon: EncodedSpace,
    /// `cartesian`, `epi`, `radial`, `goldenangle`, `spiral` or `other`.
    pub trajectory: String,
}

/// A grid in space: sizes along x, y and z.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EncodedSpace {
    /// Number of voxels.
    pub matrix: [usize; 3],
    /// Field of view in millimetres.
    pub fov_mm: [f64; 3],
}

/// One readout of all channels.
#[derive(Debug, Clone, PartialEq)]
pub struct Acquisition {
    /// What is known about it.
    pub head: AcquisitionHead,
    /// Positions in k-space `[samples, dimensions]` in the units of the file, which the format leaves
    /// open (mostly cycles per voxel); empty if `dimensions` is 0.
    pub trajectory: Vec<f32>,
    /// Samples `[channels, samples]`.
    pub data: Vec<[f32; 2]>,
}

/// The head of a readout. Vectors are in patient coordinates.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)] // the names are those of the format
pub struct AcquisitionHead {
    /// Bit `n - 1` is the flag with the number `n`.
    pub flags: u64,
    pub scan_counter: u32,
    /// In the units of the scanner.
    pub acquisition_time_stamp: u32,
    pub number_of_samples: usize,
    pub active_channels: usize,
    /// Samples to leave out at the start.
    pub discard_pre: usize,
    /// Samples to leave out at the end.
    pub discard_post: usize,
    /// The sample at the centre of k-space.
    pub center_sample: usize,
    /// Which encoding of the header it belongs to.
    pub encoding_space_ref: usize,
    pub trajectory_dimensions: usize,
    /// Dwell time in microseconds.
    pub sample_time_us: f32,
    /// Centre of the volume in millimetres.
    pub position: [f32; 3],
    pub read_dir: [f32; 3],
    pub phase_dir: [f32; 3],
    pub slice_dir: [f32; 3],
    pub kspace_encode_step_1: u16,
    pub kspace_encode_step_2: u16,
    pub average: u16,
    pub slice: u16,
    pub contrast: u16,
    pub phase: u16,
    pub repetition: u16,
    pub set: u16,
    pub segment: u16,
    pub user_int: [i32; 8],
    pub user_float: [f32; 8],
}

/// The flag of readouts of noise alone.
const NOISE: u32 = 19;
/// Flags of readouts that are no part of the image: noise, navigator, phase correction, feedback,
/// dummy, surface coil correction, phase stabilisation.
const NOT_IMAGING: [u32; 9] = [NOISE, 23, 24, 26, 27, 28, 29, 30, 31];
const CALIBRATION: u32 = 20;
const CALIBRATION_AND_IMAGING: u32 = 21;

impl AcquisitionHead {
    /// Whether the flag with a number (from 1) is set.
    pub fn has_flag(&self, number: u32) -> bool {
        number.checked_sub(1).and_then(|bit| self.flags.checked_shr(bit)).unwrap_or(0) & 1 > 0
    }

    /// The samples to keep.
    fn kept(&self) -> Range<usize> {
        let end = self.number_of_samples.saturating_sub(self.discard_post);
        self.discard_pre.min(end)..end
    }

    /// Whether the readout is noise alone.
    pub fn is_noise(&self) -> bool {
        self.has_flag(NOISE)
    }

    /// Whether the readout is a part of the image, rather than noise, calibration, correction, a
    /// navigator or a dummy.
    pub fn is_imaging(&self) -> bool {
        let calibration = self.has_flag(CALIBRATION) && !self.has_flag(CALIBRATION_AND_IMAGING);
        !calibration && !NOT_IMAGING.iter().any(|flag| self.has_flag(*flag))
    }
}

impl Ismrmrd {
    /// `ksp [channels, readouts, samples]` of all imaging readouts in the order of the file, their
    /// `trj [readouts, samples, dimensions]` in the units of the file where there is one, and `noise`
    /// as `ksp` if any was measured; without the samples that are to be discarded.
    ///
    /// # Errors
    /// There are no imaging readouts, or they differ in the number of samples, channels or dimensions.
    pub fn arrays(&self) -> Result<Arrays> {
        let imaging: Vec<_> = self.acquisitions.iter().filter(|a| a.head.is_imaging()).collect();
        let Some(dimensions) = imaging.first().map(|first| first.head.trajectory_dimensions) else {
            return Err(Error::shape("readouts", "at least one of an image", "none"));
        };
        let mut arrays = Arrays::new();
        let ksp = stack(&imaging)?;
        if dimensions > 0 {
            let mut values = Vec::new();
            for readout in &imaging {
                let Range { start, end } = readout.head.kept();
                let kept = readout.trajectory.get(start * dimensions..end * dimensions);
                values.extend(kept.unwrap_or_default());
            }
            let dims = vec![ksp.dims[1], ksp.dims[2], dimensions];
            arrays.insert("trj".into(), Array::new(dims, Values::F32(values))?);
        }
        arrays.insert("ksp".into(), ksp);
        if !self.noise.is_empty() {
            arrays.insert("noise".into(), stack(&self.noise.iter().collect::<Vec<_>>())?);
        }
        Ok(arrays)
    }
}

/// Readouts as `[channels, readouts, samples]`.
fn stack(readouts: &[&Acquisition]) -> Result<Array> {
    let shape = |a: &Acquisition| {
        let head = &a.head;
        [head.active_channels, head.kept().len(), head.trajectory_dimensions]
    };
    let first = shape(readouts[0]);
    if let Some(other) = readouts.iter().map(|a| shape(a)).find(|other| *other != first) {
        let [channels, samples, dimensions] = first;
        return Err(Error::shape(
            "readouts",
            format!(
                "{channels} channels, {samples} samples, {dimensions} dimensions as in the first"
            ),
            format!("{other:?}; read them one by one with `read_ismrmrd`"),
        ));
    }
    let [channels, samples, _] = first;
    let fits =
        |a: &&&Acquisition| channels.checked_mul(a.head.number_of_samples) == Some(a.data.len());
    if let Some(other) = readouts.iter().find(|a| !fits(a)) {
        let expected = format!("{} samples of {channels} channels", other.head.number_of_samples);
        return Err(Error::shape("readouts", expected, format!("{} numbers", other.data.len())));
    }
    if samples == 0 {
        return Err(Error::shape("readouts", "samples to keep", "none"));
    }
    let mut values = Vec::with_capacity(readouts.len() * channels * samples);
    for channel in 0..channels {
        for readout in readouts {
            let first = channel * readout.head.number_of_samples;
            let Range { start, end } = readout.head.kept();
            values.extend(&readout.data[first + start..first + end]);
        }
    }
    Array::new(vec![channels, readouts.len(), samples], Values::C64(values))
}

/// Whether a file is HDF5 with raw data of this format.
///
/// # Errors
/// The file is HDF5, but damaged.
pub fn is_ismrmrd(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    if !is_hdf5(path) {
        return Ok(false);
    }
    let mut file = Hdf5::open(path)?;
    Ok(members(&mut file).map_err(|flaw| flaw.in_file("hdf5", path))?.is_some())
}

/// Reads a raw data file whole.
///
/// # Errors
/// The file is missing, damaged, or no raw data of this format.
pub fn read_ismrmrd(path: impl AsRef<Path>) -> Result<Ismrmrd> {
    let path = path.as_ref();
    let mut file = Hdf5::open(path)?;
    read(&mut file).map_err(|flaw| flaw.in_file("ismrmrd", path))
}

/// The addresses of header and readouts: those in the group `dataset`, or else in the first that has
/// both.
fn members(file: &mut Hdf5) -> Parsed<Option<[u64; 2]>> {
    let mut groups = file.children(file.root())?;
    groups.sort_by_key(|(name, _)| name != "dataset");
    for (_, group) in groups {
        if let (Some(xml), Some(data)) = (file.child(group, "xml")?, file.child(group, "data")?) {
            return Ok(Some([xml, data]));
        }
    }
    Ok(None)
}

fn read(file: &mut Hdf5) -> Parsed<Ismrmrd> {
    let Some([xml, data]) = members(file)? else {
        return unsupported("no group with `xml` and `data`");
    };
    let xml = text(file, xml)?;
    let header = parse_header(&xml)?;
    let dataset = Dataset::at(file, data)?;
    let records = Records::of(&dataset.kind)?;
    let bytes = dataset.read(file)?;
    let (mut acquisitions, mut noise) = (Vec::new(), Vec::new());
    for record in bytes.chunks_exact(dataset.kind.size) {
        let acquisition = records.acquisition(file, record)?;
        match acquisition.head.is_noise() {
            true => noise.push(acquisition),
            false => acquisitions.push(acquisition),
        }
    }
    Ok(Ismrmrd { header, xml, acquisitions, noise })
}

/// The first text of a data set.
fn text(file: &mut Hdf5, at: u64) -> Parsed<String> {
    let dataset = Dataset::at(file, at)?;
    let bytes = dataset.read(file)?;
    let Some(first) = bytes.get(..dataset.kind.size) else { return damaged("`xml` is empty") };
    let bytes = match dataset.kind.class {
        Class::VariableText => file.variable(first, 1)?,
        Class::Text => first.to_vec(),
        _ => return damaged("`xml` is no text"),
    };
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[..end]) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => damaged("`xml` is no UTF-8"),
    }
}

fn parse_header(xml: &str) -> Parsed<IsmrmrdHeader> {
    // headers are a few kB with a handful of namespaces; the parser's time grows with the cube of these
    const MOST_BYTES: usize = 1 << 20;
    const MOST_SPACES: usize = 64;
    if xml.len() > MOST_BYTES || xml.matches("xmlns").nth(MOST_SPACES).is_some() {
        return damaged(format!("a header of {} bytes, or with many namespaces", xml.len()));
    }
    let document = match roxmltree::Document::parse(xml) {
        Ok(document) => document,
        Err(e) => return damaged(format!("the header is no XML: {e}")),
    };
    type Node<'a> = roxmltree::Node<'a, 'a>;
    fn below<'a>(node: Node<'a>, path: &[&str]) -> Option<Node<'a>> {
        path.iter().try_fold(node, |node, name| {
            node.children().find(|child| child.tag_name().name() == *name)
        })
    }
    fn number<N: std::str::FromStr>(node: Node, path: &[&str]) -> Option<N> {
        below(node, path)?.text()?.trim().parse().ok()
    }
    let space = |encoding: Node, name: &str| -> Parsed<EncodedSpace> {
        let matrix = ["x", "y", "z"].map(|axis| number(encoding, &[name, "matrixSize", axis]));
        let fov_mm = ["x", "y", "z"].map(|axis| number(encoding, &[name, "fieldOfView_mm", axis]));
        match (matrix, fov_mm) {
            ([Some(x), Some(y), Some(z)], [Some(a), Some(b), Some(c)]) => {
                Ok(EncodedSpace { matrix: [x, y, z], fov_mm: [a, b, c] })
            }
            _ => damaged(format!("no sizes of `{name}` in the header")),
        }
    };
    let root = document.root_element();
    let channels = number(root, &["acquisitionSystemInformation", "receiverChannels"]);
    let encodings = root.children().filter(|node| node.tag_name().name() == "encoding");
    let encodings = encodings.map(|encoding| {
        let kind = below(encoding, &["trajectory"]).and_then(|node| node.text());
        Ok(Encoding {
            encoded: space(encoding, "encodedSpace")?,
            recon: space(encoding, "reconSpace")?,
            trajectory: kind.unwrap_or("other").trim().to_lowercase(),
        })
    });
    Ok(IsmrmrdHeader { channels, encodings: encodings.collect::<Parsed<_>>()? })
}

/// Where the parts of a record are.
struct Records {
    /// Offset, number of elements and type of each number of the head; counters as `idx.slice`.
    head: BTreeMap<String, (usize, usize, Stored)>,
    trajectory: (usize, usize),
    data: (usize, usize),
}

impl Records {
    fn of(kind: &Type) -> Parsed<Self> {
        let mut head = BTreeMap::new();
        match kind.member("head") {
            Some((at, kind)) => numbers(kind, at, "", &mut head),
            None => return unsupported("`data` has no `head`; it is no version 1 of the format"),
        }
        let floats = |name: &str| match kind.member(name) {
            Some((at, Type { size, class: Class::Sequence(element) }))
                if element.stored() == Some(Stored::real(Kind::Plain(DType::F32), false)) =>
            {
                Ok((at, *size))
            }
            _ => damaged(format!("`{name}` is no sequence of little-endian 32-bit numbers")),
        };
        Ok(Self { head, trajectory: floats("traj")?, data: floats("data")? })
    }

    fn acquisition(&self, file: &mut Hdf5, record: &[u8]) -> Parsed<Acquisition> {
        let head = self.head(record)?;
        let mut floats = |(at, size): (usize, usize)| -> Parsed<Vec<u8>> {
            file.variable(&record[at..at + size], size_of::<f32>())
        };
        let (trajectory, data) = (floats(self.trajectory)?, floats(self.data)?);
        let (samples, channels) = (head.number_of_samples, head.active_channels);
        let expected = [samples * head.trajectory_dimensions * 4, samples * channels * 8];
        if [trajectory.len(), data.len()] != expected {
            return damaged(format!(
                "readout {} has {} bytes of trajectory and {} of data, expected {expected:?} for {samples} samples of {channels} channels",
                head.scan_counter,
                trajectory.len(),
                data.len()
            ));
        }
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(Acquisition {
            head,
            trajectory: trajectory.chunks_exact(4).map(number).collect(),
            data: data.chunks_exact(8).map(|z| [number(&z[..4]), number(&z[4..])]).collect(),
        })
    }

    fn head(&self, record: &[u8]) -> Parsed<AcquisitionHead> {
        let raw = |name: &str, count: usize| match self.head.get(name) {
            Some((at, n, stored)) if *n >= count => {
                let size = stored.size();
                Ok((&record[*at..*at + count * size], size, *stored))
            }
            _ => damaged(format!("no `{name}` of {count} numbers in the head")),
        };
        let uint = |name: &str| -> Parsed<u64> {
            let (bytes, _, stored) = raw(name, 1)?;
            let mut fields = super::flaw::Fields::new(bytes);
            fields.big_endian = stored.encoding.big_endian;
            fields.uint(bytes.len())
        };
        let size = |name: &str| uint(name).map(|n| n as usize);
        let counter = |name: &str| uint(name).map(|n| n as u16);
        let floats = |name: &str, count: usize| -> Parsed<Vec<f64>> {
            let (bytes, _, stored) = raw(name, count)?;
            Ok(Values::read(&mut &*bytes, count, stored)?.into_f64().unwrap_or_default())
        };
        let vector = |name: &str| floats(name, 3).map(|v| [0, 1, 2].map(|i| v[i] as f32));
        let user = |name: &str| floats(name, 8).map(|v| [0, 1, 2, 3, 4, 5, 6, 7].map(|i| v[i]));
        let head = AcquisitionHead {
            flags: uint("flags")?,
            scan_counter: uint("scan_counter")? as u32,
            acquisition_time_stamp: uint("acquisition_time_stamp")? as u32,
            number_of_samples: size("number_of_samples")?,
            active_channels: size("active_channels")?,
            discard_pre: size("discard_pre")?,
            discard_post: size("discard_post")?,
            center_sample: size("center_sample")?,
            encoding_space_ref: size("encoding_space_ref")?,
            trajectory_dimensions: size("trajectory_dimensions")?,
            sample_time_us: floats("sample_time_us", 1)?[0] as f32,
            position: vector("position")?,
            read_dir: vector("read_dir")?,
            phase_dir: vector("phase_dir")?,
            slice_dir: vector("slice_dir")?,
            kspace_encode_step_1: counter("idx.kspace_encode_step_1")?,
            kspace_encode_step_2: counter("idx.kspace_encode_step_2")?,
            average: counter("idx.average")?,
            slice: counter("idx.slice")?,
            contrast: counter("idx.contrast")?,
            phase: counter("idx.phase")?,
            repetition: counter("idx.repetition")?,
            set: counter("idx.set")?,
            segment: counter("idx.segment")?,
            user_int: user("user_int")?.map(|x| x as i32),
            user_float: user("user_float")?.map(|x| x as f32),
        };
        // 16 bits each in the format, so that their products stay small
        let sizes = [head.number_of_samples, head.active_channels, head.trajectory_dimensions];
        match sizes.iter().all(|n| *n <= usize::from(u16::MAX)) {
            true => Ok(head),
            false => damaged(format!("a readout of sizes {sizes:?}")),
        }
    }
}

/// All numbers of a compound, and of compounds within.
fn numbers(
    kind: &Type,
    at: usize,
    prefix: &str,
    to: &mut BTreeMap<String, (usize, usize, Stored)>,
) {
    let Class::Compound(members) = &kind.class else { return };
    for (name, offset, kind) in members {
        let (name, at) = (format!("{prefix}{name}"), at + offset);
        match (&kind.class, kind.stored()) {
            // a complex number is none of the fields of a head
            (_, Some(stored)) if !stored.complex => _ = to.insert(name, (at, 1, stored)),
            (Class::Array(count, element), _) => {
                if let Some(stored) = element.stored().filter(|stored| !stored.complex) {
                    to.insert(name, (at, *count, stored));
                }
            }
            _ => numbers(kind, at, &format!("{name}."), to),
        }
    }
}
