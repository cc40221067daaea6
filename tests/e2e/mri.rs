//! `igrog`: phantoms simulated, gridded, reconstructed, learnt, and what scans get wrong.

use limpid_io::Compression;
use limpid_io::arrays::{Array, Arrays, Values, open_arrays, read_cfl, write_npz};
use limpid_tests::{Ran, program};
use serde_json::Value;
use std::path::Path;

fn igrog(dir: &Path, args: &[&str]) -> Ran {
    program("igrog", dir, args)
}

/// A small scan: spokes, six coils.
fn simulated(dir: &Path, more: &[&str]) {
    let mut args = vec!["simulate", "scan.npz", "--set", "matrix=[48,48]", "--set", "coils=6"];
    args.extend(["--set", "trajectory.kind=radial", "--set", "trajectory.spokes=48"]);
    args.extend(["--set", "noise=1e-3"]);
    args.extend(more);
    igrog(dir, &args).ok();
}

/// What a command with `--json` says.
fn said(ran: &Ran) -> Value {
    serde_json::from_str(ran.ok().out.trim()).unwrap()
}

fn nrmse(dir: &Path, args: &[&str]) -> f64 {
    let all: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    said(&igrog(dir, &all))["metrics"]["nrmse"].as_f64().unwrap()
}

/// Changes the arrays of a scan.
fn changed(dir: &Path, name: &str, change: impl FnOnce(&mut Arrays)) {
    let mut arrays = open_arrays(dir.join("scan.npz")).unwrap();
    change(&mut arrays);
    write_npz(dir.join(name), &arrays, Compression::None).unwrap();
}

/// Changes the complex numbers of the samples, `[coils, shots, samples]`.
fn samples(arrays: &mut Arrays, change: impl FnOnce(&[usize], &mut Vec<[f32; 2]>)) {
    let (mut dims, values) = arrays.remove("ksp").unwrap().into_parts();
    let mut values = values.into_c64();
    change(&dims, &mut values);
    dims[1] = values.len() / dims[0] / dims[2];
    arrays.insert("ksp".into(), Array::new(dims, Values::C64(values)).unwrap());
}

#[test]
fn images_of_all_methods_agree() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &[]);
    let nufft = nrmse(at, &["recon", "scan.npz", "nufft.npy", "--method", "nufft"]);
    let igrog_ = nrmse(at, &["image-based", "recon", "scan.npz", "igrog.npy"]);
    let basic = nrmse(at, &["basic", "recon", "scan.npz", "basic.npy"]);
    let grog = nrmse(at, &["recon", "scan.npz", "grog.npy", "--method", "grog"]);
    let nearest = nrmse(at, &["recon", "scan.npz", "nearest.npy", "--method", "nearest"]);
    assert!(nufft < 0.06, "{nufft}");
    assert!(igrog_ < nufft + 0.01, "{igrog_} {nufft}");
    assert!(basic < nufft + 0.03, "{basic} {nufft}");
    assert!(igrog_ < 0.6 * grog && grog < nearest, "{igrog_} {grog} {nearest}");
    let fine = ["--set", "geometry.oversamp_grid=1.5"];
    let fine = nrmse(at, &[&["image-based", "recon", "scan.npz", "fine.npy"], &fine[..]].concat());
    assert!(fine < nufft + 0.005, "{fine} {nufft}");
    // without maps, calibration and weights of its own the scan still is enough
    changed(at, "bare.npz", |arrays| {
        for name in ["mps", "img", "t"] {
            arrays.remove(name);
        }
    });
    let args = ["image-based", "recon", "bare.npz", "bare.nii.gz", "--set", "scan.matrix=[48,48]"];
    let said = igrog(at, &args);
    assert!(said.ok().err.contains("bare.nii.gz"), "{said:?}");
    let volume = limpid_io::open(at.join("bare.nii.gz")).unwrap();
    assert_eq!(volume.info().shape, [48, 48]);
}

