//! Single operations; `backward` is a forward pass and the gradients of all operands.

use crate::step::gradients;
use crate::{Mode, Work, numbers};
use candle_core::{Tensor, Var};
use limpid_kernels::{
    self as kernels, Activation, ConvSpec, ConvTransposeSpec, Pad, PoolSpec, Resize,
};
use limpid_nn::Result;

type Op = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// The work on an operation, if that is what the name means.
pub(crate) fn work(mode: Mode, name: &str, shapes: &[Vec<usize>]) -> Result<Option<Work>> {
    let Some((operands, op)) = operation(name, shapes) else { return Ok(None) };
    let operands = operands.iter().zip(1..).map(|(shape, seed)| numbers(seed, shape));
    let operands = operands.collect::<Result<Vec<_>>>()?;
    let call: Box<dyn FnMut() -> Result<Tensor>> = match mode {
        Mode::Train | Mode::Recompute => return Ok(None),
        Mode::Infer => Box::new(move || op(&operands)),
        Mode::Backward => {
            let tracked = |t: &Tensor| Ok(Var::from_tensor(t)?.into_inner());
            let operands = operands.iter().map(tracked).collect::<Result<Vec<_>>>()?;
            Box::new(move || {
                let y = op(&operands)?;
                gradients(&y)?;
                Ok(y)
            })
        }
    };
    Ok(Some(Work { parameters: 0, call }))
}

/// Shapes of the operands, and what is done with them.
fn operation(name: &str, shapes: &[Vec<usize>]) -> Option<(Vec<Vec<usize>>, Op)> {
    let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
    let owned = |shapes: &[&[usize]]| shapes.iter().map(|s| s.to_vec()).collect::<Vec<_>>();
    Some(match (name, &shapes[..]) {
        ("matmul", [a, b]) => (owned(&[a, b]), Box::new(|t| limpid_kernels::matmul(&t[0], &t[1]))),
        ("linear", [x, w]) => {
            let op = |t: &[Tensor]| limpid_kernels::linear(&t[0], &t[1], Some(&t[2]));
            (owned(&[x, w, &w[..1]]), Box::new(op))
        }
        ("conv", [x, w, [stride], [padding]]) => {
            let rank = x.len() - 2;
            let (stride, padding) = (vec![*stride; rank], vec![*padding; rank]);
            let spec = ConvSpec { stride, padding, ..ConvSpec::unit(rank) };
            let op: Op = Box::new(move |t| kernels::conv(&t[0], &t[1], Some(&t[2]), &spec));
            (owned(&[x, w, &w[..1]]), op)
        }
        ("cat_conv", [x, w, [stride], [padding]]) => {
            let rank = x.len() - 2;
            let (stride, padding) = (vec![*stride; rank], vec![*padding; rank]);
            let spec = ConvSpec { stride, padding, ..ConvSpec::unit(rank) };
            let op: Op =
                Box::new(move |t| kernels::conv_cat(&[&t[0], &t[1]], &t[2], Some(&t[3]), &spec));
            (owned(&[x, x, w, &w[..1]]), op)
        }
        ("conv_transpose", [x, w, [stride], [padding]]) => {
            let rank = x.len() - 2;
            let (stride, padding) = (vec![*stride; rank], vec![*padding; rank]);
            let spec = ConvTransposeSpec { stride, padding, ..ConvTransposeSpec::unit(rank) };
            let op: Op =
                Box::new(move |t| kernels::conv_transpose(&t[0], &t[1], Some(&t[2]), &spec));
            (owned(&[x, w, &w[1..2]]), op)
        }
        ("attention", [x]) => {
            let scale = (*x.last()? as f64).sqrt().recip();
            let op: Op = Box::new(move |t| kernels::attention(&t[0], &t[1], &t[2], scale, None));
            (owned(&[x, x, x]), op)
        }
        ("group_norm_silu", [x]) => {
            let op = |t: &[Tensor]| {
                let (w, b) = (Some(&t[1]), Some(&t[2]));
                kernels::group_norm_act(&t[0], 32, w, b, 1e-5, Activation::Silu)
            };
            (owned(&[x, &x[1..2], &x[1..2]]), Box::new(op))
        }
        ("cat_group_norm_silu", [x]) => {
            let op = |t: &[Tensor]| {
                let (w, b) = (Some(&t[2]), Some(&t[3]));
                kernels::group_norm_act_cat(&[&t[0], &t[1]], 32, w, b, 1e-5, Activation::Silu)
            };
            let both = [2 * x[1]];
            (owned(&[x, x, &both, &both]), Box::new(op))
        }
        ("instance_norm_leaky_relu", [x]) => {
            let op = |t: &[Tensor]| {
                let f = Activation::LeakyRelu { slope: 0.1 };
                kernels::instance_norm_act(&t[0], Some(&t[1]), Some(&t[2]), 1e-5, f)
            };
            (owned(&[x, &x[1..2], &x[1..2]]), Box::new(op))
        }
        ("layer_norm", [x]) => {
            let width = &x[x.len() - 1..];
            let op = |t: &[Tensor]| kernels::layer_norm(&t[0], 1, Some(&t[1]), Some(&t[2]), 1e-5);
            (owned(&[x, width, width]), Box::new(op))
        }
        ("add_row", [x]) => {
            let op = |t: &[Tensor]| Ok(t[0].broadcast_add(&t[1])?);
            (owned(&[x, &x[x.len() - 1..]]), Box::new(op))
        }
        ("cat", [x]) => {
            (owned(&[x, x]), Box::new(|t| kernels::cat(&t.iter().collect::<Vec<_>>(), 1)))
        }
        (name, [x]) => (owned(&[x]), pointwise(name, x.len().checked_sub(2)?)?),
        _ => return None,
    })
}

/// An operation on one tensor of so many spatial axes.
fn pointwise(name: &str, axes: usize) -> Option<Op> {
    Some(match name {
        "relu" => Box::new(|t| kernels::relu(&t[0])),
        "silu" => Box::new(|t| kernels::silu(&t[0])),
        "gelu" => Box::new(|t| kernels::gelu(&t[0])),
        "softmax" => Box::new(|t| kernels::softmax(&t[0], t[0].rank() - 1)),
        "nearest" => {
            Box::new(move |t| kernels::resize_by(&t[0], &vec![2.0; axes], Resize::Nearest))
        }
        "max_pool" => Box::new(move |t| kernels::max_pool(&t[0], &PoolSpec::cubic(axes, 2))),
        "avg_pool" => Box::new(move |t| kernels::avg_pool(&t[0], &PoolSpec::cubic(axes, 2), true)),
        "reflect" => Box::new(move |t| kernels::pad(&t[0], &vec![(1, 1); axes], Pad::Reflect)),
        "pixel_shuffle" => Box::new(|t| kernels::pixel_shuffle(&t[0], 2)),
        "transpose" => Box::new(|t| Ok(t[0].transpose(1, t[0].rank() - 1)?.contiguous()?)),
        _ => return None,
    })
}
