//! Parity with EMDiffuse, key by key; what other layouts and settings do.

use super::blocks::{Attention, ResBlock, Resample, down_conv, gamma_embedding, qkv_attention};
use super::*;
use crate::golden::{Golden, Tolerance, filled, recognised};
use crate::{AnyConfig, recognise, reference_entries};
use candle_core::{DType, Device, Tensor};
use limpid_kernels::rng::Stream;
use limpid_nn::{Ctx, Params};

const OUTPUT: Tolerance = Tolerance { absolute: 2e-5, relative: 0.0 };
const BLOCK: Tolerance = Tolerance { absolute: 5e-6, relative: 1e-6 };
const GRADIENT: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-4 };

fn equals_reference(name: &str, order: AttentionOrder) {
    let Some(golden) = Golden::open(&format!("emdiffuse/{name}")) else { return };
    let weights = golden.weights("weights.");
    let AnyConfig::GuidedUnet(mut config) = recognised(name, &weights) else { panic!("{name}") };
    let unet = &golden.json("config")["unet"];
    let number = |key: &str| unet[key].as_u64().map(|n| n as usize);
    config.heads = match (number("num_head_channels"), number("num_heads")) {
        (Some(channels), _) => Heads::Channels { channels },
        (None, Some(down)) => Heads::Count { down, up: number("num_heads_upsample").unwrap() },
        _ => panic!("{name}: no heads"),
    };
    config.attention_order = order;
    let (params, net) = filled(&weights, |scope| config.build(scope));
    let index = golden.tensors.get("in.channel_index");
    let got = net.forward(golden.tensor("in.x"), golden.tensor("in.gammas"), index, &Ctx::eval());
    let got = got.unwrap();
    golden.close("output", &got.output, golden.tensor("out.out"), OUTPUT);
    let grads = match (&got.variance, golden.tensors.get("out.variance")) {
        (Some(variance), Some(expected)) => {
            golden.close("variance", variance, expected, OUTPUT);
            return;
        }
        (None, None) => {
            let error = (&got.output - golden.tensor("in.target")).unwrap();
            error.sqr().unwrap().mean_all().unwrap().backward().unwrap()
        }
        other => panic!("{name}: {other:?}"),
    };
    let expected = reference_entries(golden.part("grad."));
    assert!(!expected.is_empty());
    for (key, expected) in expected {
        let got = grads.get(params.get(&key).unwrap().var()).unwrap();
        golden.close(&format!("gradient of {key}"), got, &expected, GRADIENT);
    }
}

#[test]
fn networks_equal_the_reference() {
    for name in [
        "net_unet2d",
        "net_unet2d_noconv",
        "net_unet3d",
        "net_unet_aleatoric",
        "net_unet3d_aleatoric",
        "net_unet_jit2",
    ] {
        equals_reference(name, AttentionOrder::HeadsFirst);
    }
    equals_reference("net_unet2d_alt", AttentionOrder::QkvFirst);
}

#[test]
fn blocks_equal_the_reference() {
    let Some(golden) = Golden::open("emdiffuse/blocks") else { return };
    let input = |name: &str| golden.tensor(&format!("in.{name}")).clone();
    let check = |name: &str, got: Tensor| {
        golden.close(name, &got, golden.tensor(&format!("out.{name}")), BLOCK);
    };
    for width in [16, 17, 32] {
        let values = input("gammas");
        check(&format!("gamma_embedding.{width}"), gamma_embedding(&values, width).unwrap());
        let index = input("channel_index").to_dtype(DType::F32).unwrap();
        check(&format!("channel_embedding.{width}"), gamma_embedding(&index, width).unwrap());
    }
    let orders = [("legacy", AttentionOrder::HeadsFirst), ("new", AttentionOrder::QkvFirst)];
    for (name, order) in orders {
        for heads in [1, 2, 4] {
            let got = qkv_attention(&input("qkv"), heads, order).unwrap();
            check(&format!("qkv_{name}.{heads}"), got);
        }
        let weights = golden.weights(&format!("weights.attn_{name}."));
        let heads = 2;
        let (_, block) = filled(&weights, |scope| Attention::new(16, 16, heads, order, scope));
        check(&format!("attn_{name}"), block.forward(&input("x")).unwrap());
    }
    for (name, outputs, resample, scale_shift, conv_skip) in [
        ("res_plain", 16, Resample::Keep, true, false),
        ("res_down", 16, Resample::Down, true, false),
        ("res_up", 16, Resample::Up, true, false),
        ("res_noss", 16, Resample::Keep, false, false),
        ("res_wider", 32, Resample::Keep, true, false),
        ("res_wider_convskip", 32, Resample::Keep, true, true),
    ] {
        let settings =
            ResSettings { embedding: 24, groups: 16, scale_shift, conv_skip, dropout: 0.5 };
        let weights = golden.weights(&format!("weights.{name}."));
        let (_, block) =
            filled(&weights, |scope| ResBlock::new(&settings, 16, outputs, resample, scope));
        check(name, block.forward(&input("x"), &input("emb"), &Ctx::eval()).unwrap());
    }
    let weights = golden.weights("weights.down_conv.");
    let (_, conv) = filled(&weights, |scope| down_conv(16, 8, &scope.pp("op")));
    check("down_conv", conv.forward(&input("x")).unwrap());
    check("downsample_avg", Resample::Down.forward(&input("x")).unwrap());
    check("upsample_nearest", Resample::Up.forward(&input("x")).unwrap());
}

