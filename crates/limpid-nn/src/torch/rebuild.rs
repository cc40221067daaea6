//! What the pickle machine does where a pickle calls a function or builds an object: the few
//! constructors that checkpoints need, and opaque objects for everything else.
//!
//! Source: `torch/_utils.py`, `torch/serialization.py`, `numpy/core/multiarray`. Nothing is imported
//! or run; the names are only compared.

use super::element::Element;
use super::graph::{Array, Id, Node, Storage, View};
use super::pickle::{Machine, opaque};
use crate::error::Fault;

/// Highest number of dimensions of a tensor (PyTorch's own limit).
const MAX_RANK: usize = 64;

impl Machine {
    /// The result of calling `function` (or constructing a class) with the tuple `args`.
    pub(super) fn call(&mut self, mut function: Id, mut args: Id) -> Result<Id, Fault> {
        loop {
            let Some(name) = self.class_name(function) else {
                return Ok(self.add(opaque("unknown".into())));
            };
            let a = self.arguments(args);
            let first = a.first().copied();
            let short =
                name.strip_prefix("__builtin__.").or_else(|| name.strip_prefix("builtins."));
            let node = match short.unwrap_or(&name) {
                "collections.OrderedDict"
                | "collections.defaultdict"
                | "collections.Counter"
                | "dict" => self.dict(&a)?,
                "torch.Size" | "set" | "frozenset" | "list" | "tuple" | "collections.deque" => {
                    match first {
                        Some(items) => return Ok(items),
                        None => Node::List(Vec::new()),
                    }
                }
                "_codecs.encode" | "bytes" | "bytearray" => self.encoded(first)?,
                "torch._utils._rebuild_tensor"
                | "torch._utils._rebuild_tensor_v2"
                | "torch._utils._rebuild_tensor_v3" => self.tensor(&name, &a)?,
                "torch._utils._rebuild_parameter"
                | "torch._utils._rebuild_parameter_with_state"
                | "torch.nn.parameter.Parameter" => match first {
                    Some(data) => return Ok(data),
                    None => opaque(name),
                },
                // a tensor subclass: (function, type, arguments, state)
                "torch._tensor._rebuild_from_type" | "torch._tensor._rebuild_from_type_v2" => {
                    match a[..] {
                        [inner, _, inner_args, ..] => {
                            self.spend(1)?;
                            (function, args) = (inner, inner_args);
                            continue;
                        }
                        _ => opaque(name),
                    }
                }
                "numpy.dtype" => self.numpy_dtype(first).unwrap_or_else(|| opaque(name)),
                "numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct" => {
                    opaque("numpy.ndarray".into())
                }
                "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" => {
                    self.numpy_scalar(&a)?.unwrap_or_else(|| opaque("numpy.generic".into()))
                }
                "numpy.core.numeric._frombuffer" | "numpy._core.numeric._frombuffer" => {
                    self.numpy_buffer(&a)?.unwrap_or_else(|| opaque("numpy.ndarray".into()))
                }
                "copyreg._reconstructor" | "copy_reg._reconstructor" => {
                    opaque(first.and_then(|id| self.class_name(id)).unwrap_or(name))
                }
                _ => opaque(name),
            };
            return Ok(self.add(node));
        }
    }

    /// Gives an object its state.
    pub(super) fn build(&mut self, target: Id, state: Id) -> Result<(), Fault> {
        let parts = self.arguments(state);
        let node = match (self.node(target), &parts[..]) {
            (&Node::NumpyDtype { element, .. }, [_, order, ..]) => {
                let big_endian = matches!(self.node(*order), Node::Str(s) if s == ">");
                Node::NumpyDtype { element, big_endian }
            }
            (Node::Object(_), &[_, shape, dtype, fortran, data])
                if matches!(self.node(dtype), Node::NumpyDtype { .. }) =>
            {
                match self.array(dtype, shape, fortran, data)? {
                    Some(array) => array,
                    None => return Ok(()),
                }
            }
            (Node::Object(_), _) => {
                // classes with slots have a pair (attributes, slots)
                let pair = parts.iter().copied().find(|&p| matches!(self.node(p), Node::Dict(_)));
                if let Node::Object(object) = &mut self.nodes[target as usize] {
                    object.state = Some(pair.unwrap_or(state));
                }
                return Ok(());
            }
            // attributes of dictionaries (`_metadata` of a state_dict) and of tensors say nothing
            _ => return Ok(()),
        };
        self.nodes[target as usize] = node;
        Ok(())
    }

