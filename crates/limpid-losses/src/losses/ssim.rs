//! One minus structural similarity, with the exact gradient (window of `metrics::ssim`, valid
//! convolution as in MONAI, pytorch-msssim and piq).

use super::operand::{prepare, storage, tensor_like, to_f64, values};
use super::pixel::{l1, positive};
use crate::filter::{Border, separable};
use crate::metrics::ssim::{Constants, Moments, SsimSpec, Window, fitting_taps};
use crate::sum::{BLOCK, mean};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor};
use limpid_kernels::Result;
use rayon::prelude::*;

/// One minus SSIM of `[N, C, spatial..]`, averaged over channels and positions.
///
/// `data_range` is the span of valid values, such as 1 for images scaled to `[0, 1]`.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) if shapes differ or the window does not fit,
/// [`Error::Argument`](limpid_kernels::Error::Argument) if the range or the window is not usable.
pub fn ssim(pred: &Tensor, target: &Tensor, data_range: f64, spec: &SsimSpec) -> Result<Tensor> {
    const OP: &str = "ssim";
    let range = positive(OP, "data_range", data_range)?;
    let [x, y] = prepare(OP, [pred, target])?;
    let rank = super::linear::spatial_rank(OP, &x)?;
    let op = SampleSsim {
        taps: fitting_taps(OP, spec, &x.dims()[2..])?,
        constants: spec.constants(range, rank),
    };
    let similarity = x.apply_op2(&y, op)?.mean_all()?.to_device(pred.device())?;
    Ok(similarity.affine(-1.0, 1.0)?)
}

/// [`ssim`] with a Gaussian window of `size` taps and standard deviation `sigma`.
///
/// # Errors
/// As [`ssim`].
pub fn ssim_gaussian(
    pred: &Tensor,
    target: &Tensor,
    data_range: f64,
    size: usize,
    sigma: f64,
) -> Result<Tensor> {
    let spec = SsimSpec::new(Window::Gaussian { size, sigma }, false);
    ssim(pred, target, data_range, &spec)
}

/// [`ssim`] with a uniform window of `size` taps and population covariance (MONAI `uniform`).
///
/// # Errors
/// As [`ssim`].
pub fn ssim_uniform(
    pred: &Tensor,
    target: &Tensor,
    data_range: f64,
    size: usize,
) -> Result<Tensor> {
    ssim(pred, target, data_range, &SsimSpec::new(Window::Uniform { size }, false))
}

/// `alpha (1 - SSIM) + (1 - alpha) L1` with the window of Wang et al. (Zhao et al., "Loss functions
/// for image restoration with neural networks", 2017, use `alpha` 0.84).
///
/// # Errors
/// As [`ssim`].
pub fn l1_ssim(pred: &Tensor, target: &Tensor, data_range: f64, alpha: f64) -> Result<Tensor> {
    let similarity = (ssim(pred, target, data_range, &SsimSpec::WANG)? * alpha)?;
    Ok((similarity + (l1(pred, target)? * (1.0 - alpha))?)?)
}

/// Mean SSIM of each sample: `[N]`.
struct SampleSsim {
    taps: Vec<Vec<f64>>,
    constants: Constants,
}

impl SampleSsim {
    /// What a GPU is told of it, for images of a shape.
    #[cfg(feature = "cuda")]
    fn variant(&self, shape: &[usize]) -> limpid_kernels::loss::Similarity {
        let windows = super::linear::axes(shape, &self.taps, Border::Valid);
        let places: Vec<usize> = windows.iter().map(|axis| axis.length).collect();
        limpid_kernels::loss::Similarity {
            spreads: super::linear::axes(&places, &self.taps, Border::Full),
            windows,
            constants: self.constants.numbers(),
        }
    }

    /// Gradient by `x` of one sample, for a mean weighted by `scale`.
    fn gradient(&self, m: &Moments, x: &[f64], y: &[f64], map: &[usize], scale: f64) -> Vec<f64> {
        let scale = scale / m.len() as f64;
        let mut fields = [(); 3].map(|()| vec![0.0; m.len()]);
        let [by_x, by_xx, by_xy] = &mut fields;
        let places = by_x.par_iter_mut().zip(by_xx.par_iter_mut()).zip(by_xy.par_iter_mut());
        places.with_min_len(BLOCK).enumerate().for_each(|(i, ((by_x, by_xx), by_xy))| {
            [*by_x, *by_xx, *by_xy] = m.slopes(i, self.constants).map(|slope| scale * slope);
        });
        // the window is symmetric: the adjoint of a valid correlation is the full correlation
        let [by_x, by_xx, by_xy] =
            fields.map(|field| separable(&field, map, &self.taps, Border::Full).0);
        let places = (0..x.len()).into_par_iter().with_min_len(BLOCK);
        places.map(|i| by_x[i] + 2.0 * x[i] * by_xx[i] + y[i] * by_xy[i]).collect()
    }
}

impl CustomOp2 for SampleSsim {
    fn name(&self) -> &'static str {
        "ssim"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, y) = (to_f64(s1, l1)?, to_f64(s2, l2)?);
        let shape = l1.dims();
        let size = x.len() / shape[0];
        let means: Vec<f64> = x
            .chunks(size)
            .zip(y.chunks(size))
            .map(|(x, y)| {
                let (m, _) = Moments::new(x, y, &shape[1..], &self.taps, Border::Valid);
                mean(m.len(), |i| m.ssim(i, self.constants))
            })
            .collect();
        let dtype = if matches!(s1, CpuStorage::F64(_)) { DType::F64 } else { DType::F32 };
        Ok((storage(means, dtype), Shape::from(shape[0])))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        let variant = self.variant(l1.dims());
        limpid_kernels::loss::similarities("ssim", [(s1, l1), (s2, l2)], &variant)
            .map_err(candle_core::Error::wrap)
    }

    fn bwd(
        &self,
        pred: &Tensor,
        target: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            let (images, wanted) = ([pred, target], [pred.track_op(), target.track_op()]);
            let variant = self.variant(pred.dims());
            let [dx, dy] =
                limpid_kernels::loss::similarity_gradients("ssim", images, wanted, grad, &variant)
                    .map_err(candle_core::Error::wrap)?;
            return Ok((dx, dy));
        }
        let (x, y, grad) = (values(pred)?, values(target)?, values(&grad.contiguous()?)?);
        let shape = &pred.dims()[1..];
        let size = x.len() / grad.len();
        let (mut dx, mut dy) = (Vec::new(), Vec::new());
        for ((x, y), &g) in x.chunks(size).zip(y.chunks(size)).zip(&grad) {
            let (m, map) = Moments::new(x, y, shape, &self.taps, Border::Valid);
            if pred.track_op() {
                dx.extend(self.gradient(&m, x, y, &map, g));
            }
            if target.track_op() {
                dy.extend(self.gradient(&m.swapped(), y, x, &map, g));
            }
        }
        let wanted =
            |of: &Tensor, d: Vec<f64>| of.track_op().then(|| tensor_like(d, of)).transpose();
        Ok((wanted(pred, dx)?, wanted(target, dy)?))
    }
}
