//! The losses of EMDiffuse: values, and gradients of every input that has one, ties included.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use limpid_kernels::autograd;
use limpid_losses::losses;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, text};

const VALUE: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-5 };
const GRADIENT: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-4 };
/// Fraction of the targets that the two quantile losses of the reference enclose.
const COVERAGE: f64 = 0.9;
/// What the reference's ranking losses take by default.
const MARGIN: f64 = 1.0;
/// What the reference's focal loss takes by default.
const FOCUS: f64 = 2.0;

/// Whether a file names what it holds as EMDiffuse's does.
pub(super) fn is_layout(fixture: &Fixture) -> bool {
    fixture.metadata.get("config").is_some_and(|config| config.contains("models/loss.py"))
}

/// The inputs of a file.
struct Inputs<'a> {
    fixture: &'a Fixture,
    /// Those that are floating point, which gradients are taken of.
    vars: BTreeMap<String, Var>,
}

impl<'a> Inputs<'a> {
    fn new(fixture: &'a Fixture) -> Result<Self, String> {
        let mut vars = BTreeMap::new();
        for (name, tensor) in fixture.part("in.") {
            if tensor.dtype().is_float() {
                vars.insert(name, Var::from_tensor(&tensor).map_err(text)?);
            }
        }
        Ok(Self { fixture, vars })
    }

    fn get(&self, name: &str) -> Result<&Tensor, String> {
        let var = self.vars.get(name).ok_or_else(|| format!("the file has no `in.{name}`"))?;
        Ok(var.as_tensor())
    }

    /// The squared error, which the ranking losses compare.
    fn error(&self) -> Result<Tensor, String> {
        let difference = self.get("output")?.detach() - self.get("target")?.detach();
        difference.and_then(|d| d.sqr()).map_err(text)
    }

    fn order(&self) -> Result<Vec<usize>, String> {
        let order = self.fixture.values("in.LossPredLoss.perm")?;
        Ok(order.into_iter().map(|i| i as usize).collect())
    }
}

/// Every `out.<loss>` and `grad.<loss>.<input>`.
pub(super) fn losses(fixture: &Fixture) -> Result<Outcome, String> {
    let inputs = Inputs::new(fixture)?;
    let mut worst = Worst::default();
    let names: Vec<String> = fixture.part("out.").into_keys().collect();
    let mut compared = 0;
    for name in &names {
        let value = evaluate(&inputs, name)?;
        worst.tensor(name, &value, fixture.tensor(&format!("out.{name}"))?, VALUE)?;
        // of a loss that is not summed up, the file holds the gradient of the sum
        let gradients = autograd::backward(&value.sum_all().map_err(text)?).map_err(text)?;
        for (of, expected) in fixture.part(&format!("grad.{name}.")) {
            let Some(var) = inputs.vars.get(&differentiated(name, &of)) else {
                return Err(format!("`grad.{name}.{of}` is of no input"));
            };
            let what = format!("gradient of {name} by {of}");
            match gradients.get(var) {
                Some(got) => worst.tensor(&what, got, &expected, GRADIENT)?,
                None => worst.require(&format!("{what} is missing"), false),
            }
            compared += 1;
        }
    }
    let held = fixture.part("grad.").len();
    worst.require(&format!("{compared} of {held} gradients belong to a loss"), compared == held);
    worst.done()
}

/// The input that a gradient is of: the file names some after the arguments of the reference.
fn differentiated(loss: &str, of: &str) -> String {
    match loss.split_once('.') {
        Some(("FocalLoss", rest)) => format!("focal.logits{}", which(rest)),
        Some(("PinballLoss", _)) => "q_lower".to_owned(),
        _ => of.to_owned(),
    }
}

/// The suffix of the inputs of a focal loss: `2`, `4` or `b`.
fn which(focal: &str) -> &str {
    focal.get(..1).unwrap_or_default()
}

