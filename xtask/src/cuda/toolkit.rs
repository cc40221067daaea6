//! The CUDA toolkit: the one that is installed, or NVIDIA's wheels from PyPI under `target/cuda`.

use crate::process::{run, target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release whose kernels the oldest driver of its series (580) still loads.
const VERSION: &str = "13.0.2";
/// What is needed of it: compiler, headers, the runtime that is linked; random numbers and the run-time
/// compiler only for their headers.
const PARTS: &str = "nvcc,nvvm,crt,cudart,cccl,curand,nvrtc";

/// A toolkit.
pub(crate) struct Toolkit {
    home: PathBuf,
    /// Where builds find it. Of an installed one that is a folder without its libraries: the linker would take those
    /// before ours, and the program would not start where they are missing.
    seen: PathBuf,
}

impl Toolkit {
    /// The toolkit of `CUDA_HOME` or `CUDA_PATH`, of the path, or where NVIDIA installs it, or else the wheels, fetched
    /// if they are not there.
    ///
    /// # Errors
    /// If they cannot be fetched.
    pub(crate) fn find() -> Result<Self, String> {
        let has_compiler = |home: &Path| home.join("bin/nvcc").is_file();
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            let Some(home) = std::env::var_os(name).map(PathBuf::from) else { continue };
            if !has_compiler(&home) {
                return Err(format!("{name} is {}, which has no bin/nvcc", home.display()));
            }
            return Self::installed(home);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).find(|dir| dir.join("nvcc").is_file());
        let usual = || Some(PathBuf::from("/usr/local/cuda")).filter(|home| has_compiler(home));
        let on_path = on_path.as_deref().and_then(Path::parent).map(Path::to_owned);
        if let Some(home) = on_path.or_else(usual) {
            return Self::installed(home);
        }
        let folder = target().join("cuda/toolkit");
        let home = folder.join("nvidia/cu13");
        if !has_compiler(&home) {
            fetch(&folder)?;
        }
        Ok(Self { seen: home.clone(), home })
    }

    /// With links to all it has but its libraries.
    fn installed(home: PathBuf) -> Result<Self, String> {
        let seen = target().join("cuda/installed");
        let said = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
        match std::fs::remove_dir_all(&seen) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(said(&seen, e)),
            _ => {}
        }
        std::fs::create_dir_all(&seen).map_err(|e| said(&seen, e))?;
        for part in ["bin", "include", "nvvm"] {
            let from = std::fs::canonicalize(home.join(part));
            let from = from.map_err(|e| said(&home.join(part), e))?;
            std::os::unix::fs::symlink(from, seen.join(part)).map_err(|e| said(&seen, e))?;
        }
        Ok(Self { home, seen })
    }

    /// Lets a build use it.
    pub(crate) fn apply(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs = vec![self.seen.join("bin")];
        dirs.extend(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(dirs) {
            command.env("PATH", path);
        }
        command.env("CUDA_HOME", &self.seen).env("CUDA_PATH", &self.seen);
        command.env_remove("CUDA_ROOT").env_remove("CUDA_TOOLKIT_ROOT_DIR");
    }

    /// Where its headers are.
    pub(crate) fn headers(&self) -> PathBuf {
        self.home.join("include")
    }

    /// The runtime library that programs are linked with.
    ///
    /// # Errors
    /// If the toolkit has none.
    pub(crate) fn runtime(&self) -> Result<PathBuf, String> {
        let places = ["lib/libcudart_static.a", "lib64/libcudart_static.a"];
        let found = places.iter().map(|place| self.home.join(place)).find(|file| file.is_file());
        found.ok_or_else(|| format!("no libcudart_static.a in {}", self.home.display()))
    }
}

/// Installs the wheels; an interrupted download leaves no toolkit behind.
fn fetch(folder: &Path) -> Result<(), String> {
    let part = folder.with_extension("part");
    let remove = |dir: &Path| match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {e}", dir.display()))
        }
        _ => Ok(()),
    };
    remove(&part)?;
    eprintln!("fetching the CUDA toolkit {VERSION} from PyPI into {} (0.6 GB)", folder.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    pip.arg(&part).arg(format!("cuda-toolkit[{PARTS}]=={VERSION}"));
    run(&mut pip).map_err(|e| format!("{e}; or install a toolkit and set CUDA_HOME"))?;
    remove(folder)?;
    std::fs::rename(&part, folder).map_err(|e| format!("cannot move {}: {e}", part.display()))
}