    /// The storage named by a persistent id `("storage", class, key, location, elements, view)`.
    pub(super) fn persistent(&mut self, pid: Id) -> Result<Id, Fault> {
        let parts = self.arguments(pid);
        let bad = || Fault::damaged("pickle names a storage in an unknown way");
        let kind = parts.first().and_then(|&id| self.text(id)).ok_or_else(bad)?;
        if kind == "module" {
            // the source of a pickled module follows; only its class matters
            return parts.get(1).copied().ok_or_else(bad);
        }
        let &[_, class, key, _, _, ref view @ ..] = &parts[..] else { return Err(bad()) };
        let class = self.class_name(class).ok_or_else(bad)?;
        let key = match self.node(key) {
            Node::Str(key) => key.clone(),
            Node::Int(key) => key.to_string(),
            _ => return Err(bad()),
        };
        let Some((width, element)) = Element::of_storage(&class) else {
            return Err(Fault::Format {
                problem: format!("storage class `{class}` is not known"),
                hint: "convert the tensors to a plain dtype before saving",
            });
        };
        let base = match view.first().map(|&v| self.arguments(v)) {
            Some(view) if view.len() == 3 => self.index(view[1]).ok_or_else(bad)?,
            _ => 0,
        };
        self.spend(key.len() as u64 / 16)?;
        Ok(self.add(Node::Storage(Box::new(Storage { key, class, width, element, base }))))
    }

    /// The first few items of a tuple; none for anything else.
    fn arguments(&self, id: Id) -> Vec<Id> {
        match self.node(id) {
            Node::Tuple(items) => items.iter().take(8).copied().collect(),
            _ => Vec::new(),
        }
    }

    fn text(&self, id: Id) -> Option<&str> {
        if let Node::Str(s) = self.node(id) { Some(s) } else { None }
    }

    fn index(&self, id: Id) -> Option<usize> {
        if let &Node::Int(i) = self.node(id) { usize::try_from(i).ok() } else { None }
    }

