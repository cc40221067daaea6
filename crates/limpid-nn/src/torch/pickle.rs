//! The pickle machine: reads protocols 0 to 5 into a [`Graph`] without executing anything.
//!
//! Source: the opcodes of CPython's `pickletools.py`. What a pickle asks to call is looked up in the
//! short list of `rebuild.rs`; every other call yields an opaque object. Work is paid from a budget,
//! so a small file cannot claim unbounded time or memory.

use super::graph::{Graph, Id, Node, Object};
use crate::error::Fault;
use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::sync::Arc;

/// Opcodes and copied elements allowed per pickle; a checkpoint of ten thousand tensors needs about
/// one million.
const BUDGET: u64 = 10_000_000;
/// Longest line of a text opcode.
const LINE: u64 = 1 << 16;

/// Reads one pickle, leaving the reader behind its last byte.
pub(super) fn load(reader: &mut impl BufRead) -> Result<Graph, Fault> {
    let mut machine = Machine { budget: BUDGET, ..Machine::default() };
    loop {
        let op = number::<1>(reader)?[0];
        machine.spend(1)?;
        if op == b'.' {
            let root = machine.pop()?;
            return Ok(Graph { nodes: machine.nodes, root });
        }
        machine.step(op, reader)?;
    }
}

/// State of the machine: objects so far, the operand stack with its marks, and the memo.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    budget: u64,
}

