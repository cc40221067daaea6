//! Comparison of a network with its golden fixture, for the tests of each network.

pub(crate) mod gan;

use crate::{
    AnyConfig, Architecture, ImageArchitecture, Network, NetworkConfig, Shapes, recognise,
    reference_entries, reference_key,
};
use candle_core::{DType, Device, Tensor, Var};
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Init, Params, Scope};
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
        let grads = autograd::backward(&loss).unwrap();
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
        panic!("{name}: not an image-to-image network");
    };
    let config = amend(config);
    check_network(&golden, &weights, |scope| config.build(scope));
}

/// Compares the network that `build` makes, in evaluation and, where the fixture holds that, in
/// training.
pub(crate) fn check_network(
    golden: &Golden,
    weights: &BTreeMap<String, Tensor>,
    build: impl FnOnce(&Scope) -> limpid_nn::Result<Box<dyn Network>>,
) {
    autograd::record(|| compare_network(golden, weights, build));
}

fn compare_network(
    golden: &Golden,
    weights: &BTreeMap<String, Tensor>,
    build: impl FnOnce(&Scope) -> limpid_nn::Result<Box<dyn Network>>,
) {
    let (params, net) = filled(weights, build);
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

/// Asserts that a training pass whose blocks are recomputed has the same gradients, and leaves the
/// same running statistics, to the bit.
pub(crate) fn check_recomputing(params: &Params, forward: impl Fn(&Ctx) -> Tensor) {
    let before: BTreeMap<String, Tensor> =
        params.tensors().into_iter().map(|(k, t)| (k, t.copy().unwrap())).collect();
    let [plain, again] = [false, true].map(|recompute| {
        params.set(&before).unwrap();
        let ctx = Ctx::train(Stream::new(3, "recompute")).recomputing(recompute);
        let mut found = autograd::record(|| {
            autograd::backward(&forward(&ctx).sqr().unwrap().mean_all().unwrap()).unwrap()
        });
        assert_eq!(ctx.blocks() > 0, recompute);
        let trainable = params.trainable();
        let gradients = trainable.iter().map(|p| (p.name().to_owned(), found.remove(p.var())));
        let gradients: BTreeMap<String, Option<Tensor>> = gradients.collect();
        (gradients, params.tensors().into_iter().map(|(k, t)| (k, t.copy().unwrap())))
    });
    let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for ((name, a), b) in plain.0.into_iter().zip(again.0.into_values()) {
        assert_eq!(a.as_ref().map(bits), b.as_ref().map(bits), "gradient of {name}");
        assert!(a.is_some(), "no gradient of {name}");
    }
    for ((name, a), (_, b)) in plain.1.zip(again.1) {
        assert_eq!(bits(&a), bits(&b), "{name}");
    }
}

/// Number of parameters and buffers.
pub(crate) fn count(config: &dyn Architecture) -> usize {
    config.shapes().unwrap().values().map(|shape| shape.iter().product::<usize>()).sum()
}

/// What `build` makes, with every parameter drawn anew: nothing is zero that would hide a branch.
pub(crate) fn drawn<N>(build: impl FnOnce(&Scope) -> limpid_nn::Result<N>) -> (Params, N) {
    let params = Params::new();
    let stream = Stream::new(1, "drawn");
    let net = build(&params.scope(stream, DType::F32, &Device::Cpu)).unwrap();
    let init = Init::Normal { mean: 0.0, std: 0.2 };
    for param in params.all() {
        let stream = stream.named(param.name());
        param.set(&init.tensor(param.shape(), stream, DType::F32, &Device::Cpu).unwrap()).unwrap();
    }
    (params, net)
}

/// An image of noise.
pub(crate) fn noise(dims: &[usize]) -> Tensor {
    let init = Init::Uniform { low: 0.0, high: 1.0 };
    init.tensor(dims, Stream::new(2, "noise"), DType::F32, &Device::Cpu).unwrap()
}

/// Asserts that no value of two tensors differs by more than `tolerance`.
pub(crate) fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
    let error = max_error(a, b);
    assert!(error <= tolerance, "error {error} above {tolerance}");
}

