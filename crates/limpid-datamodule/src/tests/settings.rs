//! Settings as they come from a file.

use super::*;
use crate::dataset::SimulatedTarget;
use crate::noise::NoiseConfig;
use crate::sampler::SamplerConfig;
use limpid_config::{Request, load};

fn read(text: &str) -> Result<DataConfig, String> {
    let request = Request { builtin: Some(("test", text)), ..Request::default() };
    load::<DataConfig>(&request).map(|l| l.value).map_err(|e| e.to_string())
}

#[test]
fn every_kind_can_be_written_in_toml() {
    let config = read(
        r#"
        dims = 3
        patch = [16, 32, 32]
        normalisation = { kind = "anscombe", gain = 2 }
        target_normalisation = { kind = "scale", divide = 255 }
        normalisation_fit = "image"
        sampler = { kind = "foreground", threshold = 0.4 }
        [dataset]
        kind = "simulated"
        images = "clean/*.tif"
        target = "noisy"
        noise = { kind = "em", dose = 40, line_gain = 0.02 }
        [validation]
        limit = 8
        [validation.split]
        kind = "sets"
        [validation.split.sets.real]
        kind = "paired"
        input = "a"
        target = "b"
        [validation.split.sets.single]
        kind = "noise2void"
        images = "c"
        mask = { strategy = "median", line = { axis = "x" } }
        "#,
    )
    .unwrap();
    let DatasetConfig::Simulated { noise, target, fixed, .. } = &config.dataset else { panic!() };
    assert!(matches!(noise, NoiseConfig::Em { dose: 40.0, sigma: 0.0, .. }));
    assert_eq!((*target, *fixed), (SimulatedTarget::Noisy, false));
    assert_eq!(config.sampler, SamplerConfig::Foreground { threshold: 0.4, fraction: 0.33 });
    assert_eq!(config.patch_size(), [16, 32, 32]);
    let SplitConfig::Sets { sets } = &config.validation.split else { panic!() };
    assert_eq!(sets.keys().collect::<Vec<_>>(), ["real", "single"]);
    // and what is written can be read again
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<DataConfig>(&text).unwrap(), config);
}

#[test]
fn mistakes_are_found_all_at_once() {
    let error = read(
        r#"
        dims = 2
        patch = [16, 32]
        batch = 0
        [dataset]
        kind = "noise2noise"
        input = ""
        [normalisation]
        kind = "percentile"
        low = 50
        high = 40
        "#,
    )
    .unwrap_err();
    for part in [
        "dataset.input",
        "dataset.target",
        "normalisation.low",
        "batch",
        "augment.orientation",
        "\"flips\"",
    ] {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
    let error = read("[dataset]\nkind = \"noise2void\"\nimage = \"a\"\nmaks = 1").unwrap_err();
    assert!(error.contains("`image`") && error.contains("`maks`"), "{error}");
    let error = read("dims = 4\ndataset = { kind = \"paired\", input = \"a\", target = \"b\" }");
    assert!(error.unwrap_err().contains("must be 2 or 3"));
}
