//! Object headers: the messages that describe a group or a data set.

use super::super::flaw::{Fields, Parsed, damaged, unsupported};
use super::Hdf5;

pub(super) const DATASPACE: u16 = 1;
pub(super) const LINK_INFO: u16 = 2;
pub(super) const DATATYPE: u16 = 3;
pub(super) const FILL_VALUE: u16 = 5;
pub(super) const LINK: u16 = 6;
/// Where data in other files lie.
pub(super) const EXTERNAL: u16 = 7;
pub(super) const LAYOUT: u16 = 8;
pub(super) const FILTERS: u16 = 11;
const ATTRIBUTE: u16 = 12;
const CONTINUATION: u16 = 16;
pub(super) const SYMBOL_TABLE: u16 = 17;

/// One message.
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
    shared: bool,
}

/// The body of the first message of a kind.
pub(super) fn find(messages: &[Message], kind: u16) -> Parsed<Option<&[u8]>> {
    match messages.iter().find(|message| message.kind == kind) {
        Some(message) if message.shared => {
            unsupported("a type or shape kept elsewhere in the file (committed); copy the data set")
        }
        found => Ok(found.map(|message| message.body.as_slice())),
    }
}

/// The bytes of an attribute, if an object has it.
pub(super) fn attribute<'a>(messages: &'a [Message], wanted: &str) -> Parsed<Option<&'a [u8]>> {
    for message in messages.iter().filter(|message| message.kind == ATTRIBUTE) {
        let mut fields = Fields::new(&message.body);
        let (version, _flags) = (fields.u8()?, fields.u8()?);
        let sizes = [fields.size(2)?, fields.size(2)?, fields.size(2)?]; // name, type, shape
        fields.take(if version == 3 { 1 } else { 0 })?;
        let padded = |size: usize| if version == 1 { size.next_multiple_of(8) } else { size };
        let name = fields.take(padded(sizes[0]))?;
        fields.take(padded(sizes[1]))?;
        fields.take(padded(sizes[2]))?;
        if name.split(|byte| *byte == 0).next() == Some(wanted.as_bytes()) {
            return Ok(Some(fields.rest));
        }
    }
    Ok(None)
}

impl Hdf5 {
    /// The messages of the object at an address.
    pub(super) fn messages(&mut self, at: u64) -> Parsed<Vec<Message>> {
        let start = self.block(at, 16)?;
        if start.starts_with(b"OHDR") {
            return self.messages_of_version_2(at, &start);
        }
        let mut fields = Fields::new(&start);
        let version = fields.u8()?;
        if version != 1 {
            return damaged(format!("no object header at {at}"));
        }
        fields.take(7)?; // number of messages, references
        let size = fields.u32()?;
        let (mut messages, mut blocks) = (Vec::new(), vec![(at + 16, u64::from(size))]);
        while let Some((at, size)) = blocks.pop() {
            let block = self.block(at, size)?;
            let mut fields = Fields::new(&block);
            while fields.rest.len() >= 8 {
                let (kind, size) = (fields.u16()?, fields.size(2)?);
                let flags = fields.u8()?;
                fields.take(3)?;
                let body = fields.take(size)?;
                self.push(kind, flags, body, &mut messages, &mut blocks)?;
            }
        }
        Ok(messages)
    }

    fn messages_of_version_2(&mut self, at: u64, start: &[u8]) -> Parsed<Vec<Message>> {
        let mut fields = Fields::new(&start[4..6]);
        let (version, flags) = (fields.u8()?, fields.u8()?);
        if version != 2 {
            return unsupported(format!("version {version} of an object header"));
        }
        let skipped =
            6 + if flags & 0x20 > 0 { 16 } else { 0 } + if flags & 0x10 > 0 { 4 } else { 0 };
        let width = 1 << (flags & 3);
        let size = Fields::new(&self.block(at + skipped, width)?).uint(width as usize)?;
        let (mut messages, mut blocks) = (Vec::new(), vec![(at + skipped + width, size)]);
        let mut first = true;
        while let Some((at, size)) = blocks.pop() {
            let block = self.block(at, size)?;
            let mut fields = Fields::new(&block);
            if !std::mem::take(&mut first) {
                if fields.take(4)? != b"OCHK" {
                    return damaged(format!("no continued object header at {at}"));
                }
                fields.rest = &fields.rest[..fields.rest.len().saturating_sub(4)]; // checksum
            }
            let prefix = if flags & 4 > 0 { 6 } else { 4 };
            while fields.rest.len() >= prefix {
                let (kind, size) = (u16::from(fields.u8()?), fields.size(2)?);
                let message_flags = fields.u8()?;
                fields.take(prefix - 4)?; // order of creation
                let body = fields.take(size)?;
                self.push(kind, message_flags, body, &mut messages, &mut blocks)?;
            }
        }
        Ok(messages)
    }

    /// Keeps a message, or the place of the block that continues the header.
    fn push(
        &self,
        kind: u16,
        flags: u8,
        body: &[u8],
        messages: &mut Vec<Message>,
        blocks: &mut Vec<(u64, u64)>,
    ) -> Parsed<()> {
        if kind == CONTINUATION {
            let mut fields = Fields::new(body);
            blocks.push((fields.uint(self.offsets)?, fields.uint(self.lengths)?));
        } else if kind > 0 {
            messages.push(Message { kind, body: body.to_vec(), shared: flags & 2 > 0 });
        }
        Ok(())
    }
}
