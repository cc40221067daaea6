//! Which layer wins, where values come from, and what is written about them.

use std::path::Path;

use super::*;

#[test]
fn extends_builds_on_the_base() {
    let dir = directory(&[
        ("run.toml", "extends = 'presets/base.toml'\n[train]\nbatch = 8\n"),
        ("presets/base.toml", "extends = '../root.toml'\n[train]\nbatch = 2\nsteps = 7\n"),
        ("root.toml", "seed = 1\ntrain.steps = 3\n"),
    ]);
    let request = Request { file: Some(dir.path().join("run.toml")), ..Request::default() };
    let config = load_in::<Config>(&request, |_| None).unwrap().value;
    assert_eq!((config.seed, config.train.steps, config.train.batch), (1, 7, 8));
}

#[test]
fn later_layers_win_and_every_value_knows_its_origin() {
    let mut request = request("seed = 1\n[train]\nsteps = 5\n", &["train.batch=2", "seed=3"]);
    request.flags = vec![("train.mode".into(), "exact".into(), "--exact".into())];
    let env = |name: &str| (name == "LIMPID_DEVICE").then(|| "7".to_owned());
    let loaded = load_in::<Config>(&request, env).unwrap();
    assert_eq!(loaded.value.seed, 3);
    let origin = |key: &str| loaded.origins[key].clone();
    assert_eq!(origin("seed"), Origin::Set("seed=3".into()));
    assert_eq!(origin("train.steps"), Origin::File { path: "a.toml".into(), line: 3 });
    assert_eq!(origin("train.batch"), Origin::Set("train.batch=2".into()));
    assert_eq!(origin("train.mode"), Origin::Flag("--exact".into()));
    assert_eq!(origin("device"), Origin::Env("LIMPID_DEVICE".into()));
    assert_eq!(origin("optimizer.lr"), Origin::Default);
    assert_eq!(loaded.value.device, "7", "a number becomes text where text is wanted");
}

#[test]
fn numbers_of_all_spellings_arrive() {
    let lr = |config: Config| match config.optimizer {
        Optimizer::Adamw { lr, .. } | Optimizer::Sgd(Sgd { lr, .. }) => lr,
    };
    let spellings =
        [("1e-4", 1e-4), ("2", 2.0), ("5E+1", 50.0), ("1_0.5", 10.5), ("inf", f64::INFINITY)];
    for (text, expected) in spellings {
        let assignment = format!("optimizer.lr={text}");
        assert_eq!(lr(loaded(&assignment, &[]).value), expected);
        assert_eq!(lr(loaded("", &[&assignment]).value), expected);
    }
    assert_eq!(loaded("seed = 0x10", &[]).value.seed, 16);
}

#[test]
fn set_takes_arrays_tables_indices_quotes_and_bare_words() {
    let sets = [
        "tile=[32, 48]",
        "tile.1=64",
        "terms=[{loss='l1'}, {loss='l2'}]",
        "terms.1.weight=2",
        "names={a=1}",
        "names.'b c'=2",
        "out=/data/run = 7.tif",
        "train.mode=exact",
        "optimizer.betas.0=0.8",
    ];
    let loaded = loaded("", &sets);
    let config = &loaded.value;
    assert_eq!(config.tile, Tile::Fixed(vec![32, 64]));
    assert_eq!(config.terms[1], Term { loss: "l2".into(), weight: 2.0 });
    assert_eq!(config.names, BTreeMap::from([("a".into(), 1), ("b c".into(), 2)]));
    assert_eq!(config.out.as_deref(), Some(Path::new("/data/run = 7.tif")));
    assert_eq!(config.train.mode, Mode::Exact);
    assert_eq!(config.optimizer, Optimizer::Adamw { lr: 2e-4, betas: [0.8, 0.999] });
    assert_eq!(loaded.origins["optimizer.betas"], Origin::Default);
    assert_eq!(loaded.origins["optimizer.betas.0"], Origin::Set(sets[8].into()));
    assert_eq!(loaded.origins["names.\"b c\""], Origin::Set(sets[5].into()));
}

#[test]
fn a_new_kind_drops_the_keys_of_the_old_one() {
    let sgd = |lr| Optimizer::Sgd(Sgd { lr, momentum: 0.0 });
    // over the defaults, over a file, and in any order of --set
    assert_eq!(loaded("[optimizer]\nkind = 'sgd'\nlr = 0.1", &[]).value.optimizer, sgd(0.1));
    let file = "[optimizer]\nbetas = [0.1, 0.2]\nlr = 7";
    let (kind, lr) = ("optimizer.kind=sgd", "optimizer.lr=0.1");
    assert_eq!(loaded(file, &[lr, kind]).value.optimizer, sgd(0.1));
    assert_eq!(loaded(file, &[kind, lr]).value.optimizer, sgd(0.1));
    let table = ["optimizer.lr=0.2", "optimizer={kind='sgd'}"];
    assert_eq!(loaded(file, &table).value.optimizer, sgd(0.2));
    // the same kind keeps them
    let same = loaded(file, &["optimizer.kind=adamw"]).value.optimizer;
    assert_eq!(same, Optimizer::Adamw { lr: 7.0, betas: [0.1, 0.2] });
}

