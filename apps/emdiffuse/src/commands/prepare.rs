//! `emdiffuse prepare`: registered pairs of patches; `vemdiffuse prepare`: a volume cut across its
//! slices.

use crate::model::built_raft;
use limpid_arch::raft::ops::WarpGrid;
use limpid_classical::register::{FlowConfig, optical_flow};
use limpid_cli::{
    Align, CommonArgs, Device, Failure, Kind, SetArgs, Verbosity, interrupt, print, report, table,
};
use limpid_datamodule::normalise::{Normalisation, Normaliser, Normalisers, Transfer};
use limpid_datamodule::predict::{Enlarged, Input, Output, enlarged_info};
use limpid_datamodule::prepare::{Pairing, Plane, Reason, prepare, reslice};
use limpid_engine::BoxError;
use limpid_engine::infer::{Slabs, Source};
use limpid_io::{Axes, WriteOptions, list_images};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// What `emdiffuse prepare` takes.
#[derive(clap::Args)]
pub struct Pairs {
    /// Clean images: a folder, a file or a pattern
    #[arg(long, value_name = "PATH")]
    clean: PathBuf,
    /// Noisy images of the same places, of the same names
    #[arg(long, value_name = "PATH")]
    noisy: PathBuf,
    /// How many times as many rows and columns the clean images have: the noisy ones are enlarged
    /// first, linearly
    #[arg(long, value_name = "N", default_value_t = 1)]
    scale: usize,
    /// Weights of RAFT (`raft-things.pth`) for the local registration [default: a classical flow]
    #[arg(long, value_name = "FILE")]
    raft: Option<PathBuf>,
    #[command(flatten)]
    keys: SetArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// Iterations of RAFT, as EMDiffuse.
const ITERATIONS: usize = 20;

/// Registers pairs and cuts patches.
///
/// # Errors
/// Images cannot be read or do not go together, or the folder is not empty.
pub fn pairs(args: &Pairs) -> Result<(), Failure> {
    let common = &args.common;
    common.apply()?;
    let out = common.out.as_deref().ok_or_else(|| {
        Failure::config("there is no folder to write to").hint("give `--out DIR`")
    })?;
    let request = limpid_config::Request {
        sets: args.keys.sets.clone(),
        ..limpid_config::Request::default()
    };
    let config = limpid_config::load::<Pairing>(&request)?.value;
    let clean = list_images(&args.clean).map_err(Failure::data)?;
    let mut noisy = list_images(&args.noisy).map_err(Failure::data)?;
    if common.dry_run {
        return print(format!(
            "{} clean and {} noisy images\n{}",
            clean.len(),
            noisy.len(),
            toml::to_string(&config).map_err(Failure::run)?
        ));
    }
    let stop = interrupt::install()?;
    let enlarged = out.join("enlarged");
    if args.scale > 1 {
        for path in &mut noisy {
            *path = enlarge(path, &enlarged, args.scale)?;
        }
    }
    let talk = common.verbosity() > Verbosity::Quiet;
    let device = if args.raft.is_some() {
        common.open_device()?
    } else {
        if talk && matches!(common.device, Device::Cuda(_)) {
            report("the classical flow is on the CPU; RAFT (`--raft`) would be on the GPU");
        }
        candle_core::Device::Cpu
    };
    let raft = args.raft.as_deref().map(|path| built_raft(path, &device)).transpose()?;
    let flow = FlowConfig::default();
    let local = |fixed: &[f64], moving: &[f64], shape: [usize; 2]| -> Result<_, BoxError> {
        if stop.flag().load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        Ok(match &raft {
            Some((net, params)) => {
                let _no_grad = params.no_grad();
                net.register(fixed, moving, shape, ITERATIONS, WarpGrid::Pixels, &device)?
            }
            None => optical_flow(fixed, moving, shape, &flow)?,
        })
    };
    let (mut reasons, mut correlations) = ([0usize; 3], Vec::new());
    let done = prepare(&clean, &noisy, out, &config, &local, &mut |record| {
        correlations.push(record.correlation);
        match record.rejected {
            None => {}
            Some(Reason::Missing) => reasons[0] += 1,
            Some(Reason::Correlation) => reasons[1] += 1,
            Some(Reason::Moved) => reasons[2] += 1,
        }
        if talk {
            let verdict = match record.rejected {
                None => "kept".to_owned(),
                Some(reason) => format!("left out ({reason:?})").to_lowercase(),
            };
            report(format!(
                "{} {:?}: moved by {:.1}, {:.1} pixels, correlation {:.3}, {verdict}",
                record.noisy.display(),
                record.place,
                record.shift[0],
                record.shift[1],
                record.correlation
            ));
        }
    });
    if stop.flag().load(Ordering::Relaxed) {
        return Err(Failure::interrupted(
            "stopped; the folder is not complete and has no manifest",
        ));
    }
    let done = done.map_err(Failure::data)?;
    if args.scale > 1 {
        std::fs::remove_dir_all(&enlarged)
            .map_err(|e| Failure::new(Kind::Data, e).file(&enlarged))?;
    }
    correlations.sort_by(f64::total_cmp);
    let median = correlations.get(correlations.len() / 2).copied().unwrap_or(f64::NAN);
    let rows = [
        ("kept", done.kept),
        ("lack pixels", reasons[0]),
        ("do not agree", reasons[1]),
        ("moved too far", reasons[2]),
    ]
    .map(|(what, n)| vec![what.to_owned(), n.to_string()]);
    print(table(&[("patches", Align::Left), ("", Align::Right)], &rows))?;
    print(format!("median correlation {median:.3}; {}\n", out.join("manifest.jsonl").display()))?;
    if done.kept == 0 {
        return Err(Failure::data("no patch was kept").hint(
            "the manifest says why; check that the images show the same place, or lower `--set min_correlation=…`",
        ));
    }
    Ok(())
}

/// Writes an image with `scale` times as many rows and columns into `folder`.
fn enlarge(path: &Path, folder: &Path, scale: usize) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(folder).map_err(|e| Failure::new(Kind::Data, e).file(folder))?;
    let name = path.file_name().map(PathBuf::from).unwrap_or_default().with_extension("tif");
    let to = folder.join(name);
    let plain = Normalisation { channels: vec![Transfer::Linear { offset: 0.0, scale: 1.0 }] };
    let input = Normaliser::Dataset { normalisation: plain.clone() };
    let normalisers = Normalisers { input, target: None };
    let image = Input::open(path, 2, None, &normalisers).map_err(Failure::data)?;
    let info = enlarged_info(image.info(), scale).map_err(Failure::data)?;
    let mut output = Output::create_with(&to, &info, 2, plain, 1, &WriteOptions::default())
        .map_err(Failure::data)?;
    for index in 0..image.frames() {
        let finer = Enlarged::new(image.frame(index), scale);
        let size = [finer.shape()[1], finer.shape()[2]];
        let values = finer.read(&[0, 0], &size).map_err(|e| Failure::data(e.to_string()))?;
        output.frame(index).slab(0, size[0], &values).map_err(|e| Failure::data(e.to_string()))?;
    }
    output.finish().map_err(Failure::data)?;
    Ok(to)
}

