//! Named tensors on disk in the safetensors format: an eight-byte length, a JSON header, raw
//! little-endian data.
//!
//! Files are written atomically, and equal contents give equal bytes (the header of the reference
//! library follows the order of a hash map). Source: the format description of
//! `huggingface/safetensors`.

use crate::error::{CheckpointError, Fault};
use crate::torch::TorchFile;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Longest header of the format.
const MAX_HEADER: u64 = 100_000_000;
/// Data starts at a multiple of this.
const ALIGNMENT: usize = 8;

/// Saves tensors by name, with text metadata. An existing file is replaced only when the new one is
/// complete.
///
/// # Errors
/// [`CheckpointError::Io`] if the file cannot be written, [`CheckpointError::Format`] for a name
/// given twice and for dtypes that the format lacks.
pub fn save<'t>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (impl Into<String>, &'t Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    let path = path.as_ref();
    let refuse = |problem: String, hint: &str| CheckpointError::Format {
        problem,
        hint: hint.to_owned(),
        path: path.to_owned(),
    };
    let mut by_name = BTreeMap::new();
    for (name, tensor) in tensors {
        let name = name.into();
        if name == "__metadata__" || by_name.contains_key(&name) {
            let hint = "give every tensor a name of its own";
            return Err(refuse(format!("the tensor name `{name}` is already taken"), hint));
        }
        by_name.insert(name, tensor);
    }
    // widest elements first, so that every tensor is aligned to its element
    let mut order: Vec<(&String, &Tensor)> = by_name.iter().map(|(n, t)| (n, *t)).collect();
    order.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().size_in_bytes()));

    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut end = 0;
    for (name, tensor) in &order {
        let Some(dtype) = dtype_name(tensor.dtype()) else {
            let hint = "convert it to f32 first";
            return Err(refuse(format!("`{name}` has dtype {:?}", tensor.dtype()), hint));
        };
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let entry = json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, end] });
        header.insert((*name).clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');

    limpid_io::atomic::write(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, tensor) in &order {
            file.write_all(&encode(tensor).map_err(std::io::Error::other)?)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Loads all tensors of a safetensors file, with its metadata.
///
/// Booleans become u8, 16-bit unsigned integers u32; the other dtypes stay.
///
/// # Errors
/// [`CheckpointError::Io`] if the file cannot be read, [`CheckpointError::Format`] if it is damaged
/// or no safetensors file.
pub fn load(
    path: impl AsRef<Path>,
) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, String>), CheckpointError> {
    let path = path.as_ref();
    let open = || -> Result<_, Fault> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        read(BufReader::new(file), len)
    };
    open().map_err(|fault| fault.at(path))
}

/// The same of bytes in memory; `path` names them in errors.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(
    bytes: &[u8],
    path: &Path,
) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, String>), CheckpointError> {
    read(bytes, bytes.len() as u64).map_err(|fault| fault.at(path))
}

/// Loads the tensors of a safetensors file, or of the model in a PyTorch checkpoint
/// ([`TorchFile::state_dict`]), whichever it is by its first bytes.
///
/// # Errors
/// As [`load`] and [`TorchFile::open`].
pub fn load_any(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
    let path = path.as_ref();
    let mut start = [0; 9];
    let read = File::open(path).and_then(|file| {
        let mut start = start.as_mut_slice();
        std::io::copy(&mut file.take(9), &mut start)
    });
    match read.map_err(|error| Fault::from(error).at(path))? {
        9 if start[8] == b'{' => Ok(load(path)?.0),
        _ if start.starts_with(b"PK") || start[0] == 0x80 => {
            TorchFile::open(path)?.state_dict(None)
        }
        _ => Err(CheckpointError::Format {
            problem: "not a checkpoint (neither safetensors nor PyTorch)".to_owned(),
            hint: "give a `.safetensors`, `.pt`, `.pth` or `.ckpt` file".to_owned(),
            path: path.to_owned(),
        }),
    }
}

