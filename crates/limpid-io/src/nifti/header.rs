//! The fields of a NIfTI header, read from and written to bytes.

use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;

/// A NIfTI-1 or NIfTI-2 header: what a restored file keeps of its input.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the fields of nifti1.h under their names there
pub struct Header {
    /// 1 or 2.
    pub version: u8,
    pub datatype: i16,
    pub dim_info: u8,
    pub dim: [i64; 8],
    pub pixdim: [f64; 8],
    pub vox_offset: u64,
    pub scl_slope: f64,
    pub scl_inter: f64,
    pub cal_max: f64,
    pub cal_min: f64,
    pub slice_start: i64,
    pub slice_end: i64,
    pub slice_code: i32,
    pub slice_duration: f64,
    pub toffset: f64,
    pub intent_p: [f64; 3],
    pub intent_code: i32,
    pub intent_name: [u8; 16],
    pub descrip: [u8; 80],
    pub aux_file: [u8; 24],
    pub xyzt_units: i32,
    pub qform_code: i32,
    pub sform_code: i32,
    /// `quatern_b`, `quatern_c`, `quatern_d`.
    pub quatern: [f64; 3],
    /// `qoffset_x`, `qoffset_y`, `qoffset_z`.
    pub qoffset: [f64; 3],
    /// `srow_x`, `srow_y`, `srow_z`.
    pub srow: [[f64; 4]; 3],
    /// Code and content of each header extension.
    pub extensions: Vec<(i32, Vec<u8>)>,
}

impl Header {
    /// An empty header: no geometry, no text.
    pub(super) fn empty() -> Self {
        Self {
            version: 1,
            datatype: 0,
            dim_info: 0,
            dim: [1; 8],
            pixdim: [1.0; 8],
            vox_offset: 352,
            scl_slope: 1.0,
            scl_inter: 0.0,
            cal_max: 0.0,
            cal_min: 0.0,
            slice_start: 0,
            slice_end: 0,
            slice_code: 0,
            slice_duration: 0.0,
            toffset: 0.0,
            intent_p: [0.0; 3],
            intent_code: 0,
            intent_name: [0; 16],
            descrip: [0; 80],
            aux_file: [0; 24],
            xyzt_units: 0,
            qform_code: 0,
            sform_code: 0,
            quatern: [0.0; 3],
            qoffset: [0.0; 3],
            srow: [[0.0; 4]; 3],
            extensions: Vec::new(),
        }
    }

    /// Slope and intercept of the samples; a slope of 0 or without a value means none.
    pub fn scale(&self) -> (f64, f64) {
        if self.scl_slope == 0.0 || !self.scl_slope.is_finite() || !self.scl_inter.is_finite() {
            return (1.0, 0.0);
        }
        (self.scl_slope, self.scl_inter)
    }

    /// The text of `descrip`.
    pub fn description(&self) -> String {
        let end = self.descrip.iter().position(|b| *b == 0).unwrap_or(self.descrip.len());
        String::from_utf8_lossy(&self.descrip[..end]).into_owned()
    }
}

/// Byte length of the header itself, by version.
const fn length(version: u8) -> usize {
    if version == 1 { 348 } else { 540 }
}

/// Version, whether the bytes are big endian, and whether header and samples share a file.
fn recognise(head: &[u8]) -> Option<(u8, bool, bool)> {
    let size: [u8; 4] = head.get(..4)?.try_into().ok()?;
    let (version, big_endian) = match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
        (348, _) => (1, false),
        (_, 348) => (1, true),
        (540, _) => (2, false),
        (_, 540) => (2, true),
        _ => return None,
    };
    let magic = if version == 1 { head.get(344..348)? } else { head.get(4..8)? };
    match (version, magic) {
        (1, b"n+1\0") | (2, b"n+2\0") => Some((version, big_endian, true)),
        (1, b"ni1\0") | (2, b"ni2\0") => Some((version, big_endian, false)),
        _ => None,
    }
}

/// Whether a file that begins so is NIfTI.
pub(crate) fn is_header(head: &[u8]) -> bool {
    recognise(head).is_some()
}

/// Whether a file that begins so is the older Analyze 7.5.
pub(crate) fn is_analyze(head: &[u8]) -> bool {
    head.len() >= 348 && (head.starts_with(&[92, 1, 0, 0]) || head.starts_with(&[0, 0, 1, 92]))
}

/// Takes fields from the front of the header, one after the other.
struct Fields<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let (front, rest) = self.bytes.split_at_checked(N).unwrap_or((&[0; 0], &[]));
        if front.len() == N {
            field.copy_from_slice(front);
        }
        self.bytes = rest;
        field
    }

    /// A number of `N` bytes in native order.
    fn native<const N: usize>(&mut self) -> [u8; N] {
        let mut field = self.take();
        if self.big_endian {
            field.reverse();
        }
        field
    }

    /// An integer that has `narrow` or, in NIfTI-2, 8 bytes.
    fn int(&mut self, width: usize) -> i64 {
        match width {
            1 => i64::from(self.take::<1>()[0]),
            2 => i64::from(i16::from_le_bytes(self.native())),
            4 => i64::from(i32::from_le_bytes(self.native())),
            _ => i64::from_le_bytes(self.native()),
        }
    }

    fn float(&mut self, width: usize) -> f64 {
        if width == 4 {
            f64::from(f32::from_le_bytes(self.native()))
        } else {
            f64::from_le_bytes(self.native())
        }
    }

    fn floats<const N: usize>(&mut self, width: usize) -> [f64; N] {
        std::array::from_fn(|_| self.float(width))
    }
}

