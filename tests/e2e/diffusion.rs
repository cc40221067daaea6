//! The programs that restore by diffusion: trained, applied, killed and measured.

use limpid_io::{Axis, Data, Volume};
use limpid_losses::metrics::{Image, psnr, seam};
use limpid_tests::{Ran, binary, denoise, program, write_image};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn emdiffuse(dir: &Path, args: &[&str]) -> Ran {
    program("emdiffuse", dir, args)
}

fn vemdiffuse(dir: &Path, args: &[&str]) -> Ran {
    program("vemdiffuse", dir, args)
}

/// A configuration that trains a tiny diffusion for a few steps.
fn config(dataset: &str, channels: usize, layers: bool) -> String {
    format!(
        r#"
name = "tiny"
data_range = 255.0

[data]
patch = [16]
batch = 2
samples_per_epoch = 12
normalisation = {{ kind = "scale", divide = 255.0 }}
validation = {{ whole = false, limit = 2 }}
dataset = {dataset}

[network]
in_channels = {channels}
layer_index = {layers}
inner_channels = 16
channels = [16, 16]
res_blocks = 1
heads = {{ kind = "channels", channels = 16 }}
dropout = 0.1

[model]
kind = "diffusion"
process = {{ kind = "diffusion", predict = {{ kind = "velocity" }}, input = "log_snr" }}

[optimizer]
kind = "adam"
lr = 1e-3

[train]
steps = 12
log_every = 4
validate_every = 6
ema = {{ kind = "warmup", decay = 0.9 }}
checkpoint = {{ every_steps = 3 }}

[restore]
joint = {{ window = 32, overlap = 8 }}
sampling = {{ grid = {{ kind = "log_snr", steps = 3, start = 0.05, end = 0.999 }} }}
"#
    )
}

const SIMULATED: &str = r#"{ kind = "simulated", images = "clean.tif", noise = { kind = "em", dose = 20.0 }, range = [0.0, 255.0] }"#;
const LAYERS: &str = r#"{ kind = "layers", volume = "volume.tif", layers = 3 }"#;

/// A folder with a trained model of images.
fn trained() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_image(&dir.path().join("clean.tif"), &[64, 48], 1);
    write_image(&dir.path().join("held.tif"), &[75, 51], 2);
    fs::write(dir.path().join("tiny.toml"), config(SIMULATED, 2, false)).unwrap();
    emdiffuse(dir.path(), &["train", "tiny.toml", "-q"]).ok();
    dir
}

fn values(path: &Path) -> Vec<f32> {
    limpid_io::open(path).unwrap().read().unwrap().data.into_f32()
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join(name)).unwrap()
}

#[test]
fn images_are_restored_with_their_uncertainty_and_measured() {
    let dir = trained();
    let at = dir.path();
    // large enough for blocks that a promise can be made of
    write_image(&at.join("held.tif"), &[200, 180], 2);
    let predict = ["predict", "held.tif", "out.tif", "--model", "runs/tiny", "--samples", "3"];
    let said = emdiffuse(at, &[&predict[..], &["--quantiles", ".05,.95"]].concat());
    assert!(said.ok().err.contains("network evaluations"), "{said:?}");
    let info = |name: &str| limpid_io::open(at.join(name)).unwrap().info().clone();
    assert_eq!((info("out.tif").shape, info("out.tif").dtype), {
        let held = info("held.tif");
        (held.shape, held.dtype)
    });
    let [low, high, std] =
        ["out_q05.tif", "out_q95.tif", "out_std.tif"].map(|name| values(&at.join(name)));
    assert!(low.iter().zip(&high).all(|(l, h)| l <= h));
    assert!(std.iter().all(|s| *s >= 0.0) && std.iter().any(|s| *s > 0.0));
    assert!(!at.join("out.tif.partial").exists(), "what is finished is put away");
    let card: serde_json::Value = serde_json::from_slice(&bytes(at, "out.json")).unwrap();
    assert_eq!(card["samples"], 3);
    assert!(card["edges"][0].as_array().is_some_and(|e| !e.is_empty()), "{card}");

    let eval = ["eval", "out.tif", "--input", "held.tif", "--target", "held.tif"];
    let options = ["--data-range", "255", "--model", "runs/tiny", "--out", "eval"];
    emdiffuse(at, &[&eval[..], &options].concat()).ok();
    let html = fs::read_to_string(at.join("eval/report.html")).unwrap();
    assert!(html.contains("error by predicted deviation") && html.contains("seams of out.tif"));
    let few = emdiffuse(at, &[&eval[..], &options, &["--calibrate"]].concat());
    few.fails(3, &["too few to promise"]);
    emdiffuse(at, &[&eval[..], &options, &["--calibrate", "--coverage", "0.3"]].concat()).ok();
    emdiffuse(at, &[&predict[..], &["-q"]].concat()).ok();
    let interval = values(&at.join("out_interval.tif"));
    assert!(interval.iter().all(|v| v.is_finite() && *v > 0.0));
    let card: serde_json::Value = serde_json::from_slice(&bytes(at, "out.json")).unwrap();
    assert!(card["expected_psnr_db"].as_f64().is_some_and(f64::is_finite), "{card}");
}