/// The metadata of a safetensors file, without its tensors.
///
/// # Errors
/// As [`load`].
pub fn metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>, CheckpointError> {
    let path = path.as_ref();
    let open = || -> Result<_, Fault> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let meta = header(&mut BufReader::new(file), len)?;
        Ok(meta.metadata().clone().unwrap_or_default().into_iter().collect())
    };
    open().map_err(|fault| fault.at(path))
}

/// The header at the beginning of a file of `len` bytes.
fn header(reader: &mut impl Read, len: u64) -> Result<Metadata, Fault> {
    let mut prefix = [0; 8];
    reader.read_exact(&mut prefix)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER || header_len + 8 > len {
        return Err(Fault::Format {
            problem: format!("a safetensors header of {header_len} bytes in a file of {len}"),
            hint: "this is no safetensors file, or it is cut short",
        });
    }
    let mut header = Vec::new();
    reader.take(header_len).read_to_end(&mut header)?;
    // checks that the tensors fill their ranges and that the ranges leave no gap
    let meta: Metadata = serde_json::from_slice(&header)
        .map_err(|e| Fault::damaged(format!("the safetensors header is invalid ({e})")))?;
    let expected = 8 + header_len + meta.data_len() as u64;
    if expected != len {
        return Err(Fault::damaged(format!("expected {expected} bytes, got {len}")));
    }
    Ok(meta)
}

fn read(
    mut reader: impl Read,
    len: u64,
) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, String>), Fault> {
    let meta = header(&mut reader, len)?;
    let mut tensors = BTreeMap::new();
    let mut bytes = Vec::new();
    for name in meta.offset_keys() {
        let Some(info) = meta.info(&name) else { continue };
        let size = info.data_offsets.1 - info.data_offsets.0;
        bytes.clear();
        (&mut reader).take(size as u64).read_to_end(&mut bytes)?;
        if bytes.len() != size {
            return Err(Fault::damaged(format!("`{name}` is cut short")));
        }
        tensors.insert(name.clone(), decode(&name, &bytes, info.dtype, &info.shape)?);
    }
    let metadata = meta.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((tensors, metadata))
}

fn decode(name: &str, bytes: &[u8], dtype: Dtype, shape: &[usize]) -> Result<Tensor, Fault> {
    if shape.iter().try_fold(8usize, |p, &n| p.checked_mul(n.max(1))).is_none() {
        return Err(Fault::damaged(format!("`{name}` has the impossible shape {shape:?}")));
    }
    let dtype = match dtype {
        Dtype::BOOL => DType::U8,
        Dtype::U16 => {
            let wide = bytes.as_chunks().0.iter().map(|&b| u32::from(u16::from_le_bytes(b)));
            return Ok(Tensor::from_vec(wide.collect::<Vec<_>>(), shape, &Device::Cpu)?);
        }
        other => DType::try_from(other).ok().filter(|&d| dtype_name(d).is_some()).ok_or(
            Fault::Format {
                problem: format!("`{name}` has dtype {other:?}, which is not supported"),
                hint: "convert it to float32 before saving",
            },
        )?,
    };
    Ok(Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?)
}

fn dtype_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::U8 => "U8",
        DType::U32 => "U32",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        _ => return None,
    })
}

