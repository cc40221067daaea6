//! Naive loops, finite differences, adjointness, thread counts, second derivatives and refusals.

use super::{ConvSpec, ConvTransposeSpec, conv, conv_transpose};
use crate::gradcheck::{test_tensor, worst_error};
use crate::rng::Stream;
use crate::threads::on_threads;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};

/// A random convolution of spatial rank `rank`; sizes are odd and even, kernels up to 4, and every
/// dimension has its own stride, padding and dilation.
struct Case {
    batch: usize,
    inputs: usize,
    outputs: usize,
    image: Vec<usize>,
    kernel: Vec<usize>,
    spec: ConvSpec,
}

impl Case {
    fn random(rank: usize, seed: u64) -> Self {
        let mut draws = Stream::new(seed, "conv tests").draws();
        let mut pick = |lo: usize, hi: usize| lo + draws.below((hi - lo + 1) as u64) as usize;
        let groups = [1, 1, 2, 3][pick(0, 3)];
        let (inputs, outputs) = (groups * pick(1, 3), groups * pick(1, 4));
        let mut each = |lo, hi| (0..rank).map(|_| pick(lo, hi)).collect::<Vec<_>>();
        let (kernel, stride) = (each(1, 4), each(1, 3));
        let (padding, dilation) = (each(0, 3), each(1, 2));
        // as small as the kernel allows, or larger
        let image = (0..rank)
            .map(|d| {
                let span = dilation[d] * (kernel[d] - 1) + 1;
                span.saturating_sub(2 * padding[d]).max(1) + pick(0, 6 / rank)
            })
            .collect();
        let batch = pick(1, 3);
        let spec = ConvSpec { stride, padding, dilation, groups };
        Self { batch, inputs, outputs, image, kernel, spec }
    }

    fn image_tensor(&self) -> Result<Tensor> {
        test_tensor(1, &[&[self.batch, self.inputs], &self.image[..]].concat())
    }

    fn weight_tensor(&self) -> Result<Tensor> {
        let shape = [self.outputs, self.inputs / self.spec.groups];
        test_tensor(2, &[&shape, &self.kernel[..]].concat())
    }

