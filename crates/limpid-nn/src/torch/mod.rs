//! Import of PyTorch checkpoints: `.pt`, `.pth`, `.ckpt` files written by `torch.save`.
//!
//! Both formats are read: the zip archive (PyTorch 1.6 and later) and the older sequence of pickles
//! with raw storages behind. Nothing in a file is ever executed: the pickle is read into plain
//! objects, of which tensors, containers and numbers are used and everything else stays opaque.
//! Files are not trusted: every size is checked against the bytes that are there.
//!
//! Source: `torch/serialization.py`.

mod contents;
mod element;
mod graph;
mod pickle;
mod rebuild;
mod storage;
#[cfg(test)]
mod tests;

use crate::error::{CheckpointError, Fault};
use candle_core::Tensor;
use graph::{Graph, Node};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use storage::Builder;

/// First integer of the older format, as the pickle machine shows it.
const LEGACY_MAGIC: &str = "119547037146038801333356";
/// Keys under which training programs keep the weights, most usual first.
const NESTS: [&str; 9] = [
    "state_dict",
    "model",
    "model_state_dict",
    "network_weights",
    "params",
    "params_ema",
    "ema",
    "netG",
    "module",
];
/// Prefixes that wrappers put before every name: data parallelism, Lightning, `torch.compile`.
const WRAPPERS: [&str; 3] = ["module.", "model.", "_orig_mod."];

/// The contents of a PyTorch checkpoint.
#[derive(Debug)]
pub struct TorchFile {
    /// Every tensor (and numeric NumPy array) by the path of keys and indices that leads to it,
    /// joined by dots. Booleans become u8, other integers i64 except u8, complex numbers get a
    /// trailing axis of two.
    pub tensors: BTreeMap<String, Tensor>,
    /// Everything else: numbers, texts, lists (with null where a tensor is) and dictionaries. Other
    /// objects are `{"__class__": "their.class"}`.
    pub values: Value,
    groups: BTreeMap<String, Vec<String>>,
    path: PathBuf,
}

impl TorchFile {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] if the file cannot be read, [`CheckpointError::Format`] if it is
    /// damaged, hostile or no checkpoint.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let open = || -> Result<_, Fault> {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        let (file, len) = open().map_err(|fault| fault.at(path))?;
        Self::read(BufReader::new(file), len, path).map_err(|fault| fault.at(path))
    }

    /// The tensors of one dictionary, named within it.
    ///
    /// With a `key` (dots go deeper) all tensors below it. Without, those that most likely are the
    /// model's `state_dict`: all below the first usual key at the top, else those of the dictionary
    /// with the most.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] if there are none.
    pub fn state_dict(
        &self,
        key: Option<&str>,
    ) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
        let nest = match key {
            Some(key) => key,
            None => self.model_key().ok_or_else(|| self.missing("state_dict"))?,
        };
        let names: Vec<&String> = match key {
            Some(_) => self.tensors.keys().collect(),
            None => self.groups.iter().filter(|(g, _)| within(g, nest)).flat_map(|g| g.1).collect(),
        };
        let inner = |name: &String| {
            let inner = match nest {
                "" => name,
                nest => name.strip_prefix(nest)?.strip_prefix('.')?,
            };
            Some((inner.to_owned(), self.tensors.get(name)?.clone()))
        };
        let found: BTreeMap<_, _> = names.into_iter().filter_map(inner).collect();
        if found.is_empty() { Err(self.missing(nest)) } else { Ok(found) }
    }

    /// The key that [`Self::state_dict`] chooses by itself: empty if the tensors lie at the top,
    /// none if there are no tensors.
    #[must_use]
    pub fn model_key(&self) -> Option<&str> {
        let usual = NESTS.into_iter().find(|nest| self.groups.keys().any(|g| within(g, nest)));
        let most = || self.groups.iter().rev().max_by_key(|(_, names)| names.len());
        usual.or_else(|| Some(most()?.0.as_str()))
    }

    fn missing(&self, wanted: &str) -> CheckpointError {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
        let shown = groups.iter().take(6).map(|(key, names)| {
            let key = if key.is_empty() { "the top level".into() } else { format!("`{key}`") };
            format!("{} under {key}", names.len())
        });
        let available = match groups.len() {
            0 => "none at all".to_owned(),
            1..=6 => shown.collect::<Vec<_>>().join(", "),
            n => format!("{} and {} more places", shown.collect::<Vec<_>>().join(", "), n - 6),
        };
        CheckpointError::Missing { wanted: wanted.to_owned(), available, path: self.path.clone() }
    }

    /// Reads a checkpoint of `len` bytes from anything seekable.
    fn read(mut reader: impl BufRead + Seek, len: u64, path: &Path) -> Result<Self, Fault> {
        let mut start = Vec::new();
        (&mut reader).take(512).read_to_end(&mut start)?;
        reader.rewind()?;
        let (tensors, contents) = if start.starts_with(b"PK") {
            read_zip(reader, len)?
        } else if start.get(257..262) == Some(b"ustar") {
            return Err(Fault::Format {
                problem: "a tar checkpoint of PyTorch before 0.1.10 is not read".to_owned(),
                hint: "load it with PyTorch and save it again",
            });
        } else if start.first() == Some(&0x80) {
            read_legacy(reader, len)?
        } else {
            return Err(Fault::Format {
                problem: "not a PyTorch checkpoint (neither a zip archive nor a pickle)".to_owned(),
                hint: "give a file written by `torch.save`",
            });
        };
        let contents::Contents { values, groups, .. } = contents;
        Ok(Self { tensors, values, groups, path: path.to_owned() })
    }
}

