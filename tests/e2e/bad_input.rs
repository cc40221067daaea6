//! Whatever is wrong, the user gets one line with file and hint, and nothing is half-written.

use limpid_tests::{Ran, binary, denoise, write_config, write_image};
use std::fs;
use std::path::Path;
use std::process::Command;

fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_image(&dir.path().join("clean.tif"), &[64, 48], 1);
    write_config(dir.path());
    dir
}

fn train(dir: &Path, sets: &[&str]) -> Ran {
    let sets = sets.iter().flat_map(|s| ["--set", s]);
    denoise(dir, &["train", "tiny.toml"].into_iter().chain(sets).collect::<Vec<_>>())
}

#[test]
fn broken_images_are_named() {
    let dir = prepared();
    let at = dir.path();
    let good = fs::read(at.join("clean.tif")).unwrap();
    fs::write(at.join("empty.tif"), "").unwrap();
    fs::write(at.join("short.tif"), &good[..good.len() / 2]).unwrap();
    fs::write(at.join("text.tif"), "this is not an image").unwrap();
    // npy headers: one that claims 4 TB, one with a NaN, one of text
    let npy = |descr: &str, shape: &str, data: &[u8]| {
        let mut header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    };
    fs::write(at.join("huge.npy"), npy("<f4", "1000000, 1000000", &[0; 64])).unwrap();
    let mut values = vec![0.5f32; 64 * 48];
    values[100] = f32::NAN;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    fs::write(at.join("nan.npy"), npy("<f4", "64, 48", &bytes)).unwrap();
    fs::write(at.join("complex.npy"), npy("<c8", "4, 4", &[0; 128])).unwrap();
    for file in
        ["missing.tif", "empty.tif", "short.tif", "text.tif", "huge.npy", "nan.npy", "complex.npy"]
    {
        let set = format!("data.dataset.images={file}");
        train(at, &[&set]).fails(3, &[file]);
        assert!(!at.join("runs").exists(), "{file}: a run was begun");
    }
    // the same for prediction: no result appears
    denoise(at, &["train", "tiny.toml", "-q", "--set", "train.steps=2"]).ok();
    for file in ["missing.tif", "empty.tif", "short.tif", "text.tif", "huge.npy", "nan.npy"] {
        denoise(at, &["predict", file, "out.tif"]).fails(3, &[file]);
        assert!(!at.join("out.tif").exists(), "{file}");
    }
    denoise(at, &["predict", "clean.tif", "nowhere/out.tif"]).fails(3, &["nowhere"]);
    let left = fs::read_dir(at).unwrap().filter(|e| {
        let name = e.as_ref().unwrap().file_name().to_string_lossy().into_owned();
        name.contains("tmp") || name.contains("partial")
    });
    assert_eq!(left.count(), 0, "temporary files were left");
}

#[test]
fn pairs_that_do_not_match_are_named() {
    let dir = prepared();
    let at = dir.path();
    fs::create_dir(at.join("noisy")).unwrap();
    fs::create_dir(at.join("clean")).unwrap();
    write_image(&at.join("noisy/a.tif"), &[40, 40], 1);
    write_image(&at.join("noisy/b.tif"), &[40, 40], 2);
    write_image(&at.join("clean/a.tif"), &[40, 40], 1);
    let paired = "data.dataset={ kind = \"paired\", input = \"noisy\", target = \"clean\" }";
    train(at, &[paired]).fails(3, &["b"]);
    write_image(&at.join("clean/b.tif"), &[40, 44], 2);
    train(at, &[paired]).fails(3, &["b.tif", "44"]);
}

#[test]
fn images_to_measure_are_matched_by_name() {
    let dir = prepared();
    let at = dir.path();
    for (folder, names) in [("restored", ["a", "b"]), ("noisy", ["a", "c"]), ("clean", ["b", "a"])]
    {
        fs::create_dir(at.join(folder)).unwrap();
        for (seed, name) in (1..).zip(names) {
            write_image(&at.join(format!("{folder}/{name}.tif")), &[16, 16], seed);
        }
    }
    let eval = |input: &str, target: &str| {
        denoise(
            at,
            &["eval", "restored", "--input", input, "--target", target, "--data-range", "255"],
        )
    };
    eval("noisy", "clean").fails(3, &["b.tif", "c.tif", "no partner"]);
    assert!(!at.join("eval").exists());
    // `a` was written first here and last there
    eval("restored", "clean").ok();
    let csv = fs::read_to_string(at.join("eval/cases.csv")).unwrap();
    assert!(csv.lines().nth(1).unwrap().starts_with("a.tif,input,"), "{csv}");
    let one =
        ["eval", "clean.tif", "--input", "clean.tif", "--target", "clean.tif", "--data-range"];
    denoise(at, &[&one[..], &["255", "--model", "runs/tinny"]].concat())
        .fails(3, &["no such model"]);
    denoise(at, &[&one[..], &["0"]].concat()).fails(2, &["--data-range"]);
    denoise(at, &[&one[..], &["1", "--dims", "3"]].concat()).fails(3, &["no Z", "clean.tif"]);
}

