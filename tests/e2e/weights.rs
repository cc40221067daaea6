//! Published weights: files as PyTorch writes them, through the real binary.

use candle_core::{DType, Device, Tensor};
use limpid_io::{Data, Volume};
use limpid_tests::denoise;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Tensors of a reference file; none, loudly, where there are no reference files.
#[expect(clippy::print_stderr, reason = "a skipped comparison must be seen")]
fn golden(name: &str) -> Option<BTreeMap<String, Tensor>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/golden/engine")
        .join(format!("{name}.safetensors"));
    if !path.exists() {
        eprintln!("skipped: no fixture {}", path.display());
        return None;
    }
    Some(candle_core::safetensors::load(&path, &Device::Cpu).unwrap().into_iter().collect())
}

fn weights(all: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    all.iter()
        .filter_map(|(k, t)| Some((k.strip_prefix("param.")?.to_owned(), t.clone())))
        .collect()
}

fn floats(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A `state_dict` as `torch.save` writes it: a pickle of tensors that refer to raw storages beside it.
fn save_torch(path: &Path, weights: &BTreeMap<String, Tensor>) {
    let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    let ints = |items: &[usize]| {
        let items: Vec<u8> =
            items.iter().flat_map(|&i| [b"J", &(i as i32).to_le_bytes()[..]].concat()).collect();
        [b"(", &items[..], b"t"].concat()
    };
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (i, (name, tensor)) in weights.iter().enumerate() {
        let dims = tensor.dims();
        let strides: Vec<usize> = (0..dims.len()).map(|a| dims[a + 1..].iter().product()).collect();
        let count = ints(&[tensor.elem_count()]);
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec()].concat());
        pickle.extend([text(&i.to_string()), text("cpu")].concat());
        pickle.extend(&count[1..count.len() - 1]);
        pickle.extend(b"tQJ\0\0\0\0");
        pickle.extend([ints(dims), ints(&strides)].concat());
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        zip.start_file(format!("archive/data/{i}"), stored).unwrap();
        zip.write_all(&floats(tensor).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
            .unwrap();
    }
    pickle.extend(b"u.");
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(&pickle).unwrap();
    zip.finish().unwrap();
}

/// Writes the first sample of a batch as an f32 image.
fn save_first(path: &Path, batch: &Tensor) {
    let dims = &batch.dims()[1..];
    let axes = if dims.len() == 4 { "CZYX" } else { "CYX" };
    let first = floats(&batch.get(0).unwrap());
    let volume = Volume::new(Data::F32(first), dims, axes.parse().unwrap()).unwrap();
    limpid_io::save(path, &volume).unwrap();
}

#[test]
fn restoring_with_published_weights_equals_the_reference() {
    let names = [
        "net_dncnn_nobn",
        "net_dncnn_bn",
        "net_drunet",
        "net_swinir",
        "net_restormer_biasfree",
        "net_restormer_withbias",
        "net_nafnet",
        "net_monai_basicunet2d",
        "net_monai_basicunet3d",
    ];
    for name in names {
        let Some(all) = golden(name) else { return };
        let dir = tempfile::tempdir().unwrap();
        let file = format!("{name}.pth");
        save_torch(&dir.path().join(&file), &weights(&all));
        save_first(&dir.path().join("in.tif"), &all["input.0"]);
        denoise(dir.path(), &["predict", "in.tif", "out.tif", "--weights", &file]).ok();
        let got = {
            let file = limpid_io::open(dir.path().join("out.tif")).unwrap();
            file.read().unwrap().data.to_f32()
        };
        let expected = floats(&all["output"].get(0).unwrap());
        assert_eq!(got.len(), expected.len(), "{name}");
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{name}: {worst}");
        let told = denoise(dir.path(), &["inspect", &file]);
        assert!(told.ok().out.contains("fits the network"), "{name}: {}", told.out);
        assert!(told.out.contains(" parameters\n"), "{name}: {}", told.out);
    }
}

#[test]
fn weights_that_do_not_fit_are_reported_and_used_only_when_asked_to() {
    let Some(all) = golden("net_dncnn_nobn") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut partial = weights(&all);
    let bias = partial.remove("model.2.bias").unwrap();
    partial.insert("model.2.bios".into(), bias);
    save_torch(&dir.path().join("partial.pth"), &partial);
    save_first(&dir.path().join("in.tif"), &all["input.0"]);
    let predict = ["predict", "in.tif", "out.tif", "--weights", "partial.pth"];
    denoise(dir.path(), &predict)
        .fails(3, &["model.2.bias", "model.2.bios", "--partial", "partial.pth"]);
    assert!(!dir.path().join("out.tif").exists());
    let ran = denoise(dir.path(), &[&predict[..], &["--partial"]].concat());
    assert!(ran.ok().err.contains("warning: "), "{ran:?}");
    let told = denoise(dir.path(), &["inspect", "partial.pth"]);
    assert!(told.ok().out.contains("resembles the network `dncnn`"), "{}", told.out);

    save_first(&dir.path().join("two.tif"), &Tensor::cat(&[&all["input.0"]; 2], 1).unwrap());
    let two = ["predict", "two.tif", "out2.tif", "--weights", "partial.pth", "--partial"];
    denoise(dir.path(), &two).fails(3, &["2 channels", "takes 1"]);
    denoise(dir.path(), &[&predict[..], &["--set", "network.deph=3"]].concat())
        .fails(2, &["deph", "depth"]);
}