/// Whether a dictionary is the one at `nest` or below it; at the top, only the top itself counts.
fn within(group: &str, nest: &str) -> bool {
    group
        .strip_prefix(nest)
        .is_some_and(|rest| rest.is_empty() || (!nest.is_empty() && rest.starts_with('.')))
}

/// Removes a prefix from the names that have it; other names stay.
#[must_use]
pub fn strip_prefix(tensors: BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let strip = |name: String| match name.strip_prefix(prefix) {
        Some(inner) if !tensors.contains_key(inner) => inner.to_owned(),
        _ => name,
    };
    let names: Vec<_> = tensors.keys().cloned().map(strip).collect();
    names.into_iter().zip(tensors.into_values()).collect()
}

/// Removes the prefixes `module.`, `model.` and `_orig_mod.`, in any order and number, as long as
/// every name has them.
#[must_use]
pub fn strip_wrappers(mut tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let common = |tensors: &BTreeMap<String, Tensor>| {
        WRAPPERS.into_iter().find(|w| tensors.keys().all(|name| name.starts_with(w)))
    };
    while !tensors.is_empty()
        && let Some(prefix) = common(&tensors)
    {
        tensors = strip_prefix(tensors, prefix);
    }
    tensors
}

type Parts = (BTreeMap<String, Tensor>, contents::Contents);

/// The zip format: `NAME/data.pkl`, `NAME/byteorder`, and one stored entry `NAME/data/KEY` each.
fn read_zip(reader: impl Read + Seek, len: u64) -> Result<Parts, Fault> {
    let mut zip = zip::ZipArchive::new(reader).map_err(zip_fault)?;
    let pickle = zip.file_names().find(|n| *n == "data.pkl" || n.ends_with("/data.pkl"));
    let Some(pickle) = pickle.map(str::to_owned) else {
        return Err(Fault::Format {
            problem: "the zip archive holds no `data.pkl`, so it is no PyTorch checkpoint"
                .to_owned(),
            hint: "give a file written by `torch.save`",
        });
    };
    let root = pickle.trim_end_matches("data.pkl").to_owned();
    let big_endian = match zip.index_for_name(&format!("{root}byteorder")) {
        Some(index) => entry(&mut zip, index, 16)? == b"big",
        None => false,
    };
    let index = zip.index_for_name(&pickle).unwrap_or_default();
    let graph = pickle::load(&mut entry(&mut zip, index, len)?.as_slice())?;
    let contents = contents::collect(&graph)?;
    let mut builder = Builder::new(&graph, &contents, len)?;
    // entries may not overlap to become more than the file
    let mut left = len;
    for key in builder.keys() {
        let Some(index) = zip.index_for_name(&format!("{root}data/{key}")) else {
            return Err(Fault::damaged(format!("storage `{key}` is not in the archive")));
        };
        let bytes = entry(&mut zip, index, left)?;
        left -= bytes.len() as u64;
        builder.fill(&key, &bytes, big_endian)?;
    }
    Ok((builder.finish(&contents)?, contents))
}

