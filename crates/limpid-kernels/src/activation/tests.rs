use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use candle_core::{DType, Device};
use std::slice::from_ref;

type Activation = fn(&Tensor) -> Result<Tensor>;

/// Each function with its definition in plain f64.
const ALL: [(&str, Activation, fn(f64) -> f64); 11] = [
    ("relu", relu, |x| x.max(0.0)),
    ("leaky_relu", |x| leaky_relu(x, 0.2), |x| if x > 0.0 { x } else { 0.2 * x }),
    ("abs", abs, f64::abs),
    ("elu", |x| elu(x, 1.3), |x| if x > 0.0 { x } else { 1.3 * x.exp_m1() }),
    ("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
    ("tanh", tanh, f64::tanh),
    ("softplus", |x| softplus(x, 1.5, 50.0), |x| (1.5 * x).exp().ln_1p() / 1.5),
    ("silu", silu, |x| x / (1.0 + (-x).exp())),
    ("gelu", gelu, |x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))),
    ("gelu_tanh", gelu_tanh, |x| {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    }),
    ("mish", mish, |x| x * x.exp().ln_1p().tanh()),
];

fn grid() -> Vec<f64> {
    (-4000..=4000).map(|i| f64::from(i) * 0.004 + 1e-4).collect()
}

fn tensor(values: &[f64], dtype: DType) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[test]
fn values_are_those_of_the_definition() {
    for (name, f, truth) in ALL {
        // relative to the value, and far below zero, where some definitions cancel, to x
        for (dtype, of_value, of_x) in [(DType::F64, 1e-14, 1e-15), (DType::F32, 1e-6, 1e-9)] {
            let x = tensor(&grid(), dtype);
            for (x, y) in values(&x).into_iter().zip(values(&f(&x).unwrap())) {
                let want = truth(x);
                let allowed = of_value * want.abs() + of_x * x.abs();
                assert!((y - want).abs() <= allowed, "{name}({x}), {dtype:?}: {y} for {want}");
            }
        }
    }
}

#[test]
fn silu_and_sigmoid_are_relatively_accurate_far_below_zero() {
    let x: Vec<f64> = (0..860).map(|i| -f64::from(i) * 0.1).collect();
    let x = tensor(&x, DType::F32);
    for ((x, s), y) in
        values(&x).into_iter().zip(values(&sigmoid(&x).unwrap())).zip(values(&silu(&x).unwrap()))
    {
        let want = x.exp() / (1.0 + x.exp());
        assert!((s - want).abs() <= 1e-6 * want, "sigmoid({x}): {s} for {want}");
        assert!((y - x * want).abs() <= 1e-6 * (x * want).abs(), "silu({x}): {y} for {want}");
    }
}

#[test]
fn gradients_match_finite_differences_twice() {
    let x = (test_tensor(1, &[2, 3, 7]).unwrap() * 3.0).unwrap();
    for (name, f, _) in ALL {
        let error = worst_error(from_ref(&x), |t| f(&t[0])).unwrap();
        assert!(error < 1e-8, "{name}: {error}");
    }
    // the mechanism of the second derivative: d/dx (f'(x) g) and d/dg
    let g = test_tensor(2, &[2, 3, 7]).unwrap();
    fn check<F: Function>(f: F, x: &Tensor, g: &Tensor) {
        let error =
            worst_error(&[x.clone(), g.clone()], |t| apply(First(f), &[&t[0], &t[1]])).unwrap();
        assert!(error < 1e-8, "{}: {error}", F::NAME);
    }
    check(functions::Relu, &x, &g);
    check(functions::LeakyRelu { slope: 0.2 }, &x, &g);
    check(functions::Abs, &x, &g);
    check(functions::Elu { alpha: 1.3 }, &x, &g);
    check(functions::Sigmoid, &x, &g);
    check(functions::Tanh, &x, &g);
    check(functions::Softplus { beta: 1.5, threshold: 20.0 }, &x, &g);
    check(functions::Silu::<false>, &x, &g);
    check(functions::Silu::<true>, &x, &g);
    check(functions::Gelu::<false>, &x, &g);
    check(functions::Gelu::<true>, &x, &g);
    check(functions::GeluTanh, &x, &g);
    check(functions::Mish, &x, &g);
}

#[test]
fn kinks_follow_pytorch() {
    let zero = candle_core::Var::new(&[0f32, f32::NAN], &Device::Cpu).unwrap();
    let slope = |f: Activation| {
        let grads = f(&zero).unwrap().sum_all().unwrap().backward().unwrap();
        values(grads.get(&zero).unwrap())[0]
    };
    assert_eq!(slope(relu), 0.0);
    assert_eq!(slope(abs), 0.0);
    assert!((slope(|x| leaky_relu(x, 0.2)) - 0.2).abs() < 1e-7);
    assert_eq!(slope(|x| elu(x, 1.0)), 1.0);
}

#[test]
fn softplus_is_the_identity_beyond_its_threshold() {
    let x = tensor(&[1.9, 2.1], DType::F64);
    let y = values(&softplus(&x, 2.0, 4.0).unwrap());
    assert!(y[0] > 1.9 && y[1] == 2.1, "{y:?}");
}

