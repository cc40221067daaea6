use super::*;
use limpid_kernels::rng::Stream;
use proptest::prelude::*;

fn image(shape: &[usize]) -> InMemory {
    let mut data = vec![0f32; shape.iter().product()];
    Stream::new(3, "tiles").fill_normal(&mut data);
    InMemory { shape: shape.to_vec(), data }
}

fn needs(rank: usize, divisor: usize, field: usize) -> Needs {
    Needs {
        any_size_from: None,
        fixed_size: None,
        divisor: vec![divisor; rank],
        receptive_field: vec![field; rank],
        bytes_per_pixel: 0,
        channels: 1,
    }
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
        (0.0f64..0.8).prop_map(|o| Blend::Gaussian { overlap: vec![o], sigma_scale: 0.125 }),
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
    let spec =
        limpid_kernels::ConvSpec { padding: vec![r; 2], ..limpid_kernels::ConvSpec::unit(2) };
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

/// 4×4 averages spread over their block, as two levels of a U-Net pool and upsample, then a mean
/// over 3×3: divisor 4, receptive field 9.
fn pool_and_spread(x: &Tensor) -> Result<Tensor> {
    let spec =
        limpid_kernels::PoolSpec { kernel: vec![2; 2], stride: vec![2; 2], padding: vec![0; 2] };
    let pooled = limpid_kernels::avg_pool(x, &spec, true)?;
    let pooled = limpid_kernels::avg_pool(&pooled, &spec, true)?;
    let spread = limpid_kernels::resize(&pooled, &x.dims()[2..], limpid_kernels::Resize::Nearest)?;
    box_mean(&spread, 1)
}

#[test]
fn windows_lie_on_the_pooling_grid() {
    let source = image(&[1, 61, 47]);
    let field = needs(2, 4, 9);
    let whole = run(&TileConfig::default(), &field, &source, pool_and_spread);
    for size in [vec![24, 20], vec![16, 32], vec![200, 28]] {
        let tiled = TileConfig { size, ..TileConfig::default() };
        let plan = Plan::new(&tiled, &field, &[61, 47]).unwrap();
        assert!(plan.starts.len() > 1 && plan.size[0] <= 64);
        assert!(plan.starts.iter().flatten().all(|s| s % 4 == 0));
        let tiled = run(&tiled, &field, &source, pool_and_spread);
        let worst = whole.iter().zip(&tiled).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-6, "{worst} for {:?}", plan.size);
    }
}

#[test]
fn memory_is_bounded_by_one_window() {
    let config = TileConfig { size: vec![16; 3], ..TileConfig::default() };
    let plan = |z| Plan::new(&config, &needs(3, 1, 5), &[z, 64, 64]).unwrap();
    assert_eq!(plan(64).blend_bytes(), plan(6400).blend_bytes());
    // mean, weight and what is handed out, of the 14 rows that a window without halo has
    assert_eq!(plan(6400).blend_bytes(), 3 * 4 * 14 * 64 * 64);
}

#[test]
fn the_chosen_window_leaves_memory_for_blending_and_says_what_it_lacks() {
    let image = [400, 2048, 2048];
    let plan = |budget_mib, field: usize, channels| {
        let needs = Needs { bytes_per_pixel: 500, channels, ..needs(3, 8, field) };
        Plan::new(&TileConfig { budget_mib, ..TileConfig::default() }, &needs, &image).unwrap()
    };
    for channels in [1, 2] {
        let plan = plan(4096, 17, channels);
        assert!(plan.blend_bytes() + plan.network_bytes() <= 4096 << 20, "{plan}");
        let text = plan.to_string();
        assert!(!text.contains("context") && !text.contains("budget"), "{plan}");
    }
    let cut = plan(512, 200, 1);
    assert!(cut.to_string().contains(" of 100 pixels, blending "), "{cut}");
    assert!(cut.to_string().ends_with(", beyond the budget of 512 MiB"), "{cut}");
    assert_eq!(cut.size[0], 32, "four divisors");
    // a field that halving would cut keeps its context where the budget has some left
    let roomy = plan(16_384, 120, 1);
    assert!(!roomy.to_string().contains("context"), "{roomy}");
    assert!(roomy.blend_bytes() + roomy.network_bytes() <= 16_384 << 20, "{roomy}");
}

