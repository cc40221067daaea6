//! Loading: gather the layers, have them merged, check the result against the schema, extract the
//! typed value, validate.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Value;

use crate::check::{Finding, Validate, check};
use crate::error::{ConfigError, Problem};
use crate::key::{self, Segment, join};
use crate::layers::{Assignment, Layers};
use crate::node::{Data, Node, Origin, Source, Spot};
use crate::schema::Schema;
use crate::show::{Loaded, inline, origins};
use crate::suggest::nearest;

/// Largest config file that is read; more is surely not a config.
const LARGEST: u64 = 4 << 20;

/// The top-level key of a file that names the file it builds on.
pub(crate) const EXTENDS: &str = "extends";

/// What to load a configuration from. The layers, later ones winning: the defaults of the structs,
/// `builtin`, the files that `file` extends, `file`, `env`, `sets`, `flags`.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// The config file. It may name a base with `extends = "path"`, relative to its directory.
    pub file: Option<PathBuf>,
    /// A preset inside the program, as (name, TOML text); it cannot extend a file.
    pub builtin: Option<(&'a str, &'a str)>,
    /// Environment variables that set a key, as (variable, key path): machine settings only, such
    /// as `("LIMPID_DEVICE", "device")`. An empty variable counts as unset.
    pub env_keys: &'a [(&'a str, &'a str)],
    /// The arguments of `--set`: `optimizer.lr=1e-4`, `terms.0.weight=2`. The right side is TOML,
    /// or else a bare string.
    pub sets: Vec<String>,
    /// Flags of their own, as (key path, value, as shown to the user: `--device cuda:0`).
    pub flags: Vec<(String, Value, String)>,
}