/// Reads header and extensions; also whether samples are big endian and in the same file.
pub(super) fn read(stream: &mut dyn Read, path: &Path) -> Result<(Header, bool, bool)> {
    let damaged = |message: String| Error::damaged("nifti", path, message);
    let mut bytes = Vec::new();
    stream.take(540 + 4).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    let Some((version, big_endian, single)) = recognise(&bytes) else {
        return Err(damaged("the header is cut short or has no magic `n+1`, `ni1`, `n+2`".into()));
    };
    let length = length(version);
    if bytes.len() < length {
        return Err(damaged(format!("expected a header of {length} bytes, got {}", bytes.len())));
    }
    let fields = Fields { bytes: &bytes[..length], big_endian };
    let (mut header, vox_offset) = if version == 1 { first(fields) } else { second(fields) };
    let least = (length + 4) as f64;
    header.vox_offset = match vox_offset {
        0.0 if single => least as u64,
        // the standard asks for 352, but 348 is seen
        at if at >= if single { length as f64 } else { 0.0 } && at.fract() == 0.0 && at < 1e15 => {
            at as u64
        }
        at => return Err(damaged(format!("vox_offset: expected at least {least}, got {at}"))),
    };
    if single && header.vox_offset > length as u64 + 4 && bytes.get(length) == Some(&1) {
        // what was read of the extensions already, then the rest
        let wanted = header.vox_offset - length as u64 - 4;
        if wanted > LONGEST_EXTENSIONS {
            return Err(damaged(format!("header extensions of {wanted} bytes")));
        }
        let mut content = bytes.split_off(length + 4);
        let missing = wanted.saturating_sub(content.len() as u64);
        stream.take(missing).read_to_end(&mut content).map_err(|e| Error::io("read", path, e))?;
        content.truncate(wanted as usize);
        header.extensions = extensions(&content, big_endian);
    }
    Ok((header, big_endian, single))
}

/// More than any sane extension; a guard against damaged offsets.
const LONGEST_EXTENSIONS: u64 = 64 << 20;

/// Splits the bytes between header and samples; stops at what makes no sense.
fn extensions(mut bytes: &[u8], big_endian: bool) -> Vec<(i32, Vec<u8>)> {
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let mut fields = Fields { bytes, big_endian };
        let (size, code) = (fields.int(4), fields.int(4) as i32);
        match usize::try_from(size).ok().and_then(|size| Some((bytes.get(8..size)?, size))) {
            Some((content, size)) if size % 16 == 0 => {
                found.push((code, content.to_vec()));
                bytes = &bytes[size..];
            }
            _ => break,
        }
    }
    found
}

/// The fields of `nifti1.h` in their order, and `vox_offset`.
fn first(mut f: Fields<'_>) -> (Header, f64) {
    let mut h = Header::empty();
    f.take::<39>(); // sizeof_hdr and fields of Analyze
    h.dim_info = f.int(1) as u8;
    h.dim = std::array::from_fn(|_| f.int(2));
    h.intent_p = f.floats(4);
    h.intent_code = f.int(2) as i32;
    h.datatype = f.int(2) as i16;
    f.take::<2>(); // bitpix follows from datatype
    h.slice_start = f.int(2);
    h.pixdim = f.floats(4);
    let vox_offset = f.float(4);
    (h.scl_slope, h.scl_inter) = (f.float(4), f.float(4));
    h.slice_end = f.int(2);
    (h.slice_code, h.xyzt_units) = (f.int(1) as i32, f.int(1) as i32);
    (h.cal_max, h.cal_min) = (f.float(4), f.float(4));
    (h.slice_duration, h.toffset) = (f.float(4), f.float(4));
    f.take::<8>(); // glmax, glmin
    (h.descrip, h.aux_file) = (f.take(), f.take());
    (h.qform_code, h.sform_code) = (f.int(2) as i32, f.int(2) as i32);
    (h.quatern, h.qoffset) = (f.floats(4), f.floats(4));
    h.srow = std::array::from_fn(|_| f.floats(4));
    h.intent_name = f.take();
    (h, vox_offset)
}

