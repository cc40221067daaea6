//! Comparison with `golden/gan`: networks of NectarGAN and of the CycleGAN code.

use super::{Golden, Tolerance, filled, recognised};
use crate::{AnyConfig, ImageArchitecture, Network};
use candle_core::Var;
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Params, Scope};

pub(crate) const OUTPUT: Tolerance = Tolerance { absolute: 2e-5, relative: 1e-5 };

/// A fixture without the gradients that are zero but for rounding.
pub(crate) fn open(name: &str) -> Option<Golden> {
    let mut golden = Golden::open(&format!("gan/{name}"))?;
    let config = golden.json("config");
    for (mode, prefix) in [("eval", "grad."), ("train", "grad_train.")] {
        let noise = &config["f32_vs_f64"][mode]["noise_only_grads"];
        for key in noise.as_array().into_iter().flatten() {
            golden.tensors.remove(&format!("{prefix}{}", key.as_str().unwrap()));
        }
    }
    Some(golden)
}

/// Ten times the distance of the reference's own f32 from f64, and at least what any f32 needs.
pub(crate) fn gradient_tolerance(golden: &Golden, mode: &str) -> Tolerance {
    let config = golden.json("config");
    let noise = &config["f32_vs_f64"][mode];
    let floor = ["grad_in", "grad_param_maxabs_err"].map(|k| noise[k].as_f64().unwrap());
    Tolerance { absolute: floor.iter().fold(1e-6, |m, f| m.max(10.0 * f)), relative: 1e-4 }
}

/// Compares an image-to-image network, recognised by its weights.
pub(crate) fn check_image(name: &str) {
    check(name, |config, scope| match config {
        AnyConfig::Image(c) => c.build(scope),
        other => panic!("{name}: {other:?}"),
    });
}

/// Compares a network of one input, recognised by its weights, in evaluation and training.
pub(crate) fn check(
    name: &str,
    build: impl Fn(&AnyConfig, &Scope) -> limpid_nn::Result<Box<dyn Network>>,
) {
    let Some(golden) = open(name) else { return };
    let weights = golden.weights("weights.");
    let config = recognised(name, &weights);
    let (params, net) = filled(&weights, |scope| build(&config, scope));
    autograd::record(|| compare(&golden, &params, net.as_ref()));
}

fn compare(golden: &Golden, params: &Params, net: &dyn Network) {
    let x = Var::from_tensor(golden.tensor("in.x")).unwrap();
    let target = golden.tensor("in.target");
    let expected = golden.tensors.get("out.y").or_else(|| golden.tensors.get("out.y_eval"));
    let y = net.forward(x.as_tensor(), &Ctx::eval()).unwrap();
    golden.close("output", &y, expected.unwrap(), OUTPUT);
    let tolerance = gradient_tolerance(golden, "eval");
    golden.gradients(params, &[("in.x", &x)], (&y, target), ("grad.", tolerance));
    if let Some(expected) = golden.tensors.get("out.y_train") {
        let y = net.forward(x.as_tensor(), &Ctx::train(Stream::new(0, "golden"))).unwrap();
        golden.close("training output", &y, expected, OUTPUT);
        let tolerance = gradient_tolerance(golden, "train");
        golden.gradients(params, &[("in.x", &x)], (&y, target), ("grad_train.", tolerance));
        for (key, expected) in golden.weights("after_train.") {
            golden.close(&key, &params.get(&key).unwrap().tensor(), &expected, OUTPUT);
        }
    }
}
