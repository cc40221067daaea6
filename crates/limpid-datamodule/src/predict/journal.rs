//! What is finished of a long prediction, kept beside its result, so that a killed one goes on where
//! it was.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use limpid_engine::BoxError;
use limpid_io::{Axes, Data, Volume, atomic};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Finished parts of a prediction in the folder `OUT.partial`: one npy file for each, and a manifest
/// that says of which prediction.
///
/// A part is computed once and from then on read, so a prediction that is begun again gives the same
/// bits as one that was never stopped, as long as a part depends on nothing but its number and what
/// the digest covers.
pub struct Journal {
    folder: PathBuf,
    begun_anew: bool,
}

/// The manifest.
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// Of the input, the model and the settings.
    digest: String,
}

const MANIFEST: &str = "manifest.json";

impl Journal {
    /// The journal of the prediction that is to become the file `output`; `digest` is a hash of all
    /// that decides its values: input, model, settings. Parts of another digest are removed.
    ///
    /// # Errors
    /// The folder cannot be made, read or emptied, or holds files of somebody else.
    pub fn open(output: &Path, digest: &str) -> Result<Self> {
        let mut name = output.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".partial");
        let folder = output.with_file_name(name);
        let fail = |e| limpid_io::Error::io("make a folder", &folder, e);
        std::fs::create_dir_all(&folder).map_err(fail)?;
        let place = folder.join(MANIFEST);
        let old = std::fs::read(&place).ok();
        let old = old.map(|text| serde_json::from_slice::<Manifest>(&text).ok());
        let same = old.as_ref().is_some_and(|m| m.as_ref().is_some_and(|m| m.digest == digest));
        let journal = Self { folder, begun_anew: old.is_some() && !same };
        if !same {
            journal.empty()?;
            let manifest = Manifest { digest: digest.to_owned() };
            let text = serde_json::to_vec_pretty(&manifest)
                .map_err(|e| Error::file(&place, e, "this is a bug"))?;
            atomic::write_bytes(&place, &text)?;
        }
        Ok(journal)
    }

    /// Whether parts of another prediction of the same name were there, and have been removed.
    #[must_use]
    pub fn begun_anew(&self) -> bool {
        self.begun_anew
    }

    /// Whether this part is finished.
    #[must_use]
    pub fn has(&self, unit: u64) -> bool {
        self.part(unit).is_file()
    }

    /// The part of that number: as it was kept, else as `make` computes it, which is kept. Of two to
    /// five axes; in f32 on the CPU.
    ///
    /// # Errors
    /// That of `make`, or the part cannot be written or read.
    pub fn get_or(
        &self,
        unit: u64,
        make: impl FnOnce() -> Result<Tensor, BoxError>,
    ) -> Result<Tensor, BoxError> {
        let place = self.part(unit);
        if place.is_file() {
            let volume = limpid_io::open(&place)?.read()?;
            let shape = volume.info.shape;
            return Ok(Tensor::from_vec(volume.data.into_f32(), shape, &Device::Cpu)?);
        }
        let part = make()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let Some(axes) = Axes::of_rank(part.rank()) else {
            return Err(Box::new(Error::file(
                &place,
                format!("a part of shape {:?} cannot be kept", part.dims()),
                "parts have two to five axes; this is a bug in the program",
            )));
        };
        let values = Data::F32(part.flatten_all()?.to_vec1()?);
        limpid_io::save(&place, &Volume::new(values, part.dims(), axes)?)?;
        Ok(part)
    }

    /// Removes everything, once the result is in its place.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn finish(self) -> Result<()> {
        self.empty()?;
        let fail = |e| limpid_io::Error::io("remove", &self.folder, e);
        Ok(std::fs::remove_dir(&self.folder).map_err(fail)?)
    }

    fn part(&self, unit: u64) -> PathBuf {
        self.folder.join(format!("unit-{unit:06}.npy"))
    }

    /// Removes the parts, then the manifest: killed in between, nothing is taken for another's.
    fn empty(&self) -> Result<()> {
        let list = |e| limpid_io::Error::io("list", &self.folder, e);
        let (mut ours, mut manifest) = (Vec::new(), None);
        for entry in std::fs::read_dir(&self.folder).map_err(list)? {
            let path = entry.map_err(list)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name == MANIFEST {
                manifest = Some(path);
            } else if name.starts_with("unit-") && name.ends_with(".npy")
                || name.starts_with('.') && name.ends_with(".limpid-tmp")
            {
                ours.push(path);
            } else {
                return Err(Error::file(
                    &path,
                    "this file lies where unfinished predictions are kept, and is none",
                    "move it away, or give the result another name",
                ));
            }
        }
        for path in ours.into_iter().chain(manifest) {
            std::fs::remove_file(&path).map_err(|e| limpid_io::Error::io("remove", &path, e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(unit: u64) -> Tensor {
        let values = (0..24).map(|i| 1.0 / (i as f32 + 3.0 + unit as f32)).collect();
        Tensor::from_vec(values, (1, 2, 3, 4), &Device::Cpu).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn parts_are_made_once_and_come_back_with_the_same_bits() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out.tif");
        let journal = Journal::open(&output, "abc").unwrap();
        for unit in [0, 7] {
            let made = journal.get_or(unit, || Ok(part(unit))).unwrap();
            assert_eq!(bits(&made), bits(&part(unit)));
        }
        let failed = journal.get_or(8, || Err("interrupted".into()));
        assert_eq!(failed.unwrap_err().to_string(), "interrupted");
        drop(journal); // killed
        let journal = Journal::open(&output, "abc").unwrap();
        assert!(!journal.begun_anew() && journal.has(7) && !journal.has(8));
        let kept = journal.get_or(7, || Err("it is made again".into())).unwrap();
        assert_eq!((bits(&kept), kept.dims()), (bits(&part(7)), part(7).dims()));
        assert!(dir.path().join("out.tif.partial").is_dir());
        journal.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn parts_of_another_prediction_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out.tif");
        let journal = Journal::open(&output, "abc").unwrap();
        journal.get_or(0, || Ok(part(0))).unwrap();
        let journal = Journal::open(&output, "def").unwrap();
        assert!(journal.begun_anew() && !journal.has(0));
        assert_eq!(bits(&journal.get_or(0, || Ok(part(1))).unwrap()), bits(&part(1)));
        assert!(!Journal::open(&output, "def").unwrap().begun_anew());
        // a manifest that cannot be read is that of another
        std::fs::write(dir.path().join("out.tif.partial/manifest.json"), "{").unwrap();
        assert!(Journal::open(&output, "def").unwrap().begun_anew());
    }

    #[test]
    fn files_of_others_are_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("out.tif.partial");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("thesis.txt"), "mine").unwrap();
        let error = Journal::open(&dir.path().join("out.tif"), "abc").err().unwrap();
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(std::fs::read(folder.join("thesis.txt")).unwrap(), b"mine");
        let deep = Tensor::zeros((1, 1, 1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let journal = Journal::open(&dir.path().join("b.tif"), "abc").unwrap();
        assert!(journal.get_or(0, || Ok(deep)).is_err());
    }
}
