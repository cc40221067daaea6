//! Finding an array by the name that the user gave, or by the usual names.

use crate::error::{Error, Result};
use limpid_io::arrays::{Array, Arrays, open_arrays};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// The arrays of a scan's file, and those of other files by name.
pub(super) struct Finder<'a> {
    path: &'a Path,
    arrays: Arrays,
    /// All files that were read.
    files: RefCell<Vec<PathBuf>>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(path: &'a Path, arrays: Arrays) -> Self {
        Self { path, arrays, files: RefCell::new(vec![path.to_owned()]) }
    }

    /// All files that were read.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// Whether the trajectory that `key` names is in a file of BART.
    pub(super) fn is_bart(&self, key: &str) -> bool {
        let file = if key.is_empty() { self.path } else { Path::new(key) };
        let named = file.extension().is_some_and(|e| e == "cfl" || e == "hdr");
        named || (!file.exists() && file.with_extension("hdr").exists())
    }

    /// The array that `key` names, or if it is empty one of the usual names.
    pub(super) fn find(&self, what: &str, key: &str, usual: &[&str]) -> Result<Option<Array>> {
        if key.is_empty() {
            let found = usual.iter().find_map(|name| self.member(&self.arrays, name));
            return Ok(found.cloned());
        }
        if let Some(array) = self.member(&self.arrays, key) {
            return Ok(Some(array.clone()));
        }
        let (file, member) = match key.rsplit_once(':') {
            Some((file, member)) if !Path::new(key).exists() => (file, Some(member)),
            _ => (key, None),
        };
        let beside = self.path.parent().unwrap_or(Path::new("")).join(file);
        let file = [PathBuf::from(file), beside].into_iter().find(|file| exists(file));
        let Some(file) = file else {
            let names: Vec<&str> = self.arrays.keys().map(String::as_str).collect();
            let hint = format!(
                "the scan holds {}; `scan.{what}` names one of them, a file, or FILE:KEY",
                names.join(", ")
            );
            let message = format!("there is no array and no file `{key}` for the {what}");
            return Err(Error::scan(message, hint).at(self.path));
        };
        let mut arrays = open_arrays(&file)?;
        self.files.borrow_mut().push(file.clone());
        let names: Vec<String> = arrays.keys().cloned().collect();
        let name = match member {
            Some(member) => self.member(&arrays, member).map(|_| member.to_owned()),
            None if names.len() == 1 => names.first().cloned(),
            None => usual.iter().find(|name| arrays.contains_key(**name)).map(|n| (*n).to_owned()),
        };
        let found = name.and_then(|name| {
            let full = full_name(&arrays, &name)?;
            arrays.remove(&full)
        });
        let hint = format!("it holds {}; name one as FILE:KEY", names.join(", "));
        let message = format!("which array is the {what}?");
        found.map(Some).ok_or_else(|| Error::scan(message, hint).at(&file))
    }

    /// As [`Finder::find`], but the array must be there.
    pub(super) fn need(&self, what: &str, key: &str, usual: &[&str]) -> Result<Array> {
        self.find(what, key, usual)?.ok_or_else(|| {
            let names: Vec<&str> = self.arrays.keys().map(String::as_str).collect();
            let hint = format!(
                "the file holds {}; usual names are {}; name it with `--set scan.{what}=KEY`, or `FILE` if \
                 it is a file of its own",
                names.join(", "),
                usual.join(", ")
            );
            Error::scan(format!("the scan has no {what}"), hint).at(self.path)
        })
    }

    /// The only array of the file, if it has one.
    pub(super) fn only(&self) -> Option<&Array> {
        self.arrays.values().next().filter(|_| self.arrays.len() == 1)
    }

    fn member<'b>(&self, arrays: &'b Arrays, name: &str) -> Option<&'b Array> {
        arrays.get(&full_name(arrays, name)?)
    }
}

/// A file, or a BART pair by its name without an ending.
fn exists(file: &Path) -> bool {
    file.is_file() || file.with_extension("hdr").is_file()
}

/// The name of an array, of which the last part of a path within the file is enough.
fn full_name(arrays: &Arrays, name: &str) -> Option<String> {
    let last = |full: &&String| full.rsplit('/').next() == Some(name);
    arrays.get_key_value(name).map(|(full, _)| full).or_else(|| arrays.keys().find(last)).cloned()
}
