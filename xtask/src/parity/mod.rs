//! `parity`: our results beside those of the programs that people trust.
//!
//! A folder holds safetensors (or JSON) files of inputs and expected results, each of a kind that its name
//! begins with: `losses`, `losses_s7` and `losses-b` are all of the kind `losses`. The longest
//! known kind wins. A handler per kind computes and compares; sizes come from the tensors and
//! parameters from names and metadata, so that files of other seeds and shapes are compared too. Files of
//! no known kind may be known by what they hold.

mod callbacks;
mod checkpoints;
mod classical;
mod diffusion;
mod diffusion_train;
mod em_data;
mod emdiffuse;
mod fixture;
mod formula;
mod gan_losses;
mod gan_networks;
mod grog;
mod guided;
mod inference;
mod losses;
mod losses_em;
mod metrics;
mod mri;
mod mri_data;
mod mri_formats;
mod mri_grog;
mod mri_networks;
mod mri_real;
mod mri_results;
mod networks;
mod optim;
mod raft;
mod tomography;
mod training;
mod transformers;
mod unets;

use limpid_kernels::autograd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fixture::{Fixture, Outcome};

/// Options of `parity`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folders of reference values, or single files
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Also write the results as a page of Markdown tables
    #[arg(long, value_name = "FILE")]
    pub(crate) doc: Option<PathBuf>,
    /// Compute on this GPU, and compare networks only
    #[cfg(feature = "cuda")]
    #[arg(long, value_name = "N")]
    pub(crate) gpu: Option<usize>,
    /// With the GPU: round to bf16 or f16 as in training, and allow for it
    #[cfg(feature = "cuda")]
    #[arg(skip)]
    pub(crate) precision: limpid_kernels::Precision,
}

impl Args {
    /// For these folders.
    pub(crate) fn of(dirs: Vec<PathBuf>) -> Self {
        Self {
            dirs,
            doc: None,
            #[cfg(feature = "cuda")]
            gpu: None,
            #[cfg(feature = "cuda")]
            precision: limpid_kernels::Precision::F32,
        }
    }
}

/// Computes what a file asks for and compares; an error says why that was not possible.
type Handler = fn(&Fixture) -> Result<Outcome, String>;

/// The handler of each kind.
const HANDLERS: &[(&str, Handler)] = &[
    ("training_samples", mri_grog::samples),
    ("prox", mri::proximal),
    ("nufft", mri::transforms),
    ("grappa_operator", mri_grog::operator),
    ("geometry", mri_grog::geometry),
    ("dcf", mri::density),
    ("coil_ops", mri::coil_ops),
    ("coil_maps", mri::coil_maps),
    ("closed_form", mri_grog::closed_form),
    ("cg_sense", mri::solvers),
    ("callbacks", callbacks::order),
    ("aleatoric", diffusion_train::aleatoric),
    ("amp", optim::amp),
    ("baselines", classical::baselines),
    ("blocks", blocks),
    ("cg_ganloss", gan_losses::games),
    ("cg_nlayer", gan_networks::network),
    ("cg_pixel", gan_networks::network),
    ("cg_resnet", gan_networks::network),
    ("cg_unet", gan_networks::network),
    ("checkpoint_epoch", gan_networks::checkpoint),
    ("bm3d_reference", classical::block_matching),
    ("ckpt_expected", checkpoints::torch_files),
    ("diffusion_mean_std", diffusion::mean_and_deviation),
    ("diffusion_ops", diffusion::ops),
    ("diffusion_restore_2d", diffusion::restore),
    ("diffusion_restore_3d", diffusion::restore_layers),
    ("diffusion_restore_real_schedule", diffusion::restore_shipped),
    ("diffusion_train", diffusion_train::losses),
    ("e2e_denoise", diffusion::from_bits_to_bits),
    ("datasets", em_data::datasets),
    ("ema", optim::ema),
    ("formula_selftest", gan_networks::formula_selftest),
    ("full256_", gan_networks::full_size),
    ("gen_", gan_networks::network),
    ("image_ops", em_data::image_ops),
    ("inference_misc", inference::misc),
    ("losses", losses::losses),
    ("lr_warmup", emdiffuse::warmup),
    ("metrics", emdiffuse::metrics),
    ("metrics_2d", metrics::image),
    ("metrics_3d", metrics::image),
    ("metrics_ms_fsim", metrics::perceptual),
    ("mlp", grog::mlp),
    ("net_dncnn", networks::network),
    ("net_drunet", networks::network),
    ("net_ffdnet", networks::network),
    ("net_models_unet", unets::emdiffuse),
    ("net_monai_attentionunet", unets::attention_unet),
    ("net_monai_basicunet", networks::network),
    ("net_monai_ddpm_unet", unets::diffusion),
    ("net_monai_dynunet", networks::network),
    ("net_monai_patchgan", unets::discriminator),
    ("net_monai_segresnet", unets::segresnet),
    ("net_monai_swinunetr", transformers::network),
    ("net_monai_unet", unets::unet),
    ("net_monai_unetr", transformers::network),
    ("net_monai_vitautoenc", transformers::network),
    ("net_nafnet", networks::network),
    ("net_nucli_unet", networks::network),
    ("net_real_formula", guided::shipped),
    ("net_restormer", networks::network),
    ("net_sr_unet3d", unets::super_resolution),
    ("net_srresnet", networks::network),
    ("net_swinir", transformers::network),
    ("net_timm_vit", transformers::network),
    ("net_unet2d", guided::network),
    ("net_unet3d", guided::network),
    ("net_unet_aleatoric", guided::network),
    ("net_unet_jit", guided::network),
    ("nnunet_sliding", inference::nnunet),
    ("optimizers", optim::optimizers),
    ("patch_centers", classical::patch_centers),
    ("patchgan", gan_networks::patch_gan),
    ("pet_quant", metrics::pet),
    ("raft_formula", raft::networks),
    ("raft_ops", raft::ops),
    ("pet_recon", tomography::reconstructions),
    ("resample", classical::resample),
    ("resample_spacing", classical::resample_spacing),
    ("schedulers", optim::schedules),
    ("schedules", emdiffuse::noise_schedules),
    ("schedules_tensors", gan_losses::schedules),
    ("selfsup", losses::self_supervised),
    ("sliding_window", inference::monai),
    ("ssim_maps", metrics::ssim_maps),
    ("stats_compare", metrics::statistics),
    ("suv", metrics::uptake),
    ("tiling", em_data::tiling),
    ("train_gan", training::gan),
    ("train_steps", diffusion_train::steps),
    ("train_tiny", training::tiny),
    ("vgg_", gan_networks::perceptual),
    ("weights_trained", guided::trained),
];

