//! Milliseconds of forward and backward of what is not a convolution, without candle's own part in a
//! backward pass, on one thread and on all: `cargo run --release -p limpid-kernels --example bench_ops [filter]`.

#![allow(clippy::print_stdout)]

mod timer;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Storage, Tensor, Var};
use limpid_kernels::{self as kernels, Activation, Pad, PoolSpec, Resize, Result, gradcheck};
use timer::spread;

/// The allocator of the programs: it keeps freed pages, so that the arithmetic is what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Case = (&'static str, &'static [usize], fn(&Tensor) -> Result<Tensor>);

const IMAGE: &[usize] = &[1, 64, 256, 256];

const CASES: &[Case] = &[
    ("relu", IMAGE, kernels::relu),
    ("silu", IMAGE, kernels::silu),
    ("gelu", IMAGE, kernels::gelu),
    ("tanh", IMAGE, kernels::tanh),
    ("group_norm, 8 groups", IMAGE, |x| kernels::group_norm(x, 8, None, None, 1e-5)),
    ("group_norm + silu", IMAGE, |x| {
        kernels::group_norm_act(x, 8, None, None, 1e-5, Activation::Silu)
    }),
    ("group_norm + relu", IMAGE, |x| {
        kernels::group_norm_act(x, 8, None, None, 1e-5, Activation::Relu)
    }),
    ("batch_norm", IMAGE, |x| Ok(kernels::batch_norm_train(x, None, None, 1e-5)?.0)),
    ("layer_norm, 64 wide", &[65536, 64], |x| kernels::layer_norm(x, 1, None, None, 1e-5)),
    ("layer_norm, 180 wide", &[16384, 180], |x| kernels::layer_norm(x, 1, None, None, 1e-5)),
    ("nearest x 2", IMAGE, |x| kernels::resize(x, &[512, 512], Resize::Nearest)),
    ("bilinear x 2", IMAGE, |x| {
        kernels::resize(x, &[512, 512], Resize::Linear { align_corners: false })
    }),
    ("trilinear x 2", &[1, 8, 64, 64, 64], |x| {
        kernels::resize(x, &[128, 128, 128], Resize::Linear { align_corners: false })
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
    println!("{:26} {:>7} {:>17} {:>17}", "minimum, median ms", "threads", "forward", "backward");
    for (name, shape, f) in CASES.iter().filter(|case| case.0.contains(&filter)) {
        let all = rayon::current_num_threads();
        for threads in if all > 1 { vec![1, all] } else { vec![1] } {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(candle_core::Error::wrap)?;
            let [forward, backward] = pool.install(|| measure(shape, *f))?;
            let [a, b] = forward;
            let [c, d] = backward;
            println!("{name:26} {threads:7} {a:8.2} {b:8.2} {c:8.2} {d:8.2}");
        }
    }
    Ok(())
}

/// Minimum and median milliseconds of the forward and of the backward pass.
fn measure(shape: &[usize], f: fn(&Tensor) -> Result<Tensor>) -> Result<[[f64; 2]; 2]> {
    let x = gradcheck::test_tensor(1, shape)?.to_dtype(DType::F32)?;
    let var = Var::from_tensor(&x)?;
    let forward = spread(|| f(&x).map(drop))?;
    let y = f(&var)?;
    let both = spread(|| Ok(y.backward().map(drop)?))?;
    // what candle does itself: it makes a gradient of ones and adds ours to zeros
    let nothing = var.apply_op1(Nothing { gradient: x.clone(), result: y.detach() })?;
    let engine = spread(|| Ok(nothing.backward().map(drop)?))?;
    Ok([forward, [both[0] - engine[0], both[1] - engine[1]]])
}

/// Returns what it has, forward and backward.
struct Nothing {
    gradient: Tensor,
    result: Tensor,
}

impl CustomOp1 for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.result.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, self.result.shape().clone())),
            _ => candle_core::bail!("not on the CPU"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.gradient.clone()))
    }
}
