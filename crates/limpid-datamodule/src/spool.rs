//! A decoded image in a temporary file, for regions of files that can only be decoded from their
//! start and do not fit into memory.

use crate::boxes::line_starts;
use limpid_io::Region;
use std::fs::File;
use std::io::{BufReader, BufWriter, Error, Read, Result, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

/// Bytes of a value.
const VALUE: usize = size_of::<f32>();

/// Values of an image, row-major, little-endian, in a file without a name: the system removes it
/// with the process, however that ends.
pub(crate) struct Spool {
    shape: Vec<usize>,
    file: Mutex<BufReader<File>>,
}

/// A [`Spool`] being filled.
pub(crate) struct SpoolWriter {
    file: BufWriter<File>,
}

impl SpoolWriter {
    /// An empty file in the system's folder for temporary files.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(1 << 20, tempfile::tempfile()?) })
    }

    /// Adds the values that come next.
    pub(crate) fn add(&mut self, values: &[f32]) -> Result<()> {
        values.iter().try_for_each(|v| self.file.write_all(&v.to_le_bytes()))
    }

    /// The values of an image of that shape, all of which have been added.
    pub(crate) fn finish(self, shape: &[usize]) -> Result<Spool> {
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        let expected = (shape.iter().product::<usize>() * VALUE) as u64;
        let got = file.metadata()?.len();
        if got != expected {
            return Err(Error::other(format!("{got} bytes were kept of {expected}")));
        }
        Ok(Spool { shape: shape.to_vec(), file: Mutex::new(BufReader::new(file)) })
    }
}

impl Spool {
    /// The values of a region within the image.
    pub(crate) fn read(&self, region: &Region) -> Result<Vec<f32>> {
        let width = region.size[region.size.len() - 1];
        let mut values = Vec::with_capacity(region.size.iter().product());
        let mut bytes = vec![0; width * VALUE];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = file.seek(SeekFrom::Start(0))?;
        for line in line_starts(&self.shape, &region.start, &region.size) {
            let from = (line * VALUE) as u64;
            // lines that lie close are read at a time
            file.seek_relative(from.cast_signed() - at.cast_signed())?;
            file.read_exact(&mut bytes)?;
            at = from + bytes.len() as u64;
            values.extend(
                bytes.chunks_exact(VALUE).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            );
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_come_back_and_missing_values_are_noticed() {
        let values: Vec<f32> = (0..60).map(|v| v as f32 - 7.5).collect();
        let mut writer = SpoolWriter::new().unwrap();
        writer.add(&values[..13]).unwrap();
        writer.add(&values[13..]).unwrap();
        let spool = writer.finish(&[3, 4, 5]).unwrap();
        let region = Region { start: vec![1, 2, 3], size: vec![2, 2, 1] };
        let expected = [33, 38, 53, 58].map(|i| values[i]);
        assert_eq!(spool.read(&region).unwrap(), expected);
        assert_eq!(spool.read(&Region::full(&[3, 4, 5])).unwrap(), values);
        let mut short = SpoolWriter::new().unwrap();
        short.add(&values[..59]).unwrap();
        assert!(short.finish(&[3, 4, 5]).is_err());
    }
}
