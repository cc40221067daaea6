//! Transformers: what shapes of weights do not tell is taken from the input, or tried.

use candle_core::{DType, Tensor};
use limpid_arch::swin_unetr::Merging;
use limpid_arch::{ImageArchitecture, NetworkConfig, VitConfig};
use limpid_kernels::rng::Stream;
use limpid_kernels::{Precision, precision, set_precision};
use limpid_nn::{Ctx, Params};

use super::fixture::{Fixture, Outcome, device, text, values};
use super::networks::{Weights, image_network, recognised_image};

/// Compares the network whose untold settings bring its output nearest to the reference.
///
/// A wrong number of heads or a wrong order of pixels is off by far more than rounding, so a network
/// that is wrong otherwise fits with none of them.
pub(super) fn network(fixture: &Fixture) -> Result<Outcome, String> {
    let (config, weights) = recognised_image(fixture)?;
    let size = fixture.shape("input.0")?.get(2..).unwrap_or(&[]).to_vec();
    let mut found = variants(config, &size).into_iter();
    let mut best = found.next().ok_or("no setting is possible")?;
    if let Some(second) = found.next() {
        // which one it is does not depend on how it is computed
        let precision = precision();
        set_precision(Precision::F32);
        let mut error = error(fixture, &best, &weights);
        for other in std::iter::once(second).chain(found) {
            let another = self::error(fixture, &other, &weights);
            if another < error {
                (best, error) = (other, another);
            }
        }
        set_precision(precision);
    }
    image_network(fixture, &best, &weights)
}

/// The configurations with the same weights, for images of a size.
fn variants(config: NetworkConfig, size: &[usize]) -> Vec<NetworkConfig> {
    let size = || size.to_vec();
    match config {
        NetworkConfig::Vit(c) => {
            let residuals =
                if c.in_channels == c.out_channels { [true, false] } else { [false; 2] };
            let heads = heads(&c.transformer).into_iter();
            heads
                .flat_map(|transformer| residuals.map(|residual| (transformer.clone(), residual)))
                .map(|(transformer, residual)| {
                    let image_size = size();
                    NetworkConfig::Vit(limpid_arch::vit::Config {
                        image_size,
                        transformer,
                        residual,
                        ..c.clone()
                    })
                })
                .collect()
        }
        NetworkConfig::VitAutoenc(mut c) => {
            c.image_size = size();
            let with = |transformer| {
                NetworkConfig::VitAutoenc(limpid_arch::vit_autoenc::Config {
                    transformer,
                    ..c.clone()
                })
            };
            heads(&c.transformer).into_iter().map(with).collect()
        }
        NetworkConfig::Unetr(mut c) => {
            c.image_size = size();
            let with = |transformer| {
                NetworkConfig::Unetr(limpid_arch::unetr::Config { transformer, ..c.clone() })
            };
            heads(&c.transformer).into_iter().map(with).collect()
        }
        NetworkConfig::Swinir(mut c) => {
            if !c.positions.is_empty() {
                c.positions = size().iter().map(|s| s.next_multiple_of(c.window.max(1))).collect();
            }
            let settings =
                [(true, c.image_range), (true, 255.0), (true, 1.0), (false, c.image_range)];
            let with = |(shifted, image_range)| {
                NetworkConfig::Swinir(limpid_arch::swinir::Config {
                    shifted,
                    image_range,
                    ..c.clone()
                })
            };
            settings.map(with).into()
        }
        NetworkConfig::SwinUnetr(c) => {
            let settings = [Merging::Original, Merging::Complete]
                .into_iter()
                .flat_map(|merging| [true, false].map(|normalize| (merging, normalize)));
            let with = |(merging, normalize)| {
                NetworkConfig::SwinUnetr(limpid_arch::swin_unetr::Config {
                    merging,
                    normalize,
                    ..c.clone()
                })
            };
            settings.map(with).collect()
        }
        other => vec![other],
    }
}

/// The transformer with each number of heads that divides its width.
fn heads(c: &VitConfig) -> Vec<VitConfig> {
    let possible = (1..=c.width).filter(|h| c.width.is_multiple_of(*h));
    possible.map(|heads| VitConfig { heads, ..c.clone() }).collect()
}

/// How far the output is off at most; infinite if it cannot be computed.
fn error(fixture: &Fixture, config: &NetworkConfig, weights: &Weights) -> f64 {
    let run = || -> Result<f64, String> {
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "parity"), DType::F32, &device());
        let net = config.build(&scope).map_err(text)?;
        params.set(weights).map_err(text)?;
        let _untracked = params.no_grad();
        let output = net.forward(fixture.tensor("input.0")?, &Ctx::eval()).map_err(text)?;
        let difference = |expected: &Tensor| (&output - expected)?.abs();
        let off = difference(fixture.tensor("output")?).map_err(text)?;
        let worst =
            |worst: f64, off: f64| if off.is_nan() { f64::INFINITY } else { worst.max(off) };
        Ok(values(&off)?.into_iter().fold(0.0, worst))
    };
    run().unwrap_or(f64::INFINITY)
}