impl Machine {
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        // the budget keeps the number of nodes far below the range
        (self.nodes.len() - 1) as Id
    }

    pub(super) fn spend(&mut self, work: u64) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(work).ok_or(Fault::Format {
            problem: format!("the pickle needs more than {BUDGET} operations"),
            hint: "no checkpoint needs that many, do not trust this file",
        })?;
        Ok(())
    }

    fn push(&mut self, node: Node) {
        let id = self.add(node);
        self.stack.push(id);
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        self.stack.pop().ok_or_else(|| Fault::damaged("pickle takes from an empty stack"))
    }

    fn top(&self) -> Result<Id, Fault> {
        self.stack.last().copied().ok_or_else(|| Fault::damaged("pickle looks at an empty stack"))
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, Fault> {
        match self.marks.pop() {
            Some(at) if at <= self.stack.len() => Ok(self.stack.split_off(at)),
            _ => Err(Fault::damaged("pickle has no mark to go back to")),
        }
    }

    fn pop_tuple(&mut self, n: usize) -> Result<(), Fault> {
        let Some(at) = self.stack.len().checked_sub(n) else {
            return Err(Fault::damaged("pickle takes from an empty stack"));
        };
        let items = self.stack.split_off(at);
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), Fault> {
        let id = *self.memo.get(&key).ok_or_else(|| Fault::damaged("pickle recalls nothing"))?;
        self.stack.push(id);
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<(), Fault> {
        let id = self.top()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn set_items(&mut self, pairs: &[Id]) -> Result<(), Fault> {
        let target = self.top()?;
        let (pairs, rest) = pairs.as_chunks::<2>();
        let pairs = pairs.iter().map(|&[key, value]| (key, value));
        match &mut self.nodes[target as usize] {
            Node::Dict(items) if rest.is_empty() => items.extend(pairs),
            Node::Object(object) if rest.is_empty() => object.items.extend(pairs),
            _ => return Err(Fault::damaged("pickle sets items of something without items")),
        }
        Ok(())
    }

    fn append(&mut self, values: &[Id]) -> Result<(), Fault> {
        let target = self.top()?;
        match &mut self.nodes[target as usize] {
            Node::List(items) => items.extend(values),
            Node::Object(_) => {} // a list of an unknown class stays opaque
            _ => return Err(Fault::damaged("pickle appends to something that is no list")),
        }
        Ok(())
    }

    fn step(&mut self, op: u8, r: &mut impl BufRead) -> Result<(), Fault> {
        match op {
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let id = self.top()?;
                self.stack.push(id);
            }

            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'I' => match line(r)?.as_str() {
                "00" => self.push(Node::Bool(false)),
                "01" => self.push(Node::Bool(true)),
                text => self.push(Node::Int(parse(text)?)),
            },
            b'J' => self.push(Node::Int(i32::from_le_bytes(number(r)?).into())),
            b'K' => self.push(Node::Int(number::<1>(r)?[0].into())),
            b'M' => self.push(Node::Int(u16::from_le_bytes(number(r)?).into())),
            b'L' => {
                let text = line(r)?;
                let digits = text.trim_end_matches('L');
                let big = digits.parse().map_or_else(|_| Node::Str(digits.to_owned()), Node::Int);
                self.push(big);
            }
            0x8a => {
                let n = u64::from(number::<1>(r)?[0]);
                self.push(long(&bytes(r, n)?));
            }
            0x8b => {
                let n = u64::from(u32::from_le_bytes(number(r)?));
                self.push(long(&bytes(r, n)?));
            }
            b'F' => self.push(Node::Float(parse(&line(r)?)?)),
            b'G' => self.push(Node::Float(f64::from_be_bytes(number(r)?))),

            b'S' => self.push(quoted(&line(r)?)?),
            b'V' => self.push(Node::Str(unescape(&line(r)?, false))),
            b'U' | b'C' => {
                let n = u64::from(number::<1>(r)?[0]);
                let raw = bytes(r, n)?;
                self.push(if op == b'U' { raw_text(raw) } else { Node::Bytes(raw) });
            }
            b'T' | b'B' => {
                let n = u64::from(u32::from_le_bytes(number(r)?));
                let raw = bytes(r, n)?;
                self.push(if op == b'T' { raw_text(raw) } else { Node::Bytes(raw) });
            }
            0x8e | 0x96 => {
                let n = u64::from_le_bytes(number(r)?);
                self.push(Node::Bytes(bytes(r, n)?));
            }
            0x8c => {
                let n = u64::from(number::<1>(r)?[0]);
                self.push(Node::Str(text(bytes(r, n)?)?));
            }
            b'X' => {
                let n = u64::from(u32::from_le_bytes(number(r)?));
                self.push(Node::Str(text(bytes(r, n)?)?));
            }
            0x8d => {
                let n = u64::from_le_bytes(number(r)?);
                self.push(Node::Str(text(bytes(r, n)?)?));
            }

            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85 => self.pop_tuple(1)?,
            0x86 => self.pop_tuple(2)?,
            0x87 => self.pop_tuple(3)?,
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            b'a' => {
                let value = self.pop()?;
                self.append(&[value])?;
            }
            b'e' | 0x90 => {
                let values = self.pop_mark()?;
                self.append(&values)?;
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let pairs = self.pop_mark()?;
                self.push(Node::Dict(Vec::new()));
                self.set_items(&pairs)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let pairs = self.pop_mark()?;
                self.set_items(&pairs)?;
            }

            b'g' => self.recall(parse(&line(r)?)?)?,
            b'h' => self.recall(number::<1>(r)?[0].into())?,
            b'j' => self.recall(u32::from_le_bytes(number(r)?).into())?,
            b'p' => self.remember(parse(&line(r)?)?)?,
            b'q' => self.remember(number::<1>(r)?[0].into())?,
            b'r' => self.remember(u32::from_le_bytes(number(r)?).into())?,
            0x94 => self.remember(self.memo.len() as u64)?,

            b'c' => {
                let name = format!("{}.{}", line(r)?, line(r)?);
                self.push(Node::Global(name.into()));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Str(module), Node::Str(name)) = (self.node(module), self.node(name))
                else {
                    return Err(Fault::damaged("pickle names a class by something else than text"));
                };
                let (name, work) = (format!("{module}.{name}"), module.len() + name.len());
                self.spend(work as u64 / 16)?;
                self.push(Node::Global(name.into()));
            }
            b'R' => {
                let (args, function) = (self.pop()?, self.pop()?);
                let id = self.call(function, args)?;
                self.stack.push(id);
            }
            b'i' => {
                let name = format!("{}.{}", line(r)?, line(r)?);
                let args = self.pop_mark()?;
                self.construct(name.into(), args)?;
            }
            b'o' => {
                let mut args = self.pop_mark()?.into_iter();
                let class = args.next().and_then(|class| self.class_name(class));
                self.construct(class.unwrap_or_else(|| "unknown".into()), args.collect())?;
            }
            0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                let id = self.call(class, args)?;
                self.stack.push(id);
            }
            0x92 => {
                let (_keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                let id = self.call(class, args)?;
                self.stack.push(id);
            }
            b'b' => {
                let state = self.pop()?;
                let target = self.top()?;
                self.build(target, state)?;
            }
            b'Q' => {
                let pid = self.pop()?;
                let id = self.persistent(pid)?;
                self.stack.push(id);
            }

            0x80 => {
                let protocol = number::<1>(r)?[0];
                if protocol > 5 {
                    return Err(unknown(format!("pickle protocol {protocol} is not known")));
                }
            }
            0x95 => drop(number::<8>(r)?), // frames only group bytes
            0x82..=0x84 => {
                bytes(r, 1 << (op - 0x82))?;
                self.push(opaque("extension".into()));
            }
            0x98 => {} // marks a buffer as read-only
            _ => return Err(unknown(format!("pickle opcode 0x{op:02x} is not known"))),
        }
        Ok(())
    }

    fn construct(&mut self, class: Arc<str>, args: Vec<Id>) -> Result<(), Fault> {
        let class = self.add(Node::Global(class));
        let args = self.add(Node::Tuple(args));
        let id = self.call(class, args)?;
        self.stack.push(id);
        Ok(())
    }

    /// Dotted name of a class or function.
    pub(super) fn class_name(&self, id: Id) -> Option<Arc<str>> {
        if let Node::Global(name) = self.node(id) { Some(name.clone()) } else { None }
    }
}

