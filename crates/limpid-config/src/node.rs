//! Configuration values that remember where they were written: parsed from TOML with the spans of
//! all parts, and handed to figment.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use figment::value::{Num, Tag, Value as Merged};
use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::error::{Problem, locate};

/// The key that tags the variant of a table: `kind = "adamw"`.
pub(crate) const KIND: &str = "kind";

/// A text that configuration was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Path of the file, or `command line`, `environment`, `built-in default`.
    pub name: String,
    /// The whole text: a file, or one argument such as `--set optimizer.lr=1e-4`.
    pub text: String,
    /// Where a value of this source says it comes from; the line of a file is filled in per value.
    pub(crate) origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A config file, or a preset that is built in and named like a file.
    File {
        /// The file as it was named.
        path: String,
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Env(String),
    /// `--set`, as typed: `optimizer.lr=1e-4`.
    Set(String),
    /// A flag of its own, as typed: `--device cuda:0`.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Env(name) => write!(f, "{name}"),
            Self::Set(text) => write!(f, "--set {text}"),
            Self::Flag(text) => write!(f, "{text}"),
        }
    }
}

impl Source {
    /// Whether lines and columns mean anything to the reader.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }
}

/// Where a value was written: its key and itself, in bytes of the source.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) source: Arc<Source>,
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
}

impl Spot {
    /// The origin of the value written here.
    pub(crate) fn origin(&self) -> Origin {
        match &self.source.origin {
            Origin::File { path, .. } => {
                Origin::File { path: path.clone(), line: locate(&self.source.text, &self.key).0 }
            }
            other => other.clone(),
        }
    }
}

/// A value and where it was written; a default was written nowhere.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The layer that figment knows the value to be of; none before it was merged.
    pub(crate) tag: Tag,
    pub(crate) spot: Option<Spot>,
    pub(crate) data: Data,
}

/// The value itself.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Scalar(Value),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    /// An empty table that nobody wrote.
    pub(crate) fn empty() -> Self {
        Self { tag: Tag::Default, spot: None, data: Data::Table(BTreeMap::new()) }
    }

    /// Parses a TOML document.
    pub(crate) fn document(source: &Arc<Source>) -> Result<Self, Problem> {
        let table = DeTable::parse(&source.text).map_err(|e| syntax_problem(&e, source, 0))?;
        let span = table.span();
        let value = DeValue::Table(table.into_inner());
        from_toml(value, &Spot { source: source.clone(), key: 0..0, value: span }, 0)
    }

    /// Parses one TOML value that stands at `at` in the source; a text that is no TOML is a bare
    /// string, unless it starts like an array, an inline table or a quoted string.
    pub(crate) fn value(
        source: &Arc<Source>,
        key: Range<usize>,
        at: Range<usize>,
    ) -> Result<Self, Problem> {
        let (whole, text) = (&source.text[at.clone()], source.text[at.clone()].trim());
        let offset = at.start + (whole.len() - whole.trim_start().len());
        let spot = Spot { source: source.clone(), key, value: offset..offset + text.len() };
        match DeValue::parse(text) {
            Ok(value) => from_toml(value.into_inner(), &spot, offset),
            Err(e) if text.starts_with(['[', '{', '"', '\'']) => {
                Err(syntax_problem(&e, source, offset))
            }
            Err(_) => {
                let data = Data::Scalar(Value::String(text.to_owned()));
                Ok(Self { tag: Tag::Default, spot: Some(spot), data })
            }
        }
    }

    /// A value that is already TOML, written at `spot` as a whole.
    pub(crate) fn from_value(value: Value, spot: Option<&Spot>) -> Self {
        let data = match value {
            Value::Array(items) => {
                Data::Array(items.into_iter().map(|v| Self::from_value(v, spot)).collect())
            }
            Value::Table(table) => Data::Table(
                table.into_iter().map(|(k, v)| (k, Self::from_value(v, spot))).collect(),
            ),
            scalar => Data::Scalar(scalar),
        };
        Self { tag: Tag::Default, spot: spot.cloned(), data }
    }

    /// The value as figment has it. Figment knows no dates, and no config has any: they are text.
    pub(crate) fn to_figment(&self) -> Merged {
        let tag = self.tag;
        match &self.data {
            Data::Table(table) => Merged::Dict(
                tag,
                table.iter().map(|(name, node)| (name.clone(), node.to_figment())).collect(),
            ),
            Data::Array(items) => Merged::Array(tag, items.iter().map(Self::to_figment).collect()),
            Data::Scalar(value) => match value {
                Value::Integer(n) => Merged::Num(tag, Num::I64(*n)),
                Value::Float(x) => Merged::Num(tag, Num::F64(*x)),
                Value::Boolean(b) => Merged::Bool(tag, *b),
                Value::String(text) => Merged::String(tag, text.clone()),
                other => Merged::String(tag, other.to_string()),
            },
        }
    }

    /// The child of that name, or of that index in an array.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        match &self.data {
            Data::Table(table) => table.get(name),
            Data::Array(items) => items.get(name.parse::<usize>().ok()?),
            Data::Scalar(_) => None,
        }
    }

    /// The node at a path.
    pub(crate) fn get<S: AsRef<str>>(&self, path: &[S]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.child(name.as_ref()))
    }

    /// The variant that this table says it is.
    pub(crate) fn kind(&self) -> Option<&str> {
        match &self.child(KIND)?.data {
            Data::Scalar(Value::String(kind)) => Some(kind),
            _ => None,
        }
    }
}