#[test]
fn gridded_samples_reconstruct_as_the_scan_does() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &[]);
    igrog(at, &["image-based", "grid", "scan.npz", "gridded.npz"]).ok();
    let whole = nrmse(at, &["image-based", "recon", "scan.npz", "a.npy"]);
    let apart = nrmse(at, &["recon", "gridded.npz", "b.npy", "--method", "nearest"]);
    assert!((whole - apart).abs() < 1e-6, "{whole} {apart}");
    igrog(at, &["image-based", "grid", "scan.npz", "gridded.cfl"]).ok();
    let positions = read_cfl(at.join("gridded_trj.cfl")).unwrap();
    assert_eq!(positions.dims(), [48, 96, 3]);
    // as bart reads them: x before y, and an unused first dimension of samples
    let header = std::fs::read_to_string(at.join("gridded_ksp.hdr")).unwrap();
    assert!(header.contains("\n1 96 48 6 1"), "{header}");
    let header = std::fs::read_to_string(at.join("gridded_mps.hdr")).unwrap();
    assert!(header.contains("\n48 48 1 6 1"), "{header}");
    let files = ["scan.trajectory=gridded_trj.cfl", "scan.maps=gridded_mps.cfl"];
    let files = [files[0], files[1], "scan.density=gridded_dcf.cfl", "scan.truth=gridded_img.cfl"];
    let mut args = vec!["recon", "gridded_ksp.cfl", "c.npy", "--method", "nearest"];
    files.iter().for_each(|file| args.extend(["--set", file]));
    let pairs = nrmse(at, &args);
    assert!((whole - pairs).abs() < 1e-5, "{whole} {pairs}");
    // what is read is not replaced, by none of its names
    let before = std::fs::read(at.join("gridded_mps.cfl")).unwrap();
    args[2] = "gridded_mps.cfl";
    igrog(at, &args).fails(3, &["replace a file that is read"]);
    assert!(std::fs::read(at.join("gridded_mps.cfl")).unwrap() == before);
    // a finer grid is known by its file
    let finer = ["--set", "geometry.oversamp_grid=1.5"];
    igrog(at, &[&["image-based", "grid", "scan.npz", "finer.npz"], &finer[..]].concat()).ok();
    let direct = nrmse(at, &[&["image-based", "recon", "scan.npz", "d.npy"], &finer[..]].concat());
    let apart = nrmse(at, &["recon", "finer.npz", "e.npy", "--method", "nearest"]);
    assert!((direct - apart).abs() < 1e-5, "{direct} {apart}");
}

#[test]
fn kernels_are_learnt_kept_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &["--set", "field=80"]);
    for (task, more) in [
        ("image-based", vec![]),
        ("basic", vec![]),
        ("fieldcorr", vec!["--set", "field.segments=6"]),
    ] {
        let mut train = vec![task, "train", "scan.npz", "--quiet", "--set", "network.hidden=48"];
        train.extend(["--set", "network.latent=48", "--set", "optimizer.lr=3e-3"]);
        train.extend(["--set", "train.steps=300", "--set", "samples.batch=256"]);
        train.extend(&more);
        igrog(at, &train).ok();
        let model = format!("runs/{task}-0001");
        let mut recon = vec![task, "recon", "scan.npz", "image.npy", "--model", &model];
        recon.extend(&more);
        let learnt = nrmse(at, &recon);
        let nearest = nrmse(at, &["recon", "scan.npz", "near.npy", "--method", "nearest"]);
        assert!(learnt < nearest, "{task}: {learnt} {nearest}");
        let card = igrog(at, &["inspect", &model]);
        assert!(card.ok().out.contains("6 coils"), "{card:?}");
    }
    // kernels that move a phase need one
    let wrong = ["image-based", "recon", "scan.npz", "x.npy", "--model", "runs/fieldcorr-0001"];
    igrog(at, &wrong).fails(3, &["moves the phase of a field"]);
}

#[test]
fn trainings_go_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &[]);
    let small = ["--quiet", "--set", "network.hidden=16", "--set", "network.latent=16"];
    let train = |out: &str, steps: &str, more: &[&str]| {
        let steps = format!("train.steps={steps}");
        let mut args = vec!["image-based", "train", "scan.npz", "--out", out, "--set", &steps];
        args.extend(["--set", "samples.batch=32", "--set", "samples.validation=64"]);
        // a schedule that ends with the run would be another for other steps
        args.extend(["--set", "schedule.kind=constant"]);
        args.extend(small);
        args.extend(more);
        igrog(at, &args).ok();
    };
    train("once", "40", &[]);
    train("twice", "20", &[]);
    train("twice", "40", &["--run", "twice/image-based-0001", "--allow-changed"]);
    let model = |out: &str| {
        let path = at.join(out).join("image-based-0001/checkpoints/step-000000040");
        std::fs::read(path.join("weights.safetensors")).unwrap()
    };
    assert!(model("once") == model("twice"));
}

#[test]
fn fields_are_corrected_and_signs_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &["--set", "field=120"]);
    let recon = |more: &[&str]| {
        let args = [&["image-based", "recon", "scan.npz", "image.npy"], more].concat();
        nrmse(at, &args)
    };
    let corrected = recon(&[]);
    let ignored = recon(&["--set", "field.correct=none"]);
    let wrong = recon(&["--set", "field.sign=positive"]);
    let moved = recon(&["--set", "field.correct=kernels"]);
    let nufft = nrmse(at, &["recon", "scan.npz", "n.npy", "--method", "nufft"]);
    assert!(corrected < nufft + 0.01, "{corrected} {nufft}");
    assert!(moved < 0.8 * ignored, "{moved} {ignored}");
    assert!(ignored > 2.0 * corrected && wrong > ignored, "{ignored} {wrong} {corrected}");
    let check = igrog(at, &["check", "scan.npz"]);
    assert!(check.ok().out.contains("warnings    none"), "{check:?}");
    let check = igrog(at, &["check", "scan.npz", "--set", "field.sign=positive"]);
    assert!(check.ok().out.contains("field.sign=negative"), "{check:?}");
    changed(at, "untimed.npz", |arrays| drop(arrays.remove("t")));
    igrog(at, &["image-based", "recon", "untimed.npz", "x.npy"]).fails(3, &["times", "scan.dwell"]);
}

