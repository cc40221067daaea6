//! Slices between those that were taken: pairs of neighbouring slices as a source, and the writer
//! that puts the layers a network makes of them in their places.

use super::{Frame, Input, Output};
use crate::images::leading;
use crate::{Error, Result};
use limpid_engine::BoxError;
use limpid_engine::infer::{Slabs, Source};
use limpid_io::{Axis, VolumeInfo};

/// Two neighbouring slices as two channels, the upper (higher z) first, as vEMDiffuse takes them.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    input: &'a Input,
    /// Number of the pair, over all time points.
    index: usize,
    shape: [usize; 3],
}

impl Input {
    /// Slices at one time point.
    pub fn slices(&self) -> usize {
        self.info().size(Axis::Z)
    }

    /// How many pairs of neighbouring slices there are, at all time points.
    ///
    /// # Errors
    /// The image is no stack of grey slices, opened with `dims = 2`.
    pub fn pairs(&self) -> Result<usize> {
        let (slices, spatial) = (self.slices(), &self.shape()[1..]);
        if slices < 2 || self.shape()[0] > 1 || spatial.len() != 2 {
            let (axes, shape) = (&self.info().axes, &self.info().shape);
            return Err(Error::file(
                &self.file.path,
                format!(
                    "layers are made between slices: this needs a grey volume of two slices or more, not {shape:?} ({axes})"
                ),
                "give a volume (ZYX) or a folder of slices, or the order of its axes",
            ));
        }
        Ok(self.frames() / slices * (slices - 1))
    }

    /// The pair of slices of that number, below [`pairs`](Self::pairs).
    ///
    /// # Errors
    /// There is no such pair, or the image is no stack of slices.
    pub fn pair(&self, index: usize) -> Result<Pair<'_>> {
        let pairs = self.pairs()?;
        if index >= pairs {
            return Err(Error::setting(
                format!("pair {index} of {pairs} pairs of slices was asked for"),
                "this is a bug in the program that reads the image",
            ));
        }
        Ok(Pair { input: self, index, shape: [2, self.shape()[1], self.shape()[2]] })
    }

    /// The `count` slices around the pair of that number, as far as its time point has them: of those
    /// before it `margin`, as long as there are so many behind.
    ///
    /// # Errors
    /// As [`pair`](Self::pair).
    pub fn run(&self, index: usize, margin: usize, count: usize) -> Result<Run<'_>> {
        let pair = self.pair(index)?;
        let (time, z) = pair.place();
        let slices = self.slices();
        let count = count.clamp(2, slices);
        let first = z.saturating_sub(margin).min(slices - count);
        let [_, rows, columns] = pair.shape;
        let frame = time * slices + first;
        Ok(Run { input: self, frame, before: z - first, shape: [count, rows, columns] })
    }
}

/// Neighbouring slices as channels, z rising.
pub struct Run<'a> {
    input: &'a Input,
    /// The frame of the lowest.
    frame: usize,
    /// Slices below those of the pair it was asked for.
    pub before: usize,
    shape: [usize; 3],
}

impl Source for Run<'_> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read(&self, start: &[usize], size: &[usize]) -> Result<Vec<f32>, BoxError> {
        let mut values = Vec::with_capacity(self.shape[0] * size.iter().product::<usize>());
        for frame in self.frame..self.frame + self.shape[0] {
            values.extend(self.input.frame(frame).read(start, size)?);
        }
        Ok(values)
    }
}

impl<'a> Pair<'a> {
    /// The slice at the lower end.
    fn lower(&self) -> Frame<'a> {
        let (time, z) = self.place();
        self.input.frame(time * self.input.slices() + z)
    }

    /// The slice at the upper end.
    fn upper(&self) -> Frame<'a> {
        let (time, z) = self.place();
        self.input.frame(time * self.input.slices() + z + 1)
    }

    /// Time point, and z of the lower slice.
    fn place(&self) -> (usize, usize) {
        let pairs = self.input.slices() - 1;
        (self.index / pairs, self.index % pairs)
    }
}

