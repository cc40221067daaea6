//! The layers of a configuration, laid over each other and extracted by figment.
//!
//! Every layer is a figment [`Provider`]. Figment merges tables key by key, replaces everything
//! else, and tags each value with the [`Metadata`] of its layer. By that tag [`Layers::merged`]
//! finds where in the layer's text the value stands, which figment itself does not keep.
//!
//! Figment knows neither variants nor items of arrays, so two things are prepared before it merges:
//! a table whose `kind` changes loses its keys ([`gap`]), and an array that an assignment goes into
//! is a table of its items for that moment ([`open`]). The providers that figment brings are not
//! used: they keep no spans, and `Env` reads `1e-4` as a string.

use std::collections::BTreeMap;
use std::path::Path;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::{DeserializeOwned, Error as _, value::Error as Serde};

use crate::error::Problem;
use crate::key::{Segment, join};
use crate::node::{Data, KIND, Node, Origin, Spot, array_of};

/// All layers of a configuration.
pub(crate) struct Layers {
    figment: Figment,
    /// The layers that figment was given, for the places of their values.
    laid: Vec<Layer>,
}

/// One layer, as figment takes it.
struct Layer {
    metadata: Metadata,
    root: Node,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let entries = self.root.to_figment().into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(entries))
    }
}

/// One `key = value` from outside a file, to be laid over what is there.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub(crate) path: Vec<Segment>,
    pub(crate) value: Node,
}

impl Layers {
    /// The lowest layer: values that nobody wrote.
    pub(crate) fn new(defaults: Node) -> Self {
        let mut layers = Self { figment: Figment::new(), laid: Vec::new() };
        layers.lay("built-in default", defaults);
        layers
    }

    /// Lays one layer on top; its name says what it is, such as `config file`.
    pub(crate) fn lay(&mut self, name: &str, root: Node) {
        // numbered, because the same `--set` may come twice
        let metadata = Metadata::named(format!("{name} (layer {})", self.laid.len()));
        let metadata = match root.spot.as_ref().map(|spot| &spot.source.origin) {
            None | Some(Origin::Default) => metadata,
            Some(Origin::File { path, .. }) => metadata.source(Path::new(path)),
            Some(typed) => metadata.source(typed.to_string()),
        };
        match gap(&self.merged(), &root) {
            None => {}
            Some(tables @ Node { data: Data::Table(_), .. }) => self.revise(tables),
            Some(_) => self.figment = Figment::new(),
        }
        self.laid.push(Layer { metadata, root });
        if let Some(layer) = self.laid.last() {
            self.figment = std::mem::take(&mut self.figment).merge(layer);
        }
    }

    /// Lays the assignments of one layer on top, later ones winning. Those that set a `kind` go
    /// first, so that `optimizer.lr=1 optimizer.kind=sgd` means the same in either order.
    pub(crate) fn assign_all(&mut self, mut layer: Vec<Assignment>, problems: &mut Vec<Problem>) {
        layer.sort_by_key(|a| match a.path.last() {
            Some(last) if last.name == KIND || a.value.kind().is_some() => a.path.len(),
            _ => usize::MAX,
        });
        problems.extend(layer.into_iter().filter_map(|a| self.assign(a).err()));
    }

    /// Sets one key, making tables on the way and stepping into arrays by index. A scalar in the
    /// way gives way; the schema has the last word on it.
    fn assign(&mut self, Assignment { mut path, value }: Assignment) -> Result<(), Problem> {
        let Some(spot) = value.spot.clone().filter(|_| !path.is_empty()) else { return Ok(()) };
        let mut below = self.merged();
        let arrays = open(&mut below, &mut path, &spot)?;
        let root = nested(&path, value, &spot, &below);
        if !arrays.is_empty() {
            self.revise(below);
        }
        self.lay(&spot.source.name, root);
        if !arrays.is_empty() {
            let mut merged = self.merged();
            close(&mut merged, &path, &arrays);
            self.revise(merged);
        }
        Ok(())
    }

    /// Lays values of the merged tree over themselves, changed; they keep the tags of their layers.
    fn revise(&mut self, root: Node) {
        let changed = Layer { metadata: Metadata::default(), root };
        self.figment = std::mem::take(&mut self.figment).merge(changed);
    }

    /// The merged configuration, every value with the place where it was written.
    pub(crate) fn merged(&self) -> Node {
        // our providers never fail, and know only this profile
        let entries = self.figment.data().unwrap_or_default().remove(&Profile::Default);
        Node { data: self.table(&entries.unwrap_or_default(), &mut Vec::new()), ..Node::empty() }
    }

    fn table(&self, entries: &Dict, path: &mut Vec<String>) -> Data {
        let entries = entries.iter().filter_map(|(name, value)| {
            path.push(name.clone());
            let node = self.node(value, path);
            path.pop();
            Some((name.clone(), node?))
        });
        Data::Table(entries.collect())
    }

    /// The value at `path` as its layer wrote it; there is none that no layer wrote.
    fn node(&self, value: &Value, path: &mut Vec<String>) -> Option<Node> {
        let written = self.written(value.tag(), path)?;
        let data = match value {
            Value::Dict(_, entries) => self.table(entries, path),
            Value::Array(_, items) => {
                let items = items.iter().enumerate().filter_map(|(i, item)| {
                    path.push(i.to_string());
                    let node = self.node(item, path);
                    path.pop();
                    node
                });
                Data::Array(items.collect())
            }
            _ => written.data.clone(),
        };
        Some(Node { tag: value.tag(), spot: written.spot.clone(), data })
    }

