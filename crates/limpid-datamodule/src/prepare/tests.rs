//! Pairs made of real micrographs by known distortions; files, refusals, and cut volumes.

use super::reslice::reslice_within;
use super::*;
use limpid_classical::register::{FlowConfig, optical_flow, warp};
use limpid_io::{Axes, DType, Data, Volume, WriteOptions};
use limpid_kernels::rng::Stream;
use std::path::{Path, PathBuf};

const SHAPE: [usize; 2] = [250, 250];

/// Slices of a real volume, or says that it is absent and returns `None`.
#[allow(clippy::print_stderr)]
fn micrograph() -> Option<Volume> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/em/fib25_training_sample1_10nm_250x250x250_u8.tif");
    if !path.exists() {
        eprintln!("skipped: no image {}", path.display());
        return None;
    }
    Some(limpid_io::open(&path).unwrap().read().unwrap())
}

fn slice(volume: &Volume, z: usize) -> Vec<f64> {
    let n = SHAPE[0] * SHAPE[1];
    volume.data.slice(z * n, n).unwrap().to_f32().into_iter().map(f64::from).collect()
}

/// A shift, a turn and smooth waves: where the pixels of the clean image lie.
fn distortion() -> [Vec<f64>; 2] {
    let place = |i: usize| ((i / SHAPE[1]) as f64, (i % SHAPE[1]) as f64);
    let n = SHAPE[0] * SHAPE[1];
    let down = |i| {
        let (y, x) = place(i);
        4.3 + 0.02 * (x - 125.0) + 1.2 * (x / 25.0).sin() + 0.002 * y
    };
    let right = |i| {
        let (y, x) = place(i);
        -6.6 - 0.02 * (y - 125.0) + 1.2 * (y / 28.0 + 1.0).cos() + 0.003 * x
    };
    [(0..n).map(down).collect(), (0..n).map(right).collect()]
}

/// A clean image, and what shows the same place through the distortion, with another brightness
/// and contrast, and as noise that of `dose` electrons per pixel.
fn pair(image: &[f64], dose: Option<f64>) -> [Vec<f32>; 2] {
    let [down, right] = distortion();
    let (clean, _) = warp(image, SHAPE, [&down, &right], Border::Reflect).unwrap();
    let mean = image.iter().sum::<f64>() / image.len() as f64;
    let mut noise = vec![0f32; image.len()];
    Stream::new(7, "noise").fill_normal(&mut noise);
    let noisy = image.iter().zip(&noise).map(|(v, z)| {
        let counts = v / mean * dose.unwrap_or(1.0);
        let noise = if dose.is_some() { counts.max(0.0).sqrt() * f64::from(*z) } else { 0.0 };
        (1000.0 + 900.0 * (counts + noise) / dose.unwrap_or(1.0)) as f32
    });
    [clean.iter().map(|v| *v as f32).collect(), noisy.collect()]
}

fn small() -> Pairing {
    Pairing { patch: 96, stride: 77, border: 24, ..Pairing::default() }
}

fn flow(fixed: &[f64], moving: &[f64], shape: [usize; 2]) -> Result<[Vec<f64>; 2], BoxError> {
    Ok(optical_flow(fixed, moving, shape, &FlowConfig::default())?)
}

/// Correlation pixel by pixel.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let n = a.len() as f64;
    let mean = |v: &[f32]| v.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| f(f64::from(*a) - ma, f64::from(*b) - mb)).sum()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[test]
fn patches_show_the_same_pixel_by_pixel() {
    let Some(volume) = micrograph() else { return };
    let [clean, noisy] = pair(&slice(&volume, 90), None);
    let image = |values| Image { values, shape: SHAPE };
    for moved in [Moved::Noisy, Moved::Clean] {
        let config = Pairing { moved, ..small() };
        let all = Pair::new(image(&clean), image(&noisy), &config).unwrap();
        assert_eq!(all.places().len(), 9);
        let mut kept = 0;
        for place in all.places() {
            let patch = all.patch(place, &flow).unwrap();
            if patch.rejected.is_some() {
                assert!(patch.rejected == Some(Reason::Missing) && patch.missing > 10);
                continue;
            }
            kept += 1;
            let agree = correlation(&patch.clean, &patch.noisy);
            assert!(agree > 0.985, "{moved:?} {place:?}: {agree}");
            // without the local step they do not
            let rigid = all.patch(place, &|a, _, _| Ok([vec![0.0; a.len()], vec![0.0; a.len()]]));
            let rigid = rigid.unwrap();
            let before = correlation(&rigid.clean, &rigid.noisy);
            assert!(before < agree - 0.02 && rigid.local == 0.0, "{before} to {agree}");
            assert!(patch.local > 0.3 && patch.correlation > rigid.correlation);
            // the image that stays is untouched
            let (still, got) = match moved {
                Moved::Noisy => (&clean, &patch.clean),
                Moved::Clean => (&noisy, &patch.noisy),
            };
            assert!(cut(still, 250, place, [96, 96]).eq(got));
        }
        assert!(kept >= 8, "{kept}");
    }
}

