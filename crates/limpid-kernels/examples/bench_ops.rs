//! Milliseconds of forward, and of forward and backward, of what is not a convolution, on one thread
//! and on all: `cargo run --release -p limpid-kernels --example bench_ops [filter]`.

#![allow(clippy::print_stdout)]

mod timer;

use candle_core::{DType, Tensor, Var};
use limpid_kernels::{self as kernels, Pad, PoolSpec, Resize, Result, gradcheck};
use timer::median;

type Case = (&'static str, &'static [usize], fn(&Tensor) -> Result<Tensor>);

const IMAGE: &[usize] = &[1, 64, 256, 256];

const CASES: &[Case] = &[
    ("relu", IMAGE, kernels::relu),
    ("silu", IMAGE, kernels::silu),
    ("gelu", IMAGE, kernels::gelu),
    ("tanh", IMAGE, kernels::tanh),
    ("group_norm, 8 groups", IMAGE, |x| kernels::group_norm(x, 8, None, None, 1e-5)),
    ("batch_norm", IMAGE, |x| Ok(kernels::batch_norm_train(x, None, None, 1e-5)?.0)),
    ("layer_norm, 64 wide", &[65536, 64], |x| kernels::layer_norm(x, 1, None, None, 1e-5)),
    ("nearest x 2", IMAGE, |x| kernels::resize(x, &[512, 512], Resize::Nearest)),
    ("bilinear x 2", IMAGE, |x| {
        kernels::resize(x, &[512, 512], Resize::Linear { align_corners: false })
    }),
    ("reflect 1", IMAGE, |x| kernels::pad(x, &[(1, 1), (1, 1)], Pad::Reflect)),
    ("max_pool 2 x 2", IMAGE, |x| kernels::max_pool(x, &PoolSpec::cubic(2, 2))),
    ("avg_pool 2 x 2", IMAGE, |x| kernels::avg_pool(x, &PoolSpec::cubic(2, 2), true)),
    ("pixel_shuffle x 2", IMAGE, |x| kernels::pixel_shuffle(x, 2)),
    ("dropout", IMAGE, |x| kernels::dropout(x, 0.5, kernels::rng::Stream::new(1, "bench"))),
    ("softmax, 1024 wide", &[4096, 1024], |x| kernels::softmax(x, 1)),
    ("softmax over channels", IMAGE, |x| kernels::softmax(x, 1)),
    ("attention 8 x 1024 x 64", &[8, 1024, 64], |x| kernels::attention(x, x, x, 0.125, None)),
    ("attention 2048 x 49 x 32", &[2048, 49, 32], |x| kernels::attention(x, x, x, 0.2, None)),
];

fn main() -> Result<()> {
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!("{:26} {:>7} {:>9} {:>14}", "median ms", "threads", "forward", "with backward");
    for (name, shape, f) in CASES.iter().filter(|case| case.0.contains(&filter)) {
        let all = rayon::current_num_threads();
        for threads in if all > 1 { vec![1, all] } else { vec![1] } {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(candle_core::Error::wrap)?;
            let [forward, both] = pool.install(|| measure(shape, *f))?;
            println!("{name:26} {threads:7} {forward:9.2} {both:14.2}");
        }
    }
    Ok(())
}

fn measure(shape: &[usize], f: fn(&Tensor) -> Result<Tensor>) -> Result<[f64; 2]> {
    let x = gradcheck::test_tensor(1, shape)?.to_dtype(DType::F32)?;
    let var = Var::from_tensor(&x)?;
    // candle's own part of a backward pass (making the ones, adding to zeros) is included
    Ok([median(|| f(&x).map(drop))?, median(|| Ok(f(&var)?.backward().map(drop)?))?])
}
