//! Losses compared with the CPU's: what tests and checks of GPUs go through.

use crate::losses::{self, gan};
use candle_core::{DType, Tensor};
use limpid_kernels::Result;
use limpid_kernels::gpu::Case;

type One = fn(&Tensor) -> Result<Tensor>;
type Two = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// Every loss, on odd shapes.
#[must_use]
pub fn cases() -> Vec<Case> {
    let all = [pairs(), images(), logits(), likelihoods(), others()];
    all.into_iter().flatten().map(Case::without_halves).collect()
}

/// Losses of two images, for which one to three dimensions and samples beyond a block are tried.
fn pairs() -> Vec<Case> {
    let losses: [(&str, Two); 15] = [
        ("l1", losses::l1),
        ("l1_sum", losses::l1_sum),
        ("l2", losses::l2),
        ("charbonnier", |x, y| losses::charbonnier(x, y, 1e-2)),
        ("huber", |x, y| losses::huber(x, y, 0.7)),
        ("smooth_l1", |x, y| losses::smooth_l1(x, y, 0.7)),
        ("log_cosh", losses::log_cosh),
        ("relative_l2", losses::relative_l2),
        ("correlation", losses::correlation),
        ("negative_psnr", |x, y| losses::negative_psnr(x, y, 2.0)),
        ("pinball", |x, y| losses::pinball(x, y, 0.3)),
        ("fft_l1", losses::fft_l1),
        ("gradient_l1", losses::gradient_l1),
        ("sobel_l1", |x, y| losses::sobel_l1(x, y, 1e-6)),
        ("laplacian_l1", losses::laplacian_l1),
    ];
    let mut cases = Vec::new();
    for (name, loss) in losses {
        for shape in [&[3, 2, 5, 7][..], &[2, 1, 4, 3, 6], &[1, 1, 33]] {
            let rank = shape.len() - 2;
            cases.push(Case::new(format!("{name} {rank}d"), &[shape, shape], move |x| {
                loss(&x[0], &x[1])
            }));
        }
    }
    let large: &[usize] = &[2, 1, 130, 131];
    cases.push(Case::new("l1 large", &[large, large], |x| losses::l1(&x[0], &x[1])));
    cases.push(Case::new("l2 of equal images", &[large], |x| losses::l2(&x[0], &x[0])));
    cases.push(Case::new("l1 of NaN", &[&[2, 5], &[2, 5]], |x| {
        // the square root of what is negative
        losses::l1(&x[0].sqrt()?, &x[1])
    }));
    cases
}

fn images() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [&[2, 3, 13, 12][..], &[2, 1, 8, 9, 7], &[3, 2, 37]] {
        let rank = shape.len() - 2;
        let both: &[&[usize]] = &[shape, shape];
        cases.push(Case::new(format!("ssim uniform {rank}d"), both, |x| {
            losses::ssim_uniform(&x[0], &x[1], 2.0, 7)
        }));
        cases.push(Case::new(format!("ssim gaussian {rank}d"), both, |x| {
            losses::ssim_gaussian(&x[0], &x[1], 2.0, 5, 1.5)
        }));
        let priors: [(&str, One); 2] = [
            ("tv_anisotropic", losses::tv_anisotropic),
            ("tv_isotropic", |x| losses::tv_isotropic(x, 1e-3)),
        ];
        for (name, prior) in priors {
            cases.push(Case::new(format!("{name} {rank}d"), &[shape], move |x| prior(&x[0])));
        }
    }
    let grey: &[usize] = &[2, 3, 6, 5];
    cases.push(Case::new("sobel_l1 grey", &[grey, grey], |x| {
        losses::sobel_l1(&losses::grey(&x[0])?, &losses::grey(&x[1])?, 1e-6)
    }));
    let skimage = crate::metrics::SsimSpec::SKIMAGE;
    cases.push(Case::new(
        "ssim sample covariance",
        &[&[2, 1, 16, 15], &[2, 1, 16, 15]],
        move |x| losses::ssim(&x[0], &x[1], 2.0, &skimage),
    ));
    let complex: &[&[usize]] = &[&[2, 5, 7, 2], &[2, 5, 7, 2]];
    cases.push(Case::new("complex_l1", complex, |x| losses::complex_l1(&x[0], &x[1])));
    cases.push(Case::new("complex_l2", complex, |x| losses::complex_l2(&x[0], &x[1])));
    cases.push(Case::new("complex_l1_parts", complex, |x| losses::complex_l1_parts(&x[0], &x[1])));
    cases.push(Case::new("complex_l1 of nothing", &[&[3, 9, 2]], |x| {
        losses::complex_l1(&x[0], &x[0])
    }));
    cases
}

