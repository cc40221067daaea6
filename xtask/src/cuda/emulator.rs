//! A GPU in software, to test what was built for GPUs on a machine without one.
//!
//! One library stands for `libcuda.so.1` and for cuBLAS, cuDNN and cuRAND: it runs the kernels, ours and candle's,
//! compiled for the CPU. Programs find it by `LD_LIBRARY_PATH`. It knows nothing of a GPU's rounding, speed, or
//! order of memory accesses; it does see wrong indices, arguments, shapes and missing barriers.

use super::link::sources_of;
use crate::process::{root, run, shown};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The names under which programs open it.
const NAMES: [&str; 4] = ["libcuda.so.1", "libcublas.so.13", "libcudnn.so.9", "libcurand.so.10"];

/// Those of candle's kernels that Limpid may use.
const CANDLE: [&str; 8] =
    ["affine", "binary", "cast", "fill", "indexing", "reduce", "ternary", "unary"];

/// Builds the libraries into a folder; `headers` are the toolkit's.
///
/// # Errors
/// If a file is missing or the compiler fails.
pub(super) fn build(headers: &Path, folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let own = root().join("xtask/src/cuda/emulator");
    let ops = root().join("crates/limpid-kernels/src");
    let mut units: Vec<(String, PathBuf, bool)> = Vec::new();
    for name in ["driver", "libraries"] {
        units.push((name.into(), own.join(format!("{name}.cpp")), false));
    }
    for path in sources(&ops)? {
        let name = path.parent().and_then(Path::file_name).unwrap_or_default();
        units.push((format!("limpid_{}", name.to_string_lossy()), path, true));
    }
    let candle = sources_of("candle-kernels")?;
    for name in CANDLE {
        units.push((format!("candle_{name}"), candle.join(format!("{name}.cu")), true));
    }
    let shared = newest(&[&own, &ops.join("gpu")])?;
    let compiler = || {
        let mut command = Command::new("c++");
        // what a kernel computes is compared bit by bit where it can be: no fused operations of the compiler's own
        command.args(["-std=c++17", "-O1", "-g1", "-fPIC", "-w", "-ffp-contract=off"]);
        command.arg("-I").arg(&own).arg("-I").arg(headers).arg("-I").arg(ops.join("gpu"));
        command
    };
    let mut objects = Vec::new();
    let mut running = Vec::new();
    for (name, source, is_kernel) in units {
        let object = folder.join(format!("{name}.o"));
        objects.push(object.clone());
        let changed = newest(&[source.parent().unwrap_or(&ops)])?.max(shared);
        if modified(&object).is_ok_and(|built| built > changed) {
            continue;
        }
        let mut command = compiler();
        if is_kernel {
            let unit = folder.join(format!("{name}.cpp"));
            std::fs::write(&unit, registered(compiler(), &source)?)
                .map_err(|e| format!("{}: {e}", unit.display()))?;
            command.args(["-include", "device.h"]).arg("-I");
            command.arg(source.parent().unwrap_or(&ops)).arg("-c").arg(unit);
        } else {
            command.arg("-c").arg(source);
        }
        command.arg("-o").arg(object);
        let child = command.spawn().map_err(|e| format!("cannot run {}: {e}", shown(&command)))?;
        running.push((name, child));
        if running.len() >= 2 {
            finish(&mut running)?;
        }
    }
    finish(&mut running)?;
    let library = folder.join(NAMES[0]);
    let mut link = Command::new("c++");
    link.args(["-shared", "-Wl,-Bsymbolic", "-o"]).arg(&library).args(objects);
    run(&mut link)?;
    for name in &NAMES[1..] {
        let alias = folder.join(name);
        let _ = std::fs::remove_file(&alias);
        std::os::unix::fs::symlink(NAMES[0], &alias)
            .map_err(|e| format!("{}: {e}", alias.display()))?;
    }
    Ok(())
}

fn finish(running: &mut Vec<(String, std::process::Child)>) -> Result<(), String> {
    for (name, mut child) in running.drain(..) {
        let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
        if !status.success() {
            return Err(format!("the compiler failed on {name} ({status})"));
        }
    }
    Ok(())
}

/// The `op.cu` of all operations.
fn sources(ops: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(ops).map_err(|e| format!("{}: {e}", ops.display()))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path().join("op.cu")));
    let mut paths: Vec<_> = paths.filter(|path| path.is_file()).collect();
    paths.sort();
    Ok(paths)
}

/// A source that includes `source` and tells the emulator of its kernels.
fn registered(mut compiler: Command, source: &Path) -> Result<String, String> {
    compiler.args(["-E", "-P", "-DLIMPID_LIST_KERNELS", "-include", "device.h", "-x", "c++"]);
    compiler.arg(source).stderr(Stdio::inherit());
    let output = compiler.output().map_err(|e| format!("cannot run {}: {e}", shown(&compiler)))?;
    if !output.status.success() {
        return Err(format!("{} failed", shown(&compiler)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut names = BTreeSet::new();
    for rest in text.split("LIMPID_KERNEL").skip(1) {
        let head = rest.split('(').next().unwrap_or_default();
        if let Some(name) = head.split_whitespace().last() {
            names.insert(name.to_owned());
        }
    }
    // functions of the same name in two files are two functions
    let mut unit = format!("namespace {{\n#include \"{}\"\n}}\n", source.display());
    for name in names {
        unit += &format!("LIMPID_ADD({name})\n");
    }
    Ok(unit)
}

fn modified(path: &Path) -> Result<std::time::SystemTime, String> {
    let metadata = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    metadata.map_err(|e| format!("{}: {e}", path.display()))
}

/// When the youngest source of C++ in some folders was changed.
fn newest(folders: &[&Path]) -> Result<std::time::SystemTime, String> {
    let mut newest = std::time::SystemTime::UNIX_EPOCH;
    for folder in folders {
        let entries =
            std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if ["cu", "cuh", "cpp", "h"].contains(&ending) {
                newest = newest.max(modified(&path)?);
            }
        }
    }
    Ok(newest)
}