/// The bytes of an archive entry of at most `limit` bytes. Its checksum is verified.
fn entry(
    zip: &mut zip::ZipArchive<impl Read + Seek>,
    index: usize,
    limit: u64,
) -> Result<Vec<u8>, Fault> {
    let mut file = zip.by_index(index).map_err(zip_fault)?;
    let (name, size) = (file.name().to_owned(), file.size());
    if file.compression() != zip::CompressionMethod::Stored {
        return Err(Fault::Format {
            problem: format!("archive entry `{name}` is compressed, which `torch.save` never does"),
            hint: "load the file with PyTorch and save it again",
        });
    }
    if size > limit {
        return Err(Fault::damaged(format!(
            "archive entry `{name}` claims {size} bytes where at most {limit} can be"
        )));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn zip_fault(error: zip::result::ZipError) -> Fault {
    match error {
        zip::result::ZipError::Io(error) => error.into(),
        other => Fault::damaged(format!("the zip archive cannot be read ({other})")),
    }
}

/// The older format: pickles of a magic number, a version, facts about the machine, the objects and
/// the storage keys; then every storage as a count and raw elements, little-endian.
fn read_legacy(mut reader: impl BufRead, len: u64) -> Result<Parts, Fault> {
    let magic = pickle::load(&mut reader)?;
    if !matches!(magic.node(magic.root), Node::Str(s) if s == LEGACY_MAGIC) {
        return Err(Fault::Format {
            problem: "a pickle, but not one that `torch.save` wrote".to_owned(),
            hint: "load it in Python and save its tensors with `torch.save`",
        });
    }
    let (_version, _machine) = (pickle::load(&mut reader)?, pickle::load(&mut reader)?);
    let graph = pickle::load(&mut reader)?;
    let contents = contents::collect(&graph)?;
    let widths = storage_widths(&graph);
    let mut builder = Builder::new(&graph, &contents, len)?;

    let keys = pickle::load(&mut reader)?;
    let Node::List(ids) = keys.node(keys.root) else {
        return Err(Fault::damaged("the list of storages is missing"));
    };
    for key in ids.iter().map(|&id| keys.str(id)) {
        let known = key.and_then(|key| Some((key, *widths.get(key)?)));
        let (key, width) = known.ok_or_else(|| Fault::damaged("a storage belongs to no tensor"))?;
        let mut count = [0; 8];
        reader.read_exact(&mut count)?;
        let count = u64::from_le_bytes(count);
        let size =
            count.checked_mul(width as u64).filter(|&size| size <= len).ok_or_else(|| {
                Fault::damaged(format!(
                    "storage `{key}` claims {count} elements, more than the file"
                ))
            })?;
        let mut bytes = Vec::new();
        let read = if builder.wants(key) {
            (&mut reader).take(size).read_to_end(&mut bytes)? as u64
        } else {
            std::io::copy(&mut (&mut reader).take(size), &mut std::io::sink())?
        };
        if read != size {
            return Err(Fault::damaged(format!(
                "storage `{key}` claims {size} bytes where {read} are left"
            )));
        }
        builder.fill(key, &bytes, false)?;
    }
    Ok((builder.finish(&contents)?, contents))
}

fn storage_widths(graph: &Graph) -> BTreeMap<&str, usize> {
    let storages = graph.nodes.iter().filter_map(|node| match node {
        Node::Storage(storage) => Some((storage.key.as_str(), storage.width)),
        _ => None,
    });
    storages.collect()
}