#[test]
fn a_variance_head_says_where_its_network_is_off() {
    let dir = trained();
    let at = dir.path();
    let judged = config(SIMULATED, 2, false)
        .replace("name = \"tiny\"", "name = \"judged\"\nstart = \"runs/tiny\"")
        .replace("dropout = 0.1", "dropout = 0.1\nvariance = true")
        .replace("kind = \"diffusion\"\nprocess", "kind = \"aleatoric\"\ntimes = [2, 8]\nprocess");
    fs::write(at.join("judged.toml"), judged).unwrap();
    emdiffuse(at, &["train", "judged.toml", "-q"]).ok();
    let predict = |model: &str, out: &str| {
        emdiffuse(at, &["predict", "held.tif", out, "--model", model, "--seed", "3", "-q"]).ok();
    };
    predict("runs/judged", "a.tif");
    predict("runs/tiny", "b.tif");
    // only the head has learnt: what is restored stays what it was
    assert!(values(&at.join("a.tif")) == values(&at.join("b.tif")));
    let sigma = limpid_io::open(at.join("a_sigma.tif")).unwrap().read().unwrap();
    assert_eq!(sigma.info.shape, [75, 51]);
    assert!(sigma.data.to_f32().iter().all(|v| v.is_finite() && *v > 0.0));
    assert!(!at.join("b_sigma.tif").exists());
    // in one piece, in a folder, and measured there
    let one = ["predict", "held.tif", "--out", "d", "--model", "runs/judged", "-q"];
    emdiffuse(at, &[&one[..], &["--set", "joint.window=32768"]].concat()).ok();
    assert!(at.join("d/held_sigma.tif").is_file());
    let eval = ["eval", "d", "--input", "held.tif", "--target", "held.tif", "--data-range", "255"];
    emdiffuse(at, &eval).ok();
    emdiffuse(at, &["predict", "a_sigma.tif", "a.tif"]).fails(2, &["a_sigma.tif"]);
}

#[test]
fn results_do_not_depend_on_threads_and_go_on_after_a_kill() {
    let dir = trained();
    let at = dir.path();
    let predict = |out: &str, options: &[&str]| {
        let args = ["predict", "held.tif", out, "--model", "runs/tiny", "--samples", "2", "-q"];
        emdiffuse(at, &[&args[..], options].concat()).ok();
        [bytes(at, out), bytes(at, &out.replace(".tif", "_std.tif"))]
    };
    let one = predict("one.tif", &["--threads", "1"]);
    assert!(predict("two.tif", &["--threads", "2"]) == one);
    assert!(predict("seed.tif", &["--seed", "1"]) != one);
    // a stack, so that there is something to go on with
    write_image(&at.join("stack.tif"), &[6, 40, 40], 3);
    let args = ["predict", "stack.tif", "whole.tif", "--model", "runs/tiny", "--steps", "20"];
    emdiffuse(at, &[&args[..], &["-q"]].concat()).ok();
    let mut child = Command::new(binary("emdiffuse"))
        .args(args.map(|a| if a == "whole.tif" { "killed.tif" } else { a }))
        .current_dir(at)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let part = at.join("killed.tif.partial/unit-000001.npy");
    let began = Instant::now();
    while !part.is_file() && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing is finished");
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    assert!(!child.wait().unwrap().success(), "it ended before it could be killed");
    assert!(!at.join("killed.tif").exists() && part.is_file());
    let kept = part.metadata().unwrap().modified().unwrap();
    let again = args.map(|a| if a == "whole.tif" { "killed.tif" } else { a });
    std::thread::sleep(Duration::from_millis(20));
    let mut seen = emdiffuse(at, &again);
    seen.ok();
    assert!(bytes(at, "killed.tif") == bytes(at, "whole.tif"));
    assert!(began.elapsed() < Duration::from_secs(120) && kept.elapsed().is_ok());
    // another model, other values: nothing of the old may be used
    seen = emdiffuse(at, &["predict", "held.tif", "held.tif", "--model", "runs/tiny"]);
    seen.fails(2, &["would replace"]);
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    let dir = trained();
    let expected = bytes(dir.path(), "runs/tiny-0001/model.safetensors");
    fs::remove_dir_all(dir.path().join("runs")).unwrap();
    let mut child = Command::new(binary("emdiffuse"))
        .args(["train", "tiny.toml", "--threads", "1"])
        .current_dir(dir.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoint = dir.path().join("runs/tiny-0001/checkpoints/step-000000003");
    let began = Instant::now();
    while !checkpoint.is_dir() && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "the run does not get on");
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    child.wait().unwrap();
    emdiffuse(dir.path(), &["train", "tiny.toml", "-q"]).ok();
    assert!(bytes(dir.path(), "runs/tiny-0001/model.safetensors") == expected);
}

