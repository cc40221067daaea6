//! TIFF: the format of microscopes, plain, as BigTIFF, and with the metadata of ImageJ.
//!
//! Source: TIFF 6.0 (Adobe, 1992), the BigTIFF extension, and what ImageJ 1.x and tifffile
//! write. Read are strips and tiles, both byte orders, integers and floating point of 1 to 64
//! bits, channels side by side or in planes; uncompressed, deflate, LZW and PackBits, with both
//! predictors. Values come as they are stored: `WhiteIsZero` is not inverted, palettes are not
//! applied. Written are one page per plane, uncompressed or deflate.

mod chunk;
mod describe;
mod ifd;
mod page;
mod read;
mod write;

pub(crate) use read::TiffReader;
pub(crate) use write::create;

/// Numbers of the tags that are read or written.
mod tag {
    pub(super) const SUBFILE: u16 = 254;
    pub(super) const WIDTH: u16 = 256;
    pub(super) const HEIGHT: u16 = 257;
    pub(super) const BITS: u16 = 258;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const PHOTOMETRIC: u16 = 262;
    pub(super) const FILL_ORDER: u16 = 266;
    pub(super) const DESCRIPTION: u16 = 270;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const SAMPLES: u16 = 277;
    pub(super) const ROWS_PER_STRIP: u16 = 278;
    pub(super) const STRIP_COUNTS: u16 = 279;
    pub(super) const X_RESOLUTION: u16 = 282;
    pub(super) const Y_RESOLUTION: u16 = 283;
    pub(super) const PLANAR: u16 = 284;
    pub(super) const RESOLUTION_UNIT: u16 = 296;
    pub(super) const PREDICTOR: u16 = 317;
    pub(super) const TILE_WIDTH: u16 = 322;
    pub(super) const TILE_HEIGHT: u16 = 323;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_COUNTS: u16 = 325;
    pub(super) const EXTRA_SAMPLES: u16 = 338;
    pub(super) const SAMPLE_FORMAT: u16 = 339;
    pub(super) const TILE_DEPTH: u16 = 32998;
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::odd_files;
