use super::*;
use crate::normalise::NormalisationConfig;
use limpid_engine::infer::{Inferencer, Needs, Plan, TileConfig};
use limpid_io::Volume;

fn volume(shape: &[usize], axes: &str, dtype: DType) -> Volume {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 7919) % 251) as f32).collect();
    Volume::new(Data::from_f32(&values, dtype).0, shape, axes.parse().unwrap()).unwrap()
}

fn normalisers(config: NormalisationConfig) -> Normalisers {
    Normalisers { input: Normaliser::Image { normalisation: config }, target: None }
}

/// Runs an identity network over every frame of a file.
fn restore(from: &Path, to: &Path, dims: usize, normalisers: &Normalisers) -> u64 {
    let input = Input::open(from, dims, None, normalisers).unwrap();
    let channels = input.shape()[0];
    let options = WriteOptions::default();
    let mut output = Output::create(to, &input, normalisers, channels, None, &options).unwrap();
    let needs = Needs {
        any_size_from: None,
        fixed_size: None,
        divisor: vec![2; dims],
        receptive_field: vec![3; dims],
        bytes_per_pixel: 0,
        channels: 1,
    };
    let tiles = TileConfig { size: vec![8; dims], ..TileConfig::default() };
    let inferencer = Inferencer {
        plan: Plan::new(&tiles, &needs, &input.shape()[1..]).unwrap(),
        deviation: false,
        device: candle_core::Device::Cpu,
    };
    for i in 0..input.frames() {
        let frame = input.frame(i);
        inferencer.run(&frame, &mut output.frame(i), |x| Ok(x.clone()), |_, _| {}).unwrap();
    }
    output.finish().unwrap()
}

#[test]
fn identity_returns_the_file_whatever_its_axes() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a.tif"), dir.path().join("b.tif"));
    for (shape, axes, dims) in [
        (vec![19, 22], "YX", 2),
        (vec![3, 19, 22], "ZYX", 2),
        (vec![11, 19, 22], "ZYX", 3),
        (vec![2, 11, 12], "CYX", 2),
        (vec![2, 3, 11, 12], "CZYX", 2),
        (vec![2, 9, 11, 12], "CZYX", 3),
        (vec![2, 3, 11, 12], "TZYX", 2),
        (vec![2, 9, 11, 12], "TZYX", 3),
        (vec![2, 2, 3, 11, 12], "TCZYX", 2),
        (vec![2, 2, 9, 11, 12], "TCZYX", 3),
    ] {
        for (dtype, config) in [
            (DType::U8, NormalisationConfig::default()),
            (DType::U16, NormalisationConfig::ZScore {}),
        ] {
            let original = volume(&shape, axes, dtype);
            limpid_io::save(&from, &original).unwrap();
            let clipped = restore(&from, &to, dims, &normalisers(config));
            let back = limpid_io::open(&to).unwrap().read().unwrap();
            assert_eq!(back.data, original.data, "{axes} {shape:?} in {dims}-D");
            assert_eq!((back.info.axes, clipped), (original.info.axes, 0));
        }
    }
}

#[test]
fn compressed_files_are_decoded_once_into_memory_or_a_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.nii.gz");
    let original = volume(&[3, 9, 14, 13], "TZYX", DType::I16);
    limpid_io::save(&path, &original).unwrap();
    let none = normalisers(NormalisationConfig::None {});
    let bytes = 3 * 9 * 14 * 13 * 4;
    let memory = Input::open_within(&path, 3, None, &none, bytes).unwrap();
    let disk = Input::open_within(&path, 3, None, &none, bytes - 1).unwrap();
    // from now on the file is not needed
    let first = memory.frame(0).read(&[0; 3], &[9, 14, 13]).unwrap();
    std::fs::write(&path, b"gone").unwrap();
    let all = original.data.to_f32();
    assert_eq!(first, all[..first.len()]);
    for frame in [2, 0, 1] {
        for (start, size) in
            [([5, 3, 2], [4, 11, 10]), ([0, 0, 0], [9, 14, 13]), ([1, 13, 0], [3, 1, 1])]
        {
            let read = disk.frame(frame).read(&start, &size).unwrap();
            assert_eq!(read, memory.frame(frame).read(&start, &size).unwrap());
            let at = ((frame * 9 + start[0]) * 14 + start[1]) * 13 + start[2];
            assert_eq!(read[0], all[at]);
        }
    }
}

#[test]
fn clipped_values_are_counted_and_an_unfinished_file_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a.tif"), dir.path().join("b.tif"));
    limpid_io::save(&from, &volume(&[6, 8], "YX", DType::U8)).unwrap();
    let normalisers = normalisers(NormalisationConfig::None {});
    let input = Input::open(&from, 2, None, &normalisers).unwrap();
    let make =
        || Output::create(&to, &input, &normalisers, 1, None, &WriteOptions::default()).unwrap();
    let mut output = make();
    output.frame(0).slab(0, 4, &[300.0; 32]).unwrap();
    let error = output.frame(0).slab(3, 1, &[0.0; 8]).unwrap_err().to_string();
    assert!(error.contains("expected frame 0 from row 4"), "{error}");
    output.frame(0).slab(4, 2, &[7.4; 16]).unwrap();
    assert_eq!(output.finish().unwrap(), 32);
    std::fs::remove_file(&to).unwrap();
    let mut output = make();
    output.frame(0).slab(0, 4, &[0.0; 32]).unwrap();
    drop(output);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn channels_may_differ_from_the_input() {
    let info = volume(&[2, 3, 4, 5], "TZYX", DType::U8).info;
    let more = with_channels(&info, 2).unwrap();
    assert_eq!((more.axes.to_string().as_str(), &more.shape[..]), ("TCZYX", &[2, 2, 3, 4, 5][..]));
    let fewer = with_channels(&more, 1).unwrap();
    assert_eq!((fewer.axes, fewer.shape), (info.axes, info.shape));
}

#[test]
fn nan_and_wrong_channels_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.tif");
    let mut values = vec![1.0; 48];
    values[20] = f32::NAN;
    let bad = Volume::new(Data::F32(values), &[6, 8], "YX".parse().unwrap()).unwrap();
    limpid_io::save(&path, &bad).unwrap();
    let input = Input::open(&path, 2, None, &normalisers(NormalisationConfig::None {})).unwrap();
    let error = input.frame(0).read(&[0, 0], &[6, 8]).unwrap_err().to_string();
    assert!(error.contains("NaN") && error.ends_with("bad.tif"), "{error}");
    let two = NormalisationConfig::MinMax {}.fit(&[0.0, 1.0, 2.0, 3.0], 2);
    let two = Normalisers { input: Normaliser::Dataset { normalisation: two }, target: None };
    let error = Input::open(&path, 2, None, &two).err().unwrap().to_string();
    assert!(error.contains("1 channels (axes YX), the model was trained on 2"), "{error}");
}