#[test]
fn volumes_get_their_layers_and_their_spacing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let volume = |name: &str, depth: usize, spacing: f64| {
        write_image(&at.join(name), &[depth, 40, 36], 1);
        let mut volume = limpid_io::open(at.join(name)).unwrap().read().unwrap();
        volume.info.spacing = Some(vec![spacing, 10.0, 10.0]);
        volume.info.unit = Some("nm".into());
        limpid_io::save(at.join(name), &volume).unwrap();
        volume
    };
    volume("volume.tif", 24, 10.0);
    let coarse = volume("coarse.tif", 3, 40.0);
    volume("other.tif", 3, 50.0);
    fs::write(at.join("tiny.toml"), config(LAYERS, 3, true)).unwrap();
    emdiffuse(at, &["train", "tiny.toml"]).fails(2, &["vemdiffuse train"]);
    vemdiffuse(at, &["train", "tiny.toml", "-q"]).ok();
    let predict = ["predict", "coarse.tif", "fine.tif", "--model", "runs/tiny"];
    vemdiffuse(at, &[&predict[..], &["--samples", "2"]].concat()).ok();
    let fine = limpid_io::open(at.join("fine.tif")).unwrap().read().unwrap();
    assert_eq!(fine.info.shape, [9, 40, 36]);
    let z = fine.info.axes.position(Axis::Z).unwrap();
    assert!((fine.info.spacing.as_ref().unwrap()[z] - 10.0).abs() < 1e-6);
    let (Data::U8(fine), Data::U8(coarse)) = (fine.data, coarse.data) else { panic!() };
    for slice in 0..3 {
        let n = 40 * 36;
        assert!(fine[4 * slice * n..][..n] == coarse[slice * n..][..n], "slices stay as they are");
    }
    let spread = values(&at.join("fine_std.tif"));
    assert!(spread[..40 * 36].iter().all(|v| *v == 0.0), "a slice has no deviation");
    // the input is measured as the layers that interpolation would make
    volume("truth.tif", 9, 10.0);
    let eval = ["eval", "fine.tif", "--input", "coarse.tif", "--target", "truth.tif"];
    let said = vemdiffuse(at, &[&eval[..], &["--data-range", "255"]].concat());
    assert!(said.ok().out.contains("cubic interpolation") && said.out.contains("YZ frc"));
    denoise(at, &[&eval[..], &["--data-range", "255"]].concat()).fails(3, &["coarse.tif"]);
    // fewer layers are interpolations of the index, more and other gaps are refused
    vemdiffuse(at, &[&predict[..], &["--z", "2"]].concat()).ok();
    assert_eq!(limpid_io::open(at.join("fine.tif")).unwrap().info().shape, [5, 40, 36]);
    vemdiffuse(at, &[&predict[..], &["--z", "6"]].concat())
        .fails(2, &["trained on 3 between two slices"]);
    vemdiffuse(at, &["predict", "other.tif", "x.tif", "--model", "runs/tiny"])
        .fails(2, &["50", "40"]);
    emdiffuse(at, &["predict", "coarse.tif", "x.tif", "--model", "runs/tiny"])
        .fails(2, &["vemdiffuse predict"]);

    let prepared = vemdiffuse(at, &["prepare", "volume.tif", "--out", "resliced"]);
    prepared.ok();
    // both cuts at once, as for a volume without an isotropic one
    let mut cuts = vec!["train", "tiny.toml", "-q", "--fresh"];
    for set in
        ["data.dataset.volume=resliced/*.tif", "data.validation.split.kind=none", "train.steps=2"]
    {
        cuts.extend(["--set", set]);
    }
    vemdiffuse(at, &cuts).ok();
    vemdiffuse(at, &["prepare", "coarse.tif", "--out", "resliced"]).ok();
    let xz = limpid_io::open(at.join("resliced/xz.tif")).unwrap().info().clone();
    assert_eq!(xz.shape, [40, 3, 36]);
    assert_eq!(xz.spacing.unwrap(), [10.0, 40.0, 10.0]);
}

