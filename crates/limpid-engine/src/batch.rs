//! What flows from the data to the model: named tensors, and for each sample where it came from.

use crate::Error;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// Where a sample came from, so that a bad value can be traced to its file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SampleId {
    /// File, or a description where there is none.
    pub file: String,
    /// Index of the sample in its epoch.
    pub index: u64,
    /// `[start, size]` per spatial axis of the patch within the file.
    pub region: Vec<[usize; 2]>,
}

impl std::fmt::Display for SampleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (sample {}", self.file, self.index)?;
        if !self.region.is_empty() {
            let starts: Vec<_> = self.region.iter().map(|r| r[0].to_string()).collect();
            write!(f, ", patch at {}", starts.join(","))?;
        }
        f.write_str(")")
    }
}

/// Named tensors whose first dimension runs over the samples.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Tensors by name (`"input"`, `"target"`, `"mask"` …), each `[N, …]`.
    pub tensors: BTreeMap<String, Tensor>,
    /// Origin of each of the `N` samples.
    pub ids: Vec<SampleId>,
}

impl Batch {
    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] naming those that are there.
    pub fn get(&self, name: &str) -> Result<&Tensor, Error> {
        self.tensors.get(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            have: self.tensors.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// The `i`-th sample as a batch of its own.
    ///
    /// # Errors
    /// If there is no such sample.
    pub fn sample(&self, i: usize) -> Result<Self, Error> {
        let tensors = self
            .tensors
            .iter()
            .map(|(k, t)| Ok((k.clone(), t.narrow(0, i, 1)?)))
            .collect::<Result<_, candle_core::Error>>()?;
        Ok(Self { tensors, ids: self.ids.get(i).cloned().into_iter().collect() })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The same batch on another device.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn to_device(&self, device: &Device) -> Result<Self, Error> {
        let tensors = self
            .tensors
            .iter()
            .map(|(k, t)| Ok((k.clone(), t.to_device(device)?)))
            .collect::<Result<_, candle_core::Error>>()?;
        Ok(Self { tensors, ids: self.ids.clone() })
    }

    /// The first tensor that holds a value that is not finite, and the sample it is in.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn first_nonfinite(&self) -> Result<Option<(String, SampleId)>, Error> {
        for (name, t) in &self.tensors {
            if !matches!(t.dtype(), DType::F32 | DType::F64) || is_finite(t)? {
                continue;
            }
            for (i, id) in self.ids.iter().enumerate() {
                if i < t.dims().first().copied().unwrap_or(0) && !is_finite(&t.get(i)?)? {
                    return Ok(Some((name.clone(), id.clone())));
                }
            }
        }
        Ok(None)
    }
}

fn is_finite(t: &Tensor) -> Result<bool, Error> {
    Ok(limpid_kernels::all_finite(&t.contiguous()?)?)
}
