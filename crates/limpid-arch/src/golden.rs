//! Comparison of a network with its golden fixture, for the tests of each network.

use crate::{
    AnyConfig, ImageArchitecture, NetworkConfig, recognise, reference_entries, reference_key,
};
use candle_core::{DType, Device, Tensor, Var};
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Params, Scope};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Tensors of a fixture and the metadata of its header.
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) tensors: HashMap<String, Tensor>,
    pub(crate) metadata: HashMap<String, String>,
}

/// What two tensors may differ by: `absolute + relative · max|expected|`.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) absolute: f64,
    pub(crate) relative: f64,
}

impl Golden {
    /// A fixture such as `engine/net_dncnn_bn`; none, loudly, where the fixtures are absent.
    #[expect(clippy::print_stderr, reason = "a skipped comparison must be seen")]
    pub(crate) fn open(name: &str) -> Option<Self> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/golden")
            .join(format!("{name}.safetensors"));
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("skipped: no fixture {}", path.display());
            return None;
        };
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        Some(Self { name: name.to_owned(), tensors, metadata })
    }

    pub(crate) fn tensor(&self, key: &str) -> &Tensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("{}: no tensor `{key}`", self.name))
    }

    /// Tensors below a prefix, which is cut off.
    pub(crate) fn part(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        self.tensors
            .iter()
            .filter_map(|(k, t)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone())))
            .collect()
    }

    /// Weights below a prefix under our names, floating point as `f32`.
    pub(crate) fn weights(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let single = |t: Tensor| t.to_dtype(DType::F32).unwrap();
        reference_entries(self.part(prefix)).into_iter().map(|(k, t)| (k, single(t))).collect()
    }

    /// The metadata entry, which is JSON.
    pub(crate) fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    /// Asserts that a tensor is close to an expected one.
    pub(crate) fn close(&self, what: &str, got: &Tensor, expected: &Tensor, t: Tolerance) {
        let (error, allowed) =
            (max_error(got, expected), t.absolute + t.relative * max_abs(expected));
        assert!(error <= allowed, "{}: {what}: error {error} above {allowed}", self.name);
    }

    /// Asserts that the gradients of the mean square distance of `output` to `target` are those
    /// below `prefix`: by name of a parameter or of one of `inputs`.
    pub(crate) fn gradients(
        &self,
        params: &Params,
        inputs: &[(&str, &Var)],
        (output, target): (&Tensor, &Tensor),
        (prefix, tolerance): (&str, Tolerance),
    ) {
        let loss = (output - target).unwrap().sqr().unwrap().mean_all().unwrap();
        let grads = loss.backward().unwrap();
        for (key, expected) in self.part(prefix) {
            let got = if let Some((_, var)) = inputs.iter().find(|(name, _)| *name == key) {
                grads.get(var.as_tensor())
            } else {
                let Some(key) = reference_key(&key) else { continue };
                let param = params.get(key).unwrap_or_else(|| panic!("no parameter `{key}`"));
                grads.get(param.var())
            };
            let got = got.unwrap_or_else(|| panic!("{}: no gradient of {key}", self.name));
            self.close(&format!("gradient of {key}"), got, &expected, tolerance);
        }
    }
}

/// Parameters with the given weights, and what `build` makes of them.
pub(crate) fn filled<N>(
    weights: &BTreeMap<String, Tensor>,
    build: impl FnOnce(&Scope) -> limpid_nn::Result<N>,
) -> (Params, N) {
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "golden"), DType::F32, &Device::Cpu);
    let net = build(&scope).unwrap();
    let report = limpid_nn::compare(&params.shapes(), weights);
    assert!(report.is_match(), "{report}");
    params.set(weights).unwrap();
    (params, net)
}

/// The configuration that fits the weights without a mismatch.
pub(crate) fn recognised(name: &str, weights: &BTreeMap<String, Tensor>) -> AnyConfig {
    let shapes = weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
    let best = recognise(&shapes).into_iter().next().expect("no network fits");
    assert_eq!(best.mismatches, 0, "{name}: {:?}", best.config);
    best.config
}

const OUTPUT: Tolerance = Tolerance { absolute: 2e-5, relative: 0.0 };
const GRADIENT: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-4 };

/// Compares an image-to-image network of `golden/engine`, recognised by its weights.
pub(crate) fn check(name: &str) {
    check_as(name, |config| config);
}

/// As [`check`], with what shapes do not tell put into the recognised configuration.
pub(crate) fn check_as(name: &str, amend: impl FnOnce(NetworkConfig) -> NetworkConfig) {
    let Some(golden) = Golden::open(&format!("engine/{name}")) else { return };
    let weights = golden.weights("param.");
    let AnyConfig::Image(config) = recognised(name, &weights) else {
        panic!("{name}: no image-to-image network");
    };
    let config = amend(config);
    let (params, net) = filled(&weights, |scope| config.build(scope));
    let x = Var::from_tensor(golden.tensor("input.0")).unwrap();
    let y = net.forward(x.as_tensor(), &Ctx::eval()).unwrap();
    golden.close("output", &y, golden.tensor("output"), OUTPUT);
    golden.gradients(
        &params,
        &[("input.0", &x)],
        (&y, golden.tensor("target")),
        ("grad.", GRADIENT),
    );
    if let Some(expected) = golden.tensors.get("output_train") {
        let y = net.forward(x.as_tensor(), &Ctx::train(Stream::new(0, "golden"))).unwrap();
        golden.close("training output", &y, expected, OUTPUT);
        for (key, expected) in golden.part("after_train.") {
            golden.close(&key, &params.get(&key).unwrap().tensor(), &expected, OUTPUT);
        }
    }
}

fn max_abs(t: &Tensor) -> f64 {
    values(t).into_iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// The largest difference; NaN where either holds one.
fn max_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).into_iter().zip(values(b)).fold(0.0, |m, (a, b)| {
        let d = (a - b).abs();
        if d.is_nan() { d } else { m.max(d) }
    })
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
