//! Comparison of a network with its golden fixture, for the tests of each network.

use crate::{Shapes, recognise, reference_key};
use candle_core::{DType, Device, Tensor};
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Params};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Loads the fixture's weights into the recognised network and compares output and gradients with
/// the tolerances of the fixtures' README; does nothing, loudly, where the fixtures are absent.
#[expect(clippy::print_stderr, reason = "a skipped comparison must be seen")]
pub(crate) fn check(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/golden/engine")
        .join(format!("{name}.safetensors"));
    if !path.exists() {
        eprintln!("skipped: no fixture {}", path.display());
        return;
    }
    let all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let part = |prefix: &str| -> BTreeMap<String, Tensor> {
        all.iter()
            .filter_map(|(k, t)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone())))
            .collect()
    };
    let weights: BTreeMap<String, Tensor> = part("param.")
        .into_iter()
        .filter_map(|(k, t)| Some((reference_key(&k)?.to_owned(), t)))
        .collect();
    let shapes: Shapes = weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
    let best = recognise(&shapes).into_iter().next().expect("no network fits");
    assert_eq!(best.mismatches, 0, "{name}: {:?}", best.config);

    let params = Params::new();
    let scope = params.scope(Stream::new(0, "golden"), DType::F32, &Device::Cpu);
    let net = best.config.build(&scope).unwrap();
    params.set(&weights).unwrap();
    let x = candle_core::Var::from_tensor(&all["input.0"]).unwrap();
    let y = net.forward(x.as_tensor(), &Ctx::eval()).unwrap();
    let worst = max_error(&y, &all["output"]);
    assert!(worst < 2e-5, "{name}: output error {worst}");

    let loss = (&y - &all["target"]).unwrap().sqr().unwrap().mean_all().unwrap();
    let grads = loss.backward().unwrap();
    for (key, expected) in part("grad.") {
        let got = if key == "input.0" {
            grads.get(&x)
        } else {
            let Some(key) = reference_key(&key) else { continue };
            grads.get(params.get(key).unwrap().var())
        };
        let got = got.unwrap_or_else(|| panic!("{name}: no gradient of {key}"));
        let scale = max_abs(&expected);
        let error = max_error(got, &expected);
        assert!(error <= 1e-4 * scale + 1e-5, "{name}: gradient of {key}: {error} of {scale}");
    }
    if let Some(expected) = all.get("output_train") {
        let y = net.forward(x.as_tensor(), &Ctx::train(Stream::new(0, "golden"))).unwrap();
        let worst = max_error(&y, expected);
        assert!(worst < 2e-5, "{name}: training output error {worst}");
        for (key, expected) in part("after_train.") {
            let got = params.get(&key).unwrap().tensor();
            assert!(max_error(&got, &expected) < 1e-5, "{name}: {key}");
        }
    }
}

fn max_abs(t: &Tensor) -> f64 {
    values(t).into_iter().fold(0.0, |m, v| m.max(v.abs()))
}

fn max_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).into_iter().zip(values(b)).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
