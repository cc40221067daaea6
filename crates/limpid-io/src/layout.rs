//! Arrays that lie as one block in a file or a compressed stream: npy, npz, NIfTI.
//!
//! A [`Layout`] says where the block starts and in which order its axes run; [`Layout::read`]
//! fetches a region in the order of the file, so that a stream only ever moves forward.

use crate::data::{Data, Encoding};
use crate::error::Result;
use crate::volume::{Axes, Region};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Mutex;

/// Somewhere bytes can be read at an offset.
pub(crate) trait Bytes: Send + Sync {
    /// Fills `buffer` with the bytes from `offset` on.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl Bytes for File {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => (offset, buffer) = (offset + n as u64, &mut buffer[n..]),
            }
        }
        Ok(())
    }
}

/// Bytes already decoded.
impl Bytes for Vec<u8> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A part of a file as a reader of its own, so that many can read one file at once.
pub(crate) struct Section {
    pub(crate) file: File,
    pub(crate) at: u64,
    pub(crate) end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        self.file.read_at(self.at, &mut buffer[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A compressed stream. Reading forward continues where it stood, reading back starts again.
pub(crate) struct Forward {
    reopen: Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>,
    state: Mutex<Option<Stream>>,
    end: u64,
    crc: Option<u32>,
}

struct Stream {
    reader: Box<dyn Read + Send>,
    at: u64,
    crc: flate2::Crc,
}

impl Forward {
    /// A stream that `reopen` starts and that holds `end` bytes; its checksum is compared to
    /// `crc`, where given, when the end is reached.
    pub(crate) fn new(
        reopen: impl Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'static,
        end: u64,
        crc: Option<u32>,
    ) -> Self {
        Self { reopen: Box::new(reopen), state: Mutex::new(None), end, crc }
    }
}

impl Stream {
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(buffer)?;
        self.crc.update(buffer);
        self.at += buffer.len() as u64;
        Ok(())
    }
}

impl Bytes for Forward {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut stream = match state.take() {
            Some(stream) if stream.at <= offset => stream,
            _ => Stream { reader: (self.reopen)()?, at: 0, crc: flate2::Crc::new() },
        };
        let mut skipped = [0; 1 << 14];
        while stream.at < offset {
            let n = skipped.len().min(usize::try_from(offset - stream.at).unwrap_or(usize::MAX));
            stream.take(&mut skipped[..n])?;
        }
        stream.take(buffer)?;
        if stream.at == self.end && !buffer.is_empty() {
            // decoders check their sums at the very end, so go there; the next read starts again
            let more = io::copy(&mut stream.reader, &mut io::sink())?;
            if self.crc.is_some_and(|crc| more > 0 || crc != stream.crc.sum()) {
                let message = "the length or checksum of the content is wrong";
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            return Ok(());
        }
        *state = Some(stream);
        Ok(())
    }
}

/// An array as it lies in the bytes of a file.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Where the first sample is.
    pub(crate) offset: u64,
    /// How each sample is stored.
    pub(crate) encoding: Encoding,
    /// Size along each stored axis, slowest first.
    pub(crate) shape: Vec<usize>,
    /// Names of the stored axes, slowest first.
    pub(crate) axes: Axes,
}

/// Rows this close are fetched with what lies between them.
const GAP: u64 = 4096;
/// Bytes fetched at once, unless one row is longer.
const CHUNK: u64 = 4 << 20;

impl Layout {
    /// The shape with the axes in the order T, C, Z, Y, X.
    pub(crate) fn canonical_shape(&self) -> Vec<usize> {
        let order = self.axes.canonical();
        order
            .as_slice()
            .iter()
            .filter_map(|axis| Some(self.shape[self.axes.position(*axis)?]))
            .collect()
    }

    /// Reads `region`, whose axes have the order T, C, Z, Y, X and which was checked against the
    /// shape.
    pub(crate) fn read(&self, source: &dyn Bytes, region: &Region) -> Result<io::Result<Data>> {
        let samples = region.size.iter().product();
        let mut data = Data::zeros(self.encoding.dtype(), samples)?;
        Ok(self.fill(source, region, &mut data).map(|()| data))
    }