#[test]
fn noise_spares_good_patches_and_strangers_are_left_out() {
    let Some(volume) = micrograph() else { return };
    let [clean, noisy] = pair(&slice(&volume, 90), Some(10.0));
    let image = |values| Image { values, shape: SHAPE };
    let config = small();
    let inner = |pair: &Pair<'_>| pair.patch([77, 77], &flow).unwrap();
    let good = inner(&Pair::new(image(&clean), image(&noisy), &config).unwrap());
    assert_eq!(good.rejected, None, "{}", good.correlation);
    let exact = distortion().map(|part| part[125 * 250 + 125]);
    assert!((0..2).all(|a| (good.shift[a] - exact[a]).abs() < 2.5), "{:?}", good.shift);

    // another slice of the same tissue
    let [_, other] = pair(&slice(&volume, 200), Some(10.0));
    let bad = inner(&Pair::new(image(&clean), image(&other), &config).unwrap());
    assert_eq!(bad.rejected, Some(Reason::Correlation), "{}", bad.correlation);
    assert!(bad.correlation < 0.6 * good.correlation);

    // ways longer than the border
    let far = |a: &[f64], _: &[f64], _: [usize; 2]| Ok([vec![24.5; a.len()], vec![0.0; a.len()]]);
    let pair = Pair::new(image(&clean), image(&noisy), &config).unwrap();
    assert_eq!(pair.patch([77, 77], &far).unwrap().rejected, Some(Reason::Correlation));
    let any = Pairing { min_correlation: -1.0, ..small() };
    let pair = Pair::new(image(&clean), image(&noisy), &any).unwrap();
    assert_eq!(pair.patch([77, 77], &far).unwrap().rejected, Some(Reason::Moved));
    // a flow that does not fit, a place outside
    let wrong = pair.patch([77, 77], &|_, _, _| Ok([vec![], vec![]])).unwrap_err().to_string();
    assert!(wrong.contains("[0, 0] values for a region of [144, 144]"), "{wrong}");
    let outside = pair.patch([200, 0], &flow).unwrap_err().to_string();
    assert!(outside.contains("at [200, 0] of [250, 250]"), "{outside}");
}

#[test]
fn a_small_image_is_registered_with_the_part_it_shows() {
    let Some(volume) = micrograph() else { return };
    let image = slice(&volume, 20);
    let values = |h: usize, w: usize, at: [usize; 2]| -> Vec<f32> {
        cut(&image, 250, at, [h, w]).map(|v| *v as f32).collect()
    };
    let (clean, noisy) = (values(200, 240, [0, 0]), values(220, 210, [8, 5]));
    let config = Pairing { global: Global::Shift, ..small() };
    let pair = Pair::new(
        Image { values: &clean, shape: [200, 240] },
        Image { values: &noisy, shape: [220, 210] },
        &config,
    )
    .unwrap();
    let shift = pair.registration().shift.unwrap();
    assert!((shift.y + 8.0).hypot(shift.x + 5.0) < 0.1, "{shift:?}");
    // the noisy one begins at [8, 5] and ends before column 215; 4 pixels are kept away
    let places = pair.places();
    assert_eq!((places[0], places[places.len() - 1]), ([12, 9], [104, 115]));
    for place in places {
        let patch = pair.patch(place, &flow).unwrap();
        assert!(patch.rejected.is_none() && patch.correlation > 0.999, "{patch:?}");
    }
    // where no patch fits, the manifest shall say so
    let large = Pairing { patch: 198, ..config.clone() };
    let pair = Pair::new(
        Image { values: &clean, shape: [200, 240] },
        Image { values: &noisy, shape: [220, 210] },
        &large,
    )
    .unwrap();
    let reasons: Vec<_> =
        pair.places().iter().map(|p| pair.patch(*p, &flow).unwrap().rejected).collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|r| *r == Some(Reason::Missing)));
}

fn save(path: &Path, values: &[f32], shape: &[usize], dtype: DType) {
    let axes = Axes::of_rank(shape.len()).unwrap();
    let mut volume = Volume::new(Data::from_f32(values, dtype).0, shape, axes).unwrap();
    volume.info.spacing = Some([vec![0.0; shape.len() - 2], vec![4.0, 5.0]].concat());
    volume.info.unit = Some("nm".into());
    limpid_io::save(path, &volume).unwrap();
}