    fn indices(&self, id: Id) -> Option<Vec<usize>> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) if items.len() <= MAX_RANK => {
                items.iter().map(|&item| self.index(item)).collect()
            }
            _ => None,
        }
    }

    fn dict(&mut self, args: &[Id]) -> Result<Node, Fault> {
        let mut pairs = Vec::new();
        for &arg in args {
            match self.node(arg) {
                Node::Dict(items) => pairs.extend_from_slice(items),
                Node::List(items) => {
                    pairs.extend(items.iter().filter_map(|&item| match self.node(item) {
                        Node::Tuple(kv) | Node::List(kv) if kv.len() == 2 => Some((kv[0], kv[1])),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        self.spend(pairs.len() as u64)?;
        Ok(Node::Dict(pairs))
    }

    /// Bytes that protocol 2 writes as Latin-1 text.
    fn encoded(&mut self, arg: Option<Id>) -> Result<Node, Fault> {
        let bytes: Vec<u8> = match arg.map(|id| self.node(id)) {
            Some(Node::Str(s)) => s.chars().map(|c| c as u32 as u8).collect(),
            Some(Node::Bytes(b)) => b.clone(),
            _ => Vec::new(),
        };
        self.spend(bytes.len() as u64 / 16)?;
        Ok(Node::Bytes(bytes))
    }

    fn tensor(&mut self, function: &str, args: &[Id]) -> Result<Node, Fault> {
        let bad = || Fault::damaged("pickle describes a tensor in an unknown way");
        let &[storage, offset, size, stride, ref rest @ ..] = args else { return Err(bad()) };
        let Node::Storage(storage) = self.node(storage) else { return Err(bad()) };
        let (offset, size, stride) = (self.index(offset), self.indices(size), self.indices(stride));
        let (Some(offset), Some(size), Some(stride)) = (offset, size, stride) else {
            return Err(bad());
        };
        if size.len() != stride.len() {
            return Err(bad());
        }
        // after (requires_grad, hooks): v3 has the dtype, then both may have flags such as `conj`
        let v3 = function.ends_with("_v3");
        let element = if v3 {
            rest.get(2).and_then(|&d| self.class_name(d)).and_then(|d| Element::of_torch_dtype(&d))
        } else {
            storage.element
        };
        let flags = rest.get(if v3 { 3 } else { 2 }).map(|&id| self.node(id));
        let lazy = matches!(flags, Some(Node::Dict(items))
            if items.iter().any(|&(_, on)| matches!(self.node(on), Node::Bool(true))));
        let offset = storage.base.checked_add(offset).ok_or_else(bad)?;
        Ok(match element {
            Some(element) if !lazy => {
                let key = storage.key.clone();
                self.spend(key.len() as u64 / 16)?;
                Node::View(Box::new(View { key, element, offset, size, stride }))
            }
            _ => opaque(storage.class.clone()),
        })
    }

    fn numpy_dtype(&self, code: Option<Id>) -> Option<Node> {
        let code = self.text(code?)?;
        let big_endian = code.starts_with('>');
        let element = Element::of_numpy(code.trim_start_matches(['<', '>', '|', '=']))?;
        Some(Node::NumpyDtype { element, big_endian })
    }

    fn numpy_scalar(&mut self, args: &[Id]) -> Result<Option<Node>, Fault> {
        let &[dtype, data] = args else { return Ok(None) };
        let (&Node::NumpyDtype { element, big_endian }, Node::Bytes(bytes)) =
            (self.node(dtype), self.node(data))
        else {
            return Ok(None);
        };
        if bytes.len() != element.width() || matches!(element, Element::C64 | Element::C128) {
            return Ok(None);
        }
        let value = element.tensor(bytes, &[], big_endian)?;
        let node = match element {
            Element::Bool => Node::Bool(value.to_scalar::<u8>()? != 0),
            Element::U8 => Node::Int(value.to_scalar::<u8>()?.into()),
            _ if value.dtype().is_int() => Node::Int(value.to_scalar()?),
            _ => Node::Float(value.to_dtype(candle_core::DType::F64)?.to_scalar()?),
        };
        self.spend(16)?;
        Ok(Some(node))
    }

    /// `_frombuffer(bytes, dtype, shape, order)`, the form of pickle protocol 5.
    fn numpy_buffer(&mut self, args: &[Id]) -> Result<Option<Node>, Fault> {
        let &[data, dtype, shape, order] = args else { return Ok(None) };
        let fortran = self.text(order) == Some("F");
        let fortran = self.add(Node::Bool(fortran));
        self.array(dtype, shape, fortran, data)
    }

    fn array(&self, dtype: Id, shape: Id, fortran: Id, data: Id) -> Result<Option<Node>, Fault> {
        let &Node::NumpyDtype { element, big_endian } = self.node(dtype) else { return Ok(None) };
        if !matches!(self.node(data), Node::Bytes(_) | Node::Str(_)) {
            return Ok(None);
        }
        let shape = self
            .indices(shape)
            .ok_or_else(|| Fault::damaged("pickle gives a NumPy array an unknown shape"))?;
        let fortran = matches!(self.node(fortran), Node::Bool(true) | Node::Int(1));
        Ok(Some(Node::Array(Box::new(Array { element, big_endian, fortran, shape, data }))))
    }
}
