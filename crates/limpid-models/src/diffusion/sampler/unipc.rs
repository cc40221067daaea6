//! UniPC: a predictor of several steps, and a corrector that uses the estimate at what it predicts,
//! which is the estimate of the next step anyway.

use super::{Step, Walk};
use crate::diffusion::Transition;
use crate::diffusion::combine::combine;
use candle_core::Tensor;
use limpid_engine::Result;

impl Walk<'_> {
    pub(super) fn unipc(&mut self, mut x: Tensor, order: usize) -> Result<Tensor> {
        let steps = self.steps();
        let Some(first) = steps.first() else { return Ok(x) };
        let mut clean = self.clean(first, &x)?;
        // earlier estimates and their λ, the latest first
        let mut past: Vec<(Tensor, f64)> = Vec::new();
        for (i, at) in steps.iter().enumerate() {
            let lambda = at.level.lambda();
            let h = at.next.lambda() - lambda;
            let step = Transition::between(&at.level, &at.next, 0.0);
            // the first step of a flow, and the last of all, are infinitely long
            let finite = h.is_finite();
            let ratios: Vec<f64> = if finite {
                past.iter().map(|(_, before)| (before - lambda) / h).collect()
            } else {
                Vec::new()
            };
            let olds: Vec<&Tensor> = past.iter().map(|(clean, _)| clean).collect();
            let weights = predictor(h, &ratios);
            let predicted = mean(&step, &x, &clean, &olds, &ratios, &weights, None)?;
            let Some(next) = steps.get(i + 1) else {
                return self.next(at, &clean, predicted, 0.0);
            };
            let predicted = self.guided(at, predicted)?;
            let estimate = self.clean(next, &predicted)?;
            let corrected = if finite {
                let weights = corrector(h, &ratios);
                mean(&step, &x, &clean, &olds, &ratios, &weights, Some(&estimate))?
            } else {
                predicted
            };
            x = self.next(at, &clean, corrected, 0.0)?;
            if lambda.is_finite() {
                past.insert(0, (clean, lambda));
                past.truncate(order - 1);
            }
            clean = estimate;
        }
        Ok(x)
    }

    /// A state that is estimated but not kept, as the guide wants it.
    fn guided(&self, at: &Step, x: Tensor) -> Result<Tensor> {
        self.guide.state(at, self.guide.mean(at, x)?)
    }
}

/// `state·x + clean·(m + Σ ρ_k (m_k - m)/r_k + ρ (m' - m))` with the estimate m, earlier ones m_k and
/// the next one m'.
fn mean(
    step: &Transition,
    x: &Tensor,
    clean: &Tensor,
    olds: &[&Tensor],
    ratios: &[f64],
    weights: &[f64],
    next: Option<&Tensor>,
) -> Result<Tensor> {
    let mut others: Vec<(&Tensor, f64)> =
        olds.iter().zip(ratios).zip(weights).map(|((old, r), rho)| (*old, rho / r)).collect();
    if let (Some(next), Some(rho)) = (next, weights.last()) {
        others.push((next, *rho));
    }
    let rest: f64 = others.iter().map(|(_, factor)| factor).sum();
    let factors: Vec<[f64; 1]> = others.iter().map(|(_, factor)| [step.clean * factor]).collect();
    let of_clean = [step.clean * (1.0 - rest)];
    let mut terms: Vec<(&Tensor, &[f64])> = vec![(clean, &of_clean)];
    terms.extend(others.iter().zip(&factors).map(|((m, _), factor)| (*m, factor.as_slice())));
    let of_x = [step.state];
    terms.push((x, &of_x));
    combine(&terms)
}

/// Weights of the differences to earlier estimates.
fn predictor(h: f64, ratios: &[f64]) -> Vec<f64> {
    match ratios {
        [] => Vec::new(),
        [_] => vec![0.5],
        more => weights(h, more),
    }
}

/// Weights of the differences to earlier estimates and, last, to the next one.
fn corrector(h: f64, ratios: &[f64]) -> Vec<f64> {
    match ratios {
        [] => vec![0.5],
        more => weights(h, &[more, &[1.0]].concat()),
    }
}

/// The weights ρ with `Σ_k ρ_k·r_k^(j-1) = j!·φ_(j+1)(-h)/φ_1(-h)` for as many j as there are ratios
/// r, where `φ_1(z) = e^z - 1` and `φ_(k+1)(z) = φ_k(z)/z - 1/k!` (equation 9 of the paper).
fn weights(h: f64, ratios: &[f64]) -> Vec<f64> {
    let (z, n) = (-h, ratios.len());
    let first = z.exp_m1();
    let (mut phi, mut factorial) = (first / z - 1.0, 1.0);
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(n);
    for j in 0..n {
        let powers = ratios.iter().map(|r| r.powi(j as i32));
        rows.push(powers.chain([phi * factorial / first]).collect());
        factorial *= (j + 2) as f64;
        phi = phi / z - 1.0 / factorial;
    }
    solved(rows)
}

/// Gaussian elimination; the minors of a Vandermonde matrix are not 0, so nothing is exchanged.
fn solved(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for i in 0..n {
        let pivot = rows[i].clone();
        for row in rows.iter_mut().skip(i + 1) {
            let factor = row[i] / pivot[i];
            row.iter_mut().zip(&pivot).for_each(|(value, p)| *value -= factor * p);
        }
    }
    let mut solution = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| rows[i][k] * solution[k]).sum();
        solution[i] = (rows[i][n] - known) / rows[i][i];
    }
    solution
}