impl Source for Pair<'_> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read(&self, start: &[usize], size: &[usize]) -> Result<Vec<f32>, BoxError> {
        let mut values = self.upper().read(start, size)?;
        values.extend(self.lower().read(start, size)?);
        Ok(values)
    }
}

/// What stands for the slices that were taken, between the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// The slices as they are, bit for bit if the types are the same.
    Slices,
    /// Zeros, for a deviation: slices that were taken have none.
    Zero,
}

/// Takes the layers between the two slices of one pair or more, a channel each, z rising, and writes
/// them as frames of an [`Output`] of [`layered_info`], with the slices around them. Pairs come in
/// order; frames are written when the last rows have come, so that these layers are in memory.
pub struct LayerSlabs<'a> {
    output: &'a mut Output,
    /// The first.
    pair: Pair<'a>,
    pairs: usize,
    outer: Outer,
    /// Values `[pairs · layers, rows, columns]`.
    values: Vec<f32>,
    /// Layers between two slices.
    layers: usize,
    /// Row expected next.
    next: usize,
}

impl<'a> LayerSlabs<'a> {
    /// The writer of `layers` layers between the slices of `pairs` pairs of one time point, of which
    /// `pair` is the first.
    #[must_use]
    pub fn new(
        output: &'a mut Output,
        pair: Pair<'a>,
        pairs: usize,
        layers: usize,
        outer: Outer,
    ) -> Self {
        let [_, rows, columns] = pair.shape;
        let values = vec![0.0; pairs * layers * rows * columns];
        Self { output, pair, pairs, outer, values, layers, next: 0 }
    }

    /// Writes of every pair the lower slice and the layers, and at the end of the volume the upper
    /// slice.
    fn write(&mut self) -> Result<(), BoxError> {
        let [_, rows, columns] = self.pair.shape;
        let of_pair = self.layers * rows * columns;
        let values = std::mem::take(&mut self.values);
        (0..self.pairs).try_for_each(|i| {
            let pair = Pair { index: self.pair.index + i, ..self.pair };
            self.write_pair(pair, &values[i * of_pair..(i + 1) * of_pair])
        })
    }

    fn write_pair(&mut self, pair: Pair<'_>, values: &[f32]) -> Result<(), BoxError> {
        let [_, rows, columns] = pair.shape;
        let pixels = rows * columns;
        let (time, z) = pair.place();
        let slices = pair.input.slices();
        let step = self.layers + 1;
        let first = (time * ((slices - 1) * step + 1)) + z * step;
        let outer = |frame: Frame<'_>| match self.outer {
            Outer::Slices => frame.input.file.read_frame(frame.index),
            Outer::Zero => Ok(vec![0.0; pixels]),
        };
        self.output.frame(first).put(0, rows, &outer(pair.lower())?)?;
        for (layer, values) in (first + 1..).zip(values.chunks_exact(pixels.max(1))) {
            self.output.frame(layer).slab(0, rows, values)?;
        }
        if z + 2 == slices {
            self.output.frame(first + step).put(0, rows, &outer(pair.upper())?)?;
        }
        Ok(())
    }
}

impl Slabs for LayerSlabs<'_> {
    fn slab(&mut self, start: usize, size: usize, data: &[f32]) -> Result<(), BoxError> {
        let [_, rows, columns] = self.pair.shape;
        let layers = self.pairs * self.layers;
        if start != self.next || data.len() != layers * size * columns || start + size > rows {
            return Err(Box::new(Error::setting(
                format!(
                    "{} values for {size} rows from {start} do not continue {layers} layers of {rows} rows of {columns}: expected row {}",
                    data.len(),
                    self.next
                ),
                "the network must give as many layers as the result has; else this is a bug",
            )));
        }
        if size == 0 {
            return Ok(());
        }
        self.next += size;
        for (layer, values) in data.chunks_exact(size * columns).enumerate() {
            let at = (layer * rows + start) * columns;
            self.values[at..at + values.len()].copy_from_slice(values);
        }
        if self.next == rows { self.write() } else { Ok(()) }
    }
}

