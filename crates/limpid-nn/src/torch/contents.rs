//! From the object graph to what a user asks for: tensors by dotted path, and everything else as a
//! JSON tree.

use super::element::Element;
use super::graph::{Graph, Id, Node, Object};
use crate::error::Fault;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// Deepest nesting that is followed; Python itself gives up at about a thousand.
const MAX_DEPTH: usize = 200;
/// Objects visited, with long names counted several times. Shared objects count at every visit, so
/// that a small file cannot unfold into a large tree.
const BUDGET: u64 = 4_000_000;

/// What a checkpoint holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// Node of each tensor, by path.
    pub tensors: BTreeMap<String, Id>,
    /// Paths of the tensors directly in a dictionary or list, or anywhere in a pickled module, by
    /// the path of that container.
    pub groups: BTreeMap<String, Vec<String>>,
    /// All the rest.
    pub values: Value,
}

/// Collects the contents of a graph.
pub(super) fn collect(graph: &Graph) -> Result<Contents, Fault> {
    let mut walk = Walk {
        graph,
        path: String::new(),
        levels: Vec::new(),
        open: vec![false; graph.nodes.len()],
        owner: None,
        budget: BUDGET,
        tensors: BTreeMap::new(),
        groups: BTreeMap::new(),
    };
    let values = walk.visit(graph.root)?.unwrap_or(Value::Null);
    Ok(Contents { tensors: walk.tensors, groups: walk.groups, values })
}

struct Walk<'g> {
    graph: &'g Graph,
    path: String,
    /// Length of the path at each level above the present one.
    levels: Vec<usize>,
    /// Nodes being visited, to notice cycles.
    open: Vec<bool>,
    /// Path of the outermost object (a pickled module) we are in.
    owner: Option<String>,
    budget: u64,
    tensors: BTreeMap<String, Id>,
    groups: BTreeMap<String, Vec<String>>,
}

impl<'g> Walk<'g> {
    /// The JSON of a node; none for tensors, which are listed apart.
    fn visit(&mut self, id: Id) -> Result<Option<Value>, Fault> {
        self.spend(1 + self.path.len() as u64 / 64)?;
        if self.levels.len() > MAX_DEPTH {
            return Err(Fault::Format {
                problem: format!("objects are nested more than {MAX_DEPTH} deep"),
                hint: "no checkpoint needs that, do not trust this file",
            });
        }
        if std::mem::replace(&mut self.open[id as usize], true) {
            return Ok(Some(class("cycle")));
        }
        let value = match self.graph.node(id) {
            Node::None => Value::Null,
            Node::Bool(b) => json!(b),
            Node::Int(i) => json!(i),
            Node::Float(f) if f.is_finite() => json!(f),
            Node::Float(f) => json!(f.to_string()),
            Node::Str(s) => {
                self.spend(s.len() as u64 / 16)?;
                json!(s)
            }
            Node::Bytes(_) => class("bytes"),
            Node::Tuple(items) | Node::List(items) => self.sequence(items)?,
            Node::Dict(items) => self.dictionary(items)?,
            Node::Global(name) if Element::of_torch_dtype(name).is_some() => json!(**name),
            Node::Global(name) => class(name),
            Node::Storage(storage) => class(&storage.class),
            Node::NumpyDtype { .. } => class("numpy.dtype"),
            Node::Object(object) => self.object(object)?,
            Node::View(_) | Node::Array(_) => {
                self.tensor(id)?;
                self.open[id as usize] = false;
                return Ok(None);
            }
        };
        self.open[id as usize] = false;
        Ok(Some(value))
    }

    fn sequence(&mut self, items: &[Id]) -> Result<Value, Fault> {
        let mut values = Vec::new();
        for (i, &item) in items.iter().enumerate() {
            // a tensor leaves a null, so that the others keep their index
            values.push(self.child(&i.to_string(), item)?.unwrap_or(Value::Null));
        }
        Ok(Value::Array(values))
    }

    fn dictionary(&mut self, items: &[(Id, Id)]) -> Result<Value, Fault> {
        let keys: Vec<_> =
            items.iter().enumerate().map(|(i, &(key, _))| self.key(i, key)).collect();
        self.spend(keys.iter().map(|key| 1 + key.len() as u64 / 16).sum())?;
        // a key that is set twice keeps its last value, as in Python
        let last: HashMap<&str, usize> =
            keys.iter().enumerate().map(|(i, key)| (key.as_str(), i)).collect();
        let mut values = Map::new();
        for (i, (key, &(_, value))) in keys.iter().zip(items).enumerate() {
            if last.get(key.as_str()) == Some(&i)
                && let Some(value) = self.child(key, value)?
            {
                values.insert(key.clone(), value);
            }
        }
        Ok(Value::Object(values))
    }

    fn object(&mut self, object: &'g Object) -> Result<Value, Fault> {
        if !object.items.is_empty() {
            return self.dictionary(&object.items);
        }
        let Some(Node::Dict(state)) = object.state.map(|id| self.graph.node(id)) else {
            return Ok(class(&object.class));
        };
        if matches!(&*object.class, "argparse.Namespace" | "types.SimpleNamespace") {
            return self.dictionary(state);
        }
        let outermost = self.owner.is_none();
        if outermost {
            self.owner = Some(self.path.clone());
        }
        let attribute = |name: &str| {
            let pair = state.iter().find(|&&(key, _)| self.graph.str(key) == Some(name));
            pair.map(|&(_, value)| value)
        };
        // the tensors of a pickled `nn.Module` get the names that its state_dict would give them
        let parts = ["_parameters", "_buffers", "_modules"].map(attribute);
        if parts.iter().all(Option::is_some) {
            for part in parts.into_iter().flatten() {
                self.dictionary(self.graph.entries(part).unwrap_or_default())?;
            }
        } else {
            self.dictionary(state)?;
        }
        if outermost {
            self.owner = None;
        }
        Ok(class(&object.class))
    }

    fn child(&mut self, key: &str, id: Id) -> Result<Option<Value>, Fault> {
        let level = self.path.len();
        self.levels.push(level);
        if level > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let value = self.visit(id)?;
        self.path.truncate(level);
        self.levels.pop();
        Ok(value)
    }

    fn tensor(&mut self, id: Id) -> Result<(), Fault> {
        let mut name = if self.path.is_empty() { "tensor".to_owned() } else { self.path.clone() };
        // keys may hold dots, so two places can have one path
        while self.tensors.contains_key(&name) {
            self.spend(1 + name.len() as u64)?;
            name.push_str("#2");
        }
        let parent = &self.path[..self.levels.last().copied().unwrap_or(0)];
        let group = self.owner.clone().unwrap_or_else(|| parent.to_owned());
        self.groups.entry(group).or_default().push(name.clone());
        self.tensors.insert(name, id);
        Ok(())
    }

    fn key(&self, position: usize, id: Id) -> String {
        match self.graph.node(id) {
            Node::Str(s) => s.clone(),
            Node::Int(i) => i.to_string(),
            Node::Float(f) => f.to_string(),
            Node::Bool(b) => b.to_string(),
            Node::None => "None".to_owned(),
            _ => format!("#{position}"),
        }
    }

    fn spend(&mut self, work: u64) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(work).ok_or(Fault::Format {
            problem: format!("the objects unfold to more than {BUDGET}"),
            hint: "no checkpoint needs that many, do not trust this file",
        })?;
        Ok(())
    }
}

fn class(name: &str) -> Value {
    json!({ "__class__": name })
}