/// Loads, checks and validates a configuration.
///
/// # Errors
/// All problems of the first stage that has any: reading and parsing, names and types against the
/// schema, serde, [`Validate`].
pub fn load<T>(request: &Request<'_>) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize + JsonSchema + Validate,
{
    load_in(request, |name| std::env::var(name).ok())
}

/// [`load`] with the environment given.
pub(crate) fn load_in<T>(
    request: &Request<'_>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Loaded<T>, ConfigError>
where
    T: DeserializeOwned + Serialize + JsonSchema + Validate,
{
    let schema = Schema::of::<T>();
    let layers = gather(request, schema.defaults(), env)?;
    let mut root = layers.merged();

    let problems = schema.check(&mut root);
    if !problems.is_empty() {
        return Err(ConfigError::new(problems));
    }

    let value: T = layers.extract(&root)?;
    let resolved = toml::Table::try_from(&value)
        .map_err(|e| Problem::new(format!("the configuration cannot be written as TOML: {e}")))?;

    let findings = check(&value);
    if !findings.is_empty() {
        let locate = |finding| locate(finding, &root, &resolved);
        return Err(ConfigError::new(findings.into_iter().map(locate).collect()));
    }
    let origins = origins(&resolved, &root);
    Ok(Loaded { value, resolved, origins })
}

/// All layers, laid over the defaults.
fn gather(
    request: &Request<'_>,
    defaults: Node,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Layers, ConfigError> {
    let mut merged = Layers::new(defaults);
    if let Some((name, text)) = request.builtin {
        let source = file_source(name.to_owned(), text.to_owned());
        merged.lay("preset", Node::document(&source)?);
    }
    if let Some(path) = &request.file {
        for document in chain(path)? {
            merged.lay("config file", document);
        }
    }
    let env = request.env_keys.iter().filter_map(|(variable, path)| {
        let value = env(variable).filter(|value| !value.is_empty())?;
        Some(from_env(variable, path, &value))
    });
    let sets = request.sets.iter().map(|text| from_set(text));
    let flags = request.flags.iter().map(|(path, value, shown)| from_flag(path, value, shown));

    let mut problems = Vec::new();
    let layers: [Vec<Result<Assignment, Problem>>; 3] =
        [env.collect(), sets.collect(), flags.collect()];
    for layer in layers {
        let (good, bad): (Vec<_>, Vec<_>) = layer.into_iter().partition(Result::is_ok);
        problems.extend(bad.into_iter().filter_map(Result::err));
        merged.assign_all(good.into_iter().flatten().collect(), &mut problems);
    }
    if problems.is_empty() { Ok(merged) } else { Err(ConfigError::new(problems)) }
}

/// The documents of a file and of all it extends, the file itself last.
fn chain(file: &Path) -> Result<Vec<Node>, Problem> {
    let mut nodes = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut next = Some((file.to_path_buf(), None));
    while let Some((path, named_by)) = next {
        let text = read(&path).map_err(|problem| pointing(problem, named_by.as_ref()))?;
        let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
        if seen.contains(&canonical) {
            let problem = Problem::new(format!("`extends` comes back to `{}`", path.display()))
                .hint("a file cannot extend itself, not even through others");
            return Err(pointing(problem, named_by.as_ref()));
        }
        seen.push(canonical);
        let mut node = Node::document(&file_source(path.display().to_string(), text))?;
        next = take_extends(&mut node, &path)?;
        nodes.push(node);
    }
    nodes.reverse();
    Ok(nodes)
}

/// Takes `extends` out of a document: the file it names, relative to the document's directory.
fn take_extends(node: &mut Node, path: &Path) -> Result<Option<(PathBuf, Option<Spot>)>, Problem> {
    let Data::Table(entries) = &mut node.data else { return Ok(None) };
    let Some(Node { spot, data, .. }) = entries.remove(EXTENDS) else { return Ok(None) };
    match data {
        Data::Scalar(Value::String(base)) => {
            Ok(Some((path.parent().unwrap_or(Path::new("")).join(base), spot)))
        }
        _ => Err(pointing(Problem::new("`extends` must be the path of one file"), spot.as_ref())),
    }
}

/// The problem, pointing at the value written at `spot`.
fn pointing(problem: Problem, spot: Option<&Spot>) -> Problem {
    match spot {
        Some(spot) => problem.at(&spot.source, spot.value.clone()),
        None => problem,
    }
}

/// Reads a config file.
fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |reason: String, hint: Option<String>| {
        let problem =
            Problem::new(format!("cannot read the config `{}`: {reason}", path.display()));
        Problem { hint, ..problem }
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => unreadable("no such file".into(), similar_file(path)),
            std::io::ErrorKind::IsADirectory => unreadable("it is a directory".into(), None),
            std::io::ErrorKind::PermissionDenied => unreadable("permission denied".into(), None),
            _ => unreadable(e.to_string(), None),
        })?;
    if bytes.len() as u64 > LARGEST {
        let reason = format!("larger than {} MiB", LARGEST >> 20);
        return Err(unreadable(reason, Some("is this an image instead of a config?".into())));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| unreadable("not UTF-8 text".into(), Some("a config is a TOML file".into())))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// A hint at the TOML file in the same directory whose name is nearest.
fn similar_file(path: &Path) -> Option<String> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    let found = nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(format!("did you mean `{}`?", parent.join(found).display()))
}

fn file_source(name: String, text: String) -> Arc<Source> {
    let origin = Origin::File { path: name.clone(), line: 0 };
    Arc::new(Source { name, text, origin })
}

/// The assignment of an environment variable.
fn from_env(variable: &str, path: &str, value: &str) -> Result<Assignment, Problem> {
    let source = Arc::new(Source {
        name: "environment".into(),
        text: format!("{variable}={value}"),
        origin: Origin::Env(variable.to_owned()),
    });
    let segments = names_at(path, 0..variable.len());
    let at = variable.len() + 1..source.text.len();
    Ok(Assignment { path: segments, value: Node::value(&source, 0..variable.len(), at)? })
}

/// The assignment of a flag, which is shown as a whole.
fn from_flag(path: &str, value: &Value, shown: &str) -> Result<Assignment, Problem> {
    let source = command_line(shown.to_owned(), Origin::Flag(shown.to_owned()));
    let spot = Spot { key: 0..shown.len(), value: 0..shown.len(), source };
    let value = Node::from_value(value.clone(), Some(&spot));
    Ok(Assignment { path: names_at(path, 0..shown.len()), value })
}

/// The assignment of one `--set KEY=VALUE`.
fn from_set(text: &str) -> Result<Assignment, Problem> {
    const FLAG: &str = "--set ";
    let source = command_line(format!("{FLAG}{text}"), Origin::Set(text.to_owned()));
    let whole = FLAG.len()..source.text.len();
    let example = "write it as KEY=VALUE, such as `--set optimizer.lr=1e-4`";
    let Some(equals) = text.find('=') else {
        return Err(Problem::new("`--set` needs a value").at(&source, whole).hint(example));
    };
    let key = FLAG.len()..FLAG.len() + equals;
    let mut path = key::parse(&text[..equals]).map_err(|reason| {
        Problem::new(format!("bad key: {reason}")).at(&source, key.clone()).hint(example)
    })?;
    for segment in &mut path {
        segment.span = segment.span.start + FLAG.len()..segment.span.end + FLAG.len();
    }
    let last = path.last().map_or(key, |segment| segment.span.clone());
    let value = Node::value(&source, last, FLAG.len() + equals + 1..source.text.len())?;
    Ok(Assignment { path, value })
}

fn command_line(text: String, origin: Origin) -> Arc<Source> {
    Arc::new(Source { name: "command line".into(), text, origin })
}

/// The segments of a path that is not part of the text: all stand at `span`.
fn names_at(path: &str, span: Range<usize>) -> Vec<Segment> {
    key::names(path).into_iter().map(|name| Segment { name, span: span.clone() }).collect()
}

/// A semantic finding, pointing at the value it is about, at the table that lacks it, or at the
/// default that nobody changed.
fn locate(finding: Finding, root: &Node, resolved: &toml::Table) -> Problem {
    let path = key::names(&finding.key);
    let problem = Problem { hint: finding.hint.clone(), ..Problem::new(finding.to_string()) };
    if let Some(spot) = root.get(&path).and_then(|node| node.spot.as_ref()) {
        return problem.at(&spot.source, spot.value.clone());
    }
    let value = path.iter().try_fold(None::<&Value>, |at, name| {
        let child = match at {
            None => resolved.get(name),
            Some(Value::Array(items)) => items.get(name.parse::<usize>().ok()?),
            Some(value) => value.get(name),
        };
        child.map(Some)
    });
    match value.flatten() {
        Some(value) => {
            let value = inline(value);
            let shown = format!("{} = {value}", join(&path));
            let at = shown.len() - value.len()..shown.len();
            let name = "built-in default".to_owned();
            problem.at(&Arc::new(Source { name, text: shown, origin: Origin::Default }), at)
        }
        None => problem,
    }
}
