//! The configuration of a diffusion task: the crates' own structs, put together. The two programs
//! share it: one restores images, the other makes layers between slices, which is said by
//! `data.dataset.kind`.

use limpid_arch::guided_unet;
use limpid_cli::training::check_name;
use limpid_config::{Check, Validate};
use limpid_datamodule::DataConfig;
use limpid_datamodule::dataset::DatasetConfig;
use limpid_datamodule::normalise::NormalisationConfig;
use limpid_engine::TrainConfig;
use limpid_models::AxialConfig;
use limpid_models::diffusion::{AleatoricConfig, DiffusionConfig, ProcessConfig, RestoreConfig};
use limpid_nn::optim::OptimizerConfig;
use limpid_nn::schedule::ScheduleConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A diffusion task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the runs: `runs/NAME-0001`.
    pub name: String,
    /// Seed of everything random in training.
    pub seed: u64,
    /// Span of valid intensities in the unit of the files (255 for 8-bit images). There is no
    /// default: PSNR and SSIM mean nothing without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_range: Option<f64>,
    /// How many times as many rows and columns the restored image has; `predict` enlarges its input
    /// linearly first, `prepare` makes such pairs.
    pub scale: usize,
    /// Weights that a new run begins with: a run or model, published weights, or the beginning of
    /// the names `…_Network.pth`, `…_Network_ema.pth` and `….state`, of which optimizer and averages
    /// are taken too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Where images come from and what becomes of them before the network.
    pub data: DataConfig,
    /// The network that draws; that of `model.kind = "axial"` is in `model.network`.
    pub network: guided_unet::Config,
    /// What is optimised.
    pub model: ModelConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the steps.
    pub schedule: ScheduleConfig,
    /// Steps, checkpoints, validation.
    pub train: TrainConfig,
    /// How images are restored, where the command line does not say otherwise.
    pub restore: RestoreConfig,
}

/// What is optimised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelConfig {
    /// A network that restores by drawing: a diffusion, a flow or a bridge.
    Diffusion(DiffusionConfig),
    /// The variance head of a trained network (`start`), which is to say how far off its answers are.
    Aleatoric(AleatoricConfig),
    /// A 3D-SR-Unet, which fills in the layers between slices in one pass.
    Axial(AxialConfig),
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::Diffusion(DiffusionConfig::default())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "emdiffuse".to_owned(),
            seed: 42,
            data_range: None,
            scale: 1,
            start: None,
            data: DataConfig::default(),
            network: guided_unet::Config::default(),
            model: ModelConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            train: TrainConfig::default(),
            restore: RestoreConfig::default(),
        }
    }
}

impl ModelConfig {
    /// The path from clean images to noise, if there is one.
    #[must_use]
    pub fn process(&self) -> Option<&ProcessConfig> {
        match self {
            Self::Diffusion(diffusion) => Some(&diffusion.process),
            Self::Aleatoric(aleatoric) => Some(&aleatoric.process),
            Self::Axial(_) => None,
        }
    }
}

impl Validate for ModelConfig {
    fn validate(&self, at: &mut Check) {
        match self {
            Self::Diffusion(diffusion) => diffusion.validate(at),
            Self::Aleatoric(aleatoric) => aleatoric.validate(at),
            Self::Axial(axial) => axial.validate(at),
        }
    }
}

/// Most times that an image is enlarged.
const MOST_SCALE: usize = 8;

impl Config {
    /// Layers between two slices, if that is what the data are.
    #[must_use]
    pub fn layers(&self) -> Option<usize> {
        match &self.data.dataset {
            DatasetConfig::Layers { layers, .. } | DatasetConfig::Thinned { layers, .. } => {
                Some(*layers)
            }
            _ => None,
        }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        check_name(&self.name, at);
        let range_hint =
            "the span of valid intensities in the unit of the files: 255 for 8-bit images";
        match self.data_range {
            None => at.problem("data_range", "must be set").hint(range_hint),
            Some(range) if !(range.is_finite() && range > 0.0) => {
                at.problem("data_range", format!("must be above 0, got {range}")).hint(range_hint)
            }
            Some(_) => {}
        }
        if !(1..=MOST_SCALE).contains(&self.scale) {
            at.problem("scale", format!("must be from 1 to {MOST_SCALE}, got {}", self.scale));
        }
        at.nested("data", &self.data);
        at.nested("network", &self.network);
        at.nested("model", &self.model);
        at.nested("optimizer", &self.optimizer);
        at.nested("schedule", &self.schedule);
        at.nested("train", &self.train);
        at.nested("restore", &self.restore);
        self.validate_fit(at);
    }
}

impl Config {
    /// Whether the parts go together.
    fn validate_fit(&self, at: &mut Check) {
        let sound = |part: &dyn Validate| limpid_config::check(part).is_empty();
        if !sound(&self.network) || !sound(&self.data) {
            return; // the rest reckons with their sizes
        }
        if self.data.dims != 2 {
            at.problem("data.dims", "must be 2: slices are drawn one by one");
        }
        let unit = !matches!(
            self.data.normalisation,
            NormalisationConfig::None {}
                | NormalisationConfig::ZScore {}
                | NormalisationConfig::Log1p {}
                | NormalisationConfig::Anscombe { .. }
        );
        if !unit {
            at.problem("data.normalisation.kind", "must bring intensities to 0…1")
                .hint("use \"scale\", \"percentile\" or \"min_max\"");
        }
        let divisor = match &self.model {
            ModelConfig::Axial(_) => {
                self.validate_axial(at);
                4
            }
            _ => {
                self.validate_drawing(at);
                self.network.divisor()
            }
        };
        let patch = self.data.patch_size();
        if patch.iter().any(|p| p % divisor != 0) {
            let message =
                format!("must be a multiple of {divisor} for this network, got {patch:?}");
            at.problem("data.patch", message);
        }
    }

