//! Distances between features that a network sees in two images; the networks are in `limpid-arch`.

use super::pixel::l1;
use candle_core::Tensor;
use limpid_kernels::{Error, Result};

/// Weighted sum of L1 between features, one after the other (Johnson et al. 2016, arXiv:1603.08155;
/// NectarGAN's `VGGPerceptual` takes three of VGG-19 with weights of 1).
///
/// # Errors
/// [`Error::Argument`] unless there are as many features of both images as weights, and any;
/// [`Error::Shape`] if two features differ in shape.
pub fn feature_l1(pred: &[Tensor], target: &[Tensor], weights: &[f64]) -> Result<Tensor> {
    const OP: &str = "feature_l1";
    same_number(OP, pred.len(), target.len(), weights.len())?;
    sum(OP, (0..weights.len()).map(|i| Ok((l1(&pred[i], &target[i])? * weights[i])?)))
}

/// Learnt perceptual distance (LPIPS, Zhang et al. 2018, arXiv:1801.03924): features as unit vectors
/// over the channels, their squared difference weighted per channel, the mean over the image, summed
/// over features; the mean over the batch.
///
/// # Shapes
/// Features `[N, C, spatial..]`; weights of `C` numbers in any shape.
///
/// # Errors
/// [`Error::Argument`] unless there are as many features of both images as weights, and any;
/// [`Error::Shape`] if two features differ in shape or a weight has not one number per channel.
pub fn lpips(pred: &[Tensor], target: &[Tensor], weights: &[Tensor]) -> Result<Tensor> {
    const OP: &str = "lpips";
    same_number(OP, pred.len(), target.len(), weights.len())?;
    let distance = |i: usize| -> Result<Tensor> {
        let [pred, target] = super::operand::prepare(OP, [&pred[i], &target[i]])?;
        super::linear::spatial_rank(OP, &pred)?;
        let channels = pred.dims()[1];
        if weights[i].elem_count() != channels {
            let expected = format!("a weight of {channels} numbers for feature {i}");
            return Err(Error::shape(OP, expected, weights[i].dims()));
        }
        let mut per_channel = vec![1; pred.rank()];
        per_channel[1] = channels;
        let weight = weights[i].to_dtype(pred.dtype())?.reshape(per_channel)?;
        let apart = (unit(&pred)? - unit(&target)?)?.sqr()?;
        Ok(apart.broadcast_mul(&weight)?.sum(1)?.mean_all()?)
    };
    sum(OP, (0..weights.len()).map(distance))
}

/// Unit vectors over the channels; zero stays zero.
fn unit(x: &Tensor) -> Result<Tensor> {
    // the first offset, far below what f32 resolves, gives the root a derivative at zero
    let length = (x.sqr()?.sum_keepdim(1)? + 1e-20)?.sqrt()?;
    Ok(x.broadcast_div(&(length + 1e-10)?)?)
}

fn same_number(op: &'static str, pred: usize, target: usize, weights: usize) -> Result<()> {
    if pred == target && pred == weights {
        return Ok(());
    }
    let message = format!("has {pred} and {target} features but {weights} weights");
    Err(Error::argument(op, message))
}

fn sum(op: &'static str, mut terms: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    let first = terms.next().ok_or_else(|| Error::argument(op, "needs at least one feature"))??;
    terms.try_fold(first, |total, term| Ok((total + term?)?))
}