#[test]
fn running_moments_are_those_of_all_views() {
    let x = Tensor::from_vec(image(&[1, 2, 6, 6]).data, (1, 2, 6, 6), &Device::Cpu).unwrap();
    let ramp = Tensor::arange(0f32, 36.0, &Device::Cpu).unwrap().reshape((1, 1, 6, 6)).unwrap();
    let predict = |x: &Tensor| -> Result<Tensor> { Ok(x.broadcast_mul(&ramp)?) };
    let views: Vec<Vec<f32>> = predictions(&x, Tta::Dihedral, predict)
        .unwrap()
        .iter()
        .map(|v| v.flatten_all().unwrap().to_vec1().unwrap())
        .collect();
    let (mean, deviation) = averaged(&x, Tta::Dihedral, true, predict).unwrap();
    let mean: Vec<f32> = mean.flatten_all().unwrap().to_vec1().unwrap();
    let deviation: Vec<f32> = deviation.unwrap().flatten_all().unwrap().to_vec1().unwrap();
    for i in 0..72 {
        let m = views.iter().map(|v| f64::from(v[i])).sum::<f64>() / 8.0;
        let v = views.iter().map(|v| (f64::from(v[i]) - m).powi(2)).sum::<f64>() / 8.0;
        assert!(
            (f64::from(mean[i]) - m).abs() < 1e-5
                && (f64::from(deviation[i]) - v.sqrt()).abs() < 1e-5
        );
    }
    // views that agree do not deviate, and their mean is the view
    let (same, none) = averaged(&x, Tta::Flips, true, |x| Ok(x.clone())).unwrap();
    assert_eq!(
        (same - &x).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(),
        0.0
    );
    assert_eq!(none.unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    assert!(averaged(&x, Tta::Flips, false, |x| Ok(x.clone())).unwrap().1.is_none());
}

#[test]
fn absurd_sizes_are_refused_or_clamped() {
    let found = |config: TileConfig| {
        limpid_config::check(&config).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert!(
        found(TileConfig { size: vec![usize::MAX, 3], ..TileConfig::default() }).contains("2^40")
    );
    assert!(
        found(TileConfig { size: vec![1 << 21, 1 << 20], ..TileConfig::default() })
            .contains("2^40")
    );
    assert!(found(TileConfig { batch: 65_537, ..TileConfig::default() }).contains("65536"));
    assert!(
        found(TileConfig { budget_mib: (1 << 30) + 1, ..TileConfig::default() }).contains("2^30")
    );
    assert_eq!(found(TileConfig::default()), "");
    let plan = |config: &TileConfig, image: &[usize]| Plan::new(config, &needs(2, 4, 5), image);
    let mut huge = TileConfig { size: vec![1 << 20; 2], ..TileConfig::default() };
    assert_eq!(plan(&huge, &[30, 41]).unwrap().size, [32, 44]);
    huge.tta = Tta::Dihedral;
    assert_eq!(plan(&huge, &[30, 41]).unwrap().size, [44, 44]);
    huge.blend = Blend::Constant { overlap: vec![0.25] };
    assert!(plan(&huge, &[30, 41]).unwrap_err().to_string().contains("far larger"));
    let many = TileConfig {
        size: vec![4, 4],
        blend: Blend::Stride { stride: vec![1] },
        ..TileConfig::default()
    };
    assert!(plan(&many, &[1 << 14, 1 << 14]).unwrap_err().to_string().contains("2^24 windows"));
}

#[test]
fn orientations_turn_back_exactly() {
    let x = Tensor::from_vec((0..2 * 36).map(|v| v as f32).collect(), (1, 2, 6, 6), &Device::Cpu)
        .unwrap();
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
    let bad = |config: TileConfig, image: &[usize]| {
        Plan::new(&config, &n, image).unwrap_err().to_string()
    };
    assert!(
        bad(TileConfig { size: vec![8], ..TileConfig::default() }, &[9, 9]).contains("1 numbers")
    );
    assert!(bad(TileConfig::default(), &[9, 9, 9]).contains("the input is 3-D"));
    let overlap = Blend::Constant { overlap: vec![1.0] };
    assert!(
        bad(TileConfig { blend: overlap, size: vec![8, 8], ..TileConfig::default() }, &[9, 9])
            .contains("`overlap` is 1")
    );
}

#[test]
fn an_image_in_one_piece_is_left_as_it_is_if_the_network_can_take_it() {
    let any = Needs { any_size_from: Some(16), ..needs(2, 8, 40) };
    let config = TileConfig::default();
    let plan = |needs: &Needs, image: &[usize]| Plan::new(&config, needs, image).unwrap();
    assert_eq!(plan(&any, &[37, 61]).size, [37, 61]);
    assert_eq!(plan(&needs(2, 8, 40), &[37, 61]).size, [40, 64]);
    // too small to be halved as often as the network does
    assert_eq!(plan(&any, &[37, 9]).size, [40, 16]);
    let dihedral = TileConfig { tta: Tta::Dihedral, ..config.clone() };
    assert_eq!(Plan::new(&dihedral, &any, &[37, 37]).unwrap().size, [37, 37]);
    assert_eq!(Plan::new(&dihedral, &any, &[37, 61]).unwrap().size, [40, 40]);
    let source = image(&[1, 37, 61]);
    let same = run(&config, &any, &source, |x| {
        assert_eq!(x.dims(), [1, 1, 37, 61]);
        Ok(x.clone())
    });
    assert_eq!(same, source.data);
}

#[test]
fn a_network_of_one_size_is_given_no_other() {
    let fixed = Needs { fixed_size: Some(vec![16, 24]), ..needs(2, 8, 40) };
    for spatial in [[50, 70], [5, 7], [16, 24]] {
        let source = image(&[&[1], spatial.as_slice()].concat());
        let same = run(&TileConfig::default(), &fixed, &source, |x| {
            assert_eq!(&x.dims()[2..], [16, 24]);
            Ok(x.clone())
        });
        assert_eq!(same, source.data, "{spatial:?}");
    }
    let other = TileConfig { size: vec![32, 32], ..TileConfig::default() };
    let error = Plan::new(&other, &fixed, &[50, 70]).unwrap_err().to_string();
    assert!(error.contains("takes [16, 24] only"), "{error}");
}

#[test]
fn a_prediction_is_told_where_its_windows_are() {
    let source = image(&[1, 9, 14]);
    let config = TileConfig { size: vec![8, 8], batch: 2, ..TileConfig::default() };
    let plan = Plan::new(&config, &needs(2, 2, 1), &[9, 14]).unwrap();
    let inferencer = Inferencer { plan, deviation: false, device: Device::Cpu };
    let mut seen = 0;
    let look = |x: &Tensor, places: &[Vec<isize>]| {
        assert_eq!(x.dims()[0], places.len());
        for (window, place) in x.squeeze(1)?.to_vec3::<f32>()?.iter().zip(places) {
            for (y, row) in window.iter().enumerate() {
                for (x, value) in row.iter().enumerate() {
                    let (y, x) = (place[0] + y as isize, place[1] + x as isize);
                    if (0..9).contains(&y) && (0..14).contains(&x) {
                        assert_eq!(*value, source.data[(y * 14 + x) as usize]);
                        seen += 1;
                    }
                }
            }
        }
        Ok(x.clone())
    };
    inferencer.run_at(&source, &mut Collect::default(), look, |_, _| {}).unwrap();
    assert!(seen >= 9 * 14, "{seen}");
}