fn json(name: &str) -> Option<serde_json::Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/emdiffuse/");
    let text = std::fs::read_to_string(format!("{path}{name}.json")).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

fn defined(config: &Config) -> Params {
    let params = Params::new();
    config.define(&params.scope(Stream::new(0, "guided"), DType::F32, &Device::Cpu)).unwrap();
    params
}

#[test]
fn presets_have_the_published_parameters() {
    for (name, config, count) in [
        ("emdiffuse_n", Config::emdiffuse(), 15_677_345),
        ("vemdiffuse_i", Config::vemdiffuse(), 16_615_873),
        ("aleatoric", Config::emdiffuse_aleatoric(), 15_677_698),
        ("aleatoric3d", Config::vemdiffuse_aleatoric(), 16_616_226),
    ] {
        assert!(limpid_config::check(&config).is_empty(), "{name}");
        let params = defined(&config);
        assert_eq!(params.count(), count, "{name}");
        assert_eq!(Config::recognise(&params.shapes()), Some(config), "{name}");
        let Some(expected) = json("real_config_keys") else { continue };
        let expected: Vec<(String, Vec<usize>)> =
            serde_json::from_value(expected[name].clone()).unwrap();
        assert!(params.shapes() == expected.into_iter().collect(), "{name}");
    }
}

#[test]
fn names_of_the_scripted_networks_are_translated() {
    let Some(map) = json("jit_keymap") else { return };
    let entries = map["map"].as_array().unwrap();
    for layout in ["unet", "unet_jit", "unet_jit2"] {
        let named = |e: &serde_json::Value| {
            let key = |layout: &str| e[layout].as_str().unwrap().to_owned();
            (format!("denoise_fn.{}", key(layout)), key("unet"))
        };
        let got = reference_entries(entries.iter().map(named).collect());
        assert_eq!(got.len(), entries.len());
        assert!(got.iter().all(|(ours, usual)| ours == usual), "{layout}");
    }
}

#[test]
fn every_sort_is_recognised_within_its_diffusion_process() {
    for config in [
        Config { resampling: Resampling::Conv, attention_at: vec![1], ..Config::small() },
        Config { resampling: Resampling::Pooling, res_blocks: 3, ..Config::small() },
        Config { conv_skip: true, scale_shift_norm: false, ..Config::small() },
        Config { channels: vec![32], inner_channels: 48, res_blocks: 2, ..Config::small() },
        Config { channels: vec![64, 32, 96, 32], attention_at: vec![2, 8], ..Config::vemdiffuse() },
    ] {
        assert!(limpid_config::check(&config).is_empty(), "{config:?}");
        let own = config.shapes().unwrap();
        let mut shapes: Shapes =
            own.iter().map(|(k, s)| (format!("denoise_fn.{k}"), s.clone())).collect();
        shapes.insert("gammas".into(), vec![2000]);
        shapes.insert("posterior_mean_coef1".into(), vec![2000]);
        let best = recognise(&shapes).into_iter().next().unwrap();
        assert_eq!(best.mismatches, 0, "{config:?}");
        let AnyConfig::GuidedUnet(found) = best.config else { panic!() };
        let heads = Heads::Channels { channels: 16 };
        let found = if config.heads == heads { Config { heads, ..found } } else { found };
        assert_eq!(found, config);
    }
}