    /// Whether what is drawn, by which network, and the data go together.
    fn validate_drawing(&self, at: &mut Check) {
        if matches!(self.data.dataset, DatasetConfig::Thinned { .. }) {
            at.problem("data.dataset.kind", "\"thinned\" is for `model.kind = \"axial\"`")
                .hint("layers are drawn one by one from the dataset \"layers\"");
            return;
        }
        let expected = if self.layers().is_some() { 3 } else { 2 };
        if self.network.layer_index != self.layers().is_some() {
            at.problem("network.layer_index", "and `data.dataset.kind` do not go together").hint(
                "networks that are told a layer learn from the dataset \"layers\", no others do",
            );
        } else if self.network.in_channels != expected || self.network.out_channels != 1 {
            let message = format!(
                "must be {expected} with one output: the network sees the condition and the noisy image, got {} and {}",
                self.network.in_channels, self.network.out_channels
            );
            at.problem("network.in_channels", message);
        }
        if matches!(self.model, ModelConfig::Aleatoric(_)) {
            if !self.network.variance {
                at.problem("network.variance", "must be true for `model.kind = \"aleatoric\"`");
            }
            if self.start.is_none() {
                at.problem("start", "must name the trained model whose answers are to be judged");
            }
        }
    }

    /// Whether a network of one pass has what it needs, and nothing that it would not look at.
    fn validate_axial(&self, at: &mut Check) {
        match self.data.dataset {
            DatasetConfig::Thinned { layers, .. } if layers % 2 == 1 => {}
            DatasetConfig::Thinned { layers, .. } => {
                at.problem("data.dataset.layers", format!("must be odd, got {layers}"))
                    .hint("the network makes an even number of slices of each");
            }
            _ => {
                at.problem("data.dataset.kind", "must be \"thinned\" for `model.kind = \"axial\"`");
            }
        }
        let defaults = Self::default();
        if self.network != defaults.network {
            at.problem("network", "is not used by `model.kind = \"axial\"`")
                .hint("its network is `model.network`");
        }
        for (key, set) in [
            ("restore", self.restore != defaults.restore),
            ("scale", self.scale != defaults.scale),
            ("start", self.start.is_some()),
        ] {
            if set {
                at.problem(key, "is not used by `model.kind = \"axial\"`").hint("leave it out");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(edit: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config { data_range: Some(255.0), ..Config::default() };
        config.data.dataset =
            DatasetConfig::Paired { input: "noisy".into(), target: "clean".into() };
        edit(&mut config);
        limpid_config::check(&config).iter().map(|f| format!("{f:?}")).collect()
    }

    #[test]
    fn parts_must_go_together() {
        assert!(problems(|_| {}).is_empty(), "{:?}", problems(|_| {}));
        let layers = DatasetConfig::Layers { volume: "v.tif".into(), layers: 5 };
        assert_eq!(problems(|c| c.data.dataset = layers.clone()).len(), 1);
        let volume = |c: &mut Config| {
            c.data.dataset = layers.clone();
            c.network = guided_unet::Config::vemdiffuse();
        };
        assert!(problems(volume).is_empty());
        assert_eq!(problems(|c| c.network.in_channels = 3).len(), 1);
        assert_eq!(problems(|c| c.data.patch = vec![60]).len(), 1);
        assert_eq!(problems(|c| c.data.normalisation = NormalisationConfig::ZScore {}).len(), 1);
        assert_eq!(problems(|c| c.scale = 0).len(), 1);
        assert_eq!(
            problems(|c| c.model = ModelConfig::Aleatoric(AleatoricConfig::default())).len(),
            2
        );
        assert_eq!(problems(|c| c.data_range = None).len(), 1);
        // a network of one pass
        let thinned = |layers| DatasetConfig::Thinned { volume: "v.tif".into(), layers, slices: 8 };
        let axial = |c: &mut Config| {
            c.model = ModelConfig::Axial(AxialConfig::default());
            c.data.dataset = thinned(5);
        };
        assert!(problems(axial).is_empty(), "{:?}", problems(axial));
        let changed = |edit: fn(&mut Config)| {
            problems(|c| {
                axial(c);
                edit(c);
            })
            .len()
        };
        assert_eq!(changed(|c| c.data.patch = vec![50]), 1);
        assert_eq!(changed(|c| c.network.inner_channels = 16), 1);
        assert_eq!(changed(|c| c.scale = 2), 1);
        assert_eq!(changed(|c| c.model = ModelConfig::default()), 1);
        assert_eq!(problems(|c| (axial(c), c.data.dataset = thinned(4)).1).len(), 1);
        assert_eq!(problems(|c| (axial(c), c.data.dataset = layers.clone()).1).len(), 1);
    }
}