    /// The transposed convolution from the result back to an image of the same size.
    fn transposed(&self, result: &[usize]) -> ConvTransposeSpec {
        let ConvSpec { stride, padding, dilation, groups } = self.spec.clone();
        let output_padding = (0..self.image.len())
            .map(|d| {
                let least = (result[d] - 1) * stride[d] + dilation[d] * (self.kernel[d] - 1) + 1;
                self.image[d] + 2 * padding[d] - least
            })
            .collect();
        ConvTransposeSpec { stride, padding, output_padding, dilation, groups }
    }
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &Tensor, b: &[f64]) -> f64 {
    let a = values(a);
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Index of a position in a row-major array, or `None` outside of it.
fn index(position: &[isize], shape: &[usize]) -> Option<usize> {
    position
        .iter()
        .zip(shape)
        .try_fold(0, |at, (&p, &n)| (0..n as isize).contains(&p).then(|| at * n + p as usize))
}

/// All positions of a row-major array.
fn positions(shape: &[usize]) -> Vec<Vec<isize>> {
    let count = shape.iter().product();
    let position = |mut i: usize| {
        let mut p = vec![0; shape.len()];
        for d in (0..shape.len()).rev() {
            (p[d], i) = ((i % shape[d]) as isize, i / shape[d]);
        }
        p
    };
    (0..count).map(position).collect()
}

/// Calls `f(image index, weight index, result index)` for every product of the convolution.
fn products(
    [image, weight, result]: [&[usize]; 3],
    spec: &ConvSpec,
    mut f: impl FnMut(usize, usize, usize),
) {
    let (per_group, outputs) = (weight[1], weight[0] / spec.groups);
    let taps = positions(&weight[1..]);
    let mut from = vec![0; image.len()];
    for (r, at) in positions(result).iter().enumerate() {
        for (t, tap) in taps.iter().enumerate() {
            from[0] = at[0];
            from[1] = (at[1] as usize / outputs * per_group) as isize + tap[0];
            for d in 0..spec.stride.len() {
                let step = at[d + 2] * spec.stride[d] as isize;
                from[d + 2] =
                    step + tap[d + 1] * spec.dilation[d] as isize - spec.padding[d] as isize;
            }
            if let Some(i) = index(&from, image) {
                f(i, at[1] as usize * taps.len() + t, r);
            }
        }
    }
}

fn check_against_naive(case: &Case) -> Result<()> {
    let (x, w) = (case.image_tensor()?, case.weight_tensor()?);
    let b = test_tensor(3, &[case.outputs])?;
    let y = conv(&x, &w, Some(&b), &case.spec)?;
    let shapes = [x.dims(), w.dims(), y.dims()];
    let pixels: usize = y.dims()[2..].iter().product();
    let (xv, wv, bv) = (values(&x), values(&w), values(&b));
    let mut expected: Vec<f64> =
        (0..y.elem_count()).map(|i| bv[i / pixels % case.outputs]).collect();
    products(shapes, &case.spec, |i, w, r| expected[r] += xv[i] * wv[w]);
    assert!(largest_difference(&y, &expected) < 1e-12, "{:?} {shapes:?}", case.spec);

    let x32 = x.to_dtype(DType::F32)?;
    let y32 = conv(&x32, &w.to_dtype(DType::F32)?, Some(&b.to_dtype(DType::F32)?), &case.spec)?;
    assert_eq!(y32.dtype(), DType::F32);
    assert!(largest_difference(&y32, &expected) < 1e-5 * (1.0 + wv.len() as f64).sqrt());

    let spec = case.transposed(&y.dims()[2..]);
    let b = test_tensor(4, &[case.inputs])?;
    let back = conv_transpose(&y, &w, Some(&b), &spec)?;
    assert_eq!(back.dims(), x.dims());
    let (yv, bv) = (values(&y), values(&b));
    let pixels: usize = case.image.iter().product();
    let mut expected: Vec<f64> =
        (0..x.elem_count()).map(|i| bv[i / pixels % case.inputs]).collect();
    products(shapes, &case.spec, |i, w, r| expected[i] += yv[r] * wv[w]);
    assert!(largest_difference(&back, &expected) < 1e-11, "{spec:?} {shapes:?}");
    Ok(())
}

fn check_gradients(case: &Case) -> Result<()> {
    let (x, w, b) = (case.image_tensor()?, case.weight_tensor()?, test_tensor(3, &[case.outputs])?);
    let error =
        worst_error(&[x.clone(), w.clone(), b], |t| conv(&t[0], &t[1], Some(&t[2]), &case.spec))?;
    assert!(error < 1e-7, "conv {:?} {:?}: {error}", case.spec, x.dims());

    let y = conv(&x, &w, None, &case.spec)?;
    let spec = case.transposed(&y.dims()[2..]);
    let b = test_tensor(4, &[case.inputs])?;
    let error = worst_error(&[y, w, b], |t| conv_transpose(&t[0], &t[1], Some(&t[2]), &spec))?;
    assert!(error < 1e-7, "conv_transpose {spec:?} to {:?}: {error}", x.dims());
    Ok(())
}

/// The single-precision paths against the double-precision one.
#[test]
fn gradients_in_single_precision_equal_those_in_double() -> Result<()> {
    for seed in 300..360 {
        let case = Case::random(1 + seed as usize % 3, seed);
        let gradients = |dtype: DType| -> Result<Vec<Tensor>> {
            let x = Var::from_tensor(&case.image_tensor()?.to_dtype(dtype)?)?;
            let w = Var::from_tensor(&case.weight_tensor()?.to_dtype(dtype)?)?;
            let y = conv(&x, &w, None, &case.spec)?;
            let dy = test_tensor(5, y.dims())?.to_dtype(dtype)?;
            let grads = (y * dy)?.sum_all()?.backward()?;
            Ok([&x, &w].map(|var| grads.get(var).unwrap().clone()).to_vec())
        };
        for (single, double) in gradients(DType::F32)?.iter().zip(gradients(DType::F64)?) {
            assert!(largest_difference(single, &values(&double)) < 1e-4, "{:?}", case.spec);
        }
    }
    Ok(())
}

#[test]
fn random_convolutions_equal_naive_loops() -> Result<()> {
    for rank in 1..=3 {
        for seed in 0..40 {
            check_against_naive(&Case::random(rank, seed))?;
        }
    }
    Ok(())
}

#[test]
fn random_gradients_equal_finite_differences() -> Result<()> {
    for (rank, seeds) in [(1, 100..125), (2, 100..125), (3, 100..110)] {
        for seed in seeds {
            check_gradients(&Case::random(rank, seed))?;
        }
    }
    Ok(())
}

/// Sizes at which work is cut: several tiles, several blocks of columns, parts of the channels,
/// several images in a tile, a row longer than a tile, a tile that ends within the image.
#[test]
fn sizes_that_are_cut_equal_naive_loops() -> Result<()> {
    let case = |batch, [inputs, outputs, groups]: [usize; 3], image: &[usize], kernel: &[usize]| {
        let padding = kernel.iter().map(|k| k / 2).collect();
        let spec = ConvSpec { padding, groups, ..ConvSpec::unit(image.len()) };
        Case { batch, inputs, outputs, image: image.to_vec(), kernel: kernel.to_vec(), spec }
    };
    let mut strided = case(2, [34, 3, 1], &[37, 41], &[4, 3]);
    strided.spec.stride = vec![2, 3];
    for case in [
        case(1, [44, 3, 1], &[27, 25], &[3, 3]),
        case(5, [3, 130, 1], &[5, 3], &[3, 3]),
        case(1, [2, 3, 1], &[3001], &[5]),
        case(1, [2, 3, 1], &[11, 9, 13], &[3, 3, 3]),
        case(2, [2, 2, 2], &[70, 90], &[5, 3]),
        case(2, [2, 6, 2], &[45, 33], &[3, 3]),
        case(3, [80, 17, 1], &[9, 8], &[1, 1]),
        case(1, [3, 2, 1], &[40, 39], &[1, 1]),
        strided,
    ] {
        check_against_naive(&case)?;
        // the weight gradient is the derivative along any direction of the weight
        let (x, w) = (case.image_tensor()?, Var::from_tensor(&case.weight_tensor()?)?);
        let y = conv(&x, &w, None, &case.spec)?;
        let dy = test_tensor(5, y.dims())?;
        let grad = (y * &dy)?.sum_all()?.backward()?.get(&w).unwrap().clone();
        let direction = test_tensor(6, w.dims())?;
        let expected = (conv(&x, &direction, None, &case.spec)? * &dy)?.sum_all()?;
        let got = (grad * direction)?.sum_all()?;
        assert!((got - expected)?.to_scalar::<f64>()?.abs() < 1e-9);
    }
    Ok(())
}

#[test]
fn transposed_is_adjoint() -> Result<()> {
    for seed in 200..260 {
        let case = Case::random(1 + seed as usize % 3, seed);
        let (x, w) = (case.image_tensor()?, case.weight_tensor()?);
        let y = conv(&x, &w, None, &case.spec)?;
        let other = test_tensor(7, y.dims())?;
        let back = conv_transpose(&other, &w, None, &case.transposed(&y.dims()[2..]))?;
        let left = (y * other)?.sum_all()?.to_scalar::<f64>()?;
        let right = (x * back)?.sum_all()?.to_scalar::<f64>()?;
        assert!((left - right).abs() < 1e-11 * (1.0 + left.abs()), "{left} {right}");
    }
    Ok(())
}

#[test]
fn one_image_pixel_and_overhanging_kernels() -> Result<()> {
    // a 5-tap kernel over one pixel: only the middle tap sees it
    let x = Tensor::new(&[[[2f64]]], &Device::Cpu)?;
    let w = Tensor::new(&[[[1f64, 2., 3., 4., 5.]]], &Device::Cpu)?;
    let spec = ConvSpec { padding: vec![2], ..ConvSpec::unit(1) };
    assert_eq!(values(&conv(&x, &w, None, &spec)?), [6.0]);
    // padding beyond the kernel gives results that see nothing, and still have gradients
    let spec = ConvSpec { padding: vec![7], ..ConvSpec::unit(1) };
    let y = conv(&x, &w, None, &spec)?;
    assert_eq!(values(&y), [0., 0., 0., 10., 8., 6., 4., 2., 0., 0., 0.]);
    assert!(worst_error(&[x, w], |t| conv(&t[0], &t[1], None, &spec))? < 1e-8);
    Ok(())
}

#[test]
fn views_are_taken_as_they_look() -> Result<()> {
    let spec = ConvSpec { padding: vec![1, 1], ..ConvSpec::unit(2) };
    let (x, w) = (test_tensor(1, &[2, 7, 5, 3])?, test_tensor(2, &[3, 3, 4, 3])?);
    let (xt, wt) = (x.permute((0, 3, 2, 1))?, w.transpose(0, 1)?);
    let expected = values(&conv(&xt.contiguous()?, &wt.contiguous()?, None, &spec)?);
    assert_eq!(values(&conv(&xt, &wt, None, &spec)?), expected);
    let narrow = x.narrow(0, 1, 1)?.permute((0, 3, 2, 1))?;
    let second = expected[expected.len() / 2..].to_vec();
    assert_eq!(values(&conv(&narrow, &wt, None, &spec)?), second);
    Ok(())
}

#[test]
fn empty_batch() -> Result<()> {
    let x = Var::zeros((0, 2, 5, 5), DType::F32, &Device::Cpu)?;
    let w = Var::ones((3, 2, 3, 3), DType::F32, &Device::Cpu)?;
    let y = conv(&x, &w, None, &ConvSpec::unit(2))?;
    assert_eq!(y.dims(), [0, 3, 3, 3]);
    let grads = y.sum_all()?.backward()?;
    assert_eq!(values(grads.get(&w).unwrap()), [0.0; 54]);
    assert_eq!(grads.get(&x).unwrap().dims(), [0, 2, 5, 5]);
    Ok(())
}

#[test]
fn same_bits_for_any_number_of_threads() -> Result<()> {
    let run = |threads: usize| -> Result<Vec<Vec<u32>>> {
        on_threads(threads, || {
            let mut bits = Vec::new();
            for (rank, groups, stride) in [(2, 1, 1), (2, 8, 1), (2, 1, 2), (3, 2, 2)] {
                let size = if rank == 2 { 61 } else { 17 };
                let shape = [&[2, 8], &vec![size; rank][..]].concat();
                let kernel = [&[16, 8 / groups], &vec![3; rank][..]].concat();
                let var = |seed, shape: &[usize]| -> Result<Var> {
                    Ok(Var::from_tensor(&test_tensor(seed, shape)?.to_dtype(DType::F32)?)?)
                };
                let (x, w, b) = (var(1, &shape)?, var(2, &kernel)?, var(3, &[16])?);
                let spec = ConvSpec { groups, stride: vec![stride; rank], ..ConvSpec::unit(rank) };
                let y = conv(&x, &w, Some(&b), &spec)?;
                let grads = y.sqr()?.sum_all()?.backward()?;
                let mut tensors = vec![y];
                tensors.extend([&x, &w, &b].map(|var| grads.get(var).unwrap().clone()));
                for t in &tensors {
                    bits.push(values(t).iter().map(|&v| (v as f32).to_bits()).collect());
                }
            }
            Ok(bits)
        })
    };
    let one = run(1)?;
    assert!(one == run(3)?);
    assert!(one == run(2)?);
    Ok(())
}

/// The gradients, and what they are computed from, carry no graph unless asked for.
#[test]
fn only_what_is_tracked_gets_a_gradient() -> Result<()> {
    let (x, w) = (test_tensor(1, &[1, 2, 5])?, Var::from_tensor(&test_tensor(2, &[3, 2, 3])?)?);
    let y = conv(&x, &w, None, &ConvSpec::unit(1))?;
    let grads = y.backward()?;
    assert!(grads.get(&x).is_none());
    assert!(!grads.get(&w).unwrap().track_op());
    Ok(())
}

/// candle reads the variable once per thread and this crate once per process, so the test runs
/// `gradient_penalty_child` in a process of its own.
#[test]
fn gradient_penalty_has_gradients() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "conv::tests::gradient_penalty_child", "--ignored"])
        .env("CANDLE_GRAD_DO_NOT_DETACH", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by gradient_penalty_has_gradients with second derivatives switched on"]
fn gradient_penalty_child() -> Result<()> {
    // the squared norm of the gradient of a small discriminator with respect to its input
    let penalty = |t: &[Tensor]| -> Result<Tensor> {
        let x = Var::from_tensor(&t[0])?;
        let spec = ConvSpec { stride: vec![2, 1], padding: vec![1, 0], ..ConvSpec::unit(2) };
        let up = ConvTransposeSpec { stride: vec![1, 2], ..ConvTransposeSpec::unit(2) };
        let hidden = conv(&x, &t[1], Some(&t[3]), &spec)?.sqr()?;
        let y = conv_transpose(&hidden, &t[2], None, &up)?.sqr()?;
        let gradient = y.sum_all()?.backward()?.get(&x).unwrap().clone();
        // the gradient with respect to a weight is differentiable as well
        Ok(gradient.sqr()?.sum_all()?)
    };
    let inputs = [
        test_tensor(1, &[2, 2, 5, 4])?,
        test_tensor(2, &[4, 2, 3, 2])?,
        test_tensor(3, &[4, 1, 2, 2])?,
        test_tensor(4, &[4])?,
    ];
    let weights_only =
        |t: &[Tensor]| penalty(&[inputs[0].clone(), t[0].clone(), t[1].clone(), t[2].clone()]);
    let error = worst_error(&inputs[1..], weights_only)?;
    assert!(error < 1e-6, "{error}");

    // through the weight gradient: w moves along its own gradient (one unrolled training step)
    let unrolled = |t: &[Tensor]| -> Result<Tensor> {
        let w = Var::from_tensor(&inputs[1])?;
        let y = conv(&t[0], &w, None, &ConvSpec::unit(2))?.sqr()?.sum_all()?;
        let gradient = y.backward()?.get(&w).unwrap().clone();
        conv(&t[0], &gradient, None, &ConvSpec::unit(2))
    };
    let error = worst_error(&inputs[..1], unrolled)?;
    assert!(error < 1e-6, "{error}");
    Ok(())
}

#[test]
fn refusals_name_operation_expectation_and_cause() -> Result<()> {
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let unit = ConvSpec::unit(2);
    let x = tensor(&[1, 4, 5, 6]);
    let refuse = |x: &Tensor, w: &[usize], b: Option<&[usize]>, spec: &ConvSpec, part: &str| {
        let b = b.map(tensor);
        let message = conv(x, &tensor(w), b.as_ref(), spec).unwrap_err().to_string();
        assert!(message.starts_with("conv: ") && message.contains(part), "{message}");
    };
    refuse(&x, &[8, 3, 3, 3], None, &unit, "expected x with 3 channels for w [8, 3, 3, 3]");
    refuse(&x, &[8, 4, 3], None, &unit, "of rank 4");
    refuse(&x, &[8, 4, 6, 3], None, &unit, "at least 6 pixels with padding in spatial dimension 0");
    refuse(&x, &[8, 4, 3, 3], Some(&[7]), &unit, "expected b of shape [8], got [7]");
    refuse(&x, &[8, 0, 3, 3], None, &unit, "no empty dimension in w");
    refuse(&tensor(&[4, 5]), &[8, 4], None, &unit, "one to three spatial dimensions");
    refuse(
        &x,
        &[8, 4, 3, 3],
        None,
        &ConvSpec::unit(3),
        "`stride` has 3 entries, but the tensor has 2 spatial",
    );
    let spec = ConvSpec { stride: vec![1, 0], ..unit.clone() };
    refuse(&x, &[8, 4, 3, 3], None, &spec, "`stride` must be from 1");
    let spec = ConvSpec { padding: vec![usize::MAX, 0], ..unit.clone() };
    refuse(&x, &[8, 4, 3, 3], None, &spec, "`padding` must be from 0");
    let spec = ConvSpec { groups: 3, ..unit.clone() };
    refuse(&x, &[8, 4, 3, 3], None, &spec, "`groups` must divide the 8 output channels");
    let spec = ConvSpec { groups: 0, ..unit.clone() };
    refuse(&x, &[8, 4, 3, 3], None, &spec, "got 0");
    let spec = ConvSpec { padding: vec![1 << 30, 1 << 30], ..unit.clone() };
    refuse(&x, &[8, 4, 3, 3], None, &spec, "fit the address space");
    let integers = x.to_dtype(DType::U32)?;
    refuse(&integers, &[8, 4, 3, 3], None, &unit, "f32 or f64");
    let doubles = x.to_dtype(DType::F64)?;
    refuse(&doubles, &[8, 4, 3, 3], None, &unit, "all operands of F64, got F32");

    let spec = ConvTransposeSpec { output_padding: vec![1, 0], ..ConvTransposeSpec::unit(2) };
    let error = conv_transpose(&x, &tensor(&[4, 2, 3, 3]), None, &spec).unwrap_err();
    assert!(matches!(error, Error::Argument { op: "conv_transpose", .. }), "{error}");
    let spec = ConvTransposeSpec { padding: vec![4, 0], ..ConvTransposeSpec::unit(2) };
    let error = conv_transpose(&x, &tensor(&[4, 2, 3, 3]), None, &spec).unwrap_err().to_string();
    assert!(error.contains("lessen the padding"), "{error}");
    let error = conv_transpose(&x, &tensor(&[3, 2, 3, 3]), None, &ConvTransposeSpec::unit(2));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("expected x with 3 channels"), "{error}");
    Ok(())
}
