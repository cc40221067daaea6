//! Finding images: a file, a folder or a pattern becomes a list in the order a person expects.

use crate::error::{Error, Result};
use crate::format::{READABLE, READABLE_ENDINGS};
use std::cmp::Ordering;
use std::path::{Component, Path, PathBuf};

/// The images at `place`, in natural order (`img2` before `img10`): the file itself, the
/// readable files directly in a folder, or those that match a pattern with `*` and `?`
/// (`runs/*/z?.tif`). Hidden files are left out.
///
/// # Errors
/// The folder cannot be read, or holds nothing readable.
pub fn list_images(place: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let place = place.as_ref();
    if place.is_file() {
        return Ok(vec![place.to_owned()]);
    }
    let (mut files, what) = if place.is_dir() {
        (entries(place)?, "this folder holds no readable image")
    } else if is_pattern(&place.to_string_lossy()) {
        (expand(place)?, "this pattern matches no readable image")
    } else {
        return Err(Error::io("find", place, std::io::ErrorKind::NotFound.into()));
    };
    files.retain(|file| is_readable_name(file) && file.is_file());
    if files.is_empty() {
        return Err(Error::argument(place, format!("{what}; readable are {READABLE}")));
    }
    files.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(files)
}

/// Whether `place` is a folder or a pattern, which [`list_images`] makes a list of, and not a file.
pub fn is_collection(place: impl AsRef<Path>) -> bool {
    let place = place.as_ref();
    place.is_dir() || !place.is_file() && is_pattern(&place.to_string_lossy())
}

/// Orders names as a person would: digits by their value, letters by the alphabet, the case of
/// letters only where nothing else differs.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let (digits_x, digits_y) = (leading_digits(x), leading_digits(y));
        let order = if !digits_x.is_empty() && !digits_y.is_empty() {
            (x, y) = (&x[digits_x.len()..], &y[digits_y.len()..]);
            let (m, n) = (digits_x.trim_start_matches('0'), digits_y.trim_start_matches('0'));
            m.len().cmp(&n.len()).then_with(|| m.cmp(n))
        } else {
            let (mut rest_x, mut rest_y) = (x.chars(), y.chars());
            let (Some(p), Some(q)) = (rest_x.next(), rest_y.next()) else {
                return x.len().cmp(&y.len()).then_with(|| a.cmp(b));
            };
            (x, y) = (rest_x.as_str(), rest_y.as_str());
            p.to_lowercase().cmp(q.to_lowercase())
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn leading_digits(text: &str) -> &str {
    &text[..text.bytes().take_while(u8::is_ascii_digit).count()]
}

fn is_readable_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    !name.starts_with('.') && READABLE_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Everything directly in a folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let fail = |e| Error::io("list", folder, e);
    std::fs::read_dir(folder)
        .map_err(fail)?
        .map(|entry| entry.map(|e| e.path()).map_err(fail))
        .collect()
}

/// Follows a pattern down the folders, one component at a time.
fn expand(pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        if !matches!(part, Component::Normal(_)) || !is_pattern(&text) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut next = Vec::new();
        for folder in &found {
            if folder.as_os_str().is_empty() || folder.is_dir() {
                next.extend(entries(folder)?.into_iter().filter(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    !name.starts_with('.') && matches(text.as_bytes(), name.as_bytes())
                }));
            }
        }
        found = next;
    }
    Ok(found)
}

/// Whether `name` fits `pattern`, where `*` is any run of bytes and `?` any one character.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // greedy with one point to fall back to: the last star
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                n += 1;
                while name.get(n).is_some_and(|byte| byte & 0xc0 == 0x80) {
                    n += 1; // the rest of one UTF-8 character
                }
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order_of_names() {
        let mut names = ["img10.tif", "img2.tif", "Img1.tif", "img02.tif", "a", "b", "img", ""];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["", "a", "b", "img", "Img1.tif", "img02.tif", "img2.tif", "img10.tif"]);
        let long = "9".repeat(40);
        assert_eq!(natural_order(&long, "1"), Ordering::Greater);
    }

    #[test]
    fn folders_patterns_and_files() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["a", "b"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
            for name in ["z10.TIF", "z9.nii.gz", ".z1.tif", "notes.txt", "v.img"] {
                std::fs::write(dir.path().join(folder).join(name), b"").unwrap();
            }
        }
        std::fs::create_dir(dir.path().join("empty.tif")).unwrap();
        let list = |place: &str| -> Vec<String> {
            let strip = |p: PathBuf| p.strip_prefix(dir.path()).unwrap().display().to_string();
            list_images(dir.path().join(place)).unwrap().into_iter().map(strip).collect()
        };
        assert_eq!(list("a"), ["a/z9.nii.gz", "a/z10.TIF"]);
        assert_eq!(list("*/z*.TIF"), ["a/z10.TIF", "b/z10.TIF"]);
        assert_eq!(list("?/z?.*"), ["a/z9.nii.gz", "b/z9.nii.gz"]);
        assert_eq!(list("a/notes.txt"), ["a/notes.txt"]);
        let error = list_images(dir.path().join("empty.tif")).unwrap_err().to_string();
        assert!(error.contains("no readable image") && error.ends_with("empty.tif`"), "{error}");
        let many = |place: &str| is_collection(dir.path().join(place));
        assert_eq!(["a", "*/z*", "a/notes.txt", "none"].map(many), [true, true, false, false]);
        assert!(list_images(dir.path().join("q*")).is_err());
        assert!(list_images(dir.path().join("none")).is_err());
    }
}