#[test]
fn a_set_into_an_array_leaves_its_other_items_alone() {
    let text = format!("terms = [{}]", ["{loss='l1', weight=1}"; 12].join(", "));
    let sets = ["terms.011.weight=2", "terms.3={loss='l2'}", "terms.3={weight=5}"];
    let config = loaded(&text, &sets);
    let l1 = Term { loss: "l1".into(), weight: 1.0 };
    for (i, term) in config.value.terms.iter().enumerate() {
        let expected = match i {
            3 => Term { loss: "l2".into(), weight: 5.0 },
            11 => Term { weight: 2.0, ..l1.clone() },
            _ => l1.clone(),
        };
        assert_eq!(*term, expected, "item {i}");
    }
    let file = Origin::File { path: "a.toml".into(), line: 1 };
    assert_eq!(config.origins["terms.11.loss"], file);
    assert_eq!(config.origins["terms.11.weight"], Origin::Set(sets[0].into()));
    assert_eq!(config.origins["terms.3.loss"], Origin::Set(sets[1].into()));
    assert_eq!(config.origins["terms.3.weight"], Origin::Set(sets[2].into()));
}

#[test]
fn a_preset_and_a_file_of_one_name_stay_apart() {
    let dir = directory(&[("a.toml", "\n\ntrain.batch = 0x2000\n")]);
    let path = dir.path().join("a.toml");
    let name = path.display().to_string();
    let request = Request {
        builtin: Some((&name, "train.steps = 9")),
        file: Some(path.clone()),
        sets: vec!["train.batch=3".into(), "seed=1".into(), "seed=1".into()],
        ..Request::default()
    };
    let origins = load_in::<Config>(&request, |_| None).unwrap().origins;
    assert_eq!(origins["train.steps"], Origin::File { path: name.clone(), line: 1 });
    assert_eq!(origins["seed"], Origin::Set("seed=1".into()));
    let request = Request { sets: Vec::new(), ..request };
    let error = load_in::<Config>(&request, |_| None).unwrap_err().to_string();
    assert!(error.contains("a.toml:3:15"), "{error}");
}

#[test]
fn a_partial_table_keeps_the_defaults_of_the_root() {
    let config = loaded("[optimizer]\nbetas = [0.1, 0.2]", &[]).value;
    assert_eq!(config.optimizer, Optimizer::Adamw { lr: 2e-4, betas: [0.1, 0.2] });
    assert_eq!(loaded("", &[]).value, Config::default());
}

#[test]
fn show_loads_to_the_same_value() {
    let text = "seed = 7\naxes = 'ZYX'\n[[terms]]\nloss = 'l1'\n[[terms]]\nloss = 'l2'\n";
    let sets =
        ["out='''a\n\"b\"\\'''", "terms.1.weight=3", "names.'x # ]'=3", "optimizer.betas.1=1e-9"];
    let first = loaded(text, &sets);
    for with_origin in [false, true] {
        let again = loaded(&first.show(with_origin), &[]);
        assert_eq!(again.value, first.value);
        assert_eq!(again.resolved, first.resolved);
    }
    assert_eq!(
        loaded("[[terms]]\nloss = 'l1'\n", &["names.'b c'=3", "seed=1"]).show(true),
        "\
seed = 1         # --set seed=1
device = \"auto\"  # default
tile = \"auto\"    # default
axes = \"YX\"      # default

[optimizer]
kind = \"adamw\"        # default
lr = 2e-4             # default
betas = [0.5, 0.999]  # default

[train]
steps = 1000   # default
batch = 4      # default
mode = \"fast\"  # default

[[terms]]
loss = \"l1\"   # a.toml:2
weight = 0.0  # default

[names]
\"b c\" = 3  # --set names.'b c'=3
"
    );
}

#[test]
fn the_reference_lists_every_key_with_the_defaults_that_hold() {
    let text = reference_markdown::<Config>("Keys");
    let from = text.find("## `[optimizer]`").unwrap();
    let to = text.find("### `kind = \"sgd").unwrap();
    assert_eq!(
        &text[from..to],
        "\
## `[optimizer]`

### `kind = \"adamw\"` (default)

Adam with decoupled weight decay.

| key | type | default | description |
|---|---|---|---|
| `lr` | number | `2e-4` | Learning rate. |
| `betas` | array of numbers | `[0.5, 0.999]` | Decay of the moments. |

"
    );
    for row in [
        "| `out` | string | *unset* | Output file. |",
        "| `loss` | string | *required* | Name of the loss. There are many. |",
        "| `tile` | \"auto\" or array of integers | `\"auto\"` |  |",
        "## `[terms.N]`",
    ] {
        assert!(text.contains(row), "{row} is missing in\n{text}");
    }
}

#[test]
fn the_schema_is_closed_and_knows_extends() {
    let schema = schema::<Config>();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["extends"]["type"], "string");
    assert_eq!(schema["properties"]["optimizer"]["default"]["kind"], "adamw");
}
