use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use candle_core::{Device, safetensors};

const MODES: [Resize; 7] = [
    Resize::Nearest,
    Resize::Linear { align_corners: false },
    Resize::Linear { align_corners: true },
    Resize::Cubic { align_corners: false },
    Resize::Cubic { align_corners: true },
    Resize::LinearSmoothed,
    Resize::CubicSmoothed,
];

fn line(values: &[f64]) -> Tensor {
    Tensor::from_vec(values.to_vec(), (1, 1, values.len()), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[test]
fn known_lines() {
    let x = line(&[1.0, 2.0, 4.0]);
    let to = |n, mode| values(&resize(&x, &[n], mode).unwrap());
    assert_eq!(to(6, Resize::Nearest), [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]);
    assert_eq!(to(2, Resize::Nearest), [1.0, 2.0]);
    assert_eq!(to(5, Resize::Linear { align_corners: true }), [1.0, 1.5, 2.0, 3.0, 4.0]);
    let half = Resize::Linear { align_corners: false };
    assert_eq!(to(6, half), [1.0, 1.25, 1.75, 2.5, 3.5, 4.0]);
    assert_eq!(to(1, half), [2.0]);
    assert_eq!(to(1, Resize::Linear { align_corners: true }), [1.0]);
}

#[test]
fn scale_factor_sets_the_positions() {
    // torch.nn.functional.interpolate(arange(5.), scale_factor=1.3): positions i / 1.3
    let x = line(&[0.0, 1.0, 2.0, 3.0, 4.0]);
    let y = resize_by(&x, &[1.3], Resize::Nearest).unwrap();
    assert_eq!(values(&y), [0.0, 0.0, 1.0, 2.0, 3.0, 3.0]);
    let y = values(&resize_by(&x, &[1.3], Resize::Linear { align_corners: false }).unwrap());
    for (i, y) in y.iter().enumerate() {
        assert!((y - ((i as f64 + 0.5) / 1.3 - 0.5).max(0.0)).abs() < 1e-14);
    }
    let by_size = resize(&x, &[6], Resize::Linear { align_corners: false }).unwrap();
    assert!((values(&by_size)[5] - y[5]).abs() > 0.05);
}

#[test]
fn gradients_match_finite_differences() {
    for mode in MODES {
        for (dims, size) in [
            (&[2usize, 1, 5][..], &[8usize][..]),
            (&[1, 2, 3, 5], &[7, 4]),
            (&[1, 1, 3, 2, 4], &[2, 5, 4]),
        ] {
            let x = test_tensor(1, dims).unwrap();
            let error = worst_error(&[x], |t| resize(&t[0], size, mode)).unwrap();
            assert!(error < 1e-8, "{mode:?} {dims:?} -> {size:?}: {error}");
        }
    }
}

#[test]
fn a_flat_image_stays_flat_and_a_slope_is_kept() {
    let slope: Vec<f64> = (0..12).map(f64::from).collect();
    for mode in MODES {
        for n in [1, 5, 12, 29] {
            let flat = values(&resize(&line(&[2.5; 12]), &[n], mode).unwrap());
            assert!(flat.iter().all(|v| (v - 2.5).abs() < 1e-13), "{mode:?} {n}: {flat:?}");
        }
        if mode != Resize::Nearest {
            // away from the edge, and at a distance that every kernel gets right: its own middle
            let half = values(&resize(&line(&slope), &[4], mode).unwrap());
            assert!((half[1] + half[2] - 11.0).abs() < 1e-12, "{mode:?}: {half:?}");
        }
    }
}

#[test]
fn an_infinity_does_not_spread_to_pixels_it_has_no_part_in() {
    let x = line(&[1.0, f64::INFINITY, 2.0]);
    let y = values(&resize(&x, &[5], Resize::Linear { align_corners: true }).unwrap());
    assert_eq!((y[0], y[4]), (1.0, 2.0));
}

#[test]
fn a_permuted_image_gives_the_same_result() {
    let x = test_tensor(2, &[1, 2, 5, 4]).unwrap();
    let permuted = x.transpose(2, 3).unwrap();
    for mode in MODES {
        let a = resize(&permuted, &[6, 3], mode).unwrap();
        let b = resize(&permuted.contiguous().unwrap(), &[6, 3], mode).unwrap();
        assert_eq!(values(&a), values(&b));
    }
}

#[test]
#[allow(clippy::print_stdout)] // says that it was skipped
fn pytorch_gives_the_same() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/engine/resample.safetensors");
    if !std::path::Path::new(path).exists() {
        println!("skipped: {path} is absent");
        return;
    }
    let golden = safetensors::load(path, &Device::Cpu).unwrap();
    let x = golden["vol"].unsqueeze(0).unwrap().unsqueeze(0).unwrap();
    for (mode, name) in MODES.iter().zip(["nearest", "trilinear_acFalse", "trilinear_acTrue"]) {
        let want = &golden[&format!("torch_{name}")];
        let got = resize(&x, &want.dims()[2..], *mode).unwrap();
        let error =
            values(&got).iter().zip(values(want)).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        assert!(error <= if *mode == Resize::Nearest { 0.0 } else { 1e-6 }, "{name}: {error}");
    }
    let image = golden["img"].unsqueeze(0).unwrap().unsqueeze(0).unwrap();
    for (mode, name) in [
        (Resize::Cubic { align_corners: false }, "bicubic"),
        (Resize::LinearSmoothed, "bilinear_aa"),
        (Resize::CubicSmoothed, "bicubic_aa"),
    ] {
        let want = &golden[&format!("torch_{name}")];
        let got = resize(&image, &want.dims()[2..], mode).unwrap();
        let error =
            values(&got).iter().zip(values(want)).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        assert!(error <= 1e-5, "{name}: {error}");
    }
}

#[test]
fn bad_input_is_an_error() {
    let x = test_tensor(3, &[1, 1, 4, 4]).unwrap();
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert_eq!(
        message(resize(&x, &[4], Resize::Nearest)),
        "resize: `size` has 1 entries, but the tensor has 2 spatial dimensions; give one for each"
    );
    assert!(message(resize(&x, &[0, 4], Resize::Nearest)).contains("1 to 16777216"));
    assert!(message(resize(&x, &[usize::MAX, 4], Resize::Nearest)).contains("1 to 16777216"));
    assert!(message(resize_by(&x, &[f64::NAN, 1.0], Resize::Nearest)).contains("positive"));
    assert!(message(resize_by(&x, &[0.1, 1.0], Resize::Nearest)).contains("to [0, 4]"));
    let flat = test_tensor(3, &[4, 4]).unwrap();
    assert!(message(resize(&flat, &[4, 4], Resize::Nearest)).contains("[N, C, s..]"));
}