#[test]
fn infinities_and_nan() {
    let x = tensor(&[f64::NEG_INFINITY, f64::INFINITY, f64::NAN, -1e30, 1e30], DType::F32);
    for (name, f, _) in ALL {
        assert!(values(&f(&x).unwrap())[2].is_nan(), "{name} hides a NaN");
        let y = values(&f(&x).unwrap());
        assert!(y[4] >= 1.0 && !y[3].is_nan(), "{name}: {y:?}");
    }
    assert_eq!(values(&sigmoid(&x).unwrap())[..2], [0.0, 1.0]);
    assert_eq!(values(&tanh(&x).unwrap())[..2], [-1.0, 1.0]);
    assert_eq!(values(&softplus(&x, 1.0, 20.0).unwrap())[..2], [0.0, f64::INFINITY]);
}

#[test]
fn prelu_is_leaky_relu_with_learned_slopes() {
    let x = test_tensor(3, &[2, 3, 4, 5]).unwrap();
    let w = test_tensor(4, &[3]).unwrap();
    let slopes = w.to_vec1::<f64>().unwrap();
    let y = values(&prelu(&x, &w).unwrap());
    for (i, (x, y)) in values(&x).into_iter().zip(y).enumerate() {
        assert_eq!(y, if x > 0.0 { x } else { x * slopes[i / 20 % 3] });
    }
    let one = test_tensor(5, &[1]).unwrap();
    for (x, w) in [
        (x.clone(), w.clone()),
        (x.transpose(2, 3).unwrap(), one.clone()),
        (test_tensor(6, &[4, 3]).unwrap(), w.clone()),
        (test_tensor(7, &[9]).unwrap(), one),
    ] {
        assert!(worst_error(&[x, w], |t| prelu(&t[0], &t[1])).unwrap() < 1e-8);
    }
    let e = prelu(&x, &test_tensor(8, &[2]).unwrap()).unwrap_err().to_string();
    assert_eq!(e, "prelu: expected w [1] or [3], got [2]");
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let x = test_tensor(9, &[1, 3, 150, 151]).unwrap().to_dtype(DType::F32).unwrap();
    let w = test_tensor(10, &[3]).unwrap().to_dtype(DType::F32).unwrap();
    let run = |threads| {
        on_threads(threads, || {
            let w = candle_core::Var::from_tensor(&w).unwrap();
            let y = prelu(&silu(&x).unwrap(), &w).unwrap();
            let grads = y.sum_all().unwrap().backward().unwrap();
            (values(&y), values(grads.get(&w).unwrap()))
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_an_error() {
    let x = Tensor::zeros(3, DType::U32, &Device::Cpu).unwrap();
    let e = relu(&x).unwrap_err().to_string();
    assert_eq!(e, "relu: expected a tensor of f32 or f64; convert it with `to_dtype`, got U32");
    let x = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    assert!(softplus(&x, 0.0, 20.0).unwrap_err().to_string().contains("a positive number"));
}

/// The bodies of the kernels, compiled for the CPU, at some points.
#[cfg(feature = "cuda")]
#[test]
fn bodies_of_kernels_are_the_functions() {
    use std::process::Command;
    let root = env!("CARGO_MANIFEST_DIR");
    let folder = std::env::temp_dir().join(format!("limpid-bodies-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("main.cpp");
    let text = format!(
        "#include \"{root}/src/activation/op.cu\"
        #include <cstdio>
        #define PRINT(name, F) for (int i = -40; i <= 40; i++) {{ double x = i * 0.15, p = 0.7, q = 3; \\
            std::printf(#name \" %.17g %.17g %.17g %.17g\\n\", x, F::value(x, p, q), F::first(x, p, q), F::second(x, p, q)); }}
        int main() {{ FUNCTIONS(PRINT) }}"
    );
    std::fs::write(&source, text).unwrap();
    let program = folder.join("main");
    let mut compile = Command::new("c++");
    compile
        .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(format!("{root}/src/gpu"));
    assert!(compile.arg(&source).arg("-o").arg(&program).status().unwrap().success());
    let said = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for line in said.lines() {
        let (name, numbers) = line.split_once(' ').unwrap();
        let numbers: Vec<f64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        let function = match name {
            "relu" => super::Activation::Relu,
            "leaky_relu" => super::Activation::LeakyRelu { slope: 0.7 },
            "abs" => super::Activation::Abs,
            "elu" => super::Activation::Elu { alpha: 0.7 },
            "sigmoid" => super::Activation::Sigmoid,
            "tanh" => super::Activation::Tanh,
            "softplus" => super::Activation::Softplus { beta: 0.7, threshold: 3.0 },
            "silu" => super::Activation::Silu,
            "gelu" => super::Activation::Gelu,
            "gelu_tanh" => super::Activation::GeluTanh,
            "mish" => super::Activation::Mish,
            other => panic!("no function is `{other}`"),
        };
        struct At(f64);
        impl super::Visit for At {
            type Output = [f64; 3];
            fn visit<F: super::Function>(self, f: F) -> [f64; 3] {
                [f.value(self.0), f.first(self.0), f.second(self.0)]
            }
        }
        for (got, want) in numbers[1..].iter().zip(function.visit(At(numbers[0]))) {
            assert!((got - want).abs() <= 1e-14 * (1.0 + want.abs()), "{line}: {want}");
        }
        seen.insert(name.to_owned());
    }
    assert_eq!(seen.len(), 11);
}