/// Two frames of a pair in files: `clean/a.tif`, `noisy/a.tif`.
fn files(folder: &Path, noisy_type: DType) -> Option<[Vec<PathBuf>; 2]> {
    let volume = micrograph()?;
    let frames: Vec<_> = [40, 140].map(|z| pair(&slice(&volume, z), Some(40.0))).into();
    let all = |i: usize| frames.iter().flat_map(|frame| frame[i].clone()).collect::<Vec<f32>>();
    let paths = ["clean", "noisy"].map(|name| folder.join(name).join("a.tif"));
    for path in &paths {
        std::fs::create_dir(path.parent().unwrap()).unwrap();
    }
    save(&paths[0], &all(0), &[2, 250, 250], DType::U8);
    save(&paths[1], &all(1), &[2, 250, 250], noisy_type);
    Some(paths.map(|path| vec![path]))
}

#[test]
fn files_become_patches_and_a_manifest() {
    for dtype in [DType::U16, DType::F32] {
        let dir = tempfile::tempdir().unwrap();
        let Some([clean, noisy]) = files(dir.path(), dtype) else { return };
        let out = dir.path().join("out");
        let mut seen = Vec::new();
        let summary =
            prepare(&clean, &noisy, &out, &small(), &flow, &mut |r| seen.push(r.clone())).unwrap();
        assert_eq!(summary.kept + summary.rejected, 18);
        assert!(summary.kept >= 15, "{summary:?}");

        let text = std::fs::read_to_string(out.join(MANIFEST)).unwrap();
        let records: Vec<Record> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(records, seen);
        let names: Vec<&String> = records.iter().filter_map(|r| r.file.as_ref()).collect();
        assert_eq!(names.len(), summary.kept);
        for Record { frame, place: [y, x], file, .. } in &records {
            assert!(file.iter().all(|name| *name == format!("a_{frame}_{y}_{x}.tif")));
        }
        for (folder, dtype) in [("input", dtype), ("target", DType::U8)] {
            assert_eq!(std::fs::read_dir(out.join(folder)).unwrap().count(), summary.kept);
            for name in &names {
                let info = limpid_io::open(out.join(folder).join(name)).unwrap().info().clone();
                assert_eq!((info.shape, info.dtype), (vec![96, 96], dtype));
                assert_eq!(info.spacing, Some(vec![4.0, 5.0]));
                assert_eq!(info.unit.as_deref(), Some("nm"));
            }
        }
        // a second set would be mixed with the first
        let again = prepare(&clean, &noisy, &out, &small(), &flow, &mut |_| ());
        let again = again.unwrap_err().to_string();
        assert!(again.contains("holds files already"), "{again}");
    }
}

#[test]
fn bad_pairs_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let Some([clean, noisy]) = files(dir.path(), DType::F32) else { return };
    let mut next = 0;
    let mut error = |clean: &[PathBuf], noisy: &[PathBuf], config: &Pairing, local: &Local<'_>| {
        next += 1;
        let out = dir.path().join(format!("out{next}"));
        let error = prepare(clean, noisy, &out, config, local, &mut |_| ()).unwrap_err();
        assert!(!out.join(MANIFEST).exists());
        error.to_string()
    };
    let path = |name: &str| vec![dir.path().join(name)];
    let values: Vec<f32> = (0..62500).map(|i| ((i * 7919) % 251) as f32).collect();
    save(&path("one.tif")[0], &values, &[250, 250], DType::U8);
    save(&path("small.tif")[0], &values[..2500], &[50, 50], DType::U8);
    let mut nan = values.clone();
    nan[503] = f32::NAN;
    save(&path("nan.tif")[0], &nan, &[250, 250], DType::F32);
    std::fs::write(&path("text.tif")[0], b"no image").unwrap();
    let two = [noisy[0].clone(), path("one.tif")[0].clone()];

    let config = small();
    let odd = Pairing { min_correlation: f64::NAN, stride: 0, ..small() };
    let fails: &Local<'_> = &|_, _, _| Err("no weights".into());
    for (error, told) in [
        (error(&clean, &two, &config, &flow), vec!["have no partner", "one.tif"]),
        (error(&path("one.tif"), &noisy, &config, &flow), vec!["has 2 slices", "one.tif` 1"]),
        (
            error(&path("one.tif"), &path("small.tif"), &config, &flow),
            vec!["the noisy image of [50, 50] pixels is smaller than a patch of 96", "small.tif"],
        ),
        (
            error(&path("one.tif"), &path("nan.tif"), &config, &flow),
            vec!["NaN at [2, 3]", "nan.tif"],
        ),
        (error(&path("text.tif"), &path("one.tif"), &config, &flow), vec!["text.tif"]),
        (error(&path("gone.tif"), &path("one.tif"), &config, &flow), vec!["gone.tif"]),
        (error(&clean, &noisy, &odd, &flow), vec!["stride"]),
        (error(&clean, &noisy, &config, fails), vec!["no weights", "frame 0", "a.tif"]),
    ] {
        assert!(told.iter().all(|t| error.contains(t)), "`{error}` does not tell {told:?}");
    }
}

