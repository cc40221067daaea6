//! Milliseconds of typical convolutions, forward and with one of the two gradients, on one
//! thread and on all: `cargo run --release -p limpid-kernels --example bench_conv [filter]`.

#![allow(clippy::print_stdout)]

mod timer;

use candle_core::{DType, Tensor, Var};
use limpid_kernels::{
    ConvSpec, ConvTransposeSpec, Result, autograd, conv, conv_transpose, gradcheck,
};
use timer::median;

/// As in the programs.
#[global_allocator]
static ALLOCATOR: limpid_kernels::memory::Allocator = limpid_kernels::memory::Allocator;

/// `name, x, w, stride, padding, groups, transposed`
type Case = (&'static str, &'static [usize], &'static [usize], usize, usize, usize, bool);

const CASES: &[Case] = &[
    ("3x3 64 -> 64, 256^2", &[1, 64, 256, 256], &[64, 64, 3, 3], 1, 1, 1, false),
    ("3x3 64 -> 128, 4 x 128^2", &[4, 64, 128, 128], &[128, 64, 3, 3], 1, 1, 1, false),
    ("3x3 32 -> 32, 256^2", &[1, 32, 256, 256], &[32, 32, 3, 3], 1, 1, 1, false),
    ("3x3 64 -> 128, 4 x 64^2", &[4, 64, 64, 64], &[128, 64, 3, 3], 1, 1, 1, false),
    ("3x3 512 -> 512, 8 x 16^2", &[8, 512, 16, 16], &[512, 512, 3, 3], 1, 1, 1, false),
    ("3x3 1 -> 64, 256^2", &[1, 1, 256, 256], &[64, 1, 3, 3], 1, 1, 1, false),
    ("3x3 64 -> 1, 256^2", &[1, 64, 256, 256], &[1, 64, 3, 3], 1, 1, 1, false),
    ("1x1 128 -> 64, 256^2", &[1, 128, 256, 256], &[64, 128, 1, 1], 1, 0, 1, false),
    ("4x4 stride 2 64 -> 128, 128^2", &[1, 64, 128, 128], &[128, 64, 4, 4], 2, 1, 1, false),
    ("7x7 depthwise 64, 128^2", &[1, 64, 128, 128], &[64, 1, 7, 7], 1, 3, 64, false),
    ("2x2 stride 2 transposed, 128^2", &[1, 128, 128, 128], &[128, 64, 2, 2], 2, 0, 1, true),
    ("3x3x3 32 -> 32, 48^3", &[1, 32, 48, 48, 48], &[32, 32, 3, 3, 3], 1, 1, 1, false),
    ("3x3x3 stride 2 32 -> 64, 48^3", &[1, 32, 48, 48, 48], &[64, 32, 3, 3, 3], 2, 1, 1, false),
];

fn main() -> Result<()> {
    limpid_kernels::memory::keep_freed_pages();
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!(
        "{:34} {:>7} {:>9} {:>9} {:>9}",
        "median ms", "threads", "forward", "+d image", "+d weight"
    );
    for case in CASES.iter().filter(|case| case.0.contains(&filter)) {
        let all = rayon::current_num_threads();
        for threads in if all > 1 { vec![1, all] } else { vec![1] } {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(candle_core::Error::wrap)?;
            let [forward, image, weight] = pool.install(|| measure(case))?;
            println!("{:34} {threads:7} {forward:9.2} {image:9.2} {weight:9.2}", case.0);
        }
    }
    Ok(())
}

fn measure(&(_, x, w, stride, padding, groups, transposed): &Case) -> Result<[f64; 3]> {
    let rank = x.len() - 2;
    let tensor = |seed, shape: &[usize]| -> Result<Tensor> {
        Ok(gradcheck::test_tensor(seed, shape)?.to_dtype(DType::F32)?)
    };
    let (x, w) = (tensor(1, x)?, tensor(2, w)?);
    let run = |x: &Tensor, w: &Tensor| -> Result<Tensor> {
        let (stride, padding) = (vec![stride; rank], vec![padding; rank]);
        if transposed {
            let spec =
                ConvTransposeSpec { stride, padding, groups, ..ConvTransposeSpec::unit(rank) };
            conv_transpose(x, w, None, &spec)
        } else {
            conv(x, w, None, &ConvSpec { stride, padding, groups, ..ConvSpec::unit(rank) })
        }
    };
    let (x_var, w_var) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?);
    let step =
        |x: &Tensor, w: &Tensor| autograd::record(|| autograd::backward(&run(x, w)?).map(drop));
    Ok([
        median(|| run(&x, &w).map(drop))?,
        median(|| step(&x_var, &w))?,
        median(|| step(&x, &w_var))?,
    ])
}
