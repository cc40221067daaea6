//! Rendered messages are compared word for word: they are what the user sees.

use std::fs;
use std::path::Path;

use super::*;

/// Loads a file of a directory; messages name the directory `DIR`.
fn error_in(dir: &Path, file: &str) -> String {
    let request = Request { file: Some(dir.join(file)), ..Request::default() };
    let error = load_in::<Config>(&request, |_| None).unwrap_err();
    error.to_string().replace(&dir.display().to_string(), "DIR")
}

#[test]
fn a_typo_points_at_its_line_and_names_the_key_that_was_meant() {
    assert_eq!(
        error("[train]\n  stepps = 10\n", &[]),
        "\
error: unknown key `stepps` in [train]
 --> a.toml:2:3
  |
2 |   stepps = 10
  |   ^^^^^^
hint: did you mean `steps`? known keys: steps, batch, mode"
    );
}

#[test]
fn every_unknown_key_and_wrong_type_is_reported_in_the_order_of_the_file() {
    let text = "\
lr = 1
seed = '1'
[optimizer]
kind = 'sgd'
betas = [1, 2]
lr = 'fast'
[train]
mode = 'exat'
steps = -1
batch = 1e2
[[terms]]
weigth = 3
";
    assert_eq!(
        error(text, &[]),
        r#"error: unknown key `lr` at the top level
 --> a.toml:1:1
  |
1 | lr = 1
  | ^^
hint: did you mean `optimizer.lr`? known keys: seed, device, optimizer, train, terms, tile, out, names, axes

error: `seed` must be an integer, got the string "1"
 --> a.toml:2:8
  |
2 | seed = '1'
  |        ^^^
hint: numbers stand without quotes

error: unknown key `betas` in [optimizer]
 --> a.toml:5:1
  |
5 | betas = [1, 2]
  | ^^^^^
hint: `betas` belongs to kind = "adamw"; known keys with kind = "sgd": kind, lr, momentum

error: `optimizer.lr` must be a number, got the string "fast"
 --> a.toml:6:6
  |
6 | lr = 'fast'
  |      ^^^^^^

error: `train.mode` must be one of fast, exact, got `exat`
 --> a.toml:8:8
  |
8 | mode = 'exat'
  |        ^^^^^^
hint: did you mean `exact`?

error: `train.steps` must be at least 0, got -1
 --> a.toml:9:9
  |
9 | steps = -1
  |         ^^

error: `train.batch` must be an integer, got the number 100.0
  --> a.toml:10:9
   |
10 | batch = 1e2
   |         ^^^
hint: write 100

error: missing key `loss` in [terms.0]
  --> a.toml:11:1
   |
11 | [[terms]]
   | ^^^^^^^^^
hint: set it in the config or with `--set terms.0.loss=VALUE` (Name of the loss)

error: unknown key `weigth` in [terms.0]
  --> a.toml:12:1
   |
12 | weigth = 3
   | ^^^^^^
hint: did you mean `weight`? known keys: loss, weight"#
    );
}

#[test]
fn a_bad_kind_lists_the_kinds() {
    assert_eq!(
        error("[optimizer]\nkind = 'adamx'", &[]),
        "\
error: unknown kind `adamx` in [optimizer]
 --> a.toml:2:8
  |
2 | kind = 'adamx'
  |        ^^^^^^^
hint: did you mean `adamw`? known kinds: adamw, sgd"
    );
    assert_eq!(
        error("optimizer = 'sgd'", &[]),
        r#"error: `optimizer` must be a table with a `kind`, got the string "sgd"
 --> a.toml:1:13
  |
1 | optimizer = 'sgd'
  |             ^^^^^
hint: write `optimizer.kind = "sgd"`"#
    );
}

#[test]
fn a_value_of_no_branch_names_all_branches() {
    assert_eq!(
        error("tile = true", &[]),
        "\
error: `tile` must be \"auto\" or an array of integers, got true
 --> a.toml:1:8
  |
1 | tile = true
  |        ^^^^"
    );
    assert!(error("tile = [16, 1.5]", &[]).starts_with("error: `tile.1` must be an integer"));
}

