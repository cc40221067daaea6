//! The layers: a crate may depend only on crates of lower ones.

use std::collections::BTreeMap;

use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::process::root;

/// The layer of each crate; programs and tools come above all of them.
const LEVELS: &[(&str, u8)] = &[
    ("limpid-kernels", 0),
    ("limpid-io", 0),
    ("limpid-config", 0),
    ("limpid-nn", 1),
    ("limpid-classical", 1),
    ("limpid-arch", 2),
    ("limpid-losses", 2),
    ("limpid-mri", 2),
    ("limpid-engine", 3),
    ("limpid-models", 4),
    ("limpid-datamodule", 4),
    ("limpid-track", 4),
    ("limpid-export", 4),
    ("limpid-cli", 5),
];
/// Programs, in `apps/`.
const APP: u8 = 6;
/// `tests/` and `xtask/`.
const TOOL: u8 = 7;
/// Dependencies that belong to the terminal, and thus into `limpid-cli`, programs and tools only.
const TERMINAL: [&str; 3] = ["clap", "clap_complete", "miette"];

/// Checks the dependencies of every package of the workspace.
pub(super) fn check() -> Result<Vec<String>, String> {
    let manifest = root().join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec();
    let metadata: Metadata = metadata.map_err(|e| e.to_string())?;
    let packages = metadata.workspace_packages();
    let mut levels = BTreeMap::new();
    let mut problems = Vec::new();
    for package in &packages {
        match level(package) {
            Some(level) => {
                levels.insert(package.name.to_string(), level);
            }
            None => problems.push(format!(
                "{}: in no layer; add it to the table in xtask/src/tidy/layers.rs",
                package.name
            )),
        }
    }
    for package in &packages {
        let Some(own) = levels.get(package.name.as_str()) else { continue };
        let depends: Vec<&str> = package.dependencies.iter().map(|d| d.name.as_str()).collect();
        problems.extend(violations(&package.name, *own, &depends, &levels));
    }
    Ok(problems)
}

fn level(package: &Package) -> Option<u8> {
    if let Some((_, level)) = LEVELS.iter().find(|(name, _)| *name == package.name.as_str()) {
        return Some(*level);
    }
    let folder = package.manifest_path.parent()?;
    let is = |name: &str| folder.file_name() == Some(name);
    if is("xtask") || is("tests") {
        return Some(TOOL);
    }
    (folder.parent()?.file_name() == Some("apps")).then_some(APP)
}

/// What the dependencies of one package break.
fn violations(name: &str, own: u8, depends: &[&str], levels: &BTreeMap<String, u8>) -> Vec<String> {
    let mut problems = Vec::new();
    for dependency in depends {
        if let Some(level) = levels.get(*dependency)
            && *level >= own
        {
            problems.push(format!(
                "{name}: depends on {dependency} of layer {level}, but is of layer {own}"
            ));
        }
        if TERMINAL.contains(dependency) && own < APP && name != "limpid-cli" {
            problems.push(format!(
                "{name}: depends on {dependency}, which only limpid-cli, programs and tools may"
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_layers_and_no_terminal_below_the_command_line() {
        let levels = LEVELS.iter().map(|(name, level)| (name.to_string(), *level)).collect();
        let found = |name, own, depends: &[&str]| violations(name, own, depends, &levels);
        assert!(found("limpid-nn", 1, &["limpid-kernels", "limpid-io", "serde"]).is_empty());
        assert_eq!(found("limpid-nn", 1, &["limpid-classical"]).len(), 1);
        assert_eq!(found("limpid-io", 0, &["limpid-engine"]).len(), 1);
        assert_eq!(found("limpid-track", 4, &["clap"]).len(), 1);
        assert!(found("limpid-cli", 5, &["clap", "miette", "limpid-engine"]).is_empty());
        assert!(found("denoise", APP, &["clap", "limpid-cli"]).is_empty());
        assert_eq!(found("denoise", APP, &["xtask"]).len(), 0);
    }

    #[test]
    fn every_package_of_this_workspace_has_its_layer() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }
}