/// Compares an image-to-image network of `golden/emdiffuse`, recognised by its weights.
pub(crate) fn check_emdiffuse(name: &str) {
    let Some(golden) = Golden::open(&format!("emdiffuse/{name}")) else { return };
    let weights = golden.weights("weights.");
    let AnyConfig::Image(config) = recognised(name, &weights) else {
        panic!("{name}: not an image-to-image network");
    };
    let (params, net) = filled(&weights, |scope| config.build(scope));
    autograd::record(|| {
        let y = net.forward(golden.tensor("in.x"), &Ctx::eval()).unwrap();
        let close = Tolerance { absolute: 2e-5, relative: 1e-4 };
        golden.close("output", &y, golden.tensor("out.out"), close);
        let close = Tolerance { absolute: 1e-6, relative: 1e-3 };
        golden.gradients(&params, &[], (&y, golden.tensor("in.target")), ("grad.", close));
    });
}

/// A network with its initial weights.
pub(crate) fn fresh<N>(build: impl FnOnce(&Scope) -> limpid_nn::Result<N>) -> (Params, N) {
    let params = Params::new();
    let net = build(&params.scope(Stream::new(0, "fresh"), DType::F32, &Device::Cpu)).unwrap();
    (params, net)
}

/// Number of trainable scalars.
pub(crate) fn parameters(config: &dyn Architecture) -> usize {
    config.initial().unwrap().count()
}

/// Asserts that a configuration is found again from the shapes of its parameters.
pub(crate) fn round_trip<C: Architecture + PartialEq + limpid_config::Validate>(
    config: &C,
    recognise: impl Fn(&Shapes) -> Option<C>,
) {
    assert!(limpid_config::check(config).is_empty(), "{:?}", limpid_config::check(config));
    let shapes = config.shapes().unwrap();
    assert_eq!(recognise(&shapes).as_ref(), Some(config));
    let found = crate::recognise(&shapes);
    assert_eq!((found[0].config.settings().kind(), found[0].mismatches), (config.kind(), 0));
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// Asserts that an image of a shape is answered with an error of its shape.
pub(crate) fn refuses(config: &impl ImageArchitecture, shape: &[usize]) {
    let (_, net) = fresh(|scope| config.build(scope));
    let error = net.forward(&zeros(shape), &Ctx::eval()).unwrap_err();
    assert!(matches!(error, limpid_nn::Error::Shape { .. }), "{error}");
}

/// Asserts that the output has the size of the input.
pub(crate) fn keeps_size(config: &impl ImageArchitecture, size: &[usize]) {
    let (_, net) = fresh(|scope| config.build(scope));
    let shape = |channels: usize| [&[2, channels], size].concat();
    let y = net.forward(&zeros(&shape(config.in_channels())), &Ctx::eval()).unwrap();
    assert_eq!(y.dims(), shape(config.out_channels()));
}

/// Asserts that no pixel in the middle of a square image of that size depends on more pixels than
/// the receptive field says. For networks without normalisation by the image. In f64: Winograd's
/// tiles mix pixels that cancel but for rounding, and f64 does without.
pub(crate) fn receptive_field_holds(config: &impl ImageArchitecture, size: usize) {
    let params = Params::new();
    let stream = Stream::new(0, "receptive field");
    let net = config.build(&params.scope(stream, DType::F64, &Device::Cpu)).unwrap();
    // positive weights and images: nothing cancels, and every rectifier is open
    for param in params.trainable() {
        param.set(&(param.tensor().abs().unwrap() + 1e-3).unwrap()).unwrap();
    }
    let field = config.receptive_field();
    let shape = [1, config.in_channels(), size, size];
    let x = Var::ones(&shape, DType::F64, &Device::Cpu).unwrap();
    let y = net.forward(x.as_tensor(), &Ctx::eval()).unwrap();
    let divisor = config.divisor()[0];
    for at in size / 2..size / 2 + divisor {
        let pixel = y.narrow(2, at, 1).unwrap().narrow(3, at, 1).unwrap().sum_all().unwrap();
        let grads = pixel.backward().unwrap();
        let rows = grads.get(&x).unwrap().abs().unwrap().sum((0, 1, 3)).unwrap();
        let rows: Vec<f64> = rows.to_vec1().unwrap();
        let seen: Vec<usize> = (0..size).filter(|&i| rows[i] > 0.0).collect();
        let reach = seen.iter().map(|i| i.abs_diff(at)).max().unwrap();
        assert!(2 * reach < field[0] + 1, "{reach} to one side, but {field:?} in all");
        assert!(4 * reach >= field[0], "{reach} to one side of {field:?} is far too little");
    }
}

fn max_abs(t: &Tensor) -> f64 {
    values(t).into_iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// The largest difference; NaN where either holds one.
pub(crate) fn max_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).into_iter().zip(values(b)).fold(0.0, |m, (a, b)| {
        let d = (a - b).abs();
        if d.is_nan() { d } else { m.max(d) }
    })
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
