//! From storages to tensors: every storage is read once, and the windows on it are cut out.

use super::contents::Contents;
use super::element::Element;
use super::graph::{Array, Graph, Id, Node};
use crate::error::Fault;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// The tensors of a checkpoint while its storages come in one by one.
pub(super) struct Builder<'g> {
    graph: &'g Graph,
    /// Tensors that wait for a storage, by its key.
    waiting: BTreeMap<String, Vec<Id>>,
    done: BTreeMap<Id, Tensor>,
    /// Bytes that may still be produced: windows may overlap, but not without bound.
    allowance: u64,
}

impl<'g> Builder<'g> {
    /// Starts with the tensors in `contents`, for a file of `file_len` bytes.
    pub(super) fn new(graph: &'g Graph, contents: &Contents, file_len: u64) -> Result<Self, Fault> {
        let allowance = file_len.saturating_mul(4).saturating_add(64 << 20);
        let (waiting, done) = (BTreeMap::<String, Vec<Id>>::new(), BTreeMap::new());
        let mut builder = Self { graph, waiting, done, allowance };
        for &id in contents.tensors.values() {
            match graph.node(id) {
                Node::View(view) => {
                    builder.waiting.entry(view.key.clone()).or_default().push(id);
                }
                Node::Array(array) => {
                    let tensor = builder.array(array)?;
                    builder.done.insert(id, tensor);
                }
                _ => {}
            }
        }
        Ok(builder)
    }

    /// The storages that are needed.
    pub(super) fn keys(&self) -> Vec<String> {
        self.waiting.keys().cloned().collect()
    }

    /// Whether a storage is needed.
    pub(super) fn wants(&self, key: &str) -> bool {
        self.waiting.contains_key(key)
    }

    /// Cuts the tensors that live in storage `key` out of its bytes.
    pub(super) fn fill(&mut self, key: &str, bytes: &[u8], big_endian: bool) -> Result<(), Fault> {
        // tied weights describe the same window twice and stay one tensor
        let mut cut = BTreeMap::new();
        for id in self.waiting.remove(key).unwrap_or_default() {
            let Node::View(view) = self.graph.node(id) else { continue };
            let window = (view.element, view.offset, &view.size, &view.stride);
            let tensor = match cut.get(&window) {
                Some(tensor) => Tensor::clone(tensor),
                None => self.cut(bytes, window, big_endian)?,
            };
            cut.insert(window, tensor.clone());
            self.done.insert(id, tensor);
        }
        Ok(())
    }

    /// The tensors by path.
    pub(super) fn finish(self, contents: &Contents) -> Result<BTreeMap<String, Tensor>, Fault> {
        if let Some(key) = self.waiting.keys().next() {
            return Err(Fault::damaged(format!("storage `{key}` is not in the file")));
        }
        let tensor = |(name, id): (&String, &Id)| Some((name.clone(), self.done.get(id)?.clone()));
        Ok(contents.tensors.iter().filter_map(tensor).collect())
    }

    fn array(&mut self, array: &Array) -> Result<Tensor, Fault> {
        let bytes = match self.graph.node(array.data) {
            Node::Bytes(bytes) => bytes.as_slice(),
            Node::Str(text) => text.as_bytes(),
            _ => return Err(Fault::damaged("a NumPy array has no bytes")),
        };
        let mut stride = vec![1usize; array.shape.len()];
        let mut product = 1usize;
        let mut set = |d: usize| {
            stride[d] = product;
            product = product.saturating_mul(array.shape[d].max(1));
        };
        if array.fortran {
            (0..array.shape.len()).for_each(&mut set);
        } else {
            (0..array.shape.len()).rev().for_each(&mut set);
        }
        self.cut(bytes, (array.element, 0, &array.shape, &stride), array.big_endian)
    }

    fn cut(
        &mut self,
        bytes: &[u8],
        (element, offset, size, stride): (Element, usize, &Vec<usize>, &Vec<usize>),
        big_endian: bool,
    ) -> Result<Tensor, Fault> {
        let width = element.width();
        let have = bytes.len() / width;
        let beyond = || {
            Fault::damaged(format!(
                "a tensor of shape {size:?}, strides {stride:?} and offset {offset} reaches beyond \
                 its storage of {have} elements"
            ))
        };
        // zero extents count as one here: no product of extents may overflow later
        let room = size.iter().try_fold(width, |p, &n| p.checked_mul(n.max(1)));
        let room = room.filter(|&r| r <= isize::MAX as usize).ok_or_else(beyond)?;
        if size.contains(&0) {
            return element.tensor(&[], size, big_endian);
        }
        let last = size
            .iter()
            .zip(stride)
            .try_fold(offset, |at, (&n, &s)| at.checked_add((n - 1).checked_mul(s)?));
        if last.is_none_or(|last| last >= have) {
            return Err(beyond());
        }
        self.allowance = self.allowance.checked_sub(room as u64).ok_or_else(|| {
            let problem = "the tensors overlap so much that they are far larger than the file";
            let hint = "save them as separate tensors (`tensor.clone()`)";
            Fault::Format { problem: problem.to_owned(), hint }
        })?;
        if contiguous(size, stride) {
            let start = offset * width;
            return element.tensor(&bytes[start..start + room], size, big_endian);
        }
        element.tensor(&gather(bytes, width, offset, size, stride), size, big_endian)
    }
}

fn contiguous(size: &[usize], stride: &[usize]) -> bool {
    let mut expected = 1;
    size.iter().zip(stride).rev().all(|(&n, &s)| {
        let fits = n == 1 || s == expected;
        expected *= n;
        fits
    })
}

/// The elements of a window inside `bytes`, row-major.
fn gather(bytes: &[u8], width: usize, offset: usize, size: &[usize], stride: &[usize]) -> Vec<u8> {
    let count: usize = size.iter().product();
    let mut out = Vec::with_capacity(count * width);
    let (mut index, mut at) = (vec![0; size.len()], offset);
    for _ in 0..count {
        out.extend_from_slice(&bytes[at * width..(at + 1) * width]);
        for d in (0..size.len()).rev() {
            index[d] += 1;
            // the stride of an axis of one element may be anything
            at = at.wrapping_add(stride[d]);
            if index[d] < size[d] {
                break;
            }
            at = at.wrapping_sub(stride[d].wrapping_mul(size[d]));
            index[d] = 0;
        }
    }
    out
}
