use super::*;
use crate::golden;
use candle_core::DType;
use limpid_kernels::rng::Stream;
use serde_json::json;
use std::io::{Cursor, Write};
use std::time::{Duration, Instant};

const CHECKPOINTS: [&str; 5] = [
    "engine/ckpt_state_dict.pt",
    "engine/ckpt_legacy.pth",
    "engine/ckpt_lightning.ckpt",
    "engine/ckpt_nnunet.pth",
    "engine/ckpt_odd.pt",
];

/// Tensors of a fixture whose names begin with `prefix`, without it.
fn part(all: &BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let inner = |(n, t): (&String, &Tensor)| Some((n.strip_prefix(prefix)?.to_owned(), t.clone()));
    all.iter().filter_map(inner).collect()
}

#[track_caller]
fn assert_same(got: &BTreeMap<String, Tensor>, want: &BTreeMap<String, Tensor>) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, want) in want {
        assert_eq!(got[name].dtype(), want.dtype(), "{name}");
        assert_eq!(golden::difference(&got[name], want), 0.0, "{name}");
    }
}

#[test]
fn weights_of_every_layout_are_found() {
    let Some(expected) = golden::load("engine/ckpt_expected.safetensors") else { return };
    let params = part(&expected, "param.");
    for file in &CHECKPOINTS[..4] {
        let checkpoint = TorchFile::open(golden::path(file).unwrap()).unwrap();
        assert_same(&strip_wrappers(checkpoint.state_dict(None).unwrap()), &params);
    }

    let odd = TorchFile::open(golden::path(CHECKPOINTS[4]).unwrap()).unwrap();
    assert_same(&part(&odd.tensors, "scalar"), &part(&expected, "odd.scalar"));
    assert_same(&part(&odd.tensors, "view"), &part(&expected, "odd.view"));
    assert_eq!(golden::values(&odd.tensors["int"]), [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(odd.tensors["bf16"].dtype(), DType::BF16);
    for (name, got) in odd.state_dict(None).unwrap() {
        let want = if params[&name].dtype().is_float() {
            params[&name].to_dtype(DType::F16).unwrap()
        } else {
            params[&name].clone()
        };
        assert_same(&[("x".into(), got)].into(), &[("x".into(), want)].into());
    }
}

#[test]
fn everything_else_is_a_tree() {
    let Some(path) = golden::path(CHECKPOINTS[2]) else { return };
    let file = TorchFile::open(path).unwrap();
    assert_eq!(file.values["pytorch-lightning_version"], json!("2.6.0"));
    assert_eq!(file.values["optimizer_states"][0]["param_groups"][0]["betas"], json!([0.9, 0.999]));
    assert!(file.tensors.contains_key("optimizer_states.0.state.0.exp_avg_sq"));
    assert_eq!(file.model_key(), Some("state_dict"));
    let error = file.state_dict(Some("netD")).unwrap_err().to_string();
    assert!(
        error.starts_with("no tensors under `netD`; the file has 10 under `state_dict`"),
        "{error}"
    );
    assert!(error.ends_with("ckpt_lightning.ckpt`"), "{error}");
}

#[test]
fn reference_programs_files_are_read() {
    let Some(expected) = golden::load("emdiffuse/ckpt_expected.safetensors") else { return };
    let open = |name: &str| {
        TorchFile::open(golden::path(&format!("emdiffuse/ckpt/{name}")).unwrap()).unwrap()
    };
    for (kind, name) in [("net.", "3_Network"), ("ema.", "3_Network_ema")] {
        let (zip, legacy) = (open(&format!("{name}.pth")), open(&format!("{name}.legacy.pth")));
        assert_same(&zip.tensors, &legacy.tensors);
        let want = part(&expected, kind);
        assert!(!want.is_empty());
        for (name, want) in &want {
            assert_eq!(golden::difference(&zip.tensors[name], want), 0.0, "{name}");
        }
    }
    let (zip, legacy) = (open("views.pth"), open("views.legacy.pth"));
    assert_same(&zip.tensors, &legacy.tensors);
    let namespace = open("srunet_style_best.pt");
    assert!(
        namespace.values["args"].is_object() && namespace.values["args"]["__class__"].is_null()
    );
    assert_eq!(namespace.model_key(), Some("state_dict"));
}

// Pickles written by hand: each function gives the bytes that leave one object on the stack.

fn text(s: &str) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
}

fn int(i: i32) -> Vec<u8> {
    [b"J", &i.to_le_bytes()[..]].concat()
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

fn ints(items: &[i32]) -> Vec<u8> {
    tuple(&items.iter().map(|&i| int(i)).collect::<Vec<_>>())
}

fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<_> = items.iter().flat_map(|(k, v)| [text(k), v.clone()]).collect();
    [b"}(", &pairs.concat()[..], b"u"].concat()
}

fn call(function: Vec<u8>, args: &[Vec<u8>]) -> Vec<u8> {
    [function, tuple(args), b"R".to_vec()].concat()
}

fn object(class: Vec<u8>, state: Vec<u8>) -> Vec<u8> {
    [&class[..], b")\x81", &state[..], b"b"].concat()
}

fn storage(class: &str, key: &str, count: i32) -> Vec<u8> {
    let class = global("torch", class);
    [tuple(&[text("storage"), class, text(key), text("cpu"), int(count)]), b"Q".to_vec()].concat()
}

fn tensor(storage: Vec<u8>, offset: i32, size: &[i32], stride: &[i32]) -> Vec<u8> {
    let args = [storage, int(offset), ints(size), ints(stride), b"\x89".to_vec(), b"}".to_vec()];
    call(global("torch._utils", "_rebuild_tensor_v2"), &args)
}

/// An archive as `torch.save` makes it; a storage named `/NAME` is another entry.
fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(&[b"\x80\x02", pickle, b"."].concat()).unwrap();
    for (key, bytes) in storages {
        let place = if key.starts_with('/') { "archive" } else { "archive/data/" };
        zip.start_file(format!("{place}{key}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn open(bytes: &[u8]) -> Result<TorchFile, CheckpointError> {
    let path = Path::new("hand.pt");
    TorchFile::read(Cursor::new(bytes), bytes.len() as u64, path).map_err(|fault| fault.at(path))
}

/// The error of reading `bytes`, which must come soon.
#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let start = Instant::now();
    let error = open(bytes).unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(20), "{error}");
    assert!(error.ends_with("`hand.pt`"), "{error}");
    error
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn windows_of_all_dtypes_are_cut_right() {
    let six = floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let float = || storage("FloatStorage", "f", 6);
    let untyped = storage("UntypedStorage", "u", 4);
    let v3 = [untyped, int(0), ints(&[2]), ints(&[1]), b"\x89".to_vec(), b"}".to_vec()];
    let v3 = [&v3[..], &[global("torch", "uint16")]].concat();
    let v2 = [float(), int(4), ints(&[2]), ints(&[1]), b"\x89".to_vec(), b"}".to_vec()];
    let v2_function = global("torch._utils", "_rebuild_tensor_v2");
    let subclass = [v2_function, global("monai.data", "MetaTensor"), tuple(&v2), b"}".to_vec()];
    let pickle = dict(&[
        ("whole", tensor(float(), 0, &[2, 3], &[3, 1])),
        ("transposed", tensor(float(), 0, &[3, 2], &[1, 3])),
        ("every_other", tensor(float(), 1, &[3], &[2])),
        ("expanded", tensor(float(), 2, &[2, 2], &[0, 1])),
        ("scalar", tensor(float(), 5, &[], &[])),
        ("empty", tensor(float(), 6, &[0, 4], &[4, 1])),
        ("complex", tensor(storage("ComplexFloatStorage", "f", 3), 1, &[2], &[1])),
        ("bool", tensor(storage("BoolStorage", "b", 2), 0, &[2], &[1])),
        ("i8", tensor(storage("CharStorage", "b", 2), 0, &[2], &[1])),
        ("u16", call(global("torch._utils", "_rebuild_tensor_v3"), &v3)),
        ("subclass", call(global("torch._tensor", "_rebuild_from_type_v2"), &subclass)),
        ("quantised", tensor(storage("QInt8Storage", "b", 2), 0, &[2], &[1])),
    ]);
    let parts: [(&str, &[u8]); 3] = [("f", &six), ("b", &[1, 0xff]), ("u", &[1, 0, 0xff, 0xff])];
    let file = open(&archive(&pickle, &parts)).unwrap();
    let get =
        |name: &str| (file.tensors[name].dims().to_vec(), golden::values(&file.tensors[name]));
    assert_eq!(get("whole"), (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(get("transposed"), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    assert_eq!(get("every_other"), (vec![3], vec![1.0, 3.0, 5.0]));
    assert_eq!(get("expanded"), (vec![2, 2], vec![2.0, 3.0, 2.0, 3.0]));
    assert_eq!(get("scalar"), (vec![], vec![5.0]));
    assert_eq!(file.tensors["empty"].dims(), [0, 4]);
    assert_eq!(get("complex"), (vec![2, 2], vec![2.0, 3.0, 4.0, 5.0]));
    assert_eq!(get("bool"), (vec![2], vec![1.0, 1.0]));
    assert_eq!(get("i8"), (vec![2], vec![1.0, -1.0]));
    assert_eq!(get("u16"), (vec![2], vec![1.0, 65535.0]));
    assert_eq!(get("subclass"), (vec![2], vec![4.0, 5.0]));
    assert_eq!(file.values["quantised"], json!({"__class__": "torch.QInt8Storage"}));
    assert_eq!(file.tensors.len(), 11);

    let swapped: Vec<u8> = six.chunks(4).flat_map(|b| b.iter().rev().copied()).collect();
    let pickle = tensor(float(), 1, &[3], &[2]);
    let parts: [(&str, &[u8]); 2] = [("f", &swapped), ("/byteorder", b"big")];
    let file = open(&archive(&pickle, &parts)).unwrap();
    assert_eq!(golden::values(&file.tensors["tensor"]), [1.0, 3.0, 5.0]);
}

#[test]
fn every_pickle_protocol_gives_the_same_tree() {
    // {"a": 1, "b": [-5, 2.5, True, None], "ü": ("x", 2**70, -70000), "o": OrderedDict(k=70000),
    //  "s": {3}, "n": Namespace(lr=0.5), "y": b"\x00\xff", "again": the list "b"},
    // by pickle.dumps(…, protocol) for 0, 1, 2, 3 and 5
    let pickles: [&[u8]; 5] = [
        b"(dp0\nVa\np1\nI1\nsVb\np2\n(lp3\nI-5\naF2.5\naI01\naNasV\xfc\np4\n(Vx\np5\nL11805916\
          20717411303424L\nI-70000\ntp6\nsVo\np7\nccollections\nOrderedDict\np8\n(tRp9\nVk\np1\
          0\nI70000\nssVs\np11\nc__builtin__\nset\np12\n((lp13\nI3\natp14\nRp15\nsVn\np16\ncco\
          py_reg\n_reconstructor\np17\n(cargparse\nNamespace\np18\nc__builtin__\nobject\np19\n\
          Ntp20\nRp21\n(dp22\nVlr\np23\nF0.5\nsbsVy\np24\nc_codecs\nencode\np25\n(V\\u0000\xff\
          \np26\nVlatin1\np27\ntp28\nRp29\nsVagain\np30\ng3\ns.",
        b"}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(J\xfb\xff\xff\xffG@\
          \x04\x00\x00\x00\x00\x00\x00I01\nNeX\x02\x00\x00\x00\xc3\xbcq\x04(X\x01\x00\x00\x00x\
          q\x05L1180591620717411303424L\nJ\x90\xee\xfe\xfftq\x06X\x01\x00\x00\x00oq\x07ccollec\
          tions\nOrderedDict\nq\x08)Rq\x09X\x01\x00\x00\x00kq\nJp\x11\x01\x00sX\x01\x00\x00\
          \x00sq\x0bc__builtin__\nset\nq\x0c(]q\x0dK\x03atq\x0eRq\x0fX\x01\x00\x00\x00nq\x10cc\
          opy_reg\n_reconstructor\nq\x11(cargparse\nNamespace\nq\x12c__builtin__\nobject\nq\
          \x13Ntq\x14Rq\x15}q\x16X\x02\x00\x00\x00lrq\x17G?\xe0\x00\x00\x00\x00\x00\x00sbX\x01\
          \x00\x00\x00yq\x18c_codecs\nencode\nq\x19(X\x03\x00\x00\x00\x00\xc3\xbfq\x1aX\x06\
          \x00\x00\x00latin1q\x1btq\x1cRq\x1dX\x05\x00\x00\x00againq\x1eh\x03u.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(J\xfb\xff\
          \xff\xffG@\x04\x00\x00\x00\x00\x00\x00\x88NeX\x02\x00\x00\x00\xc3\xbcq\x04X\x01\x00\
          \x00\x00xq\x05\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@J\x90\xee\xfe\xff\x87q\x06X\
          \x01\x00\x00\x00oq\x07ccollections\nOrderedDict\nq\x08)Rq\x09X\x01\x00\x00\x00kq\nJp\
          \x11\x01\x00sX\x01\x00\x00\x00sq\x0bc__builtin__\nset\nq\x0c]q\x0dK\x03a\x85q\x0eRq\
          \x0fX\x01\x00\x00\x00nq\x10cargparse\nNamespace\nq\x11)\x81q\x12}q\x13X\x02\x00\x00\
          \x00lrq\x14G?\xe0\x00\x00\x00\x00\x00\x00sbX\x01\x00\x00\x00yq\x15c_codecs\nencode\n\
          q\x16X\x03\x00\x00\x00\x00\xc3\xbfq\x17X\x06\x00\x00\x00latin1q\x18\x86q\x19Rq\x1aX\
          \x05\x00\x00\x00againq\x1bh\x03u.",
        b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(J\xfb\xff\
          \xff\xffG@\x04\x00\x00\x00\x00\x00\x00\x88NeX\x02\x00\x00\x00\xc3\xbcq\x04X\x01\x00\
          \x00\x00xq\x05\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@J\x90\xee\xfe\xff\x87q\x06X\
          \x01\x00\x00\x00oq\x07ccollections\nOrderedDict\nq\x08)Rq\x09X\x01\x00\x00\x00kq\nJp\
          \x11\x01\x00sX\x01\x00\x00\x00sq\x0bcbuiltins\nset\nq\x0c]q\x0dK\x03a\x85q\x0eRq\x0f\
          X\x01\x00\x00\x00nq\x10cargparse\nNamespace\nq\x11)\x81q\x12}q\x13X\x02\x00\x00\x00l\
          rq\x14G?\xe0\x00\x00\x00\x00\x00\x00sbX\x01\x00\x00\x00yq\x15C\x02\x00\xffq\x16X\x05\
          \x00\x00\x00againq\x17h\x03u.",
        b"\x80\x05\x95\xbc\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94K\x01\x8c\x01b\x94]\
          \x94(J\xfb\xff\xff\xffG@\x04\x00\x00\x00\x00\x00\x00\x88Ne\x8c\x02\xc3\xbc\x94\x8c\
          \x01x\x94\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@J\x90\xee\xfe\xff\x87\x94\x8c\x01o\
          \x94\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94\x8c\x01k\x94Jp\x11\
          \x01\x00s\x8c\x01s\x94\x8f\x94(K\x03\x90\x8c\x01n\x94\x8c\x08argparse\x94\x8c\x09Nam\
          espace\x94\x93\x94)\x81\x94}\x94\x8c\x02lr\x94G?\xe0\x00\x00\x00\x00\x00\x00sb\x8c\
          \x01y\x94C\x02\x00\xff\x94\x8c\x05again\x94h\x03u.",
    ];
    for pickle in pickles {
        let file = open(&archive(pickle, &[])).unwrap();
        let wanted = json!({
            "a": 1, "b": [-5, 2.5, true, null], "ü": ["x", "1180591620717411303424", -70000],
            "o": {"k": 70000}, "s": [3], "n": {"lr": 0.5}, "y": {"__class__": "bytes"},
            "again": [-5, 2.5, true, null],
        });
        assert_eq!(file.values, wanted);
    }
    let python2 = open(&archive(b"(lp0\nS'a\\n\\x41'\np1\naV\\u0041\\n\na", &[])).unwrap();
    assert_eq!(python2.values, json!(["a\nA", "A\\n"]));
}

#[test]
fn pickled_modules_give_their_state_dict_names() {
    let weight = || tensor(storage("FloatStorage", "f", 2), 0, &[2], &[1]);
    let class = |name| global("evil.package", name);
    let module = |params: Vec<u8>, modules: Vec<u8>| {
        let state = [("training", b"\x88".to_vec()), ("_parameters", params)];
        let rest = [("_buffers", dict(&[])), ("_modules", modules)];
        object(class("Net"), dict(&[&state[..], &rest].concat()))
    };
    let parameter = call(
        global("torch._utils", "_rebuild_parameter"),
        &[weight(), b"\x88".to_vec(), call(global("collections", "OrderedDict"), &[])],
    );
    let inner = module(dict(&[("weight", parameter), ("bias", b"N".to_vec())]), dict(&[]));
    let net = module(dict(&[("scale", weight())]), dict(&[("conv", inner)]));
    let pickle = dict(&[("epoch", int(3)), ("net", net), ("other", dict(&[("x", weight())]))]);
    let file = open(&archive(&pickle, &[("f", &floats(&[1.0, 2.0]))])).unwrap();
    assert_eq!(file.model_key(), Some("net"));
    let names: Vec<_> = file.state_dict(None).unwrap().into_keys().collect();
    assert_eq!(names, ["conv.weight", "scale"]);
    assert_eq!(file.values["net"], json!({"__class__": "evil.package.Net"}));
    assert_eq!(file.values["epoch"], json!(3));
}

#[test]
fn the_model_is_found_where_programs_keep_it() {
    let t = || tensor(storage("FloatStorage", "f", 2), 0, &[2], &[1]);
    let two = |a: &str, b: &str| dict(&[(a, t()), (b, t())]);
    let names = |pickle: &[u8]| {
        let file = open(&archive(pickle, &[("f", &floats(&[1.0, 2.0]))])).unwrap();
        let names: Vec<_> = file.state_dict(None).unwrap().into_keys().collect();
        (file.model_key().unwrap().to_owned(), names.join(" "))
    };
    let found = |key: &str, names: &str| (key.to_owned(), names.to_owned());
    // a key with dots at the top is a name, not a place
    assert_eq!(names(&two("model.a", "model.b")), found("", "model.a model.b"));
    let plain = dict(&[("a", t()), ("b", t()), ("optimizer", dict(&[("x", t())]))]);
    assert_eq!(names(&plain), found("", "a b"));
    let nested = dict(&[("model", dict(&[("enc", two("a", "b")), ("dec", two("a", "b"))]))]);
    assert_eq!(names(&nested), found("model", "dec.a dec.b enc.a enc.b"));
    let own = dict(&[("best", two("a", "b")), ("state", dict(&[("x", t())]))]);
    assert_eq!(names(&own), found("best", "a b"));
}

#[test]
fn numpy_arrays_and_scalars_are_values() {
    let bytes = |s: &str| call(global("_codecs", "encode"), &[text(s), text("latin1")]);
    let dtype = |code: &str, order: &str| {
        let dtype =
            call(global("numpy", "dtype"), &[text(code), b"\x89".to_vec(), b"\x88".to_vec()]);
        [dtype, tuple(&[int(3), text(order)]), b"b".to_vec()].concat()
    };
    let scalar = |dtype, data| call(global("numpy.core.multiarray", "scalar"), &[dtype, data]);
    let new = call(
        global("numpy._core.multiarray", "_reconstruct"),
        &[global("numpy", "ndarray"), ints(&[0]), bytes("b")],
    );
    let data = bytes("\0\u{1}\0\u{2}\0\u{3}\u{1}\0");
    let state = tuple(&[int(1), ints(&[2, 2]), dtype("i2", ">"), b"\x88".to_vec(), data]);
    let pickle = dict(&[
        ("best", scalar(dtype("f8", "<"), bytes("\0\0\0\0\0\0\u{f8}\u{3f}"))),
        ("count", scalar(dtype("i4", "<"), bytes("\u{fe}\u{ff}\u{ff}\u{ff}"))),
        ("array", [new, state, b"b".to_vec()].concat()),
        ("dtype", global("torch", "float32")),
    ]);
    let file = open(&archive(&pickle, &[])).unwrap();
    assert_eq!(file.values, json!({"best": 1.5, "count": -2, "dtype": "torch.float32"}));
    assert_eq!(golden::values(&file.tensors["array"]), [1.0, 3.0, 2.0, 256.0]);
}

#[test]
fn unknown_calls_are_never_made() {
    let system = call(global("os", "system"), &[text("touch /tmp/limpid-pwned")]);
    let file = open(&archive(&dict(&[("a", system), ("b", int(1))]), &[])).unwrap();
    assert_eq!(file.values, json!({"a": {"__class__": "os.system"}, "b": 1}));
    assert!(file.state_dict(None).is_err() && file.model_key().is_none());
}

#[test]
fn hostile_pickles_are_refused() {
    // a list that holds the one before it twice, forty times over
    let mut laughs = b"]q\x00".to_vec();
    for i in 0..40u8 {
        laughs.extend([b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']);
    }
    assert!(refused(&archive(&laughs, &[])).contains("unfold"));

    let deep = [vec![b']'; 100_000], vec![b'a'; 99_999]].concat();
    assert!(refused(&archive(&deep, &[])).contains("nested more than 200 deep"));

    let claims = [&b"\x8e"[..], &u64::MAX.to_le_bytes()].concat();
    assert!(refused(&archive(&claims, &[])).contains("pickle claims 18446744073709551615 bytes"));

    let cycle = open(&archive(b"]q\x00h\x00a", &[])).unwrap();
    assert_eq!(cycle.values, json!([{"__class__": "cycle"}]));

    let popped = refused(&archive(b"(0t", &[]));
    assert!(popped.contains("no mark"), "{popped}");
}

#[test]
fn windows_beyond_their_storage_are_refused() {
    let four = floats(&[0.0; 4]);
    let window = |offset, size: &[i32], stride: &[i32]| {
        let t = tensor(storage("FloatStorage", "f", 4), offset, size, stride);
        refused(&archive(&t, &[("f", &four)]))
    };
    assert!(window(0, &[5], &[1]).contains("reaches beyond its storage of 4 elements"));
    assert!(window(3, &[2], &[1]).contains("reaches beyond"));
    assert!(window(0, &[2, 2], &[3, 1]).contains("reaches beyond"));
    assert!(window(-1, &[2], &[1]).contains("unknown way"));
    assert!(window(0, &[2], &[1, 1]).contains("unknown way"));
    assert!(window(0, &[i32::MAX; 3], &[0; 3]).contains("reaches beyond"));
    assert!(window(0, &[i32::MAX], &[0]).contains("far larger than the file"));
    assert!(
        refused(&archive(&tensor(storage("FloatStorage", "g", 4), 0, &[4], &[1]), &[]))
            .contains("storage `g` is not in the archive")
    );
}

#[test]
fn other_files_are_refused_with_a_hint() {
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refused(&tar).contains("save it again"));
    assert!(refused(b"\x89HDF\r\n").contains("not a PyTorch checkpoint"));
    assert!(refused(b"").contains("not a PyTorch checkpoint"));
    assert!(refused(b"\x80\x02}.").contains("not one that `torch.save` wrote"));
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("weights.npy", zip::write::SimpleFileOptions::default()).unwrap();
    assert!(refused(&zip.finish().unwrap().into_inner()).contains("no `data.pkl`"));
    let absent = TorchFile::open("no/such.pt").unwrap_err();
    assert!(matches!(absent, CheckpointError::Io(_)), "{absent}");
}

#[test]
fn prefixes_go_only_where_all_names_have_them() {
    let t = Tensor::new(0f32, &candle_core::Device::Cpu).unwrap();
    let map = |names: &[&str]| -> BTreeMap<String, Tensor> {
        names.iter().map(|n| ((*n).to_owned(), t.clone())).collect()
    };
    let names = |m: BTreeMap<String, Tensor>| m.into_keys().collect::<Vec<_>>();
    assert_eq!(
        names(strip_wrappers(map(&["module._orig_mod.a", "module._orig_mod.b"]))),
        ["a", "b"]
    );
    assert_eq!(names(strip_wrappers(map(&["model.a", "loss.b"]))), ["loss.b", "model.a"]);
    assert_eq!(names(strip_prefix(map(&["a", "x.a", "x.b"]), "x.")), ["a", "b", "x.a"]);
    assert!(strip_wrappers(map(&[])).is_empty());
}

/// Damages real files in some hundred ways: at any place of the file, and in the pickle with the
/// checksums put right so that the damage gets through.
#[test]
fn damaged_files_never_panic() {
    for (number, file) in CHECKPOINTS.iter().enumerate() {
        let Some(path) = golden::path(file) else { return };
        let whole = std::fs::read(path).unwrap();
        let (pickle, parts) = unpack(&whole);
        for round in 0..300u64 {
            let mut draws = Stream::new(round, "damage").op(number as u64).draws();
            let mut damaged = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                for _ in 0..=draws.range(0.0, 4.0) as usize {
                    let at = draws.range(0.0, bytes.len() as f64) as usize;
                    bytes[at] = draws.range(0.0, 256.0) as u8;
                }
                if draws.range(0.0, 8.0) < 1.0 {
                    bytes.truncate(draws.range(0.0, bytes.len() as f64) as usize);
                }
                bytes
            };
            let _any_result = open(&damaged(&whole));
            if !pickle.is_empty() {
                let parts: Vec<_> = parts.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
                let _any_result = open(&archive(&damaged(&pickle), &parts));
            }
        }
    }
}

/// Pickle and storages of an archive; nothing for the older format.
fn unpack(bytes: &[u8]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let Ok(mut zip) = zip::ZipArchive::new(Cursor::new(bytes)) else { return Default::default() };
    let (mut pickle, mut parts) = (Vec::new(), Vec::new());
    for i in 0..zip.len() {
        let data = entry(&mut zip, i, 1 << 20).unwrap();
        let name = zip.name_for_index(i).unwrap();
        if name.ends_with("data.pkl") {
            pickle = data[2..data.len() - 1].to_vec();
        } else if let Some((_, key)) = name.split_once("/data/") {
            parts.push((key.to_owned(), data));
        }
    }
    (pickle, parts)
}
