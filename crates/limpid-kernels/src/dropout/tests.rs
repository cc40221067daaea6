use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use candle_core::{DType, Device, Var};
use std::slice::from_ref;

fn stream() -> Stream {
    Stream::new(7, "dropout").at(2, 3)
}

fn ones(dims: &[usize]) -> Tensor {
    Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_mask_is_that_of_the_streams_uniform_numbers() {
    let p = 0.3;
    let mut uniform = vec![0f32; 40_003];
    stream().fill_uniform(&mut uniform);
    let y = values(&dropout(&ones(&[40_003]), p, stream()).unwrap());
    for (y, u) in y.iter().zip(&uniform) {
        assert_eq!(*y, if f64::from(*u) < p { 0.0 } else { (1.0 / 0.7) as f32 });
    }
    let y = values(&dropout_channels(&ones(&[5, 7, 3, 2]), p, stream()).unwrap());
    for (i, y) in y.iter().enumerate() {
        assert_eq!(*y != 0.0, f64::from(uniform[i / 6]) >= p);
    }
}

#[test]
fn the_mean_is_kept() {
    let y = dropout(&ones(&[100_000]), 0.4, stream()).unwrap();
    let mean = y.mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
}

#[test]
fn gradients_use_the_same_mask() {
    let x = test_tensor(1, &[2, 3, 4]).unwrap();
    assert!(worst_error(from_ref(&x), |t| dropout(&t[0], 0.5, stream())).unwrap() < 1e-8);
    assert!(worst_error(&[x], |t| dropout_channels(&t[0], 0.5, stream())).unwrap() < 1e-8);
    let x = Var::from_tensor(&ones(&[1000])).unwrap();
    let y = dropout(&x, 0.5, stream()).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(values(grads.get(&x).unwrap()), values(&y));
}

#[test]
fn the_ends_of_the_range_and_bad_input() {
    let x = ones(&[9]);
    assert_eq!(values(&dropout(&x, 0.0, stream()).unwrap()), [1.0; 9]);
    assert_eq!(values(&dropout(&x, 1.0, stream()).unwrap()), [0.0; 9]);
    for p in [-0.1, 1.1, f64::NAN] {
        let e = dropout(&x, p, stream()).unwrap_err().to_string();
        assert!(e.contains("a probability is from 0 to 1"), "{e}");
    }
    assert!(dropout_channels(&x, 0.5, stream()).is_err());
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let run = |threads| {
        values(&on_threads(threads, || dropout(&ones(&[50_001]), 0.2, stream())).unwrap())
    };
    assert_eq!(run(1), run(3));
}