#[test]
fn a_constant_field_and_samples_taken_twice_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &[]);
    let recon = |file: &str, more: &[&str]| {
        let args = [&["image-based", "recon", file, "image.npy"], more].concat();
        nrmse(at, &args)
    };
    let plain = recon("scan.npz", &[]);
    changed(at, "constant.npz", |arrays| {
        let times = arrays["t"].clone().into_parts().1.into_f64().unwrap();
        samples(arrays, |dims, values| {
            for (i, value) in values.iter_mut().enumerate() {
                let (sin, cos) = (-std::f64::consts::TAU * 90.0 * times[i % dims[2]]).sin_cos();
                let [re, im] = value.map(f64::from);
                *value = [(re * cos - im * sin) as f32, (re * sin + im * cos) as f32];
            }
        });
        let field = Values::F64(vec![90.0; 48 * 48]);
        arrays.insert("b0_hz".into(), Array::new(vec![48, 48], field).unwrap());
    });
    let corrected = recon("constant.npz", &[]);
    let moved = recon("constant.npz", &["--set", "field.correct=kernels"]);
    let ignored = recon("constant.npz", &["--set", "field.correct=none"]);
    assert!((corrected - plain).abs() < 1e-3, "{corrected} {plain}");
    assert!((moved - plain).abs() < 1e-2, "{moved} {plain}");
    assert!(ignored > 2.0 * plain, "{ignored} {plain}");

    changed(at, "twice.npz", |arrays| {
        samples(arrays, |dims, values| {
            let coil = dims[1] * dims[2];
            *values = values.chunks(coil).flat_map(|coil| coil.repeat(2)).collect();
        });
        let (mut dims, positions) = arrays.remove("trj").unwrap().into_parts();
        let positions = positions.into_f64().unwrap().repeat(2);
        dims[0] *= 2;
        arrays.insert("trj".into(), Array::new(dims, Values::F64(positions)).unwrap());
    });
    let twice = recon("twice.npz", &[]);
    assert!((twice - plain).abs() < 1e-3, "{twice} {plain}");
}

