//! What is measured, and how much faster than PyTorch it has to be.

/// One thing to measure.
pub(super) struct Work {
    /// Under which name it is asked for.
    pub(super) group: &'static str,
    /// What it does, in words that both programs know.
    pub(super) words: &'static str,
    /// Least ratio of PyTorch's time to ours; 0 if none is promised.
    pub(super) target: f64,
}

/// Training steps may take this share of PyTorch's memory.
pub(super) const MEMORY: f64 = 0.7;
/// Seconds from the start of the process to the end of the first step of [`START`].
pub(super) const FIRST_STEP: f64 = 0.3;
/// A small configuration, for [`FIRST_STEP`].
pub(super) const START: Work = work("start", "train dncnn_small 4x1x32x32", 0.0);

/// Names of the groups. Those from [`SINGLE`] on run only when named.
pub(super) const GROUPS: [&str; 14] = [
    "emdiffuse",
    "basic_unet",
    "dncnn",
    "pix2pix",
    "swinir",
    "vit",
    "attention",
    "grog",
    "gemm",
    START.group,
    "options",
    "conv",
    "ops",
    "igrog",
];
/// Groups of options that are off by themselves, of single operations, and of reconstruction.
pub(super) const SINGLE: [&str; 4] = ["options", "conv", "ops", "igrog"];

/// The parts of the page that have tables of their own, so that one can be measured again alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Section {
    Networks,
    Options,
    Operations,
    Reconstruction,
}

impl Section {
    /// In the order of the page.
    pub(super) const ALL: [Self; 4] =
        [Self::Networks, Self::Options, Self::Operations, Self::Reconstruction];

    /// Its name in the markers on the page.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Options => "options",
            Self::Operations => "operations",
            Self::Reconstruction => "reconstruction",
        }
    }
}

impl Work {
    /// Where on the page it stands.
    pub(super) fn section(&self) -> Section {
        match self.group {
            "options" => Section::Options,
            "conv" | "ops" => Section::Operations,
            "igrog" => Section::Reconstruction,
            _ => Section::Networks,
        }
    }

    /// Whether PyTorch has a choice of layouts for it: of images.
    pub(super) fn has_layouts(&self) -> bool {
        let image = |word: &str| word.split('x').count() > 3;
        !self.words.contains(" attention ") && self.words.split(' ').any(image)
    }

    /// Whether there is something to compare it with.
    pub(super) fn has_peer(&self) -> bool {
        self.words != GRIDDING
    }

    /// Whether it is a training step.
    pub(super) fn trains(&self) -> bool {
        ["train ", "recompute "].iter().any(|mode| self.words.starts_with(mode))
    }
}

/// An iteration of conjugate gradients from samples as they are, by transforms and by a convolution, and
/// on the grid.
pub(super) const ITERATIONS: [&str; 3] = [
    "infer mri_nufft_iteration 8x4x5600 160x160",
    "infer mri_toeplitz_iteration 8x4x5600 160x160",
    "infer mri_grid_iteration 8x4x5600 160x160",
];
/// How many times as fast the last is to be as the first.
pub(super) const ITERATION: f64 = 4.0;
/// A step of training kernels: by the reference's recipe, and by that of our presets.
pub(super) const LEARNING: [&str; 2] =
    ["train mri_kernels 8x4x5600 160x160", "train mri_preset_kernels 8x4x5600 160x160"];
/// How many times as fast the latter is to be as the peer's of the former.
pub(super) const LEARNING_RATIO: f64 = 3.0;
/// The gridding of a whole scan, which no one else offers.
pub(super) const GRIDDING: &str = "infer mri_gridding 8x4x5600 160x160";
/// Milliseconds that it may take.
pub(super) const GRIDDING_MS: f64 = 700.0;

const fn work(group: &'static str, words: &'static str, target: f64) -> Work {
    Work { group, words, target }
}