    /// What the layer of that tag has at `path`.
    fn written(&self, tag: Tag, path: &[String]) -> Option<&Node> {
        let metadata = self.figment.get_metadata(tag)?;
        self.laid.iter().find(|layer| layer.metadata == *metadata)?.root.get(path)
    }

    /// The typed configuration; `checked` is the merged tree as the schema left it.
    ///
    /// # Errors
    /// What serde refuses although the schema allows it.
    pub(crate) fn extract<T: DeserializeOwned>(mut self, checked: &Node) -> Result<T, Problem> {
        self.revise(checked.clone());
        self.figment.extract().map_err(|e| {
            let message = words(&e.kind);
            match checked.get(&e.path).and_then(|node| node.spot.as_ref()) {
                Some(spot) => Problem::new(format!("`{}`: {message}", join(&e.path)))
                    .at(&spot.source, spot.value.clone()),
                None => Problem::new(message),
            }
        })
    }
}

/// What has to come between `below` and `over`, so that no table keeps keys when its `kind`
/// changes: the keys of one variant mean nothing to another. Figment removes nothing, but what is
/// no table replaces a table, and is replaced by one.
fn gap(below: &Node, over: &Node) -> Option<Node> {
    let (Data::Table(entries), Data::Table(new)) = (&below.data, &over.data) else { return None };
    let old = below.kind();
    if old.is_some() && new.contains_key(KIND) && over.kind() != old {
        return Some(Node { data: Data::Array(Vec::new()), ..Node::empty() });
    }
    let gaps: BTreeMap<String, Node> = new
        .iter()
        .filter_map(|(name, node)| Some((name.clone(), gap(entries.get(name)?, node)?)))
        .collect();
    (!gaps.is_empty()).then(|| Node { data: Data::Table(gaps), ..Node::empty() })
}

/// `value` at the end of `path`, written at `spot`. Tables on the way that are there already stay
/// those of their layer.
fn nested(path: &[Segment], value: Node, spot: &Spot, below: &Node) -> Node {
    let names: Vec<&str> = path.iter().map(|segment| segment.name.as_str()).collect();
    let mut node = value;
    for (depth, segment) in path.iter().enumerate().rev() {
        let own = path[depth.saturating_sub(1)].span.clone();
        let (tag, key, written) = match below.get(&names[..depth]) {
            Some(Node { tag, data: Data::Table(_), .. }) => (*tag, own, spot.value.clone()),
            // a scalar gives way, to the name that makes it a table
            Some(_) => (Tag::Default, segment.span.clone(), segment.span.clone()),
            None => (Tag::Default, own, spot.value.clone()),
        };
        let spot = Some(Spot { source: spot.source.clone(), key, value: written });
        node = Node { tag, spot, data: Data::Table([(segment.name.clone(), node)].into()) };
    }
    node
}

/// Turns the arrays that `path` goes through into tables of their items, and says at which depths
/// they are: figment would replace them, where one item is meant.
fn open(root: &mut Node, path: &mut [Segment], spot: &Spot) -> Result<Vec<usize>, Problem> {
    let mut arrays = Vec::new();
    let mut node = root;
    for (depth, Segment { name, span }) in path.iter_mut().enumerate() {
        if let Data::Array(items) = &mut node.data {
            let index = name.parse::<usize>().ok().filter(|&i| i < items.len());
            let index = index.ok_or_else(|| {
                Problem::new(format!("`{name}` is not an index of {}", array_of(items.len())))
                    .hint("count from 0, or set the whole array")
                    .at(&spot.source, span.clone())
            })?;
            *name = index.to_string();
            let items = std::mem::take(items).into_iter().enumerate();
            node.data = Data::Table(items.map(|(i, item)| (i.to_string(), item)).collect());
            arrays.push(depth);
        }
        let Data::Table(entries) = &mut node.data else { break };
        let Some(child) = entries.get_mut(name) else { break };
        node = child;
    }
    Ok(arrays)
}

/// Turns the tables of items back into arrays.
fn close(root: &mut Node, path: &[Segment], arrays: &[usize]) {
    for &depth in arrays.iter().rev() {
        let node =
            path[..depth].iter().try_fold(&mut *root, |node, segment| match &mut node.data {
                Data::Table(entries) => entries.get_mut(&segment.name),
                _ => None,
            });
        if let Some(node) = node
            && let Data::Table(entries) = &mut node.data
        {
            let mut items: Vec<(String, Node)> = std::mem::take(entries).into_iter().collect();
            items.sort_by_key(|(index, _)| index.parse::<usize>().ok());
            node.data = Data::Array(items.into_iter().map(|(_, item)| item).collect());
        }
    }
}

/// A refusal in serde's words: figment's own speak of a `signed int` and quote lists twice.
pub(crate) fn words(kind: &Kind) -> String {
    let found = |actual: &Actual| match actual {
        Actual::Bool(b) => format!("boolean `{b}`"),
        Actual::Signed(n) => format!("integer `{n}`"),
        Actual::Unsigned(n) => format!("integer `{n}`"),
        Actual::Float(x) => format!("floating point `{x:?}`"),
        other => other.to_string(),
    };
    match kind {
        Kind::InvalidType(got, wanted) => {
            format!("invalid type: {}, expected {wanted}", found(got))
        }
        Kind::InvalidValue(got, wanted) => {
            format!("invalid value: {}, expected {wanted}", found(got))
        }
        Kind::UnknownVariant(got, known) => Serde::unknown_variant(got, known).to_string(),
        Kind::UnknownField(got, known) => Serde::unknown_field(got, known).to_string(),
        other => other.to_string(),
    }
}
