//! Model files of several networks, in f32 and f16, from files and from memory.

use crate::{Bundle, BundleError, Card, CardNetwork};
use candle_core::{DType, Device, Tensor};
use limpid_arch::{NetworkConfig, dncnn, guided_unet};
use limpid_kernels::rng::Stream;
use limpid_nn::Params;
use serde_json::json;
use std::path::PathBuf;

fn image() -> NetworkConfig {
    NetworkConfig::Dncnn(dncnn::Config { width: 4, depth: 3, ..dncnn::Config::default() })
}

fn diffusion() -> guided_unet::Config {
    guided_unet::Config::small()
}

fn params(network: &impl CardNetwork) -> Params {
    let params = Params::new();
    let scope = params.scope(Stream::new(1, "bundle"), DType::F32, &Device::Cpu);
    network.define(&scope).unwrap();
    params
}

fn bundle<N: CardNetwork>(network: &N) -> Bundle<N> {
    let card = Card::new("a-0001", network, "YX", json!({"fit": "dataset"}), 255.0, "seed = 1\n");
    Bundle { card, weights: params(network).tensors() }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    (dir, path)
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn models_of_any_network_are_read_as_they_were_written() {
    fn check<N: CardNetwork + PartialEq>(network: &N) {
        let (_dir, path) = place();
        let mut bundle = bundle(network);
        bundle.card.extra.insert("steps".into(), json!(200));
        bundle.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for read in [Bundle::<N>::load(&path), Bundle::from_bytes(&bytes, &path)] {
            let read = read.unwrap();
            assert_eq!(read.card, bundle.card);
            assert!(read.weights.keys().eq(bundle.weights.keys()));
            for (name, weight) in &read.weights {
                assert_eq!(values(weight), values(&bundle.weights[name]), "{name}");
            }
        }
    }
    check(&image());
    check(&diffusion());
}

#[test]
fn a_card_without_more_to_say_is_as_it_always_was() {
    let json = serde_json::to_value(bundle(&image()).card).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    let expected = "version name network normalisation data_range axes step score config";
    assert_eq!(keys, expected.split(' ').collect::<Vec<_>>());
}

#[test]
fn half_a_model_fills_a_network_of_f32() {
    let (_dir, path) = place();
    let (network, own) = (image(), bundle(&image()));
    own.save(&path).unwrap();
    let whole = path.metadata().unwrap().len();
    own.half().unwrap().save(&path).unwrap();
    let half = path.metadata().unwrap().len();
    let elements: usize = own.weights.values().map(Tensor::elem_count).sum();
    assert!(whole - half >= 2 * elements as u64 - 64, "{whole} {half}");
    let read = Bundle::<NetworkConfig>::load(&path).unwrap();
    let filled = params(&network);
    filled.set(&read.weights).unwrap();
    for (name, weight) in filled.tensors() {
        assert_eq!(weight.dtype(), DType::F32, "{name}");
        for (a, b) in values(&weight).iter().zip(values(&own.weights[&name])) {
            // half a unit of the last of eleven bits, or of the smallest number
            assert!((a - b).abs() <= (b.abs() * 0.5f32.powi(11)).max(0.5f32.powi(25)), "{a} {b}");
        }
    }
}

#[test]
fn weights_beyond_f16_are_refused() {
    let mut own = bundle(&image());
    let name = own.weights.keys().next().unwrap().clone();
    own.weights.insert(name.clone(), Tensor::new(&[1f32, 7e4], &Device::Cpu).unwrap());
    let error = own.half().unwrap_err();
    assert!(matches!(&error, BundleError::NotHalf { name: n, .. } if *n == name), "{error}");
}

#[test]
fn the_model_of_another_network_is_named() {
    let (_dir, path) = place();
    bundle(&image()).save(&path).unwrap();
    let message = Bundle::<guided_unet::Config>::load(&path).unwrap_err().to_string();
    assert!(
        message.starts_with(
            "this is a model of the network `dncnn`, but the network `guided_unet` is needed\nhint: "
        ),
        "{message}"
    );
    bundle(&diffusion()).save(&path).unwrap();
    let message = Bundle::<NetworkConfig>::load(&path).unwrap_err().to_string();
    assert!(
        message.starts_with(
            "this is a model of the network `guided_unet`, but an image-to-image network is needed"
        ),
        "{message}"
    );
}

#[test]
fn a_damaged_card_is_not_taken_for_another_network() {
    let (_dir, path) = place();
    let own = bundle(&image());
    let card = serde_json::to_string(&own.card).unwrap().replace("\"width\"", "\"widht\"");
    let metadata = [("limpid".to_owned(), card)].into();
    limpid_nn::tensors::save(&path, &own.weights, &metadata).unwrap();
    let error = Bundle::<NetworkConfig>::load(&path).unwrap_err();
    assert!(matches!(&error, BundleError::BadCard { message, .. } if message.contains("widht")));
}
