use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use candle_core::{DType, Device};

const MODES: [Pad; 4] = [Pad::Zero, Pad::Constant(-1.5), Pad::Reflect, Pad::Replicate];

fn padded(mode: Pad, amount: (usize, usize)) -> Vec<f64> {
    let x = Tensor::new(&[[[1.0, 2.0, 3.0f64]]], &Device::Cpu).unwrap();
    pad(&x, &[amount], mode).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn known_lines() {
    assert_eq!(padded(Pad::Zero, (1, 2)), [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    assert_eq!(padded(Pad::Constant(9.0), (0, 1)), [1.0, 2.0, 3.0, 9.0]);
    assert_eq!(padded(Pad::Reflect, (2, 2)), [3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]);
    assert_eq!(padded(Pad::Replicate, (2, 1)), [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
}

#[test]
fn corners_of_a_volume() {
    let x = test_tensor(1, &[2, 2, 2, 3, 4]).unwrap();
    for mode in MODES {
        let y = pad(&x, &[(1, 0), (2, 1), (0, 3)], mode).unwrap();
        assert_eq!(y.dims(), [2, 2, 3, 6, 7]);
        let inner = y.narrow(2, 1, 2).unwrap().narrow(3, 2, 3).unwrap().narrow(4, 0, 4).unwrap();
        let difference = (inner - &x).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(difference.to_scalar::<f64>().unwrap(), 0.0);
        let corner = y.get(1).unwrap().get(1).unwrap().get(0).unwrap().get(0).unwrap();
        let corner: f64 = corner.get(6).unwrap().to_scalar().unwrap();
        let pixel = |z: usize, y: usize, x_: usize| -> f64 {
            let v: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
            v[((3 * 2 + z) * 3 + y) * 4 + x_]
        };
        let want = match mode {
            Pad::Zero => 0.0,
            Pad::Constant(v) => v,
            Pad::Reflect => pixel(1, 2, 0),
            Pad::Replicate => pixel(0, 0, 3),
        };
        assert_eq!(corner, want, "{mode:?}");
    }
}

#[test]
fn gradients_match_finite_differences() {
    for mode in MODES {
        let x = test_tensor(2, &[1, 2, 3, 4]).unwrap();
        let error = worst_error(&[x], |t| pad(&t[0], &[(2, 1), (0, 3)], mode)).unwrap();
        assert!(error < 1e-8, "{mode:?}: {error}");
        let x = test_tensor(3, &[1, 1, 2, 2, 3]).unwrap();
        let error = worst_error(&[x], |t| pad(&t[0], &[(1, 1), (0, 1), (2, 2)], mode)).unwrap();
        assert!(error < 1e-8, "{mode:?}: {error}");
    }
}

#[test]
fn bad_input_is_an_error() {
    let x = Tensor::zeros((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert_eq!(
        message(pad(&x, &[(0, 0), (0, 3)], Pad::Reflect)),
        "pad: expected at least 4 pixels in spatial dimension 1 for Reflect; pad less or with \
         zeros, got [1, 1, 3, 3]"
    );
    assert!(message(pad(&x, &[(0, 0)], Pad::Zero)).contains("one for each"));
    assert!(message(pad(&x, &[(0, 0), (usize::MAX, 2)], Pad::Zero)).contains("16777216"));
    let empty = Tensor::zeros((1, 1, 0), DType::F32, &Device::Cpu).unwrap();
    assert!(pad(&empty, &[(1, 1)], Pad::Replicate).is_err());
    assert!(pad(&empty, &[(usize::MAX, 0)], Pad::Reflect).is_err());
}