/// The loss called `name`; numbers in a name are its parameters.
fn evaluate(inputs: &Inputs, name: &str) -> Result<Tensor, String> {
    let get = |name: &str| inputs.get(name);
    let number = |text: &str| -> Result<f64, String> {
        text.parse().map_err(|_| format!("no parameter in `{name}`"))
    };
    let (stem, rest) = name.split_once('.').unwrap_or((name, ""));
    let loss = match stem {
        "mse_loss" => losses::l2(get("output")?, get("target")?),
        "l1_loss" => losses::l1(get("output")?, get("target")?),
        "CubicWeightedPSNRLoss" => {
            losses::interpolation_weighted_l2(get("output")?, get("target")?, get("upsampled")?)
        }
        "mse_var_loss" | "MSE_VAR" => {
            let weight = number(rest.strip_prefix('w').unwrap_or(rest))?;
            let variance = (get("variance")? * weight).map_err(text)?;
            losses::gaussian_nll_logvar(get("output")?, get("target")?, &variance)
        }
        "mse_var_loss2" => losses::gaussian_nll_logvar_weighted(
            get("output")?,
            get("target")?,
            get("variance")?,
            get("var_weight")?,
        ),
        "mse_var_loss_sample" => {
            let variance = get("variance")?;
            let rank = losses::sample_ranking(variance, &inputs.error()?, MARGIN).map_err(text)?;
            losses::gaussian_nll_logvar(get("output")?, get("target")?, variance)
                .and_then(|fit| Ok((fit + rank)?))
        }
        "SampleLossPredLoss" => {
            let (variance, error) = (get("variance")?, inputs.error()?);
            match rest {
                "none" => losses::sample_ranking_pairs(variance, &error, MARGIN),
                _ => losses::sample_ranking(variance, &error, MARGIN),
            }
        }
        "LossPredLoss" | "loss_predict_loss" => {
            let (variance, error, order) = (get("variance")?, inputs.error()?, inputs.order()?);
            match (stem, rest) {
                ("loss_predict_loss", "0") => losses::l2(get("output")?, get("target")?),
                (_, "none") => losses::pixel_ranking_pairs(variance, &error, &order, MARGIN),
                _ => losses::pixel_ranking(variance, &error, &order, MARGIN),
            }
        }
        "PinballLoss" => {
            let (quantile, reduction) = rest.rsplit_once('.').unwrap_or((rest, "mean"));
            let quantile = number(quantile.strip_prefix('q').unwrap_or(quantile))?;
            let (bound, target) = (get("q_lower")?, get("target")?);
            match reduction {
                "mean" => losses::pinball(bound, target, quantile),
                _ => losses::pinball_elements(bound, target, quantile)
                    .and_then(|each| Ok(if reduction == "sum" { each.sum_all()? } else { each })),
            }
        }
        "pin_loss" => losses::interval(get("q_lower")?, get("q_upper")?, get("target")?, COVERAGE),
        "pin_loss2" => losses::interval_and_l2(
            get("q_lower")?,
            get("q_upper")?,
            get("output")?,
            get("target")?,
            COVERAGE,
        ),
        "FocalLoss" => return focal(inputs, rest),
        _ => return Err(format!("the file has a loss that no function claims: `{name}`")),
    };
    loss.map_err(|e| format!("{name}: {e}"))
}

/// The focal loss called `FocalLoss.<rest>`: inputs, then exponent, reduction and class weights.
fn focal(inputs: &Inputs, rest: &str) -> Result<Tensor, String> {
    let which = which(rest);
    let logits = inputs.get(&format!("focal.logits{which}"))?;
    let classes = inputs.fixture.tensor(&format!("in.focal.target{which}"))?;
    let count = logits.dims().get(1).copied().unwrap_or(0);
    let number = |marker: &str| -> Option<f64> {
        let tail = &rest[rest.find(marker)? + marker.len()..];
        let end = tail.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(tail.len());
        tail[..end].trim_end_matches('.').parse().ok()
    };
    let weights = if rest.ends_with("alpha_list") {
        // the file does not tell the list: a tenth more for each class
        Some((1..=count).map(|i| i as f64 / 10.0).collect())
    } else {
        // one number is the weight of the first of two classes
        number(".alpha").map(|alpha| vec![alpha, 1.0 - alpha])
    };
    let gamma = number(".g").unwrap_or(FOCUS);
    let each = losses::focal_elements(logits, classes, gamma, weights.as_deref()).map_err(text)?;
    if rest.ends_with(".sum") { each.sum_all() } else { each.mean_all() }.map_err(text)
}
