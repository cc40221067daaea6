use super::*;
use crate::dataset::{DatasetConfig, Listing};
use crate::images::open_all;
use crate::normalise::Normalisation;
use limpid_io::{Data, Volume};

/// Two images: one dark but for a bright corner of 10x10 pixels, one of a single value.
fn two_images(dir: &std::path::Path) -> (Collection, Vec<Scene>) {
    let corner = |i: usize| if i / 60 >= 40 && i % 60 >= 50 { 9.0 } else { 0.0 };
    let first = (0..50 * 60).map(corner).collect();
    let paths = vec![dir.join("a.tif"), dir.join("b.tif")];
    let yx = || "YX".parse().unwrap();
    let save = |path, data, shape: [usize; 2]| {
        limpid_io::save(path, &Volume::new(Data::F32(data), &shape, yx()).unwrap()).unwrap();
    };
    save(&paths[0], first, [50, 60]);
    save(&paths[1], vec![0.0; 30 * 30], [30, 30]);
    let files = open_all(&paths, 2, None, &mut (1 << 30)).unwrap();
    let config = DatasetConfig::Noise2void { images: String::new(), mask: Default::default() };
    let scenes = config.scenes(&Listing { paths, groups: vec![vec![0], vec![1]] }, &files).unwrap();
    let input = vec![Normalisation::identity()];
    (Collection { config, files, input, target: None, range: [0.0, 1.0] }, scenes)
}

fn places(config: &SamplerConfig, n: usize) -> (Vec<Place>, Vec<Scene>) {
    let dir = tempfile::tempdir().unwrap();
    let (collection, scenes) = two_images(dir.path());
    let sampler = Sampler::new(config, &collection, &scenes, &[8, 12]).unwrap();
    let stream = Stream::new(1, "sampler");
    let order = sampler.order(n, stream);
    assert_eq!(order.len(), n);
    let place = |(i, k): (usize, &u32)| {
        let mut draws = stream.at(0, i as u64).draws();
        sampler.place(*k, n, &collection, &scenes, &mut draws).unwrap()
    };
    let all: Vec<Place> = order.iter().enumerate().map(place).collect();
    for p in &all {
        let scene = &scenes[p.scene];
        assert!((0..2).all(|a| p.start[a] + p.size[a] <= scene.size[a]), "{p:?}");
    }
    (all, scenes)
}

#[test]
fn uniform_patches_reach_every_place_in_proportion() {
    let (all, _) = places(&SamplerConfig::Uniform {}, 4000);
    let (first, second): (Vec<_>, Vec<_>) = all.iter().partition(|p| p.scene == 0);
    let expected = 4000.0 * (43.0 * 49.0) / (43.0 * 49.0 + 23.0 * 19.0);
    assert!((first.len() as f64 - expected).abs() < 2.0, "strata give the share exactly");
    for (some, last) in [(first, [42, 48]), (second, [22, 18])] {
        for a in 0..2 {
            assert!(
                some.iter().any(|p| p.start[a] == 0) && some.iter().any(|p| p.start[a] == last[a])
            );
        }
    }
}

#[test]
fn grids_cover_every_pixel() {
    for stride in [vec![], vec![5], vec![7, 3]] {
        let dir = tempfile::tempdir().unwrap();
        let (_, scenes) = two_images(dir.path());
        let all = grid(&scenes, &[8, 12], &stride).unwrap();
        for (i, scene) in scenes.iter().enumerate() {
            let mut covered = vec![false; scene.size.iter().product()];
            for p in all.iter().filter(|p| p.scene == i) {
                for y in p.start[0]..p.start[0] + 8 {
                    covered[y * scene.size[1] + p.start[1]..][..12].fill(true);
                }
            }
            assert!(covered.iter().all(|c| *c));
        }
    }
    let config = SamplerConfig::Grid { stride: vec![] };
    let (all, _) = places(&config, 2 * (7 * 5 + 4 * 3));
    let mut starts: Vec<_> = all.iter().map(|p| (p.scene, p.start.clone())).collect();
    starts.sort();
    assert!(starts.chunks(2).all(|two| two[0] == two[1]), "each patch once a pass");
}

#[test]
fn foreground_patches_are_centred_on_bright_pixels() {
    let config = SamplerConfig::Foreground { threshold: 5.0, fraction: 1.0 };
    let (all, _) = places(&config, 300);
    assert!(all.iter().all(|p| p.scene == 0 && p.start[0] + 8 > 43 && p.start[1] + 12 > 55));
    let config = SamplerConfig::Foreground { threshold: 5.0, fraction: 0.3 };
    let (all, _) = places(&config, 2000);
    let bright =
        all.iter().filter(|p| p.scene == 0 && p.start[0] >= 36 && p.start[1] >= 44).count();
    assert!((550..750).contains(&bright), "{bright}");
}

#[test]
fn weights_draw_patches_to_light_or_edges() {
    for by in [Weight::Intensity, Weight::Gradient] {
        let (all, _) = places(&SamplerConfig::Weighted { by }, 400);
        assert!(all.iter().all(|p| p.scene == 0 && p.start[0] + 8 > 36), "{by:?}");
    }
}

#[test]
fn listed_centres_are_read_and_mistakes_named_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let (collection, scenes) = two_images(dir.path());
    let list = dir.path().join("list.csv");
    let read = |text: &str| {
        std::fs::write(&list, text).unwrap();
        let config = SamplerConfig::Coordinates { file: list.display().to_string() };
        match Sampler::new(&config, &collection, &scenes, &[8, 12]).map(|s| s.source) {
            Ok(Source::Listed(places)) => Ok(places),
            Ok(_) => panic!("not a list"),
            Err(error) => Err(error.to_string()),
        }
    };
    let got = read("file,y,x\na.tif, 20, 30\n\nb, 0, 29\n").unwrap();
    let starts: Vec<_> = got.iter().map(|p| (p.scene, p.start.clone())).collect();
    assert_eq!(starts, [(0, vec![16, 24]), (1, vec![0, 18])]);
    for (text, says) in [
        ("", "line 1: the list is empty"),
        ("a,1,2\n", "not a header"),
        ("file,y,x\na,1\n", "line 2: `a,1` does not match"),
        ("file,y,x\na,1,-2\n", "line 2"),
        ("file,y,x\na,1,1\nc,1,1\n", "line 3: no training image is named `c`"),
        ("file,y,x\na,50,1\n", "line 2: Y is 50, but the image has 50"),
        ("file,y\na,5\n", "no such column"),
        ("file,y,x\n", "no centre"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(says) && error.ends_with("list.csv"), "{error}");
    }
}
