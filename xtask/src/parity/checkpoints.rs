//! Files written by `torch.save`, beside what PyTorch says is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use limpid_nn::torch::{TorchFile, strip_wrappers};

use super::fixture::{Fixture, Outcome, Worst, absolute, text};
use super::guided;

/// The checkpoints `ckpt_*` that lie beside `ckpt_expected`: all hold the same weights, in
/// different wrappings; the odd one in half precision, with a scalar and a view besides.
pub(super) fn torch_files(fixture: &Fixture) -> Result<Outcome, String> {
    if fixture.tensors.contains_key("out.net.out") {
        return guided::checkpoints(fixture);
    }
    let weights = fixture.part("param.");
    let odd = fixture.part("odd.");
    if weights.is_empty() || odd.is_empty() {
        return Ok(Outcome::Skipped("not the contents of the `ckpt_*` files beside it".into()));
    }
    let mut worst = Worst::default();
    for path in checkpoints(&fixture.path)? {
        let file = TorchFile::open(&path).map_err(text)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extra: Vec<&String> =
            odd.keys().filter(|key| file.tensors.contains_key(*key)).collect();
        let got = strip_wrappers(file.state_dict(None).map_err(text)?);
        for key in &extra {
            worst.tensor(
                &format!("{name} {key}"),
                &file.tensors[*key],
                &odd[*key],
                absolute(0.0),
            )?;
        }
        compare(&mut worst, &name, &got, &weights, !extra.is_empty())?;
    }
    worst.done()
}

fn compare(
    worst: &mut Worst,
    name: &str,
    got: &BTreeMap<String, Tensor>,
    weights: &BTreeMap<String, Tensor>,
    half: bool,
) -> Result<(), String> {
    let keys = |map: &BTreeMap<String, Tensor>| map.keys().cloned().collect::<Vec<_>>();
    worst.require(&format!("{name}: keys {:?}", keys(got)), keys(got) == keys(weights));
    for (key, expected) in weights {
        let Some(tensor) = got.get(key) else { continue };
        let expected = if half && expected.dtype().is_float() {
            expected.to_dtype(DType::F16).map_err(text)?
        } else {
            expected.clone()
        };
        worst.tensor(&format!("{name} {key}"), tensor, &expected, absolute(0.0))?;
    }
    Ok(())
}

/// The PyTorch files beside a fixture that share its name up to `ckpt_` and whatever follows
/// `ckpt_expected`.
fn checkpoints(fixture: &Path) -> Result<Vec<PathBuf>, String> {
    let stem = fixture.file_stem().unwrap_or_default().to_string_lossy();
    let suffix = stem.strip_prefix("ckpt_expected").unwrap_or_default();
    let dir = fixture.parent().unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{e}: `{}`", dir.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|e| e.to_str());
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            matches!(extension, Some("pt" | "pth" | "ckpt"))
                && stem.starts_with("ckpt_")
                && stem.ends_with(suffix)
        })
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(format!("no `ckpt_*{suffix}` file in `{}`", dir.display()));
    }
    Ok(found)
}
