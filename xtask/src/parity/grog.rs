//! The network of implicit GROG: kernels, losses, gradients and a few steps of training, in f64.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use limpid_arch::grog_mlp::{Config, GrogMlp};
use limpid_arch::{AnyConfig, recognise};
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_losses::losses;
use limpid_nn::Params;
use limpid_nn::optim::{Optimizer, OptimizerConfig};
use serde_json::json;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, text, values};

const CLOSE: Tolerance = Tolerance { absolute: 1e-9, relative: 1e-9 };

/// A network and its training examples.
struct Problem<'a> {
    params: Params,
    net: GrogMlp,
    features: &'a Tensor,
    sources: &'a Tensor,
    target: &'a Tensor,
}

impl<'a> Problem<'a> {
    fn new(fixture: &'a Fixture, weights: &BTreeMap<String, Tensor>) -> Result<Self, String> {
        let shapes = weights.iter().map(|(k, t)| (k.clone(), t.dims().to_vec())).collect();
        let best = recognise(&shapes).into_iter().next().ok_or("no network has these weights")?;
        let AnyConfig::GrogMlp(found) = best.config else {
            return Err(format!("the weights fit {}", best.config.settings().kind()));
        };
        // shapes tell sources and coils only together
        let [_, sources, coils, _] = *fixture.shape("src")? else {
            return Err("`src` is not [N, S, C, 2]".into());
        };
        let config = Config { sources, coils, ..found };
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "parity"), DType::F64, &Device::Cpu);
        let net = config.build(&scope).map_err(text)?;
        params.set(weights).map_err(text)?;
        let [features, sources, target] = ["feat", "src", "target"].map(|n| fixture.tensor(n));
        Ok(Self { params, net, features: features?, sources: sources?, target: target? })
    }

    /// The loss called `name`; after `_reg`, the weight of the kernels' mean squared norm.
    fn loss(&self, name: &str, kernel: &Tensor) -> Result<Tensor, String> {
        let (name, weight) = match name.split_once("_reg") {
            Some((name, weight)) => (name, weight.parse::<f64>().map_err(text)?),
            None => (name, 0.0),
        };
        let got = self.net.apply(kernel, self.sources).map_err(text)?;
        let fit = match name {
            "l1" => losses::complex_l1(&got, self.target),
            "l1ri" => losses::complex_l1_parts(&got, self.target),
            "l2" => losses::complex_l2(&got, self.target),
            _ => return Err(format!("the file has a loss that is not ours: `{name}`")),
        };
        let fit = fit.map_err(text)?;
        let size = || kernel.sqr()?.sum_all()? * (weight / kernel.dims()[0] as f64);
        size().and_then(|size| fit + size).map_err(text)
    }

    /// Some steps of Adam on the loss `l1`; the losses before each.
    fn train(&self, steps: usize) -> Result<Vec<f64>, String> {
        let config: OptimizerConfig =
            serde_json::from_value(json!({"kind": "adam", "lr": 0.01})).map_err(text)?;
        let mut optimizer = Optimizer::new(&config).map_err(text)?;
        let vars: Vec<(String, Var)> = self
            .params
            .trainable()
            .iter()
            .map(|p| (p.name().to_owned(), p.var().clone()))
            .collect();
        let mut losses = Vec::new();
        for _ in 0..steps {
            let kernel = self.net.kernel(self.features).map_err(text)?;
            let loss = self.loss("l1", &kernel)?;
            losses.push(values(&loss)?[0]);
            let mut store = autograd::backward(&loss).map_err(text)?;
            let mut gradients = BTreeMap::new();
            for (name, var) in &vars {
                let gradient = store.remove(var).ok_or_else(|| format!("no gradient: `{name}`"))?;
                gradients.insert(name.clone(), gradient);
            }
            optimizer.step(&vars, &gradients, optimizer.base_lr()).map_err(text)?;
        }
        Ok(losses)
    }
}

/// What a file tells that was written after training had changed the first weights in place, so that
/// both sets in it are the last: everything behind the kernels it holds, and, of the network, that
/// its loss goes on where those of training end.
fn without_start(fixture: &Fixture, problem: &Problem, worst: &mut Worst) -> Result<(), String> {
    let kernel = Var::from_tensor(fixture.tensor("kernel")?).map_err(text)?;
    let got = problem.net.apply(kernel.as_tensor(), problem.sources).map_err(text)?;
    worst.tensor("pred", &got, fixture.tensor("pred")?, CLOSE)?;
    for (name, expected) in fixture.part("loss.") {
        let loss = problem.loss(&name, kernel.as_tensor())?;
        worst.compare(&format!("loss {name}"), &values(&loss)?, &values(&expected)?, CLOSE);
        let gradients = autograd::backward(&loss).map_err(text)?;
        let gradient = gradients.get(kernel.as_tensor()).ok_or("no gradient of the kernel")?;
        // a bias moves the kernels of all examples alike
        let sum = gradient.sum(0).and_then(|g| g.flatten_to(1)).map_err(text)?;
        for (i, part) in ["last_re.bias", "last_im.bias"].into_iter().enumerate() {
            let key = format!("grad.{name}.{part}");
            let got = sum.get_on_dim(1, i).map_err(text)?;
            worst.tensor(&key, &got, fixture.tensor(&key)?, CLOSE)?;
        }
    }
    let kernel = problem.net.kernel(problem.features).map_err(text)?;
    let next = values(&problem.loss("l1", &kernel)?)?[0];
    if let [.., before, last] = fixture.values("adam_losses")?[..] {
        // each step gains a little less than the one before
        let gain = (last - next) / (before - last);
        worst.require(
            &format!("the last step gains {gain} of the one before"),
            0.8 < gain && gain < 1.2,
        );
    }
    Ok(())
}

/// `mlp`.
pub(super) fn mlp(fixture: &Fixture) -> Result<Outcome, String> {
    let (first, last) = (fixture.part("w0."), fixture.part("w5."));
    let losses = fixture.values("adam_losses")?;
    let mut same = first.len() == last.len();
    for (name, tensor) in &first {
        same &= last.get(name).map(values).transpose()? == Some(values(tensor)?);
    }
    let problem = Problem::new(fixture, &first)?;
    let mut worst = Worst::default();
    if same {
        without_start(fixture, &problem, &mut worst)?;
        return worst.done();
    }
    let kernel = problem.net.kernel(problem.features).map_err(text)?;
    worst.tensor("kernel", &kernel, fixture.tensor("kernel")?, CLOSE)?;
    let got = problem.net.apply(&kernel, problem.sources).map_err(text)?;
    worst.tensor("pred", &got, fixture.tensor("pred")?, CLOSE)?;
    for (name, expected) in fixture.part("loss.") {
        let loss = problem.loss(&name, &kernel)?;
        worst.compare(&format!("loss {name}"), &values(&loss)?, &values(&expected)?, CLOSE);
        let gradients = autograd::backward(&loss).map_err(text)?;
        for (key, expected) in fixture.part(&format!("grad.{name}.")) {
            let param = problem.params.get(&key).ok_or_else(|| format!("no parameter `{key}`"))?;
            let got = gradients.get(param.var()).ok_or_else(|| format!("no gradient: `{key}`"))?;
            worst.tensor(&format!("gradient of {key}, {name}"), got, &expected, CLOSE)?;
        }
    }
    let got = problem.train(losses.len())?;
    worst.compare("losses of Adam", &got, &losses, CLOSE);
    for (name, got) in problem.params.tensors() {
        worst.tensor(&format!("{name} after training"), &got, &last[&name], CLOSE)?;
    }
    worst.done()
}