/// In which precision a kind is compared on a GPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// In every one.
    Every,
    /// In f32, as it is used.
    Single,
}

/// The networks, which are compared on a GPU too, by what their names begin with.
const NETWORKS: &[(&str, On)] = &[
    ("cg_nlayer", On::Every),
    ("cg_pixel", On::Every),
    ("cg_resnet", On::Every),
    ("cg_unet", On::Every),
    ("full256_", On::Every),
    ("gen_", On::Every),
    ("net_", On::Every),
    ("patchgan", On::Every),
    ("raft_", On::Single),
    ("vgg_", On::Single),
];

/// In which precision a file is compared on a GPU, none if it is no network.
pub(crate) fn on_gpu(stem: &str) -> Option<On> {
    NETWORKS.iter().find(|(kind, _)| stem.starts_with(kind)).map(|(_, on)| *on)
}

/// The kinds that are lists in JSON; other such files describe a fixture of the same name.
const LISTS: &[&str] = &["tiling", "callbacks"];

/// Folders of one data set in many formats, which are compared as if they were a file.
const FOLDERS: &[&str] = &["io"];

/// Blocks of networks by themselves, of whichever reference.
fn blocks(fixture: &Fixture) -> Result<Outcome, String> {
    if gan_networks::has_blocks(fixture) {
        return gan_networks::blocks(fixture);
    }
    guided::blocks(fixture)
}

/// What is said of a file of no kind that is known.
const UNKNOWN: &str = "nothing of ours to compare with it yet";

/// What became of one file.
struct Line {
    verdict: &'static str,
    stem: String,
    /// Worst error and its tolerance.
    worst: Option<(f64, f64)>,
    /// Largest error of what is no gradient, and of gradients.
    largest: (Option<f64>, Option<f64>),
    /// What the file says it is.
    about: String,
    /// Values of its weights.
    parameters: usize,
    detail: String,
}

/// Compares every file of the folders and prints a line for each.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let mut files = Vec::new();
    for dir in &args.dirs {
        files.extend(fixtures(dir)?);
    }
    #[cfg(feature = "cuda")]
    if let Some(ordinal) = args.gpu {
        fixture::compute_on(limpid_kernels::gpu::open(ordinal).map_err(|e| e.to_string())?);
        limpid_kernels::set_precision(args.precision);
        let is_kept = |at: On| at == On::Every || !fixture::is_half();
        files.retain(|(stem, _)| on_gpu(stem).is_some_and(is_kept));
    }
    let width = files.iter().map(|(stem, _)| stem.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (stem, path) in files {
        let line = compare(stem, &path);
        println!("{}", shown(&line, width));
        lines.push(line);
    }
    if let Some(doc) = &args.doc {
        limpid_io::atomic::write_bytes(doc, page(&lines).as_bytes()).map_err(|e| e.to_string())?;
    }
    let count = |verdict: &str| lines.iter().filter(|line| line.verdict == verdict).count();
    let (passed, failed, skipped) = (count("ok"), count("FAIL"), count("skip"));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { Ok(()) } else { Err(format!("{failed} files differ from their reference")) }
}