/// The geometry of a volume with `z` times as many gaps between its slices: its first and last slice
/// stay where they are, so that D slices become (D - 1)·z + 1.
///
/// # Errors
/// There are less than two slices, or `z` is 0, or the volume would be too large.
pub fn layered_info(info: &VolumeInfo, z: usize) -> Result<VolumeInfo> {
    let axis = info.axes.position(Axis::Z).filter(|i| info.shape[*i] > 1 && z > 0);
    let Some(axis) = axis else {
        let (axes, shape) = (&info.axes, &info.shape);
        return Err(Error::setting(
            format!("a volume of {shape:?} ({axes}) cannot have {z} times as many gaps along Z"),
            "give a volume of at least two slices, and at least 1 gap for each",
        ));
    };
    let mut shape = info.shape.clone();
    shape[axis] = (shape[axis] - 1).saturating_mul(z).saturating_add(1);
    let mut finer = VolumeInfo::new(&shape, info.axes.clone(), info.dtype)?;
    (finer.spacing, finer.unit) = (info.spacing.clone(), info.unit.clone());
    (finer.affine, finer.meta) = (info.affine, info.meta.clone());
    if let Some(spacing) = &mut finer.spacing {
        spacing[axis] /= z as f64;
    }
    for row in finer.affine.iter_mut().flat_map(|affine| affine.iter_mut().take(3)) {
        row[2] /= z as f64;
    }
    Ok(finer)
}

