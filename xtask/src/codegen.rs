//! `codegen`: the files of the repository that are made from its code.

use std::process::Command;

use crate::process::{binaries, root};

/// Options of `codegen`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say which files are out of date
    #[arg(long)]
    check: bool,
}

/// A generated file: its path in the repository and what makes its text.
struct Generated {
    path: &'static str,
    text: fn() -> Result<String, String>,
}

/// Every generated file.
const FILES: &[Generated] = &[
    Generated {
        path: "docs/src/reference/filters.md",
        text: || {
            let title = "Classical filters";
            Ok(limpid_config::reference_markdown::<limpid_classical::FilterConfig>(title))
        },
    },
    Generated { path: "configs/denoise.schema.json", text: || said("denoise", "schema") },
    Generated { path: "docs/src/reference/denoise-cli.md", text: || said("denoise", "cli") },
    Generated { path: "docs/src/reference/denoise-config.md", text: || said("denoise", "config") },
    Generated { path: "configs/emdiffuse.schema.json", text: || said("emdiffuse", "schema") },
    Generated { path: "docs/src/reference/emdiffuse-cli.md", text: || said("emdiffuse", "cli") },
    Generated {
        path: "docs/src/reference/emdiffuse-config.md",
        text: || said("emdiffuse", "config"),
    },
    Generated { path: "docs/src/reference/vemdiffuse-cli.md", text: || said("vemdiffuse", "cli") },
    Generated { path: "configs/igrog.schema.json", text: || said("igrog", "schema") },
    Generated { path: "docs/src/reference/igrog-cli.md", text: || said("igrog", "cli") },
    Generated { path: "docs/src/reference/igrog-config.md", text: || said("igrog", "config") },
];

/// What a program says of itself.
fn said(program: &str, page: &str) -> Result<String, String> {
    let mut command = Command::new(binaries()?.join(program));
    let output = command.args(["docs", page]).output().map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("`{program} docs {page}` ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|e| e.to_string())
}

/// Writes the files, or checks them.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    if args.check {
        return check();
    }
    for file in FILES {
        let path = root().join(file.path);
        let text = (file.text)()?;
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| format!("{e}: `{}`", dir.display()))?;
        }
        limpid_io::atomic::write_bytes(&path, text.as_bytes()).map_err(|e| e.to_string())?;
        println!("wrote {}", file.path);
    }
    Ok(())
}

/// Fails with the names of the files that differ from what the code says.
pub(crate) fn check() -> Result<(), String> {
    let mut stale = Vec::new();
    for file in FILES {
        let text = (file.text)()?;
        if !std::fs::read_to_string(root().join(file.path)).is_ok_and(|old| old == text) {
            stale.push(file.path);
        }
    }
    if stale.is_empty() {
        println!("{} generated files are up to date", FILES.len());
        return Ok(());
    }
    Err(format!("out of date: {}; run `cargo xtask codegen`", stale.join(", ")))
}
