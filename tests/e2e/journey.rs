//! Train, restore, evaluate, look around.

use limpid_io::{Data, Volume};
use limpid_tests::{denoise, write_config, write_image};
use std::fs;

#[test]
fn a_denoiser_is_trained_applied_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_image(&at.join("clean.tif"), &[64, 48], 1);
    write_image(&at.join("held.tif"), &[37, 51], 2);
    write_config(at);

    let trained = denoise(at, &["train", "tiny.toml"]);
    trained.ok();
    assert!(trained.err.contains("finished at step 24"), "{}", trained.err);
    let run = at.join("runs/tiny-0001");
    for file in [
        "config.toml",
        "origins.toml",
        "env.json",
        "run.json",
        "metrics.jsonl",
        "model.safetensors",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    assert!(fs::read_dir(run.join("samples")).unwrap().count() >= 3);

    denoise(at, &["predict", "held.tif", "out.tif"]).ok();
    let [input, output] =
        ["held.tif", "out.tif"].map(|f| limpid_io::open(at.join(f)).unwrap().info().clone());
    assert_eq!((input.shape, input.dtype, input.axes), (output.shape, output.dtype, output.axes));

    let evaluated = denoise(
        at,
        &[
            "eval",
            "out.tif",
            "--input",
            "held.tif",
            "--target",
            "held.tif",
            "--data-range",
            "255",
            "--baselines",
            "--model",
            "runs/tiny",
            "--out",
            "eval",
        ],
    );
    evaluated.ok();
    let csv = fs::read_to_string(at.join("eval/cases.csv")).unwrap();
    assert!(csv.starts_with("image,method,psnr_db,ssim_uniform7,mae,nrmse_euclidean\n"));
    assert_eq!(csv.lines().count(), 1 + 2 + 4);
    let html = fs::read_to_string(at.join("eval/report.html")).unwrap();
    assert!(html.contains("data:image/png;base64,") && html.contains("type=\"range\""));
    assert!(!html.contains("http://") && !html.contains("https://"));

    let listed = denoise(at, &["runs", "ls"]);
    assert!(listed.ok().out.contains("tiny-0001"), "{listed:?}");
    assert!(denoise(at, &["runs", "show", "runs/tiny-0001"]).ok().out.contains("finished"));
    let inspected = denoise(at, &["inspect", "runs/tiny-0001"]);
    assert!(inspected.ok().out.contains("dncnn"), "{inspected:?}");
    assert!(denoise(at, &["inspect", "held.tif"]).ok().out.contains("[37, 51]"));
    let checkpoint = denoise(at, &["inspect", "runs/tiny-0001/checkpoints/step-000000024"]);
    assert!(checkpoint.ok().out.contains("step 24"), "{checkpoint:?}");
    assert!(checkpoint.out.contains("weights.safetensors"), "{checkpoint:?}");

    // the finished run is not touched by the same command: a new one begins
    denoise(at, &["train", "tiny.toml", "-q"]).ok();
    assert!(at.join("runs/tiny-0002/model.safetensors").is_file());
    let models =
        ["0001", "0002"].map(|n| fs::read(at.join(format!("runs/tiny-{n}/model.safetensors"))));
    let [a, b] = models.map(Result::unwrap);
    assert_eq!(a.len(), b.len());
}

#[test]
fn a_volume_is_restored_in_windows_and_keeps_its_geometry() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_image(&at.join("clean.tif"), &[20, 24, 24], 1);
    write_image(&at.join("held.tif"), &[9, 31, 26], 2);
    write_config(at);
    let three = [
        "train",
        "tiny.toml",
        "-q",
        "--set",
        "data.dims=3",
        "--set",
        "network.dims=3",
        "--set",
        "data.patch=[8]",
        "--set",
        "train.steps=4",
        "--set",
        "network.width=3",
    ];
    denoise(at, &three).ok();
    let whole = denoise(at, &["predict", "held.tif", "whole.tif", "--dtype", "f32"]);
    whole.ok();
    let tiled = denoise(
        at,
        &["predict", "held.tif", "tiled.tif", "--dtype", "f32", "--set", "size=[9,20,20]"],
    );
    assert!(tiled.ok().err.contains("windows"), "{tiled:?}");
    let [a, b] =
        ["whole.tif", "tiled.tif"].map(|f| limpid_io::open(at.join(f)).unwrap().read().unwrap());
    assert_eq!(a.info.shape, [9, 31, 26]);
    let worst = a
        .data
        .to_f32()
        .iter()
        .zip(b.data.to_f32())
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, f32::max);
    assert!(worst < 0.01, "seams of {worst} grey values");
}