#[test]
fn layers_are_filled_in_in_one_pass_too() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_image(&at.join("fine.tif"), &[48, 40, 36], 1);
    let mut fine = limpid_io::open(at.join("fine.tif")).unwrap().read().unwrap();
    fine.info.spacing = Some(vec![10.0, 10.0, 10.0]);
    limpid_io::save(at.join("fine.tif"), &fine).unwrap();
    let toml = r#"
name = "one-pass"
data_range = 255.0
data = { patch = [16], batch = 1, samples_per_epoch = 8, normalisation = { kind = "scale", divide = 255.0 }, validation = { whole = false, limit = 1 }, dataset = { kind = "thinned", volume = "fine.tif", layers = 1, slices = 4 } }
model = { kind = "axial", network = { channels = [4, 4, 4] } }
train = { steps = 6, log_every = 3, validate_every = 6 }
"#;
    fs::write(at.join("one-pass.toml"), toml).unwrap();
    emdiffuse(at, &["train", "one-pass.toml"]).fails(2, &["vemdiffuse train"]);
    vemdiffuse(at, &["train", "one-pass.toml", "-q"]).ok();
    let shown = vemdiffuse(at, &["inspect", "runs/one-pass"]);
    assert!(shown.ok().out.contains("1 between two slices, slices 20 apart"), "{shown:?}");
    vemdiffuse(at, &["inspect", "runs/one-pass", "--threads", "1"]).ok();

    // 48 slices, 2 apart: from 0 to 46
    let thin = ["thin", "fine.tif", "coarse.tif", "--z", "2", "--truth", "truth.tif"];
    vemdiffuse(at, &thin).ok();
    let info = |name: &str| limpid_io::open(at.join(name)).unwrap().info().clone();
    assert_eq!(
        (info("coarse.tif").shape, info("truth.tif").shape),
        (vec![24, 40, 36], vec![47, 40, 36])
    );
    let predict = ["predict", "coarse.tif", "out.tif", "--model", "runs/one-pass"];
    vemdiffuse(at, &predict).ok();
    let (out, coarse, truth) = (
        values(&at.join("out.tif")),
        values(&at.join("coarse.tif")),
        values(&at.join("truth.tif")),
    );
    assert_eq!((out.len(), info("out.tif").spacing), (truth.len(), Some(vec![10.0, 10.0, 10.0])));
    let slice = 40 * 36;
    for z in 0..24 {
        assert!(out[2 * z * slice..][..slice] == coarse[z * slice..][..slice], "{z}");
        assert!(truth[2 * z * slice..][..slice] == coarse[z * slice..][..slice], "{z}");
    }
    let said = vemdiffuse(
        at,
        &[
            "eval",
            "out.tif",
            "--input",
            "coarse.tif",
            "--target",
            "truth.tif",
            "--data-range",
            "255",
        ],
    );
    assert!(said.ok().out.contains("cubic interpolation"), "{said:?}");

    // the slices of the result are too close, and nothing is drawn
    vemdiffuse(at, &["predict", "fine.tif", "x.tif", "--model", "runs/one-pass"])
        .fails(2, &["10 apart", "20"]);
    vemdiffuse(at, &[&predict[..], &["--z", "4"]].concat()).fails(2, &["3 layers are wanted"]);
    for drawing in [&["--samples", "2"][..], &["--seed", "2"], &["--no-std"], &["--fresh"]] {
        vemdiffuse(at, &[&predict[..], drawing].concat()).fails(2, &["one pass"]);
    }
    vemdiffuse(at, &["thin", "coarse.tif", "coarse.tif", "--z", "2"]).fails(2, &["coarse.tif"]);
    vemdiffuse(at, &["thin", "fine.tif", "x.tif", "--z", "50"]).fails(3, &["smaller `--z`"]);
    vemdiffuse(at, &["thin", "fine.tif", "x.tif", "--z", "2", "--truth", "./x.tif"])
        .fails(2, &["one file"]);
    emdiffuse(at, &["predict", "coarse.tif", "x.tif", "--model", "runs/one-pass"])
        .fails(3, &["vemdiffuse predict"]);
    assert!(!at.join("x.tif").exists());
}