    fn fill(&self, source: &dyn Bytes, region: &Region, data: &mut Data) -> io::Result<()> {
        let rank = self.shape.len();
        let sample = self.encoding.size();
        // per stored axis: bytes between neighbours in the file, samples between them in `data`
        let (mut in_file, mut in_data) = (vec![sample as u64; rank], vec![1; rank]);
        let (mut start, mut size) = (vec![0; rank], vec![1; rank]);
        let canonical = self.axes.canonical();
        for (i, axis) in self.axes.as_slice().iter().enumerate() {
            in_file[i] *= self.shape[i + 1..].iter().map(|n| *n as u64).product::<u64>();
            let position = canonical.position(*axis).unwrap_or(i);
            in_data[i] = region.size[position + 1..].iter().product();
            (start[i], size[i]) = (region.start[position], region.size[position]);
        }
        let last = rank - 1;
        let row_bytes = (size[last] * sample) as u64;
        let first = self.offset + (0..rank).map(|i| start[i] as u64 * in_file[i]).sum::<u64>();
        let (mut rows, mut buffer): (Vec<(u64, usize)>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut fetch = |rows: &mut Vec<(u64, usize)>| -> io::Result<()> {
            let (Some(begin), Some(end)) = (rows.first(), rows.last()) else { return Ok(()) };
            let begin = begin.0;
            buffer.resize((end.0 + row_bytes - begin) as usize, 0);
            source.read_at(begin, &mut buffer)?;
            for (at, to) in rows.drain(..) {
                let bytes = &buffer[(at - begin) as usize..];
                data.put((to, in_data[last], size[last]), bytes, sample, self.encoding);
            }
            Ok(())
        };
        let mut index = vec![0; last];
        loop {
            let at = first + (0..last).map(|i| index[i] as u64 * in_file[i]).sum::<u64>();
            let to = (0..last).map(|i| index[i] * in_data[i]).sum::<usize>();
            if let (Some(begin), Some(end)) = (rows.first(), rows.last())
                && (at - end.0 - row_bytes > GAP || at + row_bytes - begin.0 > CHUNK)
            {
                fetch(&mut rows)?;
            }
            rows.push((at, to));
            // the next row, fastest axis first
            let Some(axis) = (0..last).rev().find(|i| index[*i] + 1 < size[*i]) else {
                return fetch(&mut rows);
            };
            index[axis] += 1;
            index[axis + 1..].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DType, Kind};

    #[test]
    fn any_order_of_axes_gives_the_same_region() {
        // the sample at (c, z, y, x) is 1000c + 100z + 10y + x, whatever the order in the file
        let sizes = |axis: char| match axis {
            'C' => 2,
            'Z' => 3,
            'Y' => 4,
            _ => 5,
        };
        let weight = |axis: char| match axis {
            'C' => 1000,
            'Z' => 100,
            'Y' => 10,
            _ => 1,
        };
        for order in ["CZYX", "XYZC", "ZYXC", "YXZC", "ZXCY"] {
            let shape: Vec<usize> = order.chars().map(sizes).collect();
            let mut bytes = vec![0xff; 7];
            for flat in 0..120 {
                let (mut rest, mut value) = (flat, 0u16);
                for axis in order.chars().rev() {
                    value += weight(axis) * (rest % sizes(axis)) as u16;
                    rest /= sizes(axis);
                }
                bytes.extend(value.to_be_bytes());
            }
            let encoding = Encoding { kind: Kind::Plain(DType::U16), big_endian: true };
            let layout = Layout { offset: 7, encoding, shape, axes: order.parse().unwrap() };
            assert_eq!(layout.canonical_shape(), [2, 3, 4, 5]);
            let region = Region { start: vec![1, 0, 2, 1], size: vec![1, 2, 2, 3] };
            let data = layout.read(&bytes, &region).unwrap().unwrap();
            let expected = [1021, 1022, 1023, 1031, 1032, 1033, 1121, 1122, 1123, 1131, 1132, 1133];
            assert_eq!(data, Data::U16(expected.to_vec()), "{order}");
        }
    }

    #[test]
    fn streams_read_forward_and_check_their_sum() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        let open = move || -> io::Result<Box<dyn Read + Send>> {
            Ok(Box::new(io::Cursor::new((0..100).collect::<Vec<u8>>())))
        };
        let good = Forward::new(open, 100, Some(crc.sum()));
        for at in [0, 50, 10, 98] {
            let mut two = [0; 2];
            good.read_at(at, &mut two).unwrap();
            assert_eq!(two, [at as u8, at as u8 + 1]);
        }
        assert!(good.read_at(99, &mut [0; 2]).is_err());
        let bad = Forward::new(open, 100, Some(crc.sum() ^ 1));
        assert!(bad.read_at(0, &mut [0; 50]).is_ok());
        assert!(bad.read_at(50, &mut [0; 50]).is_err());
    }
}
