//! Parity of the parts, published sizes, and what a flow means.

use super::ops::{
    Correlation, WarpGrid, consistent_matches, pad_to_eight, upsample_convex, upsample_linear, warp,
};
use super::*;
use crate::golden::{Golden, Tolerance};
use crate::{AnyConfig, recognise};
use candle_core::{DType, Device, Tensor};
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Params};

const CLOSE: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-6 };

#[test]
fn parts_equal_the_reference() {
    let Some(golden) = Golden::open("emdiffuse/raft_ops") else { return };
    let t = |name: &str| golden.tensor(name);
    let check = |name: &str, got: Tensor| golden.close(name, &got, t(name), CLOSE);
    for (radius, levels) in [(3, 4), (4, 2)] {
        let all = Correlation::new(t("in.fmap1"), t("in.fmap2"), levels).unwrap();
        let got = all.lookup(t("in.coords"), radius).unwrap();
        check(&format!("out.corr_lookup.r{radius}"), got);
    }
    let (flow, image) = (t("in.flow_lr"), t("in.warp.image"));
    check("out.upflow8", upsample_linear(flow).unwrap());
    check("out.upsample_flow", upsample_convex(flow, t("in.up_mask")).unwrap());
    check("out.pad", pad_to_eight(t("in.pad.image")).unwrap());
    let moved = t("in.warp.flow");
    check("out.warp", warp(image, moved, WarpGrid::Stretched).unwrap());
    let rest = moved.zeros_like().unwrap();
    check("out.warp.zero_flow", warp(image, &rest, WarpGrid::Stretched).unwrap());
    golden.close("identity", &warp(image, &rest, WarpGrid::Pixels).unwrap(), image, CLOSE);

    let points = |name: &str| -> Vec<[f64; 2]> {
        t(name).to_vec2::<f64>().unwrap().iter().map(|p| [p[0], p[1]]).collect()
    };
    let (from, to) = (points("in.delete_outlier.p1"), points("in.delete_outlier.p2"));
    let (found, length) = consistent_matches(&from, &to, 0.3).unwrap();
    let expected = t("out.delete_outlier.index_sorted").to_vec1::<i64>().unwrap();
    assert!(found.iter().map(|i| *i as i64).eq(expected));
    let expected = t("out.delete_outlier.mean_norm").to_scalar::<f64>().unwrap();
    assert!((length - expected).abs() < 1e-12);
}

#[test]
fn published_sizes_and_keys() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/emdiffuse/raft_keys.json");
    let keys = std::fs::read_to_string(path).ok();
    let keys: Option<serde_json::Value> = keys.map(|text| serde_json::from_str(&text).unwrap());
    for (name, model, count) in
        [("basic", Model::Basic, 5_257_536), ("small", Model::Small, 990_162)]
    {
        let config = Config { model };
        let params = Params::new();
        config.define(&params.scope(Stream::new(0, "raft"), DType::F32, &Device::Cpu)).unwrap();
        assert_eq!(params.count(), count, "{name}");
        let Some(keys) = &keys else { continue };
        let keys: Vec<(String, Vec<usize>)> = serde_json::from_value(keys[name].clone()).unwrap();
        let best = recognise(&keys.into_iter().collect()).into_iter().next().unwrap();
        assert_eq!(best.mismatches, 0, "{name}");
        assert!(matches!(best.config, AnyConfig::Raft(found) if found == config));
    }
}

#[test]
fn a_shifted_image_is_found_by_its_flow() {
    let picture = |dx: usize| {
        let value = |i: usize| ((i % 20 + dx) * 7 % 11) as f32 + ((i / 20) * 5 % 13) as f32;
        let values: Vec<f32> = (0..200).map(value).collect();
        Tensor::from_vec(values, (1, 1, 10, 20), &Device::Cpu).unwrap()
    };
    let flow = Tensor::new(&[2f32, 0.0], &Device::Cpu).unwrap().reshape((1, 2, 1, 1)).unwrap();
    let flow = flow.broadcast_as((1, 2, 10, 20)).unwrap().contiguous().unwrap();
    let got = warp(&picture(0), &flow, WarpGrid::Pixels).unwrap().narrow(3, 0, 18).unwrap();
    let expected = picture(2).narrow(3, 0, 18).unwrap();
    let error = (got - expected).unwrap().abs().unwrap().max_all().unwrap();
    assert!(error.to_scalar::<f32>().unwrap() < 1e-5);
}

