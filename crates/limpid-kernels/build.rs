//! With the feature `cuda`: compiles every `src/**/op.cu` to `OUT_DIR/FOLDER.fatbin`, warnings as errors.
//!
//! `CUDA_HOME`, `CUDA_PATH`, the path or `/usr/local/cuda` has nvcc; `LIMPID_CUDA_LINK` may name a folder of
//! libraries to link with. What registers and stacks the kernels take is in `FOLDER.usage` beside them.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for these capabilities, and PTX for what comes later.
const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_80,code=compute_80"];

/// The first toolkit whose functions are linked with (`.cargo/config.toml`), as the driver counts.
const OLDEST: u32 = 13_000;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    // also for folders that get kernels later
    println!("cargo:rerun-if-changed=src");
    let mut shared = vec![PathBuf::from("build.rs")];
    shared.extend(headers(Path::new("src/gpu"))?);
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    println!("cargo:rerun-if-env-changed=CUDA_PATH");
    println!("cargo:rerun-if-env-changed=LIMPID_CUDA_LINK");
    if let Ok(libraries) = env::var("LIMPID_CUDA_LINK") {
        println!("cargo:rustc-link-search=native={libraries}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let nvcc = nvcc();
    let version = version(&nvcc)?;
    if version < OLDEST {
        let nvcc = nvcc.display();
        return Err(format!("{nvcc} is of CUDA {}; needed is 13.0 or later", named(version)).into());
    }
    println!("cargo:rustc-env=LIMPID_CUDA_VERSION={version}");
    let mut running = Vec::new();
    for folder in std::fs::read_dir("src")? {
        let folder = folder?;
        let source = folder.path().join("op.cu");
        if source.is_file() {
            let name = folder.file_name().to_string_lossy().into_owned();
            let image = out.join(format!("{name}.fatbin"));
            let mut made_from = headers(&folder.path())?;
            made_from.push(source.clone());
            if is_newer(&image, made_from.iter().chain(&shared)) {
                continue;
            }
            let mut compile = Command::new(&nvcc);
            compile.args(["-fatbin", "-O3", "-std=c++17", "-Werror=all-warnings"]);
            compile.args(["-Xptxas=-v,-warn-spills", "-Isrc/gpu", "--compress-mode=size"]);
            for target in TARGETS {
                compile.args(["-gencode", target]);
            }
            compile.arg(&source).arg("-o").arg(image);
            compile.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            let child = compile.spawn().map_err(|e| missing(&nvcc, &e))?;
            running.push((name, child));
        }
    }
    for (name, child) in running {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            // without what it says of kernels that are in order
            let told = |line: &&str| !line.starts_with("ptxas info") && !line.starts_with("    ");
            let text: Vec<&str> = text.lines().filter(told).collect();
            return Err(format!("nvcc failed on src/{name}/op.cu:\n{}", text.join("\n")).into());
        }
        std::fs::write(out.join(format!("{name}.usage")), text.as_bytes())?;
    }
    Ok(())
}

/// The headers of a folder.
fn headers(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "cuh") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The compiler of `CUDA_HOME` or `CUDA_PATH`, of the path, or of where NVIDIA installs it.
fn nvcc() -> PathBuf {
    let usual = Path::new("/usr/local/cuda");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).any(|folder| folder.join("nvcc").is_file());
    let home = env::var_os("CUDA_HOME").or_else(|| env::var_os("CUDA_PATH")).map(PathBuf::from);
    match home {
        Some(home) => home.join("bin/nvcc"),
        None if !on_path && usual.join("bin/nvcc").is_file() => usual.join("bin/nvcc"),
        None => "nvcc".into(),
    }
}

/// Whether a file is there and younger than all it is made from.
fn is_newer<'a>(file: &Path, mut made_from: impl Iterator<Item = &'a PathBuf>) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let Ok(built) = modified(file) else { return false };
    made_from.all(|source| modified(source).is_ok_and(|changed| changed < built))
}

/// The version of the toolkit as the driver counts: 13000 for 13.0.
fn version(nvcc: &Path) -> Result<u32, Box<dyn Error>> {
    let output = Command::new(nvcc).arg("--version").output().map_err(|e| missing(nvcc, &e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    let parts = number.and_then(|number| number.split_once('.'));
    let (major, minor) = parts.ok_or("nvcc --version names no release")?;
    Ok(major.parse::<u32>()? * 1000 + minor.parse::<u32>()? * 10)
}

/// A version as people write it.
fn named(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn missing(nvcc: &Path, e: &std::io::Error) -> String {
    let nvcc = nvcc.display();
    format!("cannot run {nvcc}: {e}; set CUDA_HOME, or use `cargo xtask cuda build`")
}