#[test]
fn volumes_are_cut_across_their_slices() {
    let dir = tempfile::tempdir().unwrap();
    let shape = [3, 4, 5];
    for dtype in DType::ALL {
        let values: Vec<f32> = (0..60).map(|i| i as f32).collect();
        let data = Data::from_f32(&values, dtype).0;
        let mut volume = Volume::new(data, &shape, "ZYX".parse().unwrap()).unwrap();
        volume.info.spacing = Some(vec![40.0, 8.0, 4.0]);
        volume.info.unit = Some("nm".into());
        volume.info.affine = Some([
            [4.0, 0.0, 0.0, 100.0],
            [0.0, 8.0, 0.0, 200.0],
            [0.0, 0.0, 40.0, 300.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        let path = dir.path().join("volume.npy");
        limpid_io::save(&path, &volume).unwrap();
        let reader = limpid_io::open(&path).unwrap();
        for (plane, order) in [(Plane::Xz, [1, 0, 2]), (Plane::Yz, [2, 0, 1])] {
            let out = dir.path().join("cut.npy");
            // one new slice at a time, two, all
            for bytes in [1, 30 * dtype.size(), 1 << 20] {
                reslice_within(&*reader, plane, &out, &WriteOptions::default(), bytes).unwrap();
                let cut = limpid_io::open(&out).unwrap().read().unwrap();
                assert_eq!(cut.info.dtype, dtype);
                assert_eq!(cut.info.shape, order.map(|a| shape[a]));
                let [_, b, c] = order.map(|a| shape[a]);
                let got = cut.data.to_f32();
                for (i, value) in values.iter().enumerate() {
                    let old = [i / 20, i / 5 % 4, i % 5];
                    let [z, y, x] = order.map(|a| old[a]);
                    assert_eq!(got[(z * b + y) * c + x], *value, "{plane:?} {dtype} {old:?}");
                }
            }
            let info = resliced_info(&volume.info, plane).unwrap();
            let spacing = [40.0, 8.0, 4.0];
            assert_eq!(info.spacing, Some(order.map(|a| spacing[a]).to_vec()));
            // the same voxel has the same place in the world
            let world = |affine: [[f64; 4]; 4], [z, y, x]: [usize; 3]| {
                affine.map(|r| r[0] * x as f64 + r[1] * y as f64 + r[2] * z as f64 + r[3])
            };
            let old = [2, 3, 4];
            assert_eq!(
                world(info.affine.unwrap(), order.map(|a| old[a])),
                world(volume.info.affine.unwrap(), old)
            );
        }
    }
    let channels = limpid_io::VolumeInfo::new(&shape, "CYX".parse().unwrap(), DType::U8).unwrap();
    let error = resliced_info(&channels, Plane::Xz).unwrap_err().to_string();
    assert!(error.contains("got CYX [3, 4, 5]"), "{error}");
}

#[test]
fn a_real_stack_is_cut_with_its_spacing() {
    let Some(volume) = micrograph() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a.tif"), dir.path().join("b.tif"));
    let mut part = Volume::new(
        volume.data.slice(0, 20 * 62500).unwrap(),
        &[20, 250, 250],
        "ZYX".parse().unwrap(),
    )
    .unwrap();
    part.info.spacing = Some(vec![0.04, 0.01, 0.01]);
    part.info.unit = Some("µm".into());
    limpid_io::save(&from, &part).unwrap();
    let reader = limpid_io::open(&from).unwrap();
    reslice(&*reader, Plane::Xz, &to, &WriteOptions::default()).unwrap();
    let cut = limpid_io::open(&to).unwrap();
    assert_eq!(cut.info().shape, [250, 20, 250]);
    assert_eq!(cut.info().axes.to_string(), "ZYX");
    assert_eq!(cut.info().dtype, DType::U8);
    // ImageJ's TIFF has one number for both axes of a slice, so the coarse one cannot be told
    assert_eq!(cut.info().spacing_of(limpid_io::Axis::Z), Some(0.01));
    // once more gives back the old
    let back = dir.path().join("c.tif");
    reslice(&*cut, Plane::Xz, &back, &WriteOptions::default()).unwrap();
    assert_eq!(limpid_io::open(&back).unwrap().read().unwrap().data, part.data);
}
