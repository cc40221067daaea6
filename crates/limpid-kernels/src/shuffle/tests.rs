use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use candle_core::{DType, Device};

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The definition, by reshaping and permuting (`torch` in 2-D, MONAI in 3-D).
fn reference(x: &Tensor, r: usize) -> Tensor {
    let d = x.dims().to_vec();
    let rank = d.len() - 2;
    let c = d[1] / r.pow(rank as u32);
    let mut view = vec![d[0], c];
    view.extend(vec![r; rank]);
    view.extend(&d[2..]);
    let mut order = vec![0, 1];
    (0..rank).for_each(|i| order.extend([2 + rank + i, 2 + i]));
    let mut shape = vec![d[0], c];
    shape.extend(d[2..].iter().map(|s| s * r));
    x.reshape(view).unwrap().permute(order).unwrap().reshape(shape).unwrap()
}

#[test]
fn shuffle_and_unshuffle_are_the_reference_and_inverses() {
    for (dims, r) in [
        (&[2usize, 6, 5][..], 3),
        (&[2, 8, 3, 5], 2),
        (&[1, 18, 2, 4], 3),
        (&[2, 16, 2, 3, 4], 2),
        (&[1, 3, 2, 2], 1),
    ] {
        let x = test_tensor(1, dims).unwrap();
        let y = pixel_shuffle(&x, r).unwrap();
        let want = reference(&x, r);
        assert_eq!(y.dims(), want.dims());
        assert_eq!(values(&y), values(&want));
        assert_eq!(values(&pixel_unshuffle(&y, r).unwrap()), values(&x));
        let transposed = y.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap();
        assert_eq!(values(&pixel_unshuffle(&transposed, r).unwrap()), values(&x));
    }
}

#[test]
fn gradients_match_finite_differences() {
    let x = test_tensor(2, &[1, 8, 2, 3]).unwrap();
    assert!(worst_error(&[x], |t| pixel_shuffle(&t[0], 2)).unwrap() < 1e-8);
    let x = test_tensor(3, &[1, 2, 2, 4, 2]).unwrap();
    assert!(worst_error(&[x], |t| pixel_unshuffle(&t[0], 2)).unwrap() < 1e-8);
}

#[test]
fn bad_input_is_an_error() {
    let x = Tensor::zeros((1, 6, 4, 5), DType::F32, &Device::Cpu).unwrap();
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert_eq!(
        message(pixel_shuffle(&x, 2)),
        "pixel_shuffle: expected channels divisible by 4, got [1, 6, 4, 5]"
    );
    assert!(message(pixel_unshuffle(&x, 2)).contains("spatial sizes divisible by 2"));
    assert!(message(pixel_shuffle(&x, 0)).contains("at least 1"));
    assert!(message(pixel_unshuffle(&x, 0)).contains("at least 1"));
    assert!(message(pixel_shuffle(&x, usize::MAX)).contains("not huge"));
    let empty = Tensor::zeros((1, 4, 0, 5), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(pixel_shuffle(&empty, 2).unwrap().dims(), [1, 1, 0, 10]);
}