#[test]
fn pairs_are_registered_and_bad_ones_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    fs::create_dir_all(at.join("clean")).unwrap();
    fs::create_dir_all(at.join("noisy")).unwrap();
    write_image(&at.join("clean/a.tif"), &[160, 160], 1);
    let image = values(&at.join("clean/a.tif"));
    // the noisy image shows everything four rows further down
    let moved: Vec<u8> = (0..160 * 160)
        .map(|i| image[(i / 160usize).saturating_sub(4) * 160 + i % 160] as u8)
        .collect();
    let moved = Volume::new(Data::U8(moved), &[160, 160], "YX".parse().unwrap()).unwrap();
    limpid_io::save(at.join("noisy/a.tif"), &moved).unwrap();
    let args = ["prepare", "--clean", "clean", "--noisy", "noisy", "--out", "pairs"];
    let keys = ["--set", "patch=48", "--set", "stride=40", "--set", "border=16"];
    let said = emdiffuse(at, &[&args[..], &keys].concat());
    assert!(said.ok().out.contains("kept"), "{said:?}");
    let manifest = fs::read_to_string(at.join("pairs/manifest.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(manifest.lines().next().unwrap()).unwrap();
    assert!((first["shift"][0].as_f64().unwrap() - 4.0).abs() < 0.5, "{first}");
    assert!(fs::read_dir(at.join("pairs/input")).unwrap().count() > 0);
    emdiffuse(at, &[&args[..], &keys].concat()).fails(3, &["holds files already"]);
}

#[test]
fn samplers_are_compared() {
    let dir = trained();
    let args = ["sample-curve", "held.tif", "held.tif", "--data-range", "255", "--model"];
    let options = ["runs/tiny", "--steps", "2,4", "--reference", "6", "--out", "curve"];
    emdiffuse(dir.path(), &[&args[..], &options].concat()).ok();
    let csv = fs::read_to_string(dir.path().join("curve/curve.csv")).unwrap();
    // seven samplers, two starts, two numbers of steps; and EMDiffuse's own
    assert_eq!(csv.lines().count(), 1 + 7 * 2 * 2 + 1);
    assert!(fs::read_to_string(dir.path().join("curve/curve-psnr.svg")).unwrap().contains("<svg"));
}

/// How far windows may change an image: root mean square of the differences, as a part of the range.
const WINDOWS: f64 = 0.01;
/// How much rougher than elsewhere an image may be at the edges of its windows.
const SEAM: f64 = 1.05;

#[test]
fn the_model_of_the_program_restores_alike_in_windows_of_any_size() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs/denoise/data");
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for name in ["em-held.tif", "em-held-noisy.tif"] {
        fs::copy(data.join(name), at.join(name)).unwrap();
    }
    let truth: Vec<f64> = values(&at.join("em-held.tif")).iter().map(|v| f64::from(*v)).collect();
    let noisy: Vec<f64> =
        values(&at.join("em-held-noisy.tif")).iter().map(|v| f64::from(*v)).collect();
    fn image(data: &[f64]) -> Image<'_> {
        Image::new(data, &[250, 250]).unwrap()
    }
    let psnr = |a: &[f64]| psnr(&image(a), &image(&truth), 255.0).unwrap();
    let restored = |window: usize| {
        let (name, window) = (format!("{window}.tif"), format!("joint.window={window}"));
        let args = ["predict", "em-held-noisy.tif", &name, "--dtype", "f32", "--steps", "5"];
        let said = emdiffuse(at, &[&args[..], &["--set", &window]].concat());
        assert!(said.ok().err.contains("comes with emdiffuse"), "{said:?}");
        let card = bytes(at, &name.replace(".tif", ".json"));
        let card: serde_json::Value = serde_json::from_slice(&card).unwrap();
        let edges: [Vec<usize>; 2] = serde_json::from_value(card["edges"].clone()).unwrap();
        let values: Vec<f64> = values(&at.join(&name)).iter().map(|v| f64::from(*v)).collect();
        (values, edges)
    };
    let (whole, none) = restored(256);
    assert!(none.iter().all(Vec::is_empty));
    assert!(psnr(&whole) > psnr(&noisy) + 8.0, "{} {}", psnr(&whole), psnr(&noisy));
    for window in [128, 192] {
        let (tiled, [rows, columns]) = restored(window);
        assert!(!rows.is_empty());
        let rough = seam(&image(&tiled), &rows, &columns).unwrap();
        let rough = rough / seam(&image(&whole), &rows, &columns).unwrap();
        let squares = tiled.iter().zip(&whole).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let apart = (squares / whole.len() as f64).sqrt() / 255.0;
        assert!(apart <= WINDOWS && rough <= SEAM, "window {window}: {apart} apart, seam {rough}");
    }
}

