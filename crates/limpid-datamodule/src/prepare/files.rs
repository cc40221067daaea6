//! Pairs of files to folders of patches and a manifest.

use super::{Image, Local, Pair, Pairing, Patch, Reason};
use crate::dataset::partners;
use crate::images::ImageFile;
use crate::{Error, Result};
use limpid_io::{Axes, Axis, Data, Volume, VolumeInfo, atomic};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the manifest in the folder of a prepared set.
pub const MANIFEST: &str = "manifest.jsonl";
/// The folders beside it.
const FOLDERS: [&str; 2] = ["input", "target"];
/// Bytes of a decoded file that are kept in memory.
const DECODED: u64 = 4 << 30;

/// What became of one patch: a line of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The clean file.
    pub clean: PathBuf,
    /// The noisy file.
    pub noisy: PathBuf,
    /// The slice or time point of both.
    pub frame: usize,
    /// Row and column of the patch in the image that is not moved.
    pub place: [usize; 2],
    /// How far the middle of the patch lies from there in the moved image, down and right, in
    /// pixels.
    pub shift: [f64; 2],
    /// Mean length of the local ways, in pixels.
    pub local: f64,
    /// Pixels that lie outside of the moved image.
    pub missing: usize,
    /// Correlation of the two patches, after smoothing by 2 pixels.
    pub correlation: f64,
    /// Why the patch was left out.
    pub rejected: Option<Reason>,
    /// Name of the file in `input` and in `target`, where it was kept.
    pub file: Option<String>,
}

/// How many patches were kept and how many left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Written.
    pub kept: usize,
    /// Left out; the manifest says why.
    pub rejected: usize,
}

/// Registers pairs of files and writes their patches: `OUT/input` (noisy) and `OUT/target` (clean)
/// hold files of equal names, as the dataset `paired` reads them, `OUT/manifest.jsonl` a [`Record`]
/// for each patch. Partners have the same name apart from the extension; slices and time points are
/// pairs of their own. Patches have the sample type of their file (values are rounded and limited to
/// it) and its pixel size. `observe` sees each record as it comes.
///
/// The manifest is written last: a folder without one is not complete.
///
/// # Errors
/// A file that cannot be read or has no partner; frames that do not correspond or are smaller than a
/// patch; `out` holding patches already; settings out of range; or whatever `local` returns.
pub fn prepare(
    clean: &[PathBuf],
    noisy: &[PathBuf],
    out: &Path,
    config: &Pairing,
    local: &Local<'_>,
    observe: &mut dyn FnMut(&Record),
) -> Result<Summary> {
    if let Some(finding) = limpid_config::check(config).into_iter().next() {
        return Err(Error::setting(finding, "correct the settings of the preparation"));
    }
    let partner = partners(noisy, clean, "noisy", "clean")?;
    make_folders(out)?;
    let (mut lines, mut summary) = (Vec::new(), Summary::default());
    for (noisy, partner) in noisy.iter().zip(partner) {
        let pair = FilePair::open(&clean[partner], noisy)?;
        for frame in 0..pair.noisy.frames() {
            pair.frame(frame, out, config, local, &mut |record| {
                match record.rejected {
                    None => summary.kept += 1,
                    Some(_) => summary.rejected += 1,
                }
                observe(record);
                let line = serde_json::to_string(record);
                lines.push(line.map_err(|e| Error::file(out, e, "report this"))?);
                Ok(())
            })?;
        }
    }
    lines.push(String::new()); // the last line ends, too
    atomic::write_bytes(out.join(MANIFEST), lines.join("\n").as_bytes())?;
    Ok(summary)
}

/// Makes the folders of a set, which must not hold one already: patches of both would be mixed.
fn make_folders(out: &Path) -> Result<()> {
    let failed = |path: &Path, e: std::io::Error| {
        Error::file(path, format!("the folder cannot be made: {e}"), "choose another place")
    };
    for name in FOLDERS {
        let folder = out.join(name);
        std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        let mut entries = std::fs::read_dir(&folder).map_err(|e| failed(&folder, e))?;
        if entries.next().is_some() {
            return Err(Error::file(
                &folder,
                "the folder holds files already, which would be mixed with the new patches",
                "name another folder, or empty this one",
            ));
        }
    }
    match std::fs::remove_file(out.join(MANIFEST)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(&out.join(MANIFEST), e)),
        _ => Ok(()),
    }
}