/// Stem and path of the files of a folder and of those in it, sorted, or of one file.
fn fixtures(dir: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let stem = dir.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_set = |path: &Path, stem: &str| path.is_dir() && FOLDERS.contains(&stem);
    if dir.is_file() || is_set(dir, &stem) {
        return Ok(vec![(stem, dir.to_path_buf())]);
    }
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{e}: `{}`", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| format!("{e}: `{}`", dir.display()))?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !is_set(&path, &stem) {
            // one without such files is something else
            files.extend(fixtures(&path).unwrap_or_default());
            continue;
        }
        let wanted = match path.extension() {
            Some(ending) if ending == "safetensors" => true,
            Some(ending) if ending == "json" => LISTS.contains(&stem.as_str()),
            _ => is_set(&path, &stem),
        };
        if wanted {
            files.push((stem, path));
        }
    }
    if files.is_empty() {
        return Err(format!("no .safetensors or .json file to compare in `{}`", dir.display()));
    }
    files.sort();
    Ok(files)
}

/// The handler of the longest kind that `stem` begins with.
fn handler(stem: &str) -> Option<Handler> {
    let known = HANDLERS.iter().filter(|(kind, _)| stem.starts_with(kind));
    known.max_by_key(|(kind, _)| kind.len()).map(|(_, handler)| *handler)
}

/// Runs the handler of one file; its panic is a failure of this file only.
fn compare(stem: String, path: &Path) -> Line {
    let mut line = Line {
        verdict: "skip",
        stem,
        worst: None,
        largest: (None, None),
        about: String::new(),
        parameters: 0,
        detail: String::new(),
    };
    let known = handler(&line.stem);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let fixture = Fixture::load(path)?;
        let Some(handler) = known.or_else(|| mri_data::handler(&fixture)) else {
            return Ok(Outcome::Skipped(UNKNOWN.into()));
        };
        line.about = fixture.about();
        line.parameters = fixture.parameters();
        autograd::record(|| handler(&fixture))
    }));
    (line.verdict, line.detail) = match outcome {
        Ok(Ok(Outcome::Skipped(reason))) => ("skip", reason),
        Ok(Ok(Outcome::Compared(worst))) => {
            line.worst = worst.error_and_tolerance();
            line.largest = worst.largest();
            (if worst.passed() { "ok" } else { "FAIL" }, worst.detail())
        }
        Ok(Err(message)) => ("FAIL", message),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            ("FAIL", format!("panicked: {}", text.unwrap_or_default()))
        }
    };
    line
}

/// One line of the report.
fn shown(line: &Line, width: usize) -> String {
    let worst = line.worst.map_or_else(String::new, |(error, tolerance)| {
        format!("worst error {error:.1e} (tolerance {tolerance:.1e})  ")
    });
    // a message of several lines would hide the verdicts of the others
    let detail = line.detail.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    format!("{:4}  {:width$}  {worst}{detail}", line.verdict, line.stem)
}

/// The report as Markdown: networks, then the rest.
fn page(lines: &[Line]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let number = |n: Option<f64>| n.map_or_else(String::new, |n| format!("{n:.1e}"));
    let (networks, rest): (Vec<&Line>, Vec<&Line>) = lines
        .iter()
        .filter(|l| l.verdict != "skip")
        .partition(|l| l.parameters > 0 && l.largest.1.is_some() || l.stem.starts_with("net_"));
    let mut text = String::from(
        "# Parity

Our results beside those of the reference programs, run with the same weights and inputs. Written by
`cargo xtask parity DIR… --doc FILE`; errors are absolute.

## Networks

| fixture | parameters | worst output error | worst gradient error | verdict | reference |
|---|---|---|---|---|---|
",
    );
    for line in networks {
        let (output, gradient) = line.largest;
        let (output, gradient) = (number(output), number(gradient));
        let Line { stem, parameters, verdict, about, .. } = line;
        text += &format!(
            "| {stem} | {parameters} | {output} | {gradient} | {verdict} | {} |\n",
            cell(about)
        );
    }
    text += "\n## Everything else\n\n| fixture | verdict | worst error | tolerance | checks |\n|---|---|---|---|---|\n";
    for line in rest {
        let (error, tolerance) = line.worst.unzip();
        let (error, tolerance) = (number(error), number(tolerance));
        let detail = cell(&line.detail);
        text +=
            &format!("| {} | {} | {error} | {tolerance} | {detail} |\n", line.stem, line.verdict);
    }
    let skipped: Vec<&Line> = lines.iter().filter(|l| l.verdict == "skip").collect();
    if !skipped.is_empty() {
        text += "\n## Not compared\n\n| fixture | why |\n|---|---|\n";
        for line in skipped {
            text += &format!("| {} | {} |\n", line.stem, cell(&line.detail));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_kind_wins_whatever_follows_it() {
        let same = |stem: &str, kind: Handler| {
            assert!(handler(stem).is_some_and(|h| std::ptr::fn_addr_eq(h, kind)), "{stem}");
        };
        for stem in ["losses", "losses_s7", "losses-b", "losses2"] {
            same(stem, losses::losses);
        }
        same("resample_7", classical::resample);
        same("resample_spacing_7", classical::resample_spacing);
        same("net_monai_basicunet3d_s2", networks::network);
        assert!(handler("unheard_of").is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_fails_alone() {
        let line = compare("losses".into(), Path::new("no such file"));
        assert_eq!(line.verdict, "FAIL");
        assert!(line.detail.contains("no such file"), "{}", line.detail);
    }
}
