use super::*;
use limpid_kernels::rng::Stream;
use proptest::prelude::*;

fn image(shape: &[usize]) -> InMemory {
    let mut data = vec![0f32; shape.iter().product()];
    Stream::new(3, "tiles").fill_normal(&mut data);
    InMemory { shape: shape.to_vec(), data }
}

fn needs(rank: usize, divisor: usize, field: usize) -> Needs {
    Needs { divisor: vec![divisor; rank], receptive_field: vec![field; rank], bytes_per_pixel: 0 }
}

fn run(
    config: &TileConfig,
    needs: &Needs,
    source: &InMemory,
    predict: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Vec<f32> {
    let spatial = &source.shape[1..];
    let plan = Plan::new(config, needs, spatial).unwrap();
    let inferencer = Inferencer { plan, deviation: false, device: Device::Cpu };
    let mut sink = Collect::default();
    inferencer.run(source, &mut sink, predict, |_, _| {}).unwrap();
    sink.image(spatial[0], spatial.iter().product()).data
}

fn blends() -> impl Strategy<Value = Blend> {
    prop_oneof![
        Just(Blend::Cosine {}),
        (0.0f64..0.8).prop_map(|o| Blend::Constant { overlap: vec![o] }),
        (0.0f64..0.8)
            .prop_map(|o| Blend::Gaussian { overlap: vec![o], sigma_scale: 0.125 }),
        (0.2f64..1.0).prop_map(|step| Blend::Nnunet { step }),
        (1usize..6).prop_map(|s| Blend::Stride { stride: vec![s] }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn an_identity_model_returns_its_input_bit_for_bit(
        blend in blends(),
        spatial in prop::collection::vec(1usize..23, 1..4),
        window in 1usize..12,
        divisor in 1usize..5,
        field in 1usize..9,
        channels in 1usize..3,
        batch in 1usize..4,
        zero in any::<bool>(),
    ) {
        let source = image(&[&[channels], spatial.as_slice()].concat());
        let blend = match blend {
            Blend::Stride { stride } => Blend::Stride { stride: vec![stride[0].min(window)] },
            other => other,
        };
        let config = TileConfig {
            size: vec![window; spatial.len()],
            blend,
            batch,
            padding: if zero { Padding::Zero } else { Padding::Reflect },
            ..TileConfig::default()
        };
        let out = run(&config, &needs(spatial.len(), divisor, field), &source, |x| {
            prop_assert_all_divisible(x, divisor);
            Ok(x.clone())
        });
        prop_assert_eq!(out, source.data);
    }
}

fn prop_assert_all_divisible(x: &Tensor, divisor: usize) {
    assert!(x.dims()[2..].iter().all(|n| n % divisor == 0), "{:?}", x.dims());
}

/// Mean over a (2r+1)² neighbourhood with zeros outside: a network of receptive field 2r+1.
fn box_mean(x: &Tensor, r: usize) -> Result<Tensor> {
    let k = 2 * r + 1;
    let w = (Tensor::ones((1, 1, k, k), DType::F32, &Device::Cpu)? / (k * k) as f64)?;
    let spec = limpid_kernels::ConvSpec { padding: vec![r; 2], ..limpid_kernels::ConvSpec::unit(2) };
    Ok(limpid_kernels::conv(x, &w, None, &spec)?)
}

#[test]
fn with_the_halo_dropped_tiles_equal_the_whole_image() {
    let source = image(&[1, 61, 47]);
    let field = needs(2, 1, 7);
    let whole = TileConfig { size: vec![61, 47], ..TileConfig::default() };
    let tiled = TileConfig { size: vec![24, 20], ..TileConfig::default() };
    let a = run(&whole, &field, &source, |x| box_mean(x, 3));
    let b = run(&tiled, &field, &source, |x| box_mean(x, 3));
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-6, "{worst}");
}

#[test]
fn memory_is_bounded_by_two_windows() {
    let plan =
        |z| Plan::new(&TileConfig { size: vec![16; 3], ..TileConfig::default() }, &needs(3, 1, 5), &[z, 64, 64]);
    assert_eq!(plan(64).unwrap().blend_bytes(1), plan(6400).unwrap().blend_bytes(1));
}

#[test]
fn orientations_turn_back_exactly() {
    let x = Tensor::from_vec((0..2 * 36).map(|v| v as f32).collect(), (1, 2, 6, 6), &Device::Cpu).unwrap();
    for (tta, rank, count) in [(Tta::Flips, 2, 4), (Tta::Dihedral, 2, 8), (Tta::Flips, 3, 8)] {
        assert_eq!(tta.orientations(rank).len(), count);
    }
    let mut seen = std::collections::BTreeSet::new();
    for o in Tta::Dihedral.orientations(2) {
        let turned = o.apply(&x).unwrap();
        seen.insert(format!("{:?}", turned.flatten_all().unwrap().to_vec1::<f32>().unwrap()));
        let back = o.invert(&turned).unwrap();
        assert_eq!(
            back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
    assert_eq!(seen.len(), 8);
}

#[test]
fn wrong_settings_say_what_to_do() {
    let n = needs(2, 4, 5);
    let bad = |config: TileConfig, image: &[usize]| Plan::new(&config, &n, image).unwrap_err().to_string();
    assert!(bad(TileConfig { size: vec![8], ..TileConfig::default() }, &[9, 9]).contains("1 numbers"));
    assert!(bad(TileConfig::default(), &[9, 9, 9]).contains("the input is 3-D"));
    let overlap = Blend::Constant { overlap: vec![1.0] };
    assert!(bad(TileConfig { blend: overlap, size: vec![8, 8], ..TileConfig::default() }, &[9, 9]).contains("`overlap` is 1"));
}