#[test]
fn mistakes_are_named_with_their_cause() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &[]);
    let recon = |file: &str| igrog(at, &["image-based", "recon", file, "x.npy"]);
    changed(at, "voxel.npz", |arrays| {
        let (dims, values) = arrays.remove("trj").unwrap().into_parts();
        let values = values.into_f64().unwrap().iter().map(|k| k / 48.0).collect();
        arrays.insert("trj".into(), Array::new(dims, Values::F64(values)).unwrap());
    });
    recon("voxel.npz").fails(3, &["cycles_per_voxel"]);
    let unit =
        ["image-based", "recon", "voxel.npz", "x.npy", "--set", "scan.unit=cycles_per_voxel"];
    igrog(at, &unit).ok();
    changed(at, "nan.npz", |arrays| {
        samples(arrays, |_, values| values[100][0] = f32::NAN);
    });
    recon("nan.npz").fails(3, &["value 100 of coil 0", "not finite"]);
    changed(at, "swapped.npz", |arrays| {
        let (dims, values) = arrays.remove("ksp").unwrap().into_parts();
        let swapped = Array::new(vec![dims[1], dims[2], dims[0]], values).unwrap();
        arrays.insert("ksp".into(), swapped);
    });
    recon("swapped.npz").fails(3, &["order of axes", "[coils, shots, samples]"]);
    changed(at, "lost.npz", |arrays| drop(arrays.remove("trj")));
    recon("lost.npz").fails(3, &["no trajectory", "scan.trajectory"]);
    changed(at, "zero.npz", |arrays| samples(arrays, |_, values| values.fill([0.0; 2])));
    recon("zero.npz").fails(3, &["all samples are zero"]);
    changed(at, "rolled.npz", |arrays| {
        samples(arrays, |dims, values| {
            values.chunks_mut(dims[2]).for_each(|readout| readout.rotate_right(20));
        });
    });
    let check = igrog(at, &["check", "rolled.npz"]);
    assert!(check.ok().out.contains("off the centre") || check.out.contains("from the centre"));
    // positions of another order, and turned around
    let swapped = ["--set", "scan.axes=[2,-1]"];
    let check = igrog(at, &[&["check", "scan.npz"], &swapped[..]].concat());
    assert!(check.ok().out.contains("--set scan.axes=[1,2]"), "{check:?}");
    let blind =
        nrmse(at, &[&["image-based", "recon", "scan.npz", "image.npy"], &swapped[..]].concat());
    assert!(blind > 0.3, "{blind}");
    let wrong = ["check", "scan.npz", "--set", "scan.axes=[1,1]"];
    igrog(at, &wrong).fails(2, &["scan.axes", "[2, 1]"]);
    changed(at, "shot.npz", |arrays| {
        samples(arrays, |dims, values| {
            let (shots, length) = (dims[1], dims[2]);
            for coil in values.chunks_mut(shots * length) {
                coil[..length].fill([0.0; 2]);
            }
        });
    });
    let empty = recon("shot.npz");
    assert!(empty.ok().err.contains("1 of 48 readouts hold nothing but zeros"), "{empty:?}");
    changed(at, "one.npz", |arrays| {
        for name in ["ksp", "mps"] {
            let (mut dims, values) = arrays.remove(name).unwrap().into_parts();
            let values = values.into_c64();
            let values = values[..values.len() / dims[0]].to_vec();
            dims[0] = 1;
            arrays.insert(name.into(), Array::new(dims, Values::C64(values)).unwrap());
        }
    });
    let one = recon("one.npz");
    assert!(one.ok().err.contains("1 coil(s)"), "{one:?}");
    igrog(at, &["image-based", "recon", "gone.npz", "x.npy"]).fails(3, &["gone.npz"]);
    let key = ["image-based", "recon", "scan.npz", "x.npy", "--set", "geometry.kern_with=1"];
    igrog(at, &key).fails(2, &["kern_width"]);
    igrog(at, &["image-based", "recon", "scan.npz", "x.doc"]).fails(3, &[".nii"]);
    igrog(at, &["image-based", "recon", "scan.npz", "gone/x.npy"]).fails(3, &["no such folder"]);
    igrog(at, &["fieldcorr", "recon", "scan.npz", "x.npy"]).fails(3, &["no field"]);
    changed(at, "ms.npz", |arrays| {
        let (dims, values) = arrays.remove("t").unwrap().into_parts();
        let values = values.into_f64().unwrap().iter().map(|t| t * 1e3).collect();
        arrays.insert("t".into(), Array::new(dims, Values::F64(values)).unwrap());
    });
    recon("ms.npz").fails(3, &["milliseconds"]);
    changed(at, "scalar.npz", |arrays| {
        arrays.insert("mps".into(), Array::new(vec![], Values::F64(vec![1.0])).unwrap());
    });
    recon("scalar.npz").fails(3, &["maps"]);
    changed(at, "images.npz", |arrays| {
        let (dims, values) = arrays.remove("ksp").unwrap().into_parts();
        let dims = [&[2, 3], &dims[1..]].concat();
        arrays.insert("ksp".into(), Array::new(dims, values).unwrap());
        arrays.remove("mps");
    });
    recon("images.npz").fails(3, &["several images"]);
}

#[test]
fn methods_are_compared_in_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    simulated(at, &[]);
    let ran = igrog(at, &["eval", "scan.npz", "--out", "report"]);
    for method in ["nufft", "nearest", "grog", "igrog"] {
        assert!(ran.ok().out.contains(method), "{ran:?}");
    }
    let page = std::fs::read_to_string(at.join("report/report.html")).unwrap();
    assert!(page.contains("reconstruction report") && page.contains("NRMSE"));
}

#[test]
fn volumes_and_other_trajectories_are_reconstructed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for (kind, [most, gap], more) in [
        ("spiral", [0.12, 0.03], vec!["--set", "matrix=[48,48]"]),
        ("rosette", [0.12, 0.03], vec!["--set", "matrix=[48,48]"]),
        ("epi", [0.02, 0.03], vec!["--set", "matrix=[48,48]"]),
        ("cartesian", [0.05, 0.03], vec!["--set", "matrix=[49,48]"]),
        (
            "koosh",
            // the corners of k-space, half of it, are not measured
            [0.5, 0.06],
            vec![
                "--set",
                "matrix=[24,24,24]",
                "--set",
                "phantom=shepp_logan",
                "--set",
                "trajectory.spokes=600",
            ],
        ),
    ] {
        let kind_key = format!("trajectory.kind={kind}");
        let mut args = vec!["simulate", "scan.npz", "--set", &kind_key, "--set", "noise=1e-3"];
        args.extend(more);
        igrog(at, &args).ok();
        let got = nrmse(at, &["image-based", "recon", "scan.npz", "image.npy"]);
        let nufft = nrmse(at, &["recon", "scan.npz", "n.npy", "--method", "nufft"]);
        assert!(got < most && got < nufft + gap, "{kind}: {got} {nufft}");
    }
}
