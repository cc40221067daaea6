//! What all formats must do alike: round trips, damaged input, real files.

pub(crate) mod mutation;
mod real_files;
mod round_trip;

use crate::data::{Encoding, Kind};
use crate::{DType, Data, Region, Volume, VolumeInfo};

/// A small generator for test material (Knuth's MMIX constants), the same on every machine.
pub(crate) struct Lcg(pub(crate) u64);

impl Lcg {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 16
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Samples over the whole range of a type; floating point ones are finite.
pub(crate) fn noise(dtype: DType, len: usize, seed: u64) -> Data {
    let mut lcg = Lcg(seed);
    match dtype {
        DType::F32 => Data::F32((0..len).map(|_| lcg.next() as f32 * 1e-9 - 7e4).collect()),
        DType::F64 => Data::F64((0..len).map(|_| lcg.next() as f64 * 1e-9 - 7e4).collect()),
        _ => {
            let bytes: Vec<u8> = (0..len * dtype.size()).map(|_| lcg.next() as u8).collect();
            let mut data = Data::zeros(dtype, len).unwrap();
            let encoding = Encoding { kind: Kind::Plain(dtype), big_endian: false };
            data.put((0, 1, len), &bytes, dtype.size(), encoding);
            data
        }
    }
}

/// A volume of noise.
pub(crate) fn volume(axes: &str, shape: &[usize], dtype: DType) -> Volume {
    let len = shape.iter().product();
    let axes = axes.parse().unwrap();
    Volume::new(noise(dtype, len, len as u64 + 1), shape, axes).unwrap()
}

/// The samples of a region, cut out of the whole.
pub(crate) fn cut(data: &Data, info: &VolumeInfo, region: &Region) -> Data {
    let mut out = Data::zeros(data.dtype(), region.size.iter().product()).unwrap();
    for flat in 0..out.len() {
        let (mut rest, mut from, mut stride) = (flat, 0, 1);
        for i in (0..info.shape.len()).rev() {
            from += (region.start[i] + rest % region.size[i]) * stride;
            rest /= region.size[i];
            stride *= info.shape[i];
        }
        out.copy_from(flat, &data.slice(from, 1).unwrap());
    }
    out
}