fn logits() -> Vec<Case> {
    let losses: [(&str, One); 11] = [
        ("vanilla", |x| gan::vanilla(x, 0.9)),
        ("least_squares", |x| gan::least_squares(x, 1.0)),
        ("hinge_d_real", gan::hinge_d_real),
        ("hinge_d_fake", gan::hinge_d_fake),
        ("hinge_g", gan::hinge_g),
        ("wasserstein_d_fake", gan::wasserstein_d_fake),
        ("softplus_g", gan::softplus_g),
        ("monai_patch_hinge_d_real", gan::monai_patch_hinge_d_real),
        ("monai_patch_hinge_d_fake", gan::monai_patch_hinge_d_fake),
        ("monai_patch_least_squares", |x| gan::monai_patch_least_squares(x, 1.0)),
        ("suv_three_channel", |x| losses::suv_three_channel(&(x / 10.0)?)),
    ];
    let shape: &[usize] = &[5, 1, 7, 9];
    let mut cases: Vec<Case> = losses
        .into_iter()
        .map(|(name, loss)| Case::new(name, &[shape], move |x| loss(&x[0])).range(-3.0, 3.0))
        .collect();
    cases.push(
        Case::new("bce_with_logits", &[shape, shape], |x| {
            gan::bce_with_logits(&x[0], &(x[1].affine(0.1, 0.5)?), 2.0)
        })
        .range(-3.0, 3.0),
    );
    cases
}

fn likelihoods() -> Vec<Case> {
    let shape: &[usize] = &[3, 1, 6, 7];
    vec![
        Case::new("gaussian_nll", &[shape; 3], |x| {
            losses::gaussian_nll(&x[0], &x[1], &x[2], 0.1, true)
        }),
        Case::new("gaussian_nll_logvar", &[shape; 3], |x| {
            losses::gaussian_nll_logvar(&x[0], &x[1], &x[2])
        }),
        Case::new("gaussian_nll_logvar_weighted", &[shape; 3], |x| {
            let weight = x[0].detach().abs()?;
            losses::gaussian_nll_logvar_weighted(&x[0], &x[1], &x[2], &weight)
        }),
        Case::new("poisson_nll", &[shape; 2], |x| losses::poisson_nll(&x[0], &x[1], 1e-8))
            .range(0.1, 4.0),
        Case::new("poisson_nll_log", &[shape; 2], |x| losses::poisson_nll_log(&x[0], &x[1])),
    ]
}

fn others() -> Vec<Case> {
    let shape: &[usize] = &[4, 1, 6, 8];
    let positive = |x: &Tensor| -> Result<Tensor> { Ok(x.detach().gt(0.0)?.to_dtype(x.dtype())?) };
    vec![
        Case::new("interpolation_weighted_l2", &[shape], |x| {
            let (target, interpolated) = (x[0].affine(0.5, 0.3)?, x[0].affine(0.1, -0.2)?);
            losses::interpolation_weighted_l2(&x[0], &target, &interpolated)
        }),
        Case::new("interpolation_weighted_l2 without error", &[shape], |x| {
            let target = x[0].affine(0.5, 0.3)?;
            losses::interpolation_weighted_l2(&x[0], &target, &target)
        }),
        Case::new("pinball_elements", &[shape; 2], |x| losses::pinball_elements(&x[0], &x[1], 0.3)),
        Case::new("interval_and_l2", &[shape; 4], |x| {
            losses::interval_and_l2(&x[0], &x[1], &x[2], &x[3], 0.9)
        }),
        Case::new("masked_l2", &[shape; 2], move |x| {
            losses::masked_l2(&x[0], &x[1], &positive(&x[0])?)
        }),
        Case::new("noise2self_input", &[shape], move |x| {
            losses::noise2self_input(&x[0], &positive(&x[0])?)
        }),
        Case::new("neighbor_pair", &[shape], |x| {
            let choice: Vec<usize> = (0..48).map(|i| i % 8).collect();
            let (a, b) = losses::neighbor_pair(&x[0], &choice)?;
            Ok((a + (b * 0.5)?)?)
        }),
        Case::new("neighbor2neighbor", &[shape; 2], |x| {
            let (first, second) = (x[0].detach().affine(0.5, 0.1)?, x[1].detach());
            let (a, b) = losses::neighbor2neighbor(&x[0], &x[1], &first, &second, 2.0)?;
            Ok((a + b)?)
        }),
        Case::new("mc_sure", &[shape; 4], |x| {
            losses::mc_sure(&x[0], &x[1], &x[2], &x[3], 0.3, 0.1)
        }),
        Case::new("sample_ranking", &[shape], |x| {
            losses::sample_ranking(&x[0], &x[0].detach().sqr()?, 0.1)
        }),
        Case::new("pixel_ranking", &[shape], |x| {
            let order: Vec<usize> = (0..48).map(|i| i * 5 % 48).collect();
            losses::pixel_ranking(&x[0], &x[0].detach().sqr()?, &order, 0.1)
        }),
        Case::new("focal", &[&[3, 4, 5, 7]], |x| {
            let classes =
                x[0].narrow(1, 0, 1)?.squeeze(1)?.affine(1.9, 1.95)?.to_dtype(DType::U8)?;
            losses::focal(&x[0], &classes, 2.0, Some(&[1.0, 0.5, 2.0, 1.5]))
        }),
        Case::new("lpips", &[&[2, 3, 5, 7], &[2, 3, 5, 7]], |x| {
            let weights = Tensor::new(&[0.5f32, 1.0, 0.2], x[0].device())?;
            losses::lpips(&[x[0].clone()], &[x[1].clone()], &[weights])
        }),
    ]
}

#[cfg(test)]
mod tests {
    /// With a GPU, real or in software.
    #[test]
    #[ignore = "run by cargo xtask cuda test"]
    fn cuda_gives_what_the_cpu_does() {
        let device = limpid_kernels::gpu::open(0).unwrap();
        if let Err(e) = limpid_kernels::gpu::compare_all(super::cases(), &device) {
            panic!("{e}");
        }
    }
}