/// An object of which only the class is known.
pub(super) fn opaque(class: Arc<str>) -> Node {
    Node::Object(Box::new(Object { class, state: None, items: Vec::new() }))
}

fn unknown(problem: String) -> Fault {
    Fault::Format { problem, hint: "the file is damaged or not made by `torch.save`" }
}

fn number<const N: usize>(r: &mut impl BufRead) -> Result<[u8; N], Fault> {
    let mut buffer = [0; N];
    r.read_exact(&mut buffer)?;
    Ok(buffer)
}

/// `n` bytes; memory grows with what is there, not with what is claimed.
fn bytes(r: &mut impl BufRead, n: u64) -> Result<Vec<u8>, Fault> {
    let mut buffer = Vec::new();
    r.take(n).read_to_end(&mut buffer)?;
    if buffer.len() as u64 == n {
        Ok(buffer)
    } else {
        Err(Fault::damaged(format!("pickle claims {n} bytes where {} are left", buffer.len())))
    }
}

/// The argument of a text opcode, as Latin-1.
fn line(r: &mut impl BufRead) -> Result<String, Fault> {
    let mut buffer = Vec::new();
    r.take(LINE).read_until(b'\n', &mut buffer)?;
    if buffer.pop() != Some(b'\n') {
        return Err(Fault::damaged("pickle holds a line without end"));
    }
    Ok(buffer.into_iter().map(char::from).collect())
}

fn text(raw: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(raw).map_err(|_| Fault::damaged("pickle holds text that is not UTF-8"))
}

/// A string of Python 2: text if it can be, else bytes.
fn raw_text(raw: Vec<u8>) -> Node {
    String::from_utf8(raw).map_or_else(|e| Node::Bytes(e.into_bytes()), Node::Str)
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Fault> {
    text.trim().parse().map_err(|_| Fault::damaged("pickle holds a number that is none"))
}

/// A little-endian two's complement integer of any length.
fn long(raw: &[u8]) -> Node {
    let sign = if raw.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    if raw.len() <= 16 {
        let mut full = [sign; 16];
        full[..raw.len()].copy_from_slice(raw);
        let value = i128::from_le_bytes(full);
        return i64::try_from(value).map_or_else(|_| Node::Str(value.to_string()), Node::Int);
    }
    let digits: String = raw.iter().rev().map(|b| format!("{b:02x}")).collect();
    Node::Str(format!("0x{digits}"))
}

/// A quoted Python 2 string with its escapes.
fn quoted(line: &str) -> Result<Node, Fault> {
    let line = line.trim();
    let inner = ['\'', '"'].iter().find_map(|&q| line.strip_prefix(q)?.strip_suffix(q));
    let inner = inner.ok_or_else(|| Fault::damaged("pickle holds a string without quotes"))?;
    Ok(raw_text(unescape(inner, true).chars().map(|c| c as u8).collect()))
}

/// Undoes the escapes of Python 2 strings (`\n`, `\x41`), or those of unicode lines (`\u0041`).
fn unescape(text: &str, python2: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let code = rest.next().unwrap_or('\\');
        let digits = match code {
            'x' if python2 => 2,
            'u' if !python2 => 4,
            'U' if !python2 => 8,
            _ => 0,
        };
        let hex: String = rest.by_ref().take(digits).collect();
        match (u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32), code) {
            (Some(value), _) => out.push(value),
            (None, 'n') if python2 => out.push('\n'),
            (None, 'r') if python2 => out.push('\r'),
            (None, 't') if python2 => out.push('\t'),
            (None, other) if python2 => out.push(other),
            (None, other) => out.extend(['\\', other]),
        }
    }
    out
}