/// An array of that length, in words.
pub(crate) fn array_of(len: usize) -> String {
    match len {
        0 => "an empty array".into(),
        1 => "an array of 1 item".into(),
        n => format!("an array of {n} items"),
    }
}

/// A parsed TOML value with the spans of all its parts; `offset` is where the parsed text starts.
fn from_toml(value: DeValue<'_>, spot: &Spot, offset: usize) -> Result<Node, Problem> {
    let shift = |span: Range<usize>| span.start + offset..span.end + offset;
    let range = |what: &str| {
        Problem::new(format!("{what} is out of range"))
            .at(&spot.source, spot.value.clone())
            .hint("TOML numbers are 64-bit: signed integers and floats")
    };
    let data = match value {
        DeValue::String(text) => Data::Scalar(Value::String(text.into_owned())),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Data::Scalar(Value::Integer(n)),
            Err(_) => return Err(range("integer")),
        },
        DeValue::Float(x) => match x.as_str().parse::<f64>() {
            Ok(v) if v.is_finite() || x.as_str().contains(['i', 'n']) => {
                Data::Scalar(Value::Float(v))
            }
            _ => return Err(range("number")),
        },
        DeValue::Boolean(b) => Data::Scalar(Value::Boolean(b)),
        DeValue::Datetime(d) => Data::Scalar(Value::Datetime(d)),
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| {
                let span = shift(item.span());
                let spot = Spot { source: spot.source.clone(), key: span.clone(), value: span };
                from_toml(item.into_inner(), &spot, offset)
            });
            Data::Array(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| {
                let (span, name) = (shift(key.span()), key.into_inner().into_owned());
                let spot =
                    Spot { source: spot.source.clone(), key: span, value: shift(value.span()) };
                Ok((name, from_toml(value.into_inner(), &spot, offset)?))
            });
            Data::Table(entries.collect::<Result<_, _>>()?)
        }
    };
    Ok(Node { tag: Tag::Default, spot: Some(spot.clone()), data })
}

/// A syntax error of the TOML parser, as a problem.
fn syntax_problem(error: &toml::de::Error, source: &Arc<Source>, offset: usize) -> Problem {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let span = error.span().unwrap_or(0..0);
    Problem::new(format!("bad TOML: {message}")).at(source, span.start + offset..span.end + offset)
}