/// The files that EMDiffuse's own training writes; none, loudly, where there are no reference files.
#[expect(clippy::print_stderr, reason = "a skipped comparison must be seen")]
fn published() -> Option<PathBuf> {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/emdiffuse/ckpt");
    if !folder.is_dir() {
        eprintln!("skipped: no files of EMDiffuse in {}", folder.display());
        return None;
    }
    Some(folder.canonicalize().unwrap().join("3"))
}

#[test]
fn published_weights_restore_and_go_on_learning() {
    let Some(prefix) = published() else { return };
    let prefix = prefix.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_image(&at.join("clean.tif"), &[64, 48], 1);
    let predict = |out: &str, options: &[&str]| {
        let args = ["predict", "clean.tif", out, "--weights", prefix];
        emdiffuse(at, &[&args[..], options].concat())
    };
    let own = predict("own.tif", &[]);
    assert!(own.ok().err.contains("3_Network_ema.pth"), "{own:?}");
    let reference = predict("reference.tif", &["--mode", "reference", "--steps", "12"]);
    assert!(reference.ok().err.contains("3_Network.pth"), "{reference:?}");
    assert!(bytes(at, "own.tif") != bytes(at, "reference.tif"));
    let text = config(SIMULATED, 2, false)
        .replace("channels = [16, 16]", "channels = [16, 16]\nattention_at = [2]")
        .replace("process = {", "# process = {");
    fs::write(at.join("tiny.toml"), text).unwrap();
    let start = format!("start={prefix}");
    let said = emdiffuse(at, &["train", "tiny.toml", "--set", &start]);
    assert!(said.ok().err.contains("its averages and its optimizer"), "{said:?}");
    let start = format!("start={}", at.join("runs/tiny-0001").display());
    emdiffuse(at, &["train", "tiny.toml", "--set", &start, "-q"]).ok();
    let wrong = ["train", "tiny.toml", "--set", &start, "--set", "network.res_blocks=2"];
    emdiffuse(at, &wrong).fails(2, &["another network"]);
}

#[test]
fn noise_is_added_to_the_slices_that_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    write_image(&at.join("clean.tif"), &[6, 40, 50], 1);
    let args = ["simulate", "clean.tif", "noisy.tif", "--range", "0", "255", "--every", "2"];
    emdiffuse(at, &[&args[..], &["--clean", "slices.tif", "--set", "dose=1e4"]].concat()).ok();
    let (clean, slices) = (values(&at.join("clean.tif")), values(&at.join("slices.tif")));
    let size = 40 * 50;
    assert_eq!(slices, [1, 3, 5].map(|z| &clean[z * size..(z + 1) * size]).concat());
    let apart: Vec<f32> =
        values(&at.join("noisy.tif")).iter().zip(&slices).map(|(n, c)| n - c).collect();
    // 1e4 counts at 255: a deviation of 2.55·√(x / 255)
    assert!(apart.iter().any(|d| *d != 0.0) && apart.iter().all(|d| d.abs() < 16.0));
    let plain = ["simulate", "clean.tif", "again.tif", "--range", "0", "255"];
    let gaussian = ["--set", "kind=gaussian", "--set", "sigma=0.1"];
    let said = denoise(at, &[&plain[..], &gaussian, &["--set", "dose=3"]].concat());
    said.fails(2, &["dose"]);
    denoise(at, &[&plain[..], &gaussian].concat()).ok();
    // neither input nor result is written over, and slices keep their places
    let before = bytes(at, "clean.tif");
    let over = ["simulate", "clean.tif", "clean.tif", "--range", "0", "255"];
    denoise(at, &over).fails(2, &["clean.tif", "replace"]);
    let twice = ["--clean", "again.tif"];
    denoise(at, &[&plain[..], &twice].concat()).fails(2, &["again.tif"]);
    assert_eq!(bytes(at, "clean.tif"), before);
}