#[test]
fn a_filter_never_replaces_its_input() {
    let dir = prepared();
    let at = dir.path();
    let before = fs::read(at.join("clean.tif")).unwrap();
    denoise(at, &["filter", "median", "clean.tif", "./clean.tif"])
        .fails(2, &["clean.tif", "hint: "]);
    assert_eq!(fs::read(at.join("clean.tif")).unwrap(), before);
    assert_eq!(denoise(at, &["filter", "median", "clean.tif", "out.tif", "--tune"]).code, Some(2));
    assert!(!at.join("out.tif").exists());
}

#[test]
fn mistakes_in_the_configuration_are_shown_all_at_once_with_suggestions() {
    let dir = prepared();
    let at = dir.path();
    let text = fs::read_to_string(at.join("tiny.toml")).unwrap();
    let typos = text.replace("width = 6", "widht = 6").replace("batch = 2", "batchs = 2");
    fs::write(at.join("typo.toml"), typos).unwrap();
    let ran = denoise(at, &["train", "typo.toml"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for part in ["widht", "did you mean `width`", "batchs", "did you mean `batch`", "typo.toml:"] {
        assert!(ran.err.contains(part), "{part}:\n{}", ran.err);
    }
    let ran = train(at, &["train.steps=0", "data.batch=0", "optimizer.lr=-1.0"]);
    assert_eq!(ran.code, Some(2));
    for part in ["train.steps", "data.batch", "optimizer.lr"] {
        assert!(ran.err.contains(part), "{part}:\n{}", ran.err);
    }
    train(at, &["data.patch=[70]"]).fails(3, &["70"]);
    denoise(at, &["train", "none.toml"]).fails(2, &["none.toml"]);
    assert_eq!(denoise(at, &["train", "tiny.toml", "--frehs"]).code, Some(2));
    denoise(at, &["train", "tiny.toml", "--device", "cuda:0"]).fails(4, &["cuda:0"]);
    assert!(!at.join("runs").exists());
}

#[test]
fn run_directories_that_cannot_be_used_are_refused() {
    let dir = prepared();
    let at = dir.path();
    fs::write(at.join("file"), "x").unwrap();
    denoise(at, &["train", "tiny.toml", "--out", "file"]).fails(3, &["file", "--out"]);
    denoise(at, &["train", "tiny.toml", "--run", "file"]).fails(3, &["not a run"]);
    denoise(at, &["train", "tiny.toml", "-q", "--set", "train.steps=2"]).ok();
    // a checkpoint of another configuration
    denoise(at, &["train", "tiny.toml", "--run", "runs/tiny-0001"])
        .fails(2, &["another configuration", "--allow-changed"]);
    // a run without a model, and no model at all
    fs::create_dir_all(at.join("other/runs")).unwrap();
    denoise(&at.join("other"), &["predict", "../clean.tif", "out.tif"]).fails(3, &["no model"]);
    denoise(at, &["predict", "clean.tif", "out.tif", "--model", "clean.tif"])
        .fails(3, &["clean.tif"]);
    let model = at.join("runs/tiny-0001/model.safetensors");
    let bytes = fs::read(&model).unwrap();
    fs::write(&model, &bytes[..bytes.len() - 9]).unwrap();
    denoise(at, &["predict", "clean.tif", "out.tif"]).fails(3, &["model.safetensors"]);
    assert!(!at.join("out.tif").exists());
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let dir = prepared();
    let at = dir.path();
    denoise(at, &["train", "tiny.toml", "-q", "--set", "train.steps=2"]).ok();
    write_image(&at.join("large.tif"), &[400, 400], 1);
    // files of at most 64 kB, as a disk that is full
    let limited = |args: &str| {
        let line =
            format!("trap '' XFSZ; ulimit -f 64; exec '{}' {args}", binary("denoise").display());
        let output = Command::new("bash").args(["-c", &line]).current_dir(at).output().unwrap();
        Ran::from(output)
    };
    limited("predict large.tif out.tif").fails(3, &["out.tif"]);
    assert!(!at.join("out.tif").exists());
    let ran = limited("train tiny.toml --set network.width=64");
    assert!(matches!(ran.code, Some(1 | 3)), "{ran:?}");
    assert!(!ran.err.contains("panicked"), "{ran:?}");
    let partial = fs::read_dir(at.join("runs/tiny-0002/checkpoints")).unwrap().count();
    assert_eq!(partial, 0, "half a checkpoint was left");
}

#[test]
fn settings_that_no_network_can_have_are_reported() {
    let dir = prepared();
    let sets = [
        ("network={kind=\"swinir\",window=0}", "window"),
        ("network={kind=\"unet\",strides=[[0,0],[2,2]]}", "strides"),
        ("network={kind=\"dynunet\",strides=[[1],[2],[2],[2]]}", "strides"),
        ("network={kind=\"dynunet\",strides=[[1,1],[4294967296,1],[4294967296,1]]}", "strides"),
        ("network.dims=4000000000000000000", "dims"),
        ("network={kind=\"nucli_unet\",encoder=[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", "encoder"),
        ("network={kind=\"srresnet\"}", "enlarges"),
    ];
    for (set, named) in sets {
        let args = ["config", "check", "tiny.toml", "--set", set];
        // each may be wrong in several ways, and all are said
        let ran = denoise(dir.path(), &args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(named) && !ran.err.contains("panicked"), "{ran:?}");
    }
}
