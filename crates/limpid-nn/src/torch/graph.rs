//! The objects a pickle describes, as a flat arena: nodes name each other by index, so neither
//! cycles nor depth can hurt, and nothing is ever executed.

use super::element::Element;
use std::sync::Arc;

/// Index of a node.
pub(super) type Id = u32;

/// One object of the pickle.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text; integers beyond 64 bits are kept as text.
    Str(String),
    Bytes(Vec<u8>),
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function by its dotted name.
    Global(Arc<str>),
    Storage(Box<Storage>),
    View(Box<View>),
    NumpyDtype {
        element: Element,
        big_endian: bool,
    },
    Array(Box<Array>),
    /// Anything else: its class and, where the pickle gives them, attributes and dictionary items.
    Object(Box<Object>),
}

/// A torch storage: flat memory kept outside the pickle.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// Name of the memory within the file.
    pub key: String,
    /// Class name, for messages.
    pub class: Arc<str>,
    /// Bytes per element.
    pub width: usize,
    /// Element type; none for untyped storages and for types we do not read.
    pub element: Option<Element>,
    /// First element, for the views of storages in files older than PyTorch 0.4.
    pub base: usize,
}

/// A tensor: a strided window of a storage. Offset, sizes and strides count elements.
#[derive(Debug)]
pub(super) struct View {
    pub key: String,
    pub element: Element,
    pub offset: usize,
    pub size: Vec<usize>,
    pub stride: Vec<usize>,
}

/// A NumPy array with its bytes in the pickle.
#[derive(Debug)]
pub(super) struct Array {
    pub element: Element,
    pub big_endian: bool,
    pub fortran: bool,
    pub shape: Vec<usize>,
    pub data: Id,
}

/// An object of a class we do not know.
#[derive(Debug)]
pub(super) struct Object {
    pub class: Arc<str>,
    pub state: Option<Id>,
    pub items: Vec<(Id, Id)>,
}

/// All nodes of a pickle and the one it returns.
#[derive(Debug)]
pub(super) struct Graph {
    pub nodes: Vec<Node>,
    pub root: Id,
}

impl Graph {
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn str(&self, id: Id) -> Option<&str> {
        if let Node::Str(s) = self.node(id) { Some(s) } else { None }
    }

    /// The entries of a dictionary, of an object used as one, or of an object's attributes.
    pub(super) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(items) => Some(items),
            Node::Object(object) if !object.items.is_empty() => Some(&object.items),
            _ => None,
        }
    }
}
