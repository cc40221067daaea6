use super::*;
use crate::golden::{self, Golden};
use crate::{AnyConfig, Network};
use candle_core::Device;
use std::collections::BTreeMap;

/// The network at fixed time steps.
struct At(DdpmUNet, Tensor);

impl Network for At {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.0.forward(x, &self.1, ctx)
    }
}

#[test]
fn equals_monai() {
    let Some(golden) = Golden::open("engine/net_monai_ddpm_unet2d") else { return };
    let weights: BTreeMap<_, _> = golden.weights("param.");
    let AnyConfig::DdpmUnet(mut config) = golden::recognised(&golden.name, &weights) else {
        panic!("not recognised as a diffusion network");
    };
    // shapes do not tell these
    config.norm_groups = 4;
    config.head_channels = vec![8; 2];
    let steps = golden.tensor("input.1").clone();
    golden::check_network(&golden, &weights, |scope| {
        Ok(Box::new(At(DdpmUNet::new(&config, scope)?, steps)))
    });
}

#[test]
fn shapes_tell_the_configuration() {
    golden::round_trip(&Config::default(), Config::recognise);
    let other = Config {
        dims: 3,
        in_channels: 2,
        channels: vec![32, 96],
        res_blocks: vec![1, 3],
        attention_levels: vec![true, false],
        head_channels: vec![8; 2],
        resblock_updown: true,
        combined_qkv: true,
        ..Config::default()
    };
    golden::round_trip(&other, Config::recognise);
}

fn tiny() -> Config {
    Config {
        channels: vec![4, 8],
        res_blocks: vec![1, 1],
        attention_levels: vec![false, true],
        head_channels: vec![4, 4],
        norm_groups: 4,
        ..Config::default()
    }
}

#[test]
fn both_ways_of_resizing_keep_the_size_in_two_and_three_dimensions() {
    for (dims, resblock_updown, combined_qkv) in
        [(2, true, true), (3, true, false), (3, false, true)]
    {
        let config = Config { dims, resblock_updown, combined_qkv, ..tiny() };
        let (_, net) = golden::fresh(|scope| DdpmUNet::new(&config, scope));
        let x = Tensor::ones([vec![2, 1], vec![4; dims]].concat(), DType::F32, &Device::Cpu);
        let steps = Tensor::new(&[3i64, 999], &Device::Cpu).unwrap();
        let x = x.unwrap();
        assert_eq!(net.forward(&x, &steps, &Ctx::eval()).unwrap().dims(), x.dims());
    }
}

#[test]
fn a_new_network_predicts_nothing() {
    let (_, net) = golden::fresh(|scope| DdpmUNet::new(&tiny(), scope));
    let x = Tensor::ones((1, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let steps = Tensor::new(&[7u32], &Device::Cpu).unwrap();
    let y = net.forward(&x, &steps, &Ctx::eval()).unwrap();
    assert_eq!(y.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (_, net) = golden::fresh(|scope| DdpmUNet::new(&tiny(), scope));
    let x = |size: usize| Tensor::zeros((2, 1, size, 4), DType::F32, &Device::Cpu).unwrap();
    let steps = |n: usize| Tensor::zeros(n, DType::U32, &Device::Cpu).unwrap();
    for (size, n) in [(5, 2), (4, 3)] {
        let error = net.forward(&x(size), &steps(n), &Ctx::eval()).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
}

#[test]
fn an_embedding_of_odd_width_ends_with_a_zero() {
    let steps = Tensor::new(&[0u32, 2], &Device::Cpu).unwrap();
    let rows: Vec<Vec<f32>> = timestep_embedding(&steps, 5).unwrap().to_vec2().unwrap();
    assert_eq!(rows[0], [1.0, 1.0, 0.0, 0.0, 0.0]);
    assert!((rows[1][0] - 2f32.cos()).abs() < 1e-6 && (rows[1][3] - 0.02f32.sin()).abs() < 1e-6);
}
