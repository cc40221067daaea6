//! Normalisations compared with the CPU's.

use crate::activation::Activation;
use crate::cast::is_half;
use crate::gpu::Case;
use crate::norm::channel::{Normalise, Sharing};
use crate::norm::layer::LayerNorm;
use crate::norm::{self, Affine};
use crate::op::{Backward, Op};
use crate::{Error, Result};
use candle_core::{DType, Tensor, Var};
use std::sync::{Arc, OnceLock};

const EPS: f64 = 1e-5;

const ACTIVATIONS: [Activation; 12] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.2 },
    Activation::Abs,
    Activation::Elu { alpha: 1.3 },
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Softplus { beta: 1.5, threshold: 2.0 },
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Mish,
];

/// The normalisations of channels by name, of x and, if they are there, weight and bias.
const KINDS: [&str; 4] = ["group", "instance", "batch train", "batch eval"];

fn of_kind(kind: &str, t: &[Tensor], f: Activation) -> Result<Tensor> {
    let (x, w, b) = (&t[0], t.get(1), t.get(2));
    match kind {
        "group" => norm::group_norm_act(x, 2, w, b, EPS, f),
        "instance" => norm::instance_norm_act(x, w, b, EPS, f),
        "batch train" => Ok(norm::batch_norm_train_act(x, w, b, EPS, f)?.0),
        _ => {
            let channels = x.dims()[1];
            let dtype = if is_half(x.dtype()) { DType::F32 } else { x.dtype() };
            let numbers = |key| -> Result<Tensor> {
                let t = crate::gradcheck::test_tensor(key, &[channels])?;
                Ok(t.to_dtype(dtype)?.to_device(x.device())?)
            };
            norm::batch_norm_eval_act(x, &numbers(1)?, &numbers(2)?.sqr()?, w, b, EPS, f)
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    by_shape(&mut cases);
    by_option(&mut cases);
    of_packs(&mut cases);
    statistics(&mut cases);
    layers(&mut cases);
    composed(&mut cases);
    cases
}

/// Every kind on shapes of every rank, with planes of one piece and of several, aligned and not.
fn by_shape(cases: &mut Vec<Case>) {
    let shapes: [&[usize]; 8] = [
        &[2, 4, 5],
        &[3, 6, 7, 9],
        &[2, 4, 8, 12],
        &[2, 2, 3, 5, 4],
        &[2, 4, 3],
        &[1, 2, 71, 70],
        &[2, 2, 68, 64],
        &[40, 70, 3],
    ];
    for (kind, shape) in KINDS.into_iter().flat_map(|k| shapes.map(|shape| (k, shape))) {
        let channels = &shape[1..2];
        let name = format!("{kind}_norm {shape:?}");
        cases.push(Case::new(name, &[shape, channels, channels], move |t| {
            of_kind(kind, t, Activation::Silu)
        }));
    }
    cases.push(Case::new("group_norm flat", &[&[5, 6]], |t| {
        norm::group_norm(&t[0], 2, None, None, EPS)
    }));
    cases.push(Case::new("batch train_norm flat", &[&[9, 3], &[3], &[3]], |t| {
        of_kind("batch train", t, Activation::Identity)
    }));
    cases.push(Case::new("group_norm one", &[&[2, 1, 1], &[1]], |t| {
        norm::group_norm(&t[0], 1, Some(&t[1]), None, EPS)
    }));
}

/// Whole packs of eight channels, which have kernels of their own where they lie last: one thread side by side and
/// several slabs, idle threads, more than one block side by side, every rank.
fn of_packs(cases: &mut Vec<Case>) {
    let shapes: [&[usize]; 5] =
        [&[2, 8, 70, 70], &[3, 40, 7, 9], &[1, 264, 5, 3], &[2, 16, 11], &[2, 8, 3, 4, 5]];
    for (kind, shape) in KINDS.into_iter().flat_map(|k| shapes.map(|shape| (k, shape))) {
        let channels = &shape[1..2];
        let name = format!("{kind}_norm of packs {shape:?}");
        cases.push(Case::new(name, &[shape, channels, channels], move |t| {
            of_kind(kind, t, Activation::Silu)
        }));
    }
    let shape: &[usize] = &[2, 24, 6, 5];
    for f in ACTIVATIONS {
        let name = format!("instance_norm of packs with {f:?}");
        cases.push(Case::new(name, &[shape, &[2, 24], &[2, 24]], move |t| {
            of_kind("instance", t, f)
        }));
    }
    cases.push(Case::new("instance_norm of packs bare", &[shape], |t| {
        of_kind("instance", t, Activation::Identity)
    }));
    let parts: &[&[usize]] = &[&[2, 8, 9, 7], &[2, 24, 9, 7], &[32], &[32]];
    cases.push(Case::new("group_norm of packs joined", parts, |t| {
        let (w, b) = (Some(&t[2]), Some(&t[3]));
        norm::group_norm_act_cat(&[&t[0], &t[1]], 2, w, b, EPS, Activation::Gelu)
    }));
    // a view that begins where no pack does
    cases.push(Case::new("instance_norm of packs unaligned", &[&[3, 100]], |t| {
        let odd = crate::narrow(&crate::reshape(&t[0], 300)?, 0, 3, 240)?;
        let odd = crate::permute(&crate::reshape(&odd, (2, 5, 3, 8))?, &[0, 3, 1, 2])?;
        of_kind("instance", &[odd], Activation::Relu)
    }));
}

/// Every function, parameters that are missing or per item, several sources, a large mean.
fn by_option(cases: &mut Vec<Case>) {
    let shape: &[usize] = &[2, 4, 3, 5];
    for f in ACTIVATIONS {
        let name = format!("group_norm with {f:?}");
        cases.push(Case::new(name, &[shape, &[4], &[4]], move |t| of_kind("group", t, f)));
    }
    for kind in KINDS {
        let name = |what: &str| format!("{kind}_norm {what}");
        cases.push(Case::new(name("bare"), &[shape], move |t| {
            of_kind(kind, t, Activation::Identity)
        }));
        cases.push(Case::new(name("per item"), &[shape, &[2, 4], &[2, 4]], move |t| {
            of_kind(kind, t, Activation::Gelu)
        }));
        let large = Case::new(name("large mean"), &[&[2, 4, 31, 33], &[4]], move |t| {
            of_kind(kind, &[(&t[0] + 4096.0)?, t[1].clone()], Activation::Identity)
        });
        cases.push(large.without_halves());
        cases.push(Case::new(name("permuted"), &[&[3, 4, 5, 2]], move |t| {
            of_kind(kind, &[t[0].permute((3, 1, 0, 2))?], Activation::Relu)
        }));
        // a view that begins where no vector of 16 bytes does
        cases.push(Case::new(name("unaligned"), &[&[3, 6, 1, 5]], move |t| {
            let odd = t[0].flatten_all()?.narrow(0, 10, 80)?.reshape((2, 4, 10))?;
            of_kind(kind, &[odd], Activation::Tanh)
        }));
    }
    cases.push(Case::new("group_norm bias only", &[shape, &[4]], |t| {
        norm::group_norm_act(&t[0], 1, None, Some(&t[1]), EPS, Activation::Mish)
    }));
    cases.push(Case::new("group_norm far element", &[&[1, 2, 60, 60]], |t| {
        // the element about which moments are taken lies far from the others
        let mut spike = vec![0f64; 7200];
        spike[0] = 1e3;
        let spike = Tensor::from_vec(spike, (1, 2, 60, 60), t[0].device())?;
        norm::group_norm(&(&t[0] + spike.to_dtype(t[0].dtype())?)?, 1, None, None, EPS)
    }));
    let huge = Case::new("group_norm huge", &[&[1, 2, 40, 40]], |t| {
        norm::group_norm(&(&t[0] * 1e25)?, 1, None, None, EPS)
    });
    cases.push(huge.without_halves());
    for (name, x) in [("infinite", f64::INFINITY), ("none", f64::NAN)] {
        let case = Case::new(format!("group_norm {name}"), &[&[2, 4, 70]], move |t| {
            let mut odd = vec![0f64; 560];
            odd[100] = x;
            let odd = Tensor::from_vec(odd, (2, 4, 70), t[0].device())?.to_dtype(t[0].dtype())?;
            norm::group_norm_act(&(&t[0] + odd)?, 2, None, None, EPS, Activation::Relu)
        });
        cases.push(case);
    }
    let sources: [&[&[usize]]; 3] = [
        &[&[2, 3, 5, 7], &[2, 5, 5, 7]],
        &[&[2, 1, 4, 4], &[2, 6, 4, 4], &[2, 1, 4, 4]],
        &[&[2, 1, 51, 51], &[2, 3, 51, 51]],
    ];
    for parts in sources {
        let channels = [parts.iter().map(|dims| dims[1]).sum()];
        let shapes: Vec<&[usize]> = parts.iter().copied().chain([&channels[..]; 2]).collect();
        let name = format!("group_norm of {} joined {:?}", parts.len(), parts[0]);
        let count = parts.len();
        cases.push(Case::new(name, &shapes, move |t| {
            let parts: Vec<_> = t[..count].iter().collect();
            let (w, b) = (Some(&t[count]), Some(&t[count + 1]));
            norm::group_norm_act_cat(&parts, 2, w, b, EPS, Activation::Silu)
        }));
    }
}

/// What batch norm returns besides.
fn statistics(cases: &mut Vec<Case>) {
    for (i, name) in ["mean", "variance"].into_iter().enumerate() {
        for shape in [&[3, 5, 7][..], &[2, 3, 50, 50]] {
            let case = Case::new(format!("batch_norm {name} {shape:?}"), &[shape], move |t| {
                let (_, mean, variance) =
                    norm::batch_norm_train(&(&t[0] + 100.0)?, None, None, EPS)?;
                Ok([mean, variance][i].clone())
            });
            cases.push(case.result_only().without_halves());
        }
    }
}

fn layers(cases: &mut Vec<Case>) {
    let shapes: [(&[usize], usize); 10] = [
        (&[3, 5, 7], 1),
        (&[3, 5, 8], 1),
        (&[3, 5, 7], 2),
        (&[2, 4, 6], 3),
        (&[300, 33], 1),
        (&[70, 512], 1),
        (&[2, 5003], 1),
        (&[3, 4100], 1),
        (&[5, 1], 1),
        (&[1], 1),
    ];
    for (shape, n) in shapes {
        let width = &shape[shape.len() - n..];
        let name = format!("layer_norm {shape:?} over {n}");
        cases.push(Case::new(name.clone(), &[shape, width, width], move |t| {
            norm::layer_norm(&t[0], n, Some(&t[1]), Some(&t[2]), EPS)
        }));
        cases.push(Case::new(name + " bare", &[shape], move |t| {
            norm::layer_norm(&t[0], n, None, None, EPS)
        }));
    }
    let large = Case::new("layer_norm bias only, large mean", &[&[6, 200], &[200]], |t| {
        norm::layer_norm(&(&t[0] + 4096.0)?, 1, None, Some(&t[1]), EPS)
    });
    cases.push(large.without_halves());
}

/// The gradients that can be differentiated in turn, each in one tensor.
fn composed(cases: &mut Vec<Case>) {
    for (kind, i) in ["group", "batch train", "batch eval", "layer"]
        .into_iter()
        .flat_map(|kind| (0..3).map(move |i| (kind, i)))
    {
        let width: &[usize] = if kind == "layer" { &[5] } else { &[4] };
        let shapes = [&[2, 4, 5][..], width, width, &[2, 4, 5]];
        let case = Case::new(format!("composed gradient {i} of {kind}_norm"), &shapes, move |t| {
            let found = if kind == "layer" {
                let (dims, width) = (vec![5], 5);
                let (statistics, affine) = (OnceLock::new(), affine());
                gradients(&LayerNorm { dims, width, eps: EPS, statistics, affine }, t)?
            } else {
                gradients(&channel(kind, &t[0])?, t)?
            };
            found[i].clone().ok_or_else(|| Error::argument("case", "there is no gradient"))
        });
        cases.push(case.result_only());
    }
}

fn affine() -> Affine {
    Affine { sources: 1, weight: true, bias: true }
}

fn channel(kind: &str, x: &Tensor) -> Result<Normalise> {
    let name = "case";
    let sharing = match kind {
        "group" => Sharing::group(name, x.dims(), 2)?,
        _ => Sharing::batch(name, x.dims())?,
    };
    let fixed = kind == "batch eval";
    let statistics = if fixed {
        let numbers = (x.sum(2)?.sum(0)?, x.sqr()?.sum(2)?.sum(0)?);
        OnceLock::from(norm::given(name, x, &numbers.0, &numbers.1, EPS)?)
    } else {
        OnceLock::new()
    };
    let (statistics, eps, activation) = (Arc::new(statistics), EPS, Activation::Silu);
    Ok(Normalise { name, sharing, statistics, eps, fixed, affine: affine(), activation })
}

/// What an operation gives for tracked operands, the last of which is the gradient of its result.
fn gradients<O: Op>(op: &O, t: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
    let vars = t.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
    let mut args: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grad = args.pop().ok_or_else(|| Error::argument("case", "there is no operand"))?;
    op.backward(&Backward { wanted: vec![true; args.len()], args, result: None, grad })
}
