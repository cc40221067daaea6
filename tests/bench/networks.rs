//! Inference and training steps of networks; `networks.py` has the same ones.

use crate::step::{Trained, made};
use crate::{Mode, Work, device, numbers};
use candle_core::{DType, Tensor};
use limpid_arch::{
    ImageArchitecture, Mixed, Network, basic_unet, dncnn, grog_mlp, guided_unet, patch_gan,
    pix2pix_unet, swinir, vit,
};
use limpid_kernels::rng::Stream;
use limpid_losses::losses::{complex_l1, gan, l1, l2};
use limpid_nn::{Ctx, Error, Params, Replay, Result, Scope};

type Forward = Box<dyn Fn(&Tensor, &Ctx) -> Result<Tensor>>;

/// The work on a network, if that is what the name means.
pub(crate) fn work(mode: Mode, name: &str, shapes: &[Vec<usize>]) -> Result<Option<Work>> {
    let [shape] = shapes else { return Ok(None) };
    match (mode, name) {
        (Mode::Backward, _) => Ok(None),
        (Mode::Train, "pix2pix") => pix2pix(shape).map(Some),
        (Mode::Train, "grog_mlp") => grog(shape).map(Some),
        _ => {
            let params = Params::new();
            let Some(forward) = network(name, &scope(&params)?)? else { return Ok(None) };
            let x = numbers(1, shape)?;
            Ok(Some(match mode {
                Mode::Train => supervised(params, forward, x, false)?,
                Mode::Recompute => supervised(params, forward, x, true)?,
                _ => inference(params, forward, x),
            }))
        }
    }
}

fn scope(params: &Params) -> Result<Scope> {
    Ok(params.scope(Stream::new(0, "bench"), DType::F32, &device()?))
}

fn network(name: &str, scope: &Scope) -> Result<Option<Forward>> {
    let image = |config: &dyn ImageArchitecture| -> Result<Option<Forward>> {
        let net = Mixed(config.build(scope)?);
        Ok(Some(Box::new(move |x, ctx| net.forward(x, ctx))))
    };
    match name {
        "emdiffuse" => {
            let net = guided_unet::Config::emdiffuse().build(scope)?;
            let gamma = Tensor::new(&[0.5f32], &device()?)?;
            Ok(Some(Box::new(move |x, ctx| Ok(net.forward(x, &gamma, None, ctx)?.output))))
        }
        "basic_unet" => image(&basic_unet::Config { dims: 3, ..Default::default() }),
        "dncnn" => image(&dncnn::Config::default()),
        "dncnn_small" => image(&dncnn::Config::small()),
        "swinir_light" => image(&swinir::Config::lightweight(2)),
        "vit_b" => image(&vit::Config::default()),
        _ => Ok(None),
    }
}

fn inference(params: Params, forward: Forward, x: Tensor) -> Work {
    let guard = params.no_grad();
    let mut pass = Replay::new();
    let call = move || {
        let _untracked = &guard;
        pass.run(&[&x], &Ctx::eval(), |inputs, ctx| forward(&inputs[0], ctx))
    };
    Work { parameters: params.count(), call: Box::new(call) }
}

/// Squared error against a target of one channel, which all networks trained here give.
fn supervised(params: Params, forward: Forward, x: Tensor, recompute: bool) -> Result<Work> {
    let mut shape = x.dims().to_vec();
    shape[1] = 1;
    let target = numbers(2, &shape)?;
    let mut trained = Trained::new(params)?;
    let parameters = trained.params.count();
    let (mut step, mut passes) = (0, Replay::new());
    let call = move || {
        step += 1;
        let ctx = Ctx::train(Stream::new(step, "bench")).recomputing(recompute);
        let (y, found) = passes.run(&[&x, &target], &ctx, |inputs, ctx| {
            let y = forward(&inputs[0], ctx)?;
            let found = trained.find(&l2(&y, &inputs[1])?)?;
            Ok::<_, Error>((y.detach(), found))
        })?;
        made(&[trained.step(&found)?])?;
        Ok(y)
    };
    Ok(Work { parameters, call: Box::new(call) })
}

/// A step of NectarGAN: the discriminator, then the generator, which the discriminator judges anew.
fn pix2pix(shape: &[usize]) -> Result<Work> {
    let (x, y) = (numbers(1, shape)?, numbers(2, shape)?);
    let [generator, discriminator] = [Params::new(), Params::new()];
    let g = Mixed(pix2pix_unet::Config::default().build(&scope(&generator)?)?);
    let d = patch_gan::PatchGan::new(&patch_gan::Config::default(), &scope(&discriminator)?)?;
    let parameters = generator.count() + discriminator.count();
    let (mut generator, mut discriminator) =
        (Trained::new(generator)?, Trained::new(discriminator)?);
    let mut step = 0;
    let call = move || {
        step += 1;
        let ctx = Ctx::train(Stream::new(step, "bench"));
        let fake = g.forward(&x, &ctx)?;
        let real = gan::vanilla(&d.judge(&x, &y, &ctx)?, 1.0)?;
        let faked = gan::vanilla(&d.judge(&x, &fake.detach(), &ctx)?, 0.0)?;
        let first = discriminator.minimise(&((real + faked)? * 0.5)?)?;
        // the discriminator is not moved by the generator's loss
        let frozen = discriminator.params.no_grad();
        let fooled = gan::vanilla(&d.judge(&x, &fake, &ctx)?, 1.0)?;
        drop(frozen);
        let second = generator.minimise(&(fooled + (l1(&fake, &y)? * 100.0)?)?)?;
        made(&[first, second])?;
        Ok(fake)
    };
    Ok(Work { parameters, call: Box::new(call) })
}

/// A step of implicit GROG on a batch of geometries `[N, features]`.
fn grog(shape: &[usize]) -> Result<Work> {
    let config = grog_mlp::Config::default();
    let [n, features] = *shape else { return Err(Error::shape("bench", "[N, features]", shape)) };
    let params = Params::new();
    let net = config.build(&scope(&params)?)?;
    let features = numbers(1, &[n, features])?;
    let sources = numbers(2, &[n, config.sources, config.coils, 2])?;
    let target = numbers(3, &[n, config.coils, 2])?;
    let mut trained = Trained::new(params)?;
    let parameters = trained.params.count();
    let call = move || {
        let y = net.forward(&features, &sources)?;
        made(&[trained.minimise(&complex_l1(&y, &target)?)?])?;
        Ok(y)
    };
    Ok(Work { parameters, call: Box::new(call) })
}
