//! Gradients of gradients, as a gradient penalty needs them.
//!
//! candle keeps them only if `CANDLE_GRAD_DO_NOT_DETACH` was set when the process began, so the test
//! runs itself again with it.

use candle_core::{Tensor, Var};
use limpid_kernels::gradcheck::{test_tensor, worst_error};
use limpid_kernels::rng::Stream;
use limpid_kernels::{self as kernels, Pad, PoolSpec, Resize, Result};
use std::process::Command;
use std::slice::from_ref;

const EPS: f64 = 1e-5;

#[test]
fn second_derivatives_are_right_or_refused() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env("CANDLE_GRAD_DO_NOT_DETACH", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The squared gradient of `sum(f(x)²)` with respect to `x`; `t` holds `x` and what else `f` takes.
fn penalty(t: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<Tensor> {
    // zeros to differentiate by, so that the gradient remains connected to the tensor itself
    let shift = Var::from_tensor(&t[0].zeros_like()?)?;
    let mut moved = t.to_vec();
    moved[0] = (&t[0] + shift.as_tensor())?;
    let missing = || kernels::Error::argument("penalty", "there is no gradient");
    let y = f(&moved)?.sqr()?.sum_all()?;
    Ok(y.backward()?.get(&shift).ok_or_else(missing)?.sqr()?)
}

type Case<'a> = (&'a str, &'a dyn Fn(&[Tensor]) -> Result<Tensor>);

fn check(inputs: &[Tensor], cases: &[Case]) -> Result<()> {
    for (name, f) in cases {
        let error = worst_error(inputs, |t| penalty(t, f))?;
        assert!(error < 1e-6, "{name}: {error}");
    }
    Ok(())
}

#[test]
#[ignore = "run by second_derivatives_are_right_or_refused with its environment"]
fn child() -> Result<()> {
    let x = test_tensor(1, &[2, 4, 2, 3])?;
    check(
        from_ref(&x),
        &[
            ("relu", &|t| kernels::relu(&t[0])),
            ("leaky_relu", &|t| kernels::leaky_relu(&t[0], 0.2)),
            ("elu", &|t| kernels::elu(&t[0], 1.5)),
            ("sigmoid", &|t| kernels::sigmoid(&t[0])),
            ("tanh", &|t| kernels::tanh(&t[0])),
            ("softplus", &|t| kernels::softplus(&t[0], 1.0, 20.0)),
            ("silu", &|t| kernels::silu(&t[0])),
            ("gelu", &|t| kernels::gelu(&t[0])),
            ("gelu_tanh", &|t| kernels::gelu_tanh(&t[0])),
            ("mish", &|t| kernels::mish(&t[0])),
            ("softmax", &|t| kernels::softmax(&t[0], 1)),
            ("log_softmax", &|t| kernels::log_softmax(&t[0], 3)),
            ("resize", &|t| {
                kernels::resize(&t[0], &[3, 5], Resize::Linear { align_corners: false })
            }),
            ("pad", &|t| kernels::pad(&t[0], &[(1, 0), (2, 1)], Pad::Reflect)),
            ("avg_pool", &|t| kernels::avg_pool(&t[0], &PoolSpec::cubic(2, 2), true)),
            ("max_pool", &|t| kernels::max_pool(&t[0], &PoolSpec::cubic(2, 2))),
            ("pixel_shuffle", &|t| kernels::pixel_shuffle(&t[0], 2)),
            ("dropout", &|t| kernels::dropout(&t[0], 0.5, Stream::new(1, "test"))),
        ],
    )?;

    let (w, b) = (test_tensor(2, &[4])?, test_tensor(3, &[4])?);
    let (mean, var) = (b.clone(), w.sqr()?);
    check(
        &[x.clone(), w, b],
        &[
            ("group_norm", &|t| kernels::group_norm(&t[0], 2, Some(&t[1]), Some(&t[2]), EPS)),
            ("instance_norm", &|t| kernels::instance_norm(&t[0], Some(&t[1]), Some(&t[2]), EPS)),
            ("batch_norm_train", &|t| {
                Ok(kernels::batch_norm_train(&t[0], Some(&t[1]), Some(&t[2]), EPS)?.0)
            }),
            ("batch_norm_eval", &|t| {
                kernels::batch_norm_eval(&t[0], &mean, &var, Some(&t[1]), Some(&t[2]), EPS)
            }),
        ],
    )?;
    let (w, b) = (test_tensor(4, &[2, 3])?, test_tensor(5, &[2, 3])?);
    check(
        &[x.clone(), w, b],
        &[("layer_norm", &|t| kernels::layer_norm(&t[0], 2, Some(&t[1]), Some(&t[2]), EPS))],
    )?;

    // what can be differentiated once says so, and does not return zeros
    let x = Var::from_tensor(&x)?;
    let slope = test_tensor(6, &[1])?;
    for y in [kernels::prelu(&x, &slope), kernels::attention(&x, &x, &x, 1.0, None)] {
        let first = y?.sqr()?.sum_all()?.backward()?;
        let second = first.get(&x).unwrap().sqr()?.sum_all()?.backward();
        assert!(second.unwrap_err().to_string().contains("backward"));
    }
    Ok(())
}