/// Two files that show the same.
struct FilePair {
    clean: ImageFile,
    noisy: ImageFile,
}

impl FilePair {
    fn open(clean: &Path, noisy: &Path) -> Result<Self> {
        let open = |path: &Path| {
            let mut file = ImageFile::open(path, 2, None)?;
            if file.channels != 1 {
                let message = format!("the image has {} channels", file.channels);
                return Err(Error::file(path, message, "give grey images: save one channel"));
            }
            file.decode_once(DECODED)?;
            Ok(file)
        };
        let (clean, noisy) = (open(clean)?, open(noisy)?);
        if clean.frames() != noisy.frames() {
            return Err(Error::file(
                &noisy.path,
                format!(
                    "the image has {} slices or time points, its clean partner `{}` {}",
                    noisy.frames(),
                    clean.path.display(),
                    clean.frames()
                ),
                "partners must have equally many: leave out those that only one has",
            ));
        }
        Ok(Self { clean, noisy })
    }

    /// Registers and writes the patches of one frame.
    fn frame(
        &self,
        frame: usize,
        out: &Path,
        config: &Pairing,
        local: &Local<'_>,
        done: &mut dyn FnMut(&Record) -> Result<()>,
    ) -> Result<()> {
        let (clean, noisy) = (self.clean.read_frame(frame)?, self.noisy.read_frame(frame)?);
        let here = |e: &dyn std::fmt::Display| {
            let with = self.clean.path.display();
            let message = format!("frame {frame}, registered with `{with}`: {e}");
            Error::file(&self.noisy.path, message, "look at this pair; leave it out if it is bad")
        };
        let image = |file: &ImageFile| [file.spatial[0], file.spatial[1]];
        let clean = Image { values: &clean, shape: image(&self.clean) };
        let noisy = Image { values: &noisy, shape: image(&self.noisy) };
        let pair = Pair::new(clean, noisy, config).map_err(|e| here(&e))?;
        for place in pair.places() {
            let patch = pair.patch(place, local).map_err(|e| here(&e))?;
            let file = match patch.rejected {
                None => Some(self.write(&patch, frame, out, config.patch)?),
                Some(_) => None,
            };
            done(&Record {
                clean: self.clean.path.clone(),
                noisy: self.noisy.path.clone(),
                frame,
                place,
                shift: patch.shift,
                local: patch.local,
                missing: patch.missing,
                correlation: patch.correlation,
                rejected: patch.rejected,
                file,
            })?;
        }
        Ok(())
    }

    /// Writes a patch of both, and returns its name.
    fn write(&self, patch: &Patch, frame: usize, out: &Path, side: usize) -> Result<String> {
        let stem = self.noisy.path.file_stem().unwrap_or_default().to_string_lossy();
        let [y, x] = patch.place;
        let name = match self.noisy.frames() {
            1 => format!("{stem}_{y}_{x}.tif"),
            _ => format!("{stem}_{frame}_{y}_{x}.tif"),
        };
        let pairs = [(&self.noisy, &patch.noisy), (&self.clean, &patch.clean)];
        for (folder, (file, values)) in FOLDERS.into_iter().zip(pairs) {
            let (data, _) = Data::from_f32(values, file.info.dtype);
            let volume = Volume { info: patch_info(&file.info, side)?, data };
            limpid_io::save(out.join(folder).join(&name), &volume)?;
        }
        Ok(name)
    }
}

/// What a patch says about itself: the sample type and the pixel size of its file.
fn patch_info(file: &VolumeInfo, side: usize) -> Result<VolumeInfo> {
    let axes: Axes = "YX".parse()?;
    let mut info = VolumeInfo::new(&[side, side], axes, file.dtype)?;
    if let (Some(y), Some(x)) = (file.spacing_of(Axis::Y), file.spacing_of(Axis::X)) {
        info.spacing = Some(vec![y, x]);
        info.unit.clone_from(&file.unit);
    }
    Ok(info)
}