/// The geometry of some slices of a stack: `count` from the `first` on, every `step`-th.
///
/// # Errors
/// The slices lie along another axis than the first, or there are not so many.
pub fn taken_info(info: &VolumeInfo, [first, step, count]: [usize; 3]) -> Result<VolumeInfo> {
    let axis = info.axes.as_slice().first();
    let last = count.checked_sub(1).map(|n| first.saturating_add(n.saturating_mul(step)));
    let stack = matches!(leading(info, 2)[..], [(slices, _)] if axis == Some(&slices));
    if !stack || last.is_none_or(|last| last >= info.shape[0]) {
        let (axes, shape) = (&info.axes, &info.shape);
        return Err(Error::setting(
            format!(
                "{count} slices, every {step}th from {first} on, cannot be taken of {shape:?} ({axes})"
            ),
            "give a stack of slices along one axis, such as ZYX, that has as many",
        ));
    }
    let mut taken = info.clone();
    taken.shape[0] = count;
    if let Some(spacing) = &mut taken.spacing {
        spacing[0] *= step as f64;
    }
    if axis == Some(&Axis::Z) {
        // the first slice that is taken need not be the first one
        for row in taken.affine.iter_mut().flat_map(|affine| affine.iter_mut().take(3)) {
            row[3] += row[2] * first as f64;
            row[2] *= step as f64;
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalise::{NormalisationConfig, Normaliser, Normalisers};
    use limpid_engine::infer::{Inferencer, Needs, Plan, TileConfig};
    use limpid_io::{DType, Data, Volume, WriteOptions};
    use std::path::Path;

    fn plain() -> Normalisers {
        let normalisation = NormalisationConfig::Scale { divide: 10.0 };
        Normalisers { input: Normaliser::Image { normalisation }, target: None }
    }

    fn open(path: &Path, axes: &str, shape: &[usize]) -> (Input, Vec<u16>) {
        let n: usize = shape.iter().product();
        // slices lie 600 apart, so that steps of 1/3 and 1/4 are whole numbers
        let slice = n / shape[..shape.len() - 2].iter().product::<usize>();
        let values: Vec<u16> = (0..n).map(|i| (i / slice * 600 + i % slice) as u16).collect();
        let mut volume =
            Volume::new(Data::U16(values.clone()), shape, axes.parse().unwrap()).unwrap();
        if axes == "ZYX" {
            volume.info.spacing = Some(vec![40.0, 4.0, 4.0]);
            volume.info.unit = Some("nm".into());
        }
        limpid_io::save(path, &volume).unwrap();
        (Input::open(path, 2, None, &plain()).unwrap(), values)
    }

    /// Linear interpolation of the two channels of a pair, as a network would make layers.
    fn interpolated(x: &candle_core::Tensor, z: usize) -> candle_core::Tensor {
        let (upper, lower) = (x.narrow(1, 0, 1).unwrap(), x.narrow(1, 1, 1).unwrap());
        let layers: Vec<_> = (1..z)
            .map(|c| {
                let f = c as f64 / z as f64;
                let upper = upper.affine(f, 0.0).unwrap();
                (lower.affine(1.0 - f, 0.0).unwrap() + upper).unwrap()
            })
            .collect();
        candle_core::Tensor::cat(&layers, 1).unwrap()
    }

    fn run(input: &Input, to: &Path, z: usize, outer: Outer) {
        let info = layered_info(input.info(), z).unwrap();
        let normalisation = input.restored_normalisation(&plain());
        let options = WriteOptions::default();
        let mut output = Output::create_with(to, &info, 2, normalisation, 1, &options).unwrap();
        let needs = Needs {
            any_size_from: None,
            fixed_size: None,
            divisor: vec![2; 2],
            receptive_field: vec![3; 2],
            bytes_per_pixel: 0,
            channels: z - 1,
        };
        let tiles = TileConfig { size: vec![8; 2], ..TileConfig::default() };
        for index in 0..input.pairs().unwrap() {
            let pair = input.pair(index).unwrap();
            let inferencer = Inferencer {
                plan: Plan::new(&tiles, &needs, &pair.shape()[1..]).unwrap(),
                deviation: false,
                device: candle_core::Device::Cpu,
            };
            let mut sink = LayerSlabs::new(&mut output, pair, 1, z - 1, outer);
            inferencer.run(&pair, &mut sink, |x| Ok(interpolated(x, z)), |_, _| {}).unwrap();
        }
        output.finish().unwrap();
    }

    #[test]
    fn layers_stand_between_their_slices() {
        let dir = tempfile::tempdir().unwrap();
        for (axes, shape, z) in [("ZYX", vec![4, 13, 18], 3), ("TZYX", vec![2, 3, 9, 10], 4)] {
            let (from, to) = (dir.path().join("a.tif"), dir.path().join("b.tif"));
            let (input, values) = open(&from, axes, &shape);
            run(&input, &to, z, Outer::Slices);
            let back = limpid_io::open(&to).unwrap().read().unwrap();
            let rank = shape.len();
            let (slices, pixels) = (shape[rank - 3], shape[rank - 2] * shape[rank - 1]);
            let finer = (slices - 1) * z + 1;
            assert_eq!(back.info.size(Axis::Z), finer);
            let Data::U16(got) = back.data else { panic!("the type has changed") };
            for (i, v) in got.iter().enumerate() {
                let (time, layer, pixel) = (i / pixels / finer, i / pixels % finer, i % pixels);
                let below = values[(time * slices + layer / z) * pixels + pixel];
                assert_eq!(*v, below + (layer % z * 600 / z) as u16, "{axes} {time} {layer}");
            }
            if axes == "ZYX" {
                assert_eq!(back.info.spacing_of(Axis::Z), Some(40.0 / 3.0));
                assert_eq!(back.info.spacing_of(Axis::X), Some(4.0));
                run(&input, &to, z, Outer::Zero);
                let Data::U16(got) = limpid_io::open(&to).unwrap().read().unwrap().data else {
                    panic!("the type has changed")
                };
                let zero = |layer: usize| got[layer * pixels..][..pixels].iter().all(|v| *v == 0);
                let zeros: Vec<usize> = (0..finer).filter(|layer| zero(*layer)).collect();
                assert_eq!(zeros, [0, 3, 6, 9]);
            }
        }
    }

    #[test]
    fn slices_that_were_taken_keep_their_bits_and_may_be_files_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("slices");
        std::fs::create_dir(&folder).unwrap();
        let mut draws = limpid_kernels::rng::Stream::new(3, "slices").draws();
        let values: Vec<f32> = (0..4 * 99).map(|_| 1e3 * draws.normal() as f32).collect();
        for (z, slice) in values.chunks(99).enumerate() {
            let data = Data::F32(slice.to_vec());
            let slice = Volume::new(data, &[9, 11], "YX".parse().unwrap()).unwrap();
            limpid_io::save(folder.join(format!("{z}.npy")), &slice).unwrap();
        }
        // a normalisation whose way back is off by roundings
        let input = Input::open(&folder, 2, None, &plain()).unwrap();
        let to = dir.path().join("b.npy");
        run(&input, &to, 2, Outer::Slices);
        let Data::F32(got) = limpid_io::open(&to).unwrap().read().unwrap().data else {
            panic!("the type has changed")
        };
        assert_eq!(got.len(), 7 * 99);
        for (z, slice) in values.chunks(99).enumerate() {
            assert_eq!(got[2 * z * 99..][..99], *slice, "slice {z}");
        }
    }

    #[test]
    fn several_pairs_at_once_are_written_as_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let (input, _) = open(&dir.path().join("a.tif"), "TZYX", &[2, 7, 9, 10]);
        let z = 3;
        let write = |to: &Path, at_once: usize| {
            let info = layered_info(input.info(), z).unwrap();
            let back = input.restored_normalisation(&plain());
            let options = WriteOptions::default();
            let mut output = Output::create_with(to, &info, 2, back, 1, &options).unwrap();
            for first in (0..input.pairs().unwrap()).step_by(at_once) {
                let layers: Vec<f32> = (first..first + at_once)
                    .flat_map(|index| {
                        let pair = input.pair(index).unwrap().read(&[0, 0], &[9, 10]).unwrap();
                        let x = candle_core::Tensor::from_vec(
                            pair,
                            (1, 2, 9, 10),
                            &candle_core::Device::Cpu,
                        );
                        let y = interpolated(&x.unwrap(), z).flatten_all().unwrap();
                        y.to_vec1::<f32>().unwrap()
                    })
                    .collect();
                let pair = input.pair(first).unwrap();
                let mut sink = LayerSlabs::new(&mut output, pair, at_once, z - 1, Outer::Slices);
                // in two slabs: all layers of the first rows, then of the others
                for rows in [0..4, 4..9] {
                    let part: Vec<f32> = layers
                        .chunks(90)
                        .flat_map(|layer| layer[rows.start * 10..rows.end * 10].to_vec())
                        .collect();
                    sink.slab(rows.start, rows.len(), &part).unwrap();
                }
                sink.slab(9, 0, &[]).unwrap();
            }
            output.finish().unwrap();
            limpid_io::open(to).unwrap().read().unwrap().data
        };
        let (one, three) =
            (write(&dir.path().join("1.npy"), 1), write(&dir.path().join("3.npy"), 3));
        assert_eq!(one.to_f32(), three.to_f32());
        assert_eq!(one.to_f32().len(), 2 * 19 * 90);
    }

    #[test]
    fn a_run_has_slices_on_both_sides_as_far_as_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let (input, values) = open(&dir.path().join("a.tif"), "TZYX", &[2, 7, 9, 10]);
        // pair, slices at once → the lowest of them, slices below the pair
        for (pair, count, lowest, before) in
            [(0, 5, 0, 0), (1, 5, 0, 1), (3, 5, 1, 2), (5, 5, 2, 3), (6, 5, 7, 0), (8, 99, 7, 2)]
        {
            let run = input.run(pair, 2, count).unwrap();
            assert_eq!(run.before, before, "{pair}");
            assert_eq!(run.shape(), [count.min(7), 9, 10]);
            let got = run.read(&[1, 2], &[1, 1]).unwrap();
            let want = (0..count.min(7)).map(|z| values[(lowest + z) * 90 + 12]);
            assert!(got.iter().zip(want).all(|(a, b)| *a == f32::from(b) / 10.0), "{pair}");
        }
        assert!(input.run(12, 2, 5).is_err());
    }

    #[test]
    fn slices_that_are_taken_keep_their_places_in_space() {
        let mut info = VolumeInfo::new(&[7, 6, 8], "ZYX".parse().unwrap(), DType::U8).unwrap();
        info.spacing = Some(vec![10.0, 1.0, 2.0]);
        let row = |z: f64, origin: f64| [0.0, 0.0, z, origin];
        info.affine = Some([row(1.0, 5.0), row(0.0, 6.0), row(10.0, 7.0), [0.0, 0.0, 0.0, 1.0]]);
        let taken = taken_info(&info, [1, 3, 2]).unwrap();
        assert_eq!((taken.shape, taken.spacing), (vec![2, 6, 8], Some(vec![30.0, 1.0, 2.0])));
        assert_eq!(taken.affine.unwrap()[..3], [row(3.0, 6.0), row(0.0, 6.0), row(30.0, 17.0)]);
        // more than there are, none, and slices along two axes
        assert!(taken_info(&info, [1, 3, 4]).is_err() && taken_info(&info, [0, 1, 0]).is_err());
        let times = VolumeInfo::new(&[2, 7, 6, 8], "TZYX".parse().unwrap(), DType::U8).unwrap();
        let error = taken_info(&times, [0, 2, 1]).unwrap_err().to_string();
        assert!(error.contains("along one axis"), "{error}");
    }

    #[test]
    fn first_and_last_slice_keep_their_places_in_space() {
        let mut info = VolumeInfo::new(&[5, 6, 8], "ZYX".parse().unwrap(), DType::U8).unwrap();
        info.spacing = Some(vec![30.0, 1.0, 2.0]);
        info.affine = Some([
            [2.0, 0.0, 0.5, 10.0],
            [0.0, 1.0, 0.0, 20.0],
            [0.0, 0.0, 30.0, 40.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        let finer = layered_info(&info, 6).unwrap();
        assert_eq!(finer.shape, [25, 6, 8]);
        assert_eq!(finer.spacing, Some(vec![5.0, 1.0, 2.0]));
        let (old, new) = (info.affine.unwrap(), finer.affine.unwrap());
        for row in 0..3 {
            assert_eq!(new[row][3], old[row][3]);
            assert!((new[row][2] * 24.0 - old[row][2] * 4.0).abs() < 1e-12);
            assert_eq!(new[row][..2], old[row][..2]);
        }
        let flat = VolumeInfo::new(&[6, 8], "YX".parse().unwrap(), DType::U8).unwrap();
        assert!(layered_info(&flat, 6).is_err() && layered_info(&info, 0).is_err());
        assert!(layered_info(&info, usize::MAX).is_err());
    }

    #[test]
    fn what_has_no_pairs_and_rows_out_of_order_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tif");
        let (flat, _) = open(&path, "YX", &[6, 8]);
        assert!(flat.pairs().unwrap_err().to_string().contains("two slices or more"));
        let (input, _) = open(&path, "ZYX", &[3, 6, 8]);
        assert_eq!(input.pairs().unwrap(), 2);
        assert!(input.pair(2).is_err());
        let info = layered_info(input.info(), 2).unwrap();
        let normalisation = input.restored_normalisation(&plain());
        let (to, options) = (dir.path().join("b.tif"), WriteOptions::default());
        let mut output = Output::create_with(&to, &info, 2, normalisation, 1, &options).unwrap();
        let mut sink = LayerSlabs::new(&mut output, input.pair(0).unwrap(), 1, 1, Outer::Slices);
        sink.slab(0, 2, &[0.0; 16]).unwrap();
        for (start, data) in [(3, 8), (2, 16)] {
            let error = sink.slab(start, 1, &vec![0.0; data]).unwrap_err().to_string();
            assert!(error.contains("expected row 2"), "{error}");
        }
        // a pair out of order is noticed by the output
        let mut sink = LayerSlabs::new(&mut output, input.pair(1).unwrap(), 1, 1, Outer::Slices);
        let error = sink.slab(0, 6, &[0.0; 48]).unwrap_err().to_string();
        assert!(error.contains("expected frame 0"), "{error}");
    }
}