/// The elements of a tensor, row-major and little-endian.
fn encode(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    fn bytes<T: candle_core::WithDType, const N: usize>(
        tensor: &Tensor,
        write: impl Fn(T) -> [u8; N],
    ) -> candle_core::Result<Vec<u8>> {
        let values = tensor.to_vec1::<T>()?;
        let mut out = Vec::with_capacity(values.len() * N);
        values.into_iter().for_each(|value| out.extend_from_slice(&write(value)));
        Ok(out)
    }
    let flat = tensor.flatten_all()?;
    match tensor.dtype() {
        DType::U8 => flat.to_vec1(),
        DType::U32 => bytes(&flat, u32::to_le_bytes),
        DType::I16 => bytes(&flat, i16::to_le_bytes),
        DType::I32 => bytes(&flat, i32::to_le_bytes),
        DType::I64 => bytes(&flat, i64::to_le_bytes),
        DType::BF16 => bytes(&flat, half::bf16::to_le_bytes),
        DType::F16 => bytes(&flat, half::f16::to_le_bytes),
        DType::F32 => bytes(&flat, f32::to_le_bytes),
        DType::F64 => bytes(&flat, f64::to_le_bytes),
        other => candle_core::bail!("cannot save a tensor of dtype {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<String, Tensor> {
        let cpu = &Device::Cpu;
        let f = Tensor::from_vec(vec![1f32, -2.5, f32::NAN, 4.0, 5.0, 6.0], (2, 3), cpu).unwrap();
        let t = |dtype| f.to_dtype(dtype).unwrap();
        BTreeMap::from([
            ("f32".to_owned(), f.clone()),
            ("f32.transposed".to_owned(), f.t().unwrap()),
            ("bf16".to_owned(), t(DType::BF16)),
            ("f16".to_owned(), t(DType::F16)),
            ("f64".to_owned(), t(DType::F64)),
            ("scalar".to_owned(), Tensor::new(7i64, cpu).unwrap()),
            ("u8".to_owned(), Tensor::new(&[1u8, 2, 3], cpu).unwrap()),
            ("empty".to_owned(), Tensor::zeros((0, 3), DType::F32, cpu).unwrap()),
        ])
    }

    fn save_map(path: &Path, map: &BTreeMap<String, Tensor>, meta: &BTreeMap<String, String>) {
        save(path, map.iter().map(|(n, t)| (n.as_str(), t)), meta).unwrap();
    }

    #[test]
    fn what_is_saved_is_loaded_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let (path, again) = (folder.path().join("a.safetensors"), folder.path().join("b"));
        let meta =
            BTreeMap::from([("a".to_owned(), "ä \"1\"".to_owned()), ("b".into(), "".into())]);
        save_map(&path, &sample(), &meta);
        let (tensors, metadata) = load(&path).unwrap();
        assert_eq!(metadata, meta);
        for (name, want) in &sample() {
            let got = &tensors[name];
            assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{name}");
            assert_eq!(encode(got).unwrap(), encode(want).unwrap(), "{name}");
        }
        // the same contents give the same file, and other readers accept it
        save_map(&again, &tensors, &metadata);
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
        assert_eq!(
            safetensors::SafeTensors::deserialize(&std::fs::read(&path).unwrap()).unwrap().len(),
            8
        );
        assert_eq!(load_any(&path).unwrap().len(), 8);
    }

    #[test]
    fn damage_at_any_place_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        save_map(&path, &sample(), &BTreeMap::new());
        let whole = std::fs::read(&path).unwrap();
        for keep in (0..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..keep]).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.ends_with("a.safetensors`") && error.contains("; "), "{error}");
        }
        let header = whole.len() - 150;
        for at in 0..header {
            let mut bad = whole.clone();
            bad[at] ^= 0x15;
            std::fs::write(&path, &bad).unwrap();
            let _any_result_but_a_panic = load(&path);
        }
        std::fs::write(&path, b"hello, this is no checkpoint").unwrap();
        assert!(load_any(&path).unwrap_err().to_string().contains("not a checkpoint"));
        let absent = load_any(folder.path().join("absent")).unwrap_err();
        assert!(matches!(absent, CheckpointError::Io(_)), "{absent}");
    }

    #[test]
    fn a_refused_save_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        save_map(&path, &sample(), &BTreeMap::new());
        let before = std::fs::read(&path).unwrap();
        let t = Tensor::new(1f32, &Device::Cpu).unwrap();
        let twice = save(&path, [("a", &t), ("a", &t)], &BTreeMap::new()).unwrap_err();
        assert!(twice.to_string().contains("`a` is already taken"), "{twice}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
