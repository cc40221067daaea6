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