/// What `vemdiffuse prepare` takes.
#[derive(clap::Args)]
pub struct Volume {
    /// Anisotropic volume: a stack, or a folder of slices
    volume: PathBuf,
    /// Axes of the file in its order, slowest first, where it does not say: ZYX
    #[arg(long, value_name = "AXES")]
    axes: Option<Axes>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Cuts a volume across its slices, both ways.
///
/// # Errors
/// It cannot be read, or the results cannot be written.
pub fn volume(args: &Volume) -> Result<(), Failure> {
    let common = &args.common;
    common.apply()?;
    let out = common.out.as_deref().ok_or_else(|| {
        Failure::config("there is no folder to write to").hint("give `--out DIR`")
    })?;
    let path = &args.volume;
    let reader = if limpid_io::is_collection(path) {
        limpid_io::open_stack(&list_images(path).map_err(Failure::data)?)
    } else {
        let options = limpid_io::OpenOptions { axes: args.axes.clone(), array: None };
        limpid_io::open_with(path, &options)
    }
    .map_err(Failure::data)?;
    std::fs::create_dir_all(out).map_err(|e| Failure::new(Kind::Data, e).file(out))?;
    for (plane, name) in [(Plane::Xz, "xz.tif"), (Plane::Yz, "yz.tif")] {
        let to = out.join(name);
        let info = limpid_datamodule::prepare::resliced_info(reader.info(), plane)
            .map_err(Failure::data)?;
        if common.verbosity() > Verbosity::Quiet {
            report(format!("{}: {:?} {:?}", to.display(), info.shape, info.spacing));
        }
        if !common.dry_run {
            reslice(&*reader, plane, &to, &WriteOptions::default()).map_err(Failure::data)?;
        }
    }
    Ok(())
}