/// The fields of `nifti2.h` in their order, and `vox_offset`.
fn second(mut f: Fields<'_>) -> (Header, f64) {
    let mut h = Header { version: 2, ..Header::empty() };
    f.take::<12>(); // sizeof_hdr, magic
    h.datatype = f.int(2) as i16;
    f.take::<2>(); // bitpix
    h.dim = std::array::from_fn(|_| f.int(8));
    h.intent_p = f.floats(8);
    h.pixdim = f.floats(8);
    let vox_offset = f.int(8) as f64;
    (h.scl_slope, h.scl_inter) = (f.float(8), f.float(8));
    (h.cal_max, h.cal_min) = (f.float(8), f.float(8));
    (h.slice_duration, h.toffset) = (f.float(8), f.float(8));
    (h.slice_start, h.slice_end) = (f.int(8), f.int(8));
    (h.descrip, h.aux_file) = (f.take(), f.take());
    (h.qform_code, h.sform_code) = (f.int(4) as i32, f.int(4) as i32);
    (h.quatern, h.qoffset) = (f.floats(8), f.floats(8));
    h.srow = std::array::from_fn(|_| f.floats(8));
    (h.slice_code, h.xyzt_units) = (f.int(4) as i32, f.int(4) as i32);
    h.intent_code = f.int(4) as i32;
    h.intent_name = f.take();
    h.dim_info = f.int(1) as u8;
    (h, vox_offset)
}

impl Header {
    /// The bytes up to the samples, little endian, with `vox_offset` set to their number.
    pub(super) fn to_bytes(&self, bits: i16) -> Vec<u8> {
        let mut extensions = Vec::new();
        for (code, content) in &self.extensions {
            let size = (content.len() + 8).next_multiple_of(16);
            extensions.extend((size as i32).to_le_bytes());
            extensions.extend(code.to_le_bytes());
            extensions.extend(content);
            extensions.resize(extensions.len() + size - 8 - content.len(), 0);
        }
        let offset = length(self.version) + 4 + extensions.len();
        let mut out = Vec::with_capacity(offset);
        if self.version == 1 {
            self.push_first(&mut out, bits, offset);
        } else {
            self.push_second(&mut out, bits, offset);
        }
        out.extend([u8::from(!extensions.is_empty()), 0, 0, 0]);
        out.extend(extensions);
        out
    }

    fn push_first(&self, out: &mut Vec<u8>, bits: i16, offset: usize) {
        out.extend(348i32.to_le_bytes());
        out.resize(38, 0);
        out.extend([b'r', self.dim_info]); // `regular`, which old readers look for
        self.dim.iter().for_each(|n| push_i16(out, *n));
        push_f32(out, &self.intent_p);
        push_i16(out, self.intent_code.into());
        push_i16(out, self.datatype.into());
        push_i16(out, bits.into());
        push_i16(out, self.slice_start);
        push_f32(out, &self.pixdim);
        push_f32(out, &[offset as f64, self.scl_slope, self.scl_inter]);
        push_i16(out, self.slice_end);
        out.extend([self.slice_code as u8, self.xyzt_units as u8]);
        push_f32(out, &[self.cal_max, self.cal_min, self.slice_duration, self.toffset]);
        out.extend([0; 8]);
        out.extend(self.descrip);
        out.extend(self.aux_file);
        push_i16(out, self.qform_code.into());
        push_i16(out, self.sform_code.into());
        push_f32(out, &self.quatern);
        push_f32(out, &self.qoffset);
        self.srow.iter().for_each(|row| push_f32(out, row));
        out.extend(self.intent_name);
        out.extend(b"n+1\0");
    }

    fn push_second(&self, out: &mut Vec<u8>, bits: i16, offset: usize) {
        out.extend(540i32.to_le_bytes());
        out.extend(b"n+2\0\r\n\x1a\n");
        push_i16(out, self.datatype.into());
        push_i16(out, bits.into());
        push_i64(out, &self.dim);
        push_f64(out, &self.intent_p);
        push_f64(out, &self.pixdim);
        push_i64(out, &[offset as i64]);
        push_f64(out, &[self.scl_slope, self.scl_inter, self.cal_max, self.cal_min]);
        push_f64(out, &[self.slice_duration, self.toffset]);
        push_i64(out, &[self.slice_start, self.slice_end]);
        out.extend(self.descrip);
        out.extend(self.aux_file);
        push_i32(out, &[self.qform_code, self.sform_code]);
        push_f64(out, &self.quatern);
        push_f64(out, &self.qoffset);
        self.srow.iter().for_each(|row| push_f64(out, row));
        push_i32(out, &[self.slice_code, self.xyzt_units, self.intent_code]);
        out.extend(self.intent_name);
        out.push(self.dim_info);
        out.resize(540, 0);
    }
}

fn push_i16(out: &mut Vec<u8>, value: i64) {
    out.extend((value as i16).to_le_bytes());
}

fn push_i32(out: &mut Vec<u8>, values: &[i32]) {
    values.iter().for_each(|v| out.extend(v.to_le_bytes()));
}

fn push_i64(out: &mut Vec<u8>, values: &[i64]) {
    values.iter().for_each(|v| out.extend(v.to_le_bytes()));
}

fn push_f32(out: &mut Vec<u8>, values: &[f64]) {
    values.iter().for_each(|v| out.extend((*v as f32).to_le_bytes()));
}

fn push_f64(out: &mut Vec<u8>, values: &[f64]) {
    values.iter().for_each(|v| out.extend(v.to_le_bytes()));
}