#[test]
fn a_new_network_says_zero_and_refuses_what_does_not_fit() {
    let config = Config { layer_index: true, variance: true, ..Config::small() };
    let params = Params::new();
    let scope = params.scope(Stream::new(0, "guided"), DType::F32, &Device::Cpu);
    let net = config.build(&scope).unwrap();
    let x = |h: usize| Tensor::ones((2, 2, h, 6), DType::F32, &Device::Cpu).unwrap();
    let gamma = |n: usize| Tensor::full(0.5f32, n, &Device::Cpu).unwrap();
    let index = Tensor::new(&[[3i64], [1]], &Device::Cpu).unwrap();
    let ctx = Ctx::train(Stream::new(1, "guided"));
    let got = net.forward(&x(4), &gamma(1), Some(&index), &ctx).unwrap();
    for map in [got.output, got.variance.unwrap()] {
        assert_eq!(map.dims(), [2, 1, 4, 6]);
        assert_eq!(map.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }
    let message = |x: &Tensor, gamma: &Tensor, index: Option<&Tensor>| {
        net.forward(x, gamma, index, &ctx).unwrap_err().to_string()
    };
    assert!(message(&x(5), &gamma(2), Some(&index)).contains("multiples of 2"));
    assert!(message(&x(4), &gamma(3), Some(&index)).contains("one gamma or 2"));
    assert!(message(&x(4), &gamma(2), None).contains("needs a layer index"));
}

#[test]
fn bad_settings_are_all_reported() {
    let config = Config {
        res_blocks: 0,
        channels: vec![16, 24],
        attention_at: vec![3, 4],
        heads: Heads::Channels { channels: 0 },
        dropout: 1.0,
        ..Config::small()
    };
    assert_eq!(limpid_config::check(&config).len(), 6);
    assert!(limpid_config::check(&Config::small()).is_empty());
}

#[test]
fn blocks_can_be_recomputed() {
    let config = Config { dropout: 0.3, ..Config::small() };
    let (params, net) = crate::golden::drawn(|scope| config.build(scope));
    let x = crate::golden::noise(&[2, config.in_channels, 16, 16]);
    let gamma = Tensor::new(&[0.3f32, 0.8], &Device::Cpu).unwrap();
    crate::golden::check_recomputing(&params, |ctx| {
        net.forward(&x, &gamma, None, ctx).unwrap().output
    });
}

#[test]
fn the_field_of_the_convolutions_is_that_of_their_sum() {
    // first 3×3, (1 + 2 + 2) residual blocks of two 3×3, last 3×3
    let one = Config { channels: vec![32], res_blocks: 1, ..Config::emdiffuse() };
    assert_eq!(one.receptive_field(), 1 + 2 + 5 * 4 + 2);
    // 120 + 180 in the blocks of the levels, 64 in the middle, 2·7 + 4·14 + 4·7 in between
    assert_eq!(Config::emdiffuse().receptive_field(), 1 + 2 + 300 + 64 + 98 + 2);
    assert_eq!(Config::vemdiffuse().condition_channels(), 2);
    // 4·(4·(32 + 64/4 + 128/16 + 256/64) + 8·32)
    assert_eq!(Config::emdiffuse().activation_bytes(), 4 * (4 * 60 + 256));
}

#[test]
fn a_noise_predictor_sees_the_condition_before_the_state() {
    use crate::NoisePredictor;
    let params = Params::new();
    let scope = params.scope(Stream::new(1, "init"), DType::F32, &Device::Cpu);
    let net = Config::small().build(&scope).unwrap();
    // the last layer is zero at first
    let head = params.get("out.2.weight").unwrap();
    let ones = head.var().ones_like().unwrap();
    head.var().set(&ones).unwrap();
    let image = |purpose| {
        let mut values = vec![0f32; 64];
        Stream::new(2, purpose).fill_normal(&mut values);
        Tensor::from_vec(values, (1, 1, 8, 8), &Device::Cpu).unwrap()
    };
    let (x, condition) = (image("state"), image("condition"));
    let level = Tensor::new(&[0.3f32], &Device::Cpu).unwrap();
    let values = |p: Prediction| p.output.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let got = values(net.predict(&x, &condition, &level, None, &Ctx::eval()).unwrap());
    let both = |a: &Tensor, b: &Tensor| {
        let x = limpid_kernels::cat(&[a, b], 1).unwrap();
        values(net.forward(&x, &level, None, &Ctx::eval()).unwrap())
    };
    assert_eq!(got, both(&condition, &x));
    assert_ne!(got, both(&x, &condition));
}
