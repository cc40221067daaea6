//! Files that are either whole or absent: written beside their place, synced, then renamed.
//!
//! A reader, or a process killed at any moment, sees the old file or the new one, never a part.
//! After a `kill -9` a hidden `.name.*.limpid-tmp` may stay behind; it is never taken for a result.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A file being written next to its final place. Dropped before [`AtomicFile::commit`], it is
/// removed and the final place is untouched.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<File>,
    temp: tempfile::TempPath,
    target: PathBuf,
}

impl AtomicFile {
    /// Starts the file that will be at `path`. A symbolic link there is followed, not replaced.
    ///
    /// # Errors
    /// The folder does not exist or cannot be written, or `path` is a folder or a device.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let target = match std::fs::canonicalize(path) {
            Ok(real) => real,
            Err(_) => path.to_owned(), // does not exist yet
        };
        let mut mode = None;
        if let Ok(old) = std::fs::metadata(&target) {
            if !old.is_file() {
                return Err(Error::argument(
                    path,
                    "cannot write: a folder or device is in the way",
                ));
            }
            if old.permissions().readonly() {
                let denied = io::ErrorKind::PermissionDenied.into();
                return Err(Error::io("replace a read-only file", path, denied));
            }
            mode = Some(old.permissions());
        }
        let Some(name) = target.file_name() else {
            return Err(Error::argument(path, "cannot write: the path has no file name"));
        };
        // cut, for a name may be as long as the file system allows
        let prefix: String = name.to_string_lossy().chars().take(40).collect();
        let prefix = format!(".{prefix}.");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".limpid-tmp");
        if let Some(mode) = mode.or_else(default_permissions) {
            builder.permissions(mode);
        }
        let temp = builder.tempfile_in(folder_of(&target)).map_err(|e| {
            // its text names the temporary file, which the caller does not know
            Error::io("create a file", path, e.kind().into())
        })?;
        let (file, temp) = temp.into_parts();
        Ok(Self { file: BufWriter::with_capacity(1 << 18, file), temp, target })
    }

    /// The final place.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Syncs the content to disk and puts the file in its place.
    ///
    /// # Errors
    /// The disk is full or the rename fails; nothing is left behind.
    pub fn commit(self) -> Result<()> {
        let Self { file, temp, target } = self;
        let file = file.into_inner().map_err(|e| Error::io("write", &target, e.into_error()))?;
        file.sync_all().map_err(|e| Error::io("write", &target, e))?;
        drop(file);
        temp.persist(&target).map_err(|e| Error::io("rename into place", &target, e.error))?;
        sync_folder(folder_of(&target));
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Writes a whole file through `content`, atomically.
///
/// # Errors
/// As [`AtomicFile`], or whatever `content` returns; the old file stays as it was.
pub fn write(
    path: impl AsRef<Path>,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut file = AtomicFile::create(&path)?;
    content(&mut file).map_err(|e| Error::io("write", path.as_ref(), e))?;
    file.commit()
}

/// Writes `bytes` as a whole file, atomically.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write(path, |w| w.write_all(bytes))
}

/// The SHA-256 of a file's content, in lowercase hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_file(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let fail = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(fail)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(fail(e)),
        };
        hash.update(&buffer[..n]);
    }
}

/// What an ordinary new file gets; temporary files are private otherwise.
fn default_permissions() -> Option<std::fs::Permissions> {
    #[cfg(unix)]
    return Some(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    #[cfg(not(unix))]
    None
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the rename itself survive a power cut, on file systems that can; the file is whole and
/// in its place in any case, so a refusal is no failure.
fn sync_folder(folder: &Path) {
    if cfg!(unix) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"one").unwrap();
        let error = write(&path, |w| {
            w.write_all(b"half of tw")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("free some space") && error.ends_with("a.txt`"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(dir.path()), ["a.txt"]);
        write_bytes(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn missing_folder_and_folder_in_the_way_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no/such/a.txt");
        let error = write_bytes(&path, b"x").unwrap_err().to_string();
        assert!(
            error.contains("its folder exists") && error.ends_with("no/such/a.txt`"),
            "{error}"
        );
        assert!(!error.contains("limpid-tmp"), "{error}");
        let error = write_bytes(dir.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("in the way"), "{error}");
        assert!(write_bytes("", b"x").is_err());
        assert!(write_bytes("/", b"x").is_err());
        let long = dir.path().join("n".repeat(255));
        write_bytes(&long, b"x").unwrap();
        assert_eq!(std::fs::read(long).unwrap(), b"x");
    }

    #[cfg(unix)]
    #[test]
    fn keeps_permissions_and_links() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        write_bytes(&real, b"1").unwrap();
        std::fs::write(dir.path().join("plain"), b"1").unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().mode() & 0o777;
        assert_eq!(mode(&real), mode(&dir.path().join("plain")));
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&real, &link).unwrap();
        write_bytes(&link, b"22").unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"22");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(mode(&real), 0o640);
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o444)).unwrap();
        let error = write_bytes(&real, b"3").unwrap_err().to_string();
        assert!(error.contains("read-only") && error.contains("check the permissions"), "{error}");
        assert_eq!(std::fs::read(&real).unwrap(), b"22");
    }

    #[test]
    fn sha256_of_known_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        write_bytes(&path, b"abc").unwrap();
        assert_eq!(
            sha256_file(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, B.1
        );
        assert!(sha256_file(dir.path().join("none")).is_err());
    }
}