#[test]
fn training_gives_every_flow_and_gradients() {
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "raft"), DType::F32, &Device::Cpu);
    let net = Config { model: Model::Small }.build(&scope).unwrap();
    let image = |v: f32| Tensor::full(v, (1, 3, 64, 72), &Device::Cpu).unwrap();
    let ctx = Ctx::train(Stream::new(0, "raft"));
    let flow = net.forward(&image(10.0), &image(20.0), 2, None, &ctx).unwrap();
    assert_eq!((flow.fine.len(), flow.coarse.dims()), (2, [1, 2, 8, 9].as_slice()));
    let grads = flow.fine[1].sqr().unwrap().mean_all().unwrap().backward().unwrap();
    let used = params.trainable().iter().filter(|p| grads.get(p.var()).is_some()).count();
    assert_eq!(used, params.trainable().len());
    let odd = Tensor::zeros((1, 3, 64, 70), DType::F32, &Device::Cpu).unwrap();
    assert!(net.forward(&odd, &odd, 2, None, &ctx).is_err());
    assert!(net.forward(&image(0.0), &image(0.0), 0, None, &ctx).is_err());
}

#[test]
fn grey_images_of_any_size_get_the_flow_of_the_network() {
    let params = Params::new();
    let scope = params.scope(Stream::new(3, "raft"), DType::F32, &Device::Cpu);
    let net = Config { model: Model::Small }.build(&scope).unwrap();
    let _guard = params.no_grad();
    let (h, w) = (67, 72);
    let picture = |dx: usize| -> Vec<f64> {
        (0..h * w).map(|i| (((i % w + dx) * 37 + (i / w) * 91) % 256) as f64).collect()
    };
    let (a, b) = (picture(0), picture(3));
    let register = |grid| net.register(&a, &b, [h, w], 2, grid, &Device::Cpu).unwrap();
    let [down, right] = register(WarpGrid::Pixels);

    let three = |image: &[f64]| {
        let grey = Tensor::from_slice(image, (1, 1, h, w), &Device::Cpu).unwrap();
        let grey = pad_to_eight(&grey.to_dtype(DType::F32).unwrap()).unwrap();
        grey.broadcast_as((1, 3, 72, 72)).unwrap().contiguous().unwrap()
    };
    let flow = net.forward(&three(&a), &three(&b), 2, None, &Ctx::eval()).unwrap();
    let fine = flow.fine[0].squeeze(0).unwrap().to_vec3::<f32>().unwrap();
    let mut largest = 0.0f64;
    for i in 0..h * w {
        let (y, x) = (i / w + 2, i % w);
        assert_eq!([right[i], down[i]], [fine[0][y][x], fine[1][y][x]].map(f64::from));
        largest = largest.max(down[i].abs());
    }
    assert!(largest > 0.0);

    // warping there by pixels is warping by the flow on the stretched grid
    let [far_down, far_right] = register(WarpGrid::Stretched);
    let tensor = |right: &[f64], down: &[f64]| {
        let all = [right, down].concat();
        Tensor::from_vec(all, (1, 2, h, w), &Device::Cpu).unwrap()
    };
    let image = Tensor::from_slice(&b, (1, 1, h, w), &Device::Cpu).unwrap();
    let expected = warp(&image, &tensor(&right, &down), WarpGrid::Stretched).unwrap();
    let got = warp(&image, &tensor(&far_right, &far_down), WarpGrid::Pixels).unwrap();
    let error = (got - expected).unwrap().abs().unwrap().max_all().unwrap();
    assert!(error.to_scalar::<f64>().unwrap() < 1e-6);

    for (first, shape, iterations) in [(&a[1..], [h, w], 2), (&a, [w, h + 1], 2), (&a, [h, w], 0)] {
        let refused = net.register(first, &b, shape, iterations, WarpGrid::Pixels, &Device::Cpu);
        assert!(refused.is_err());
    }
    assert!(
        net.register(&[0.0; 400], &[0.0; 400], [20, 20], 2, WarpGrid::Pixels, &Device::Cpu)
            .is_err()
    );
}