/// All but [`START`]. Shapes of matrices are `m×k k×n`; those of images `[N, C, s…]`; after the shape
/// of a convolution's weight come stride and padding.
#[rustfmt::skip]
pub(super) const WORKS: &[Work] = &[
    work("emdiffuse", "infer emdiffuse 1x2x256x256", 3.0),
    work("emdiffuse", "train emdiffuse 1x2x256x256", 3.0),
    work("basic_unet", "infer basic_unet 1x1x96x96x96", 2.5),
    work("basic_unet", "train basic_unet 1x1x96x96x96", 2.0),
    work("dncnn", "infer dncnn 1x1x512x512", 2.5),
    work("dncnn", "train dncnn 8x1x64x64", 2.5),
    work("pix2pix", "train pix2pix 1x3x256x256", 1.5),
    work("swinir", "infer swinir_light 1x3x64x64", 1.3),
    work("vit", "infer vit_b 1x1x224x224", 1.3),
    work("attention", "infer attention 1x8x4096x64", 1.3),
    work("grog", "train grog_mlp 1024x10", 1.5),
    work("gemm", "infer matmul 256x256 256x256", 1.0),
    work("gemm", "infer matmul 512x512 512x512", 1.0),
    work("gemm", "infer matmul 1024x1024 1024x1024", 1.0),
    work("gemm", "infer matmul 2048x2048 2048x2048", 1.0),
    work("gemm", "infer matmul 4096x4096 4096x4096", 1.0),
    work("gemm", "infer matmul 64x576 576x65536", 1.0),
    work("gemm", "infer matmul 4096x4096 4096x64", 1.0),
    work("gemm", "infer matmul 65536x64 64x576", 1.0),
    work("options", "bf16 vit_b 1x1x224x224", 0.0),
    work("options", "bf16 swinir_light 1x3x64x64", 0.0),
    work("options", "recompute emdiffuse 1x2x256x256", 0.0),
    work("options", "recompute basic_unet 1x1x96x96x96", 0.0),
    // of EMDiffuse
    work("conv", "infer conv 1x32x256x256 32x32x3x3 1 1", 0.0),
    work("conv", "backward conv 1x32x256x256 32x32x3x3 1 1", 0.0),
    work("conv", "infer conv 1x64x128x128 64x64x3x3 1 1", 0.0),
    work("conv", "backward conv 1x64x128x128 64x64x3x3 1 1", 0.0),
    work("conv", "infer conv 1x256x32x32 256x256x3x3 1 1", 0.0),
    work("conv", "backward conv 1x256x32x32 256x256x3x3 1 1", 0.0),
    work("conv", "infer conv 1x96x256x256 32x96x1x1 1 0", 0.0),
    work("conv", "backward conv 1x96x256x256 32x96x1x1 1 0", 0.0),
    work("conv", "infer cat_conv 1x64x256x256 32x128x1x1 1 0", 0.0),
    work("conv", "backward cat_conv 1x64x256x256 32x128x1x1 1 0", 0.0),
    // of DnCNN
    work("conv", "infer conv 1x64x512x512 64x64x3x3 1 1", 0.0),
    work("conv", "backward conv 8x64x64x64 64x64x3x3 1 1", 0.0),
    work("conv", "infer conv 1x1x512x512 64x1x3x3 1 1", 0.0),
    work("conv", "infer conv 1x64x512x512 1x64x3x3 1 1", 0.0),
    work("conv", "backward conv 8x1x64x64 64x1x3x3 1 1", 0.0),
    work("conv", "backward conv 8x64x64x64 1x64x3x3 1 1", 0.0),
    // of pix2pix
    work("conv", "infer conv 1x64x128x128 128x64x4x4 2 1", 0.0),
    work("conv", "backward conv 1x64x128x128 128x64x4x4 2 1", 0.0),
    work("conv", "infer conv 1x512x16x16 512x512x4x4 2 1", 0.0),
    work("conv", "backward conv 1x512x16x16 512x512x4x4 2 1", 0.0),
    work("conv", "infer conv_transpose 1x256x64x64 256x64x4x4 2 1", 0.0),
    work("conv", "backward conv_transpose 1x256x64x64 256x64x4x4 2 1", 0.0),
    // of BasicUNet
    work("conv", "infer conv 1x32x96x96x96 32x32x3x3x3 1 1", 0.0),
    work("conv", "backward conv 1x32x48x48x48 32x32x3x3x3 1 1", 0.0),
    work("conv", "infer cat_conv 1x32x48x48x48 32x64x3x3x3 1 1", 0.0),
    work("conv", "backward cat_conv 1x32x48x48x48 32x64x3x3x3 1 1", 0.0),
    work("conv", "infer conv_transpose 1x64x24x24x24 64x32x2x2x2 2 0", 0.0),
    work("conv", "backward conv_transpose 1x64x24x24x24 64x32x2x2x2 2 0", 0.0),
    // of transformers
    work("conv", "infer conv 1x1x224x224 768x1x16x16 16 0", 0.0),
    work("ops", "infer group_norm_silu 1x64x256x256", 0.0),
    work("ops", "backward group_norm_silu 1x64x256x256", 0.0),
    work("ops", "infer cat_group_norm_silu 1x64x256x256", 0.0),
    work("ops", "backward cat_group_norm_silu 1x64x256x256", 0.0),
    work("ops", "infer instance_norm_leaky_relu 1x32x96x96x96", 0.0),
    work("ops", "backward instance_norm_leaky_relu 1x32x96x96x96", 0.0),
    work("ops", "infer layer_norm 4096x768", 0.0),
    work("ops", "backward layer_norm 4096x768", 0.0),
    work("ops", "infer silu 1x64x256x256", 0.0),
    work("ops", "backward silu 1x64x256x256", 0.0),
    work("ops", "infer relu 1x64x256x256", 0.0),
    work("ops", "backward relu 1x64x256x256", 0.0),
    work("ops", "infer gelu 4096x3072", 0.0),
    work("ops", "backward gelu 4096x3072", 0.0),
    work("ops", "infer nearest 1x64x128x128", 0.0),
    work("ops", "backward nearest 1x64x128x128", 0.0),
    work("ops", "infer avg_pool 1x64x256x256", 0.0),
    work("ops", "infer max_pool 1x32x96x96x96", 0.0),
    work("ops", "backward max_pool 1x32x96x96x96", 0.0),
    work("ops", "infer reflect 1x64x256x256", 0.0),
    work("ops", "infer pixel_shuffle 1x64x256x256", 0.0),
    work("ops", "infer cat 1x64x256x256", 0.0),
    work("ops", "backward cat 1x64x256x256", 0.0),
    work("ops", "infer softmax 4096x1024", 0.0),
    work("ops", "infer linear 4096x768 3072x768", 0.0),
    work("ops", "backward linear 4096x768 3072x768", 0.0),
    work("ops", "infer add_row 4096x3072", 0.0),
    work("ops", "infer attention 8x1024x64", 0.0),
    work("ops", "backward attention 8x1024x64", 0.0),
    work("ops", "infer attention 64x6x64x10", 0.0),
    // coils × shots × samples, image; beside FINUFFT, and for kernels PyTorch
    work("igrog", "infer mri_nufft 8x4x5600 160x160", 1.0),
    work("igrog", ITERATIONS[0], 1.0),
    work("igrog", ITERATIONS[1], 1.0),
    work("igrog", ITERATIONS[2], 3.0),
    work("igrog", "infer mri_nufft_field 8x4x5600 160x160", 0.0),
    work("igrog", "infer mri_grid_field 8x4x5600 160x160", 10.0),
    work("igrog", LEARNING[0], 3.0),
    work("igrog", LEARNING[1], 3.0),
    work("igrog", GRIDDING, 0.0),
];