#[test]
fn bad_set_arguments_point_at_the_command_line() {
    assert_eq!(
        error("", &["optimizer.lrr=3"]),
        "\
error: unknown key `lrr` in [optimizer]
 --> command line
  |
  | --set optimizer.lrr=3
  |                 ^^^
hint: did you mean `lr`? known keys with kind = \"adamw\": kind, lr, betas"
    );
    assert_eq!(
        error("", &["optimizer.lr", "optimizer.betas.2=1", "optimizer.betas=[1,", "a..b=1"]),
        "\
error: bad key: a name is missing
 --> command line
  |
  | --set a..b=1
  |       ^^^^
hint: write it as KEY=VALUE, such as `--set optimizer.lr=1e-4`

error: `2` is not an index of an array of 2 items
 --> command line
  |
  | --set optimizer.betas.2=1
  |                       ^
hint: count from 0, or set the whole array

error: bad TOML: unclosed array, expected `]`
 --> command line
  |
  | --set optimizer.betas=[1,
  |                          ^

error: `--set` needs a value
 --> command line
  |
  | --set optimizer.lr
  |       ^^^^^^^^^^^^
hint: write it as KEY=VALUE, such as `--set optimizer.lr=1e-4`"
    );
}

#[test]
fn bad_syntax_points_at_the_place() {
    assert_eq!(
        error("seed = 1\nseed = 2\n", &[]),
        "\
error: bad TOML: duplicate key
 --> a.toml:2:1
  |
2 | seed = 2
  | ^^^^"
    );
    assert_eq!(
        error("seed = 99999999999999999999", &[]),
        "\
error: integer is out of range
 --> a.toml:1:8
  |
1 | seed = 99999999999999999999
  |        ^^^^^^^^^^^^^^^^^^^^
hint: TOML numbers are 64-bit: signed integers and floats"
    );
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = directory(&[("n2v.toml", "")]);
    fs::write(dir.path().join("bytes.toml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(dir.path().join("image.tif"), vec![b'\n'; 5 << 20]).unwrap();
    let path = |name: &str| dir.path().join(name);
    assert_eq!(
        error_in(dir.path(), "n2w.toml"),
        "\
error: cannot read the config `DIR/n2w.toml`: no such file
hint: did you mean `DIR/n2v.toml`?"
    );
    assert_eq!(
        error_in(dir.path(), "bytes.toml"),
        "\
error: cannot read the config `DIR/bytes.toml`: not UTF-8 text
hint: a config is a TOML file"
    );
    assert_eq!(
        error_in(dir.path(), "image.tif"),
        "\
error: cannot read the config `DIR/image.tif`: larger than 4 MiB
hint: is this an image instead of a config?"
    );
    fs::create_dir(path("sub")).unwrap();
    assert_eq!(
        error_in(dir.path(), "sub"),
        "error: cannot read the config `DIR/sub`: it is a directory"
    );
}

#[test]
fn extends_refuses_circles_and_missing_files() {
    let dir = directory(&[
        ("a.toml", "seed = 1\nextends = 'b.toml'\n"),
        ("b.toml", "extends = 'a.toml'\n"),
        ("root.toml", ""),
        ("lost.toml", "extends = 'rot.toml'\n"),
        ("two.toml", "extends = ['a.toml', 'b.toml']\n"),
    ]);
    assert_eq!(
        error_in(dir.path(), "a.toml"),
        "\
error: `extends` comes back to `DIR/a.toml`
 --> DIR/b.toml:1:11
  |
1 | extends = 'a.toml'
  |           ^^^^^^^^
hint: a file cannot extend itself, not even through others"
    );
    assert_eq!(
        error_in(dir.path(), "lost.toml"),
        "\
error: cannot read the config `DIR/rot.toml`: no such file
 --> DIR/lost.toml:1:11
  |
1 | extends = 'rot.toml'
  |           ^^^^^^^^^^
hint: did you mean `DIR/root.toml`?"
    );
    let two = error_in(dir.path(), "two.toml");
    assert!(two.starts_with("error: `extends` must be the path of one file\n"), "{two}");
}

#[test]
fn wrong_environment_and_flags_are_shown_as_they_were_given() {
    let mut request = request("", &[]);
    request.flags = vec![("train.steps".into(), toml::Value::Integer(0), "--steps 0".into())];
    let env = |name: &str| (name == "LIMPID_SEED").then(|| "x".to_owned());
    assert_eq!(
        load_in::<Config>(&request, env).unwrap_err().to_string(),
        "\
error: `seed` must be an integer, got the string \"x\"
 --> environment
  |
  | LIMPID_SEED=x
  |             ^"
    );
    assert_eq!(
        load_in::<Config>(&request, |_| None).unwrap_err().to_string(),
        "\
error: `train.steps` must be at least 1
 --> command line
  |
  | --steps 0
  | ^^^^^^^^^"
    );
}

#[test]
fn all_semantic_problems_come_at_once() {
    let text = "tile = [16, 60]\n[train]\nsteps = 0\n";
    let sets = ["train.batch=2000", "terms=[{loss='l1', weight=-1}]"];
    assert_eq!(
        error(text, &sets),
        "\
error: `tile.1` must be a multiple of 16, got 60
 --> a.toml:1:13
  |
1 | tile = [16, 60]
  |             ^^
hint: use 64

error: `train.steps` must be at least 1
 --> a.toml:3:9
  |
3 | steps = 0
  |         ^

error: `terms.0.weight` must not be negative
 --> command line
  |
  | --set terms=[{loss='l1', weight=-1}]
  |                                 ^^

error: `train.batch` must be at most 1000, got 2000
 --> command line
  |
  | --set train.batch=2000
  |                   ^^^^"
    );
    // the default rate of sgd is 0 here, and nobody wrote it
    assert_eq!(
        error("optimizer.kind = 'sgd'", &[]),
        "\
error: `optimizer.lr` must be positive, got 0
 --> built-in default
  |
  | optimizer.lr = 0.0
  |                ^^^"
    );
}

#[test]
fn what_only_serde_refuses_still_points_at_the_value() {
    assert_eq!(
        error("seed = 1\naxes = 'Y2X'\n", &[]),
        "\
error: `axes`: axes are letters of ZYXC, got Y2X
 --> a.toml:2:8
  |
2 | axes = 'Y2X'
  |        ^^^^^"
    );
}

#[test]
fn refusals_have_the_words_of_serde() {
    use serde::de::{Error as _, Unexpected, value::Error as Serde};
    let both = |figment: figment::Error, serde: Serde| {
        assert_eq!(crate::layers::words(&figment.kind), serde.to_string());
    };
    for got in [
        Unexpected::Bool(true),
        Unexpected::Signed(-5),
        Unexpected::Unsigned(5),
        Unexpected::Float(1.0),
        Unexpected::Str("a"),
        Unexpected::Seq,
        Unexpected::Map,
    ] {
        both(figment::Error::invalid_type(got, &"x"), Serde::invalid_type(got, &"x"));
        both(figment::Error::invalid_value(got, &"x"), Serde::invalid_value(got, &"x"));
    }
    for known in [&["lr"][..], &["lr", "betas"], &["lr", "betas", "eps"]] {
        both(figment::Error::unknown_field("l", known), Serde::unknown_field("l", known));
        both(figment::Error::unknown_variant("l", known), Serde::unknown_variant("l", known));
    }
    both(figment::Error::missing_field("lr"), Serde::missing_field("lr"));
    both(figment::Error::invalid_length(3, &"x"), Serde::invalid_length(3, &"x"));
}

#[test]
fn long_lines_and_odd_characters_keep_the_caret_in_place() {
    let long = error(&format!("names = {{ 'ä' = 1, '{}' = -1 }}", "é".repeat(200)), &[]);
    let snippet: Vec<usize> = long.lines().skip(2).map(|line| line.chars().count()).collect();
    assert!(snippet.iter().all(|&width| width < 110), "{long}");
    assert_eq!(
        error("names = { 'ä' = 1,\t'ö' = -1 }", &[]),
        "\
error: `names.\"ö\"` must be at least 0, got -1
 --> a.toml:1:26
  |
1 | names = { 'ä' = 1,\t'ö' = -1 }
  |                   \t      ^^"
    );
}

/// Every prefix and many one-byte changes of a config either load or give a readable error, and
/// what loads shows itself so that it loads again.
#[test]
fn damaged_text_never_panics() {
    let text = "seed = 0x10\ntile = [16, 32]\nout = \"a\\u00e9é\"\n[optimizer]\nkind = 'sgd'\n\
                lr = 1e-3\n[[terms]]\nloss = 'l1'\nweight = 1_0.5\n[names]\n\"b c\" = 3\n";
    let changed = (0..text.len()).flat_map(|i| {
        b"=[]{}'\"\n.x9\xff".iter().map(move |&byte| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[i] = byte;
            bytes
        })
    });
    let cut = (0..text.len()).map(|i| text.as_bytes()[..i].to_vec());
    for bytes in changed.chain(cut) {
        let text = String::from_utf8_lossy(&bytes);
        match try_load(&text, &[]) {
            Ok(config) => assert_eq!(loaded(&config.show(true), &[]).value, config.value),
            Err(e) => assert!(e.to_string().starts_with("error: "), "{e}"),
        }
        if let Err(e) = try_load("", &[&text]) {
            assert!(e.to_string().starts_with("error: "), "{e}");
        }
    }
}

#[test]
fn hostile_depth_is_an_error() {
    let deep = "a.".repeat(50_000) + "a";
    assert!(error(&format!("{deep} = 1"), &[]).contains("bad TOML"));
    assert!(error(&format!("a = {}", "[".repeat(50_000)), &[]).contains("bad TOML"));
    assert!(error("", &[&format!("{deep}=1")]).contains("names deep"));
}
