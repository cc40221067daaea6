//! The resolved configuration: every key with its value, and where the value comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::{Table, Value};

use crate::key::{join, quote};
use crate::node::{Node, Origin, Spot};

/// Widest key-and-value that still pushes the column of the origin comments to the right.
const WIDEST: usize = 48;

/// A loaded configuration.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The configuration itself.
    pub value: T,
    /// Every key with its value, defaults included; keys without a value are absent.
    pub resolved: Table,
    /// Where each value comes from, by dotted key path. An array of scalars is one value; an item
    /// that was set apart from the rest has an entry of its own (`betas.0`).
    pub origins: BTreeMap<String, Origin>,
}

impl<T> Loaded<T> {
    /// The resolved configuration as TOML that loads to the same value; with origins, each value is
    /// followed by a comment that says where it comes from.
    pub fn show(&self, with_origin: bool) -> String {
        let mut blocks = Vec::new();
        let origins = with_origin.then_some(&self.origins);
        write_table(&self.resolved, &mut Vec::new(), None, origins, &mut blocks);
        blocks.join("\n")
    }
}

/// The line above a block of values.
struct Header {
    /// The table as TOML names it: `optimizer`, and `terms` for every item of the array.
    name: String,
    /// Whether it is an item of an array of tables.
    item: bool,
}

/// Writes the table's own values as one block, then its sub-tables as blocks of their own; `path`
/// counts the items of arrays, as origins do.
fn write_table(
    table: &Table,
    path: &mut Vec<String>,
    header: Option<Header>,
    origins: Option<&BTreeMap<String, Origin>>,
    blocks: &mut Vec<String>,
) {
    let (tables, leaves): (Vec<_>, Vec<_>) = table.iter().partition(|(_, v)| is_table(v));
    let lines: Vec<(String, String)> = leaves
        .into_iter()
        .map(|(name, value)| {
            path.push(name.clone());
            let comment = origins.map_or(String::new(), |o| comment(&join(path), o));
            path.pop();
            (format!("{} = {}", quote(name), inline(value)), comment)
        })
        .collect();
    // a header above nothing but sub-tables says nothing
    if !lines.is_empty() || header.as_ref().is_some_and(|h| h.item || tables.is_empty()) {
        let mut block = match &header {
            Some(Header { name, item: true }) => format!("[[{name}]]\n"),
            Some(Header { name, item: false }) => format!("[{name}]\n"),
            None => String::new(),
        };
        let width = |line: &str| line.chars().count();
        let column = lines.iter().map(|l| width(&l.0)).filter(|&w| w <= WIDEST).max().unwrap_or(0);
        for (line, comment) in &lines {
            let gap = " ".repeat(column.saturating_sub(width(line)));
            match comment.is_empty() {
                true => block += &format!("{line}\n"),
                false => block += &format!("{line}{gap}  # {comment}\n"),
            }
        }
        blocks.push(block);
    }
    for (name, value) in tables {
        path.push(name.clone());
        let name = match &header {
            Some(above) => format!("{}.{}", above.name, quote(name)),
            None => quote(name),
        };
        match value {
            Value::Table(table) => {
                let header = Header { name, item: false };
                write_table(table, path, Some(header), origins, blocks);
            }
            Value::Array(items) => {
                for (i, table) in items.iter().filter_map(Value::as_table).enumerate() {
                    path.push(i.to_string());
                    let header = Header { name: name.clone(), item: true };
                    write_table(table, path, Some(header), origins, blocks);
                    path.pop();
                }
            }
            _ => {}
        }
        path.pop();
    }
}

/// A value on one line, small and large numbers as people write them (`1e-8`).
///
/// TOML would let a long string span lines and lose the comment; JSON's escapes are TOML's.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::Float(x) if *x != 0.0 && x.is_finite() && !(1e-3..1e9).contains(&x.abs()) => {
            format!("{x:e}")
        }
        Value::String(text) if text.contains('\n') => {
            serde_json::Value::from(text.as_str()).to_string().replace('\u{7f}', "\\u007f")
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Table(table) if !table.is_empty() => {
            let entry =
                |(name, value): (&String, &Value)| format!("{} = {}", quote(name), inline(value));
            format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A table, or a non-empty array of tables.
fn is_table(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_table),
        _ => false,
    }
}

/// The origin of the value at `path`, and of those of its items that differ.
fn comment(path: &str, origins: &BTreeMap<String, Origin>) -> String {
    let own = origins.get(path).map(ToString::to_string).unwrap_or_default();
    let inner = format!("{path}.");
    let items = origins
        .range(inner.clone()..)
        .take_while(|(key, _)| key.starts_with(&inner))
        .map(|(key, origin)| format!("{}: {origin}", &key[inner.len()..]));
    let all = std::iter::once(own).chain(items).collect::<Vec<_>>().join("; ");
    all.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The origin of every value of a resolved configuration, which `root` was merged from.
pub(crate) fn origins(resolved: &Table, root: &Node) -> BTreeMap<String, Origin> {
    let mut found = BTreeMap::new();
    for (name, value) in resolved {
        collect(value, &mut vec![name.clone()], root, &mut found);
    }
    found
}

fn collect(
    value: &Value,
    path: &mut Vec<String>,
    root: &Node,
    found: &mut BTreeMap<String, Origin>,
) {
    let spot = |path: &[String]| root.get(path).and_then(|node| node.spot.as_ref());
    let origin = |path: &[String]| spot(path).map_or(Origin::Default, Spot::origin);
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                path.push(name.clone());
                collect(value, path, root, found);
                path.pop();
            }
        }
        Value::Array(items) if is_table(value) => {
            for (i, item) in items.iter().enumerate() {
                path.push(i.to_string());
                collect(item, path, root, found);
                path.pop();
            }
        }
        Value::Array(items) => {
            found.insert(join(path), origin(path));
            let own = spot(path).map(|s| &s.source);
            for i in 0..items.len() {
                path.push(i.to_string());
                if spot(path)
                    .is_some_and(|item| own.is_none_or(|own| !Arc::ptr_eq(own, &item.source)))
                {
                    found.insert(join(path), origin(path));
                }
                path.pop();
            }
        }
        _ => {
            found.insert(join(path), origin(path));
        }
    }
}