#[test]
fn noisy_images_alone_are_enough() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_image(&at.join("clean.tif"), &[64, 64], 3);
    write_config(at);
    for (kind, dataset) in [
        ("noise2void", "{ kind = \"noise2void\", images = \"clean.tif\" }"),
        (
            "noise2noise",
            "{ kind = \"simulated\", images = \"clean.tif\", target = \"noisy\", noise = { kind = \"gaussian\", sigma = 0.1 } }",
        ),
    ] {
        let model = format!("model={{ kind = \"{kind}\" }}");
        let dataset = format!("data.dataset={dataset}");
        let args =
            ["train", "tiny.toml", "--set", &model, "--set", &dataset, "--set", "train.steps=4"];
        denoise(at, &args).ok();
    }
}

#[test]
fn filters_help_completions_and_configurations_work() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_image(&at.join("clean.tif"), &[32, 32], 1);
    write_config(at);
    denoise(at, &["filter", "gaussian", "clean.tif", "g.tif", "--set", "sigma=1.5"]).ok();
    let tuned = [
        "filter",
        "total_variation",
        "g.tif",
        "t.tif",
        "--tune",
        "--target",
        "clean.tif",
        "--data-range",
        "255",
    ];
    assert!(denoise(at, &tuned).ok().out.contains("psnr"));
    let help = denoise(at, &["predict", "--help"]);
    let text = &help.ok().out;
    assert!(text.find("Examples:") < text.find("Options:"), "{text}");
    assert!(denoise(at, &["completions", "bash"]).ok().out.contains("denoise"));
    assert!(denoise(at, &["config", "check", "tiny.toml"]).ok().out.contains("no problems"));
    let shown = denoise(at, &["config", "show", "tiny.toml", "--origin", "--set", "seed=7"]);
    assert!(
        shown.ok().out.contains("--set seed=7") && shown.out.contains("tiny.toml"),
        "{}",
        shown.out
    );
    let dry = denoise(at, &["train", "tiny.toml", "--dry-run"]);
    assert!(dry.ok().out.contains("width = 6") && !at.join("runs").exists());
    assert_eq!(denoise(at, &[]).code, Some(2));
}

#[test]
fn colours_and_slices_are_not_mixed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    // three channels, each of one grey value: a filter that mixed them would change it
    let save = |name: &str, values: [u8; 3]| {
        let data = values.iter().flat_map(|v| vec![*v; 144]).collect();
        let axes = "CYX".parse().unwrap();
        let volume = Volume::new(Data::U8(data), &[3, 12, 12], axes).unwrap();
        limpid_io::save(at.join(name), &volume).unwrap();
    };
    save("colours.tif", [10, 100, 250]);
    save("off.tif", [20, 100, 250]);
    denoise(at, &["filter", "gaussian", "colours.tif", "out.tif", "--set", "sigma=2"]).ok();
    let [a, b] =
        ["colours.tif", "out.tif"].map(|f| limpid_io::open(at.join(f)).unwrap().read().unwrap());
    assert_eq!(a.data, b.data);
    let eval = [
        "eval",
        "off.tif",
        "--input",
        "off.tif",
        "--target",
        "colours.tif",
        "--data-range",
        "255",
        "--json",
    ];
    let scores = denoise(at, &eval);
    let scores: serde_json::Value = serde_json::from_str(&scores.ok().out).unwrap();
    let restored = &scores[0]["restored"];
    assert!(restored["ssim_uniform7"].is_number(), "{scores}");
    assert!((restored["mae"].as_f64().unwrap() - 10.0 / 3.0).abs() < 1e-6, "{scores}");

    // a thin stack has no SSIM as a volume, but has slice by slice
    write_image(&at.join("stack.tif"), &[3, 16, 16], 1);
    write_image(&at.join("other.tif"), &[3, 16, 16], 2);
    let stack = [
        "eval",
        "other.tif",
        "--input",
        "other.tif",
        "--target",
        "stack.tif",
        "--data-range",
        "255",
    ];
    assert!(denoise(at, &stack).ok().err.contains("--dims 2"));
    let sliced = denoise(at, &[&stack[..], &["--dims", "2", "--json"]].concat());
    let scores: serde_json::Value = serde_json::from_str(&sliced.ok().out).unwrap();
    assert!(scores[0]["restored"]["ssim_uniform7"].is_number(), "{scores}");
}
