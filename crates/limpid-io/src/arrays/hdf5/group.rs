//! The members of a group: by symbol table (B-tree, local heap) or by links in its header.

use super::super::flaw::{Fields, Parsed, damaged, unsupported};
use super::{Hdf5, header};

impl Hdf5 {
    /// Name and address of each member of the group at an address. Soft and external links are left
    /// out.
    pub(in crate::arrays) fn children(&mut self, group: u64) -> Parsed<Vec<(String, u64)>> {
        let messages = self.messages(group)?;
        let mut children = Vec::new();
        if let Some(table) = header::find(&messages, header::SYMBOL_TABLE)? {
            let mut fields = Fields::new(table);
            let (tree, heap) = (self.address(&mut fields)?, self.address(&mut fields)?);
            if let (Some(tree), Some(heap)) = (tree, heap) {
                let names = self.local_heap(heap)?;
                self.symbols(tree, None, &names, &mut children)?;
            }
        }
        if let Some(info) = header::find(&messages, header::LINK_INFO)? {
            let mut fields = Fields::new(info);
            let (_version, flags) = (fields.u8()?, fields.u8()?);
            fields.take(if flags & 1 > 0 { 8 } else { 0 })?;
            if self.address(&mut fields)?.is_some() {
                return unsupported(
                    "a group with its links in a fractal heap; save the file with libver=\"earliest\"",
                );
            }
        }
        for message in messages.iter().filter(|message| message.kind == header::LINK) {
            children.extend(self.link(&message.body)?);
        }
        Ok(children)
    }

    /// The address of a member of a group.
    pub(in crate::arrays) fn child(&mut self, group: u64, name: &str) -> Parsed<Option<u64>> {
        let children = self.children(group)?;
        Ok(children.into_iter().find(|(found, _)| found == name).map(|(_, address)| address))
    }

    fn link(&self, body: &[u8]) -> Parsed<Option<(String, u64)>> {
        let mut fields = Fields::new(body);
        let (version, flags) = (fields.u8()?, fields.u8()?);
        if version != 1 {
            return unsupported(format!("version {version} of a link"));
        }
        let kind = if flags & 8 > 0 { fields.u8()? } else { 0 };
        fields.take(if flags & 4 > 0 { 8 } else { 0 })?; // order of creation
        fields.take(if flags & 16 > 0 { 1 } else { 0 })?; // characters
        let size = fields.size(1 << (flags & 3))?;
        let name = String::from_utf8_lossy(fields.take(size)?).into_owned();
        match kind {
            0 => Ok(self.address(&mut fields)?.map(|address| (name, address))),
            _ => Ok(None),
        }
    }

    fn local_heap(&mut self, at: u64) -> Parsed<Vec<u8>> {
        let head = self.block(at, (8 + 2 * self.lengths + self.offsets) as u64)?;
        let mut fields = Fields::new(&head);
        if fields.take(4)? != b"HEAP" {
            return damaged(format!("no local heap at {at}"));
        }
        fields.take(4)?;
        let size = fields.uint(self.lengths)?;
        fields.take(self.lengths)?;
        match self.address(&mut fields)? {
            Some(data) => self.block(data, size),
            None => Ok(Vec::new()),
        }
    }

    /// Walks a B-tree of symbols; a node below another must be one level lower.
    fn symbols(
        &mut self,
        at: u64,
        level: Option<u8>,
        names: &[u8],
        children: &mut Vec<(String, u64)>,
    ) -> Parsed<()> {
        let head = self.block(at, (8 + 2 * self.offsets) as u64)?;
        let mut fields = Fields::new(&head);
        if fields.take(4)? != b"TREE" || fields.u8()? != 0 {
            return damaged(format!("no tree of symbols at {at}"));
        }
        let (own, entries) = (fields.u8()?, fields.u16()?);
        if level.is_some_and(|level| own != level) || own > 16 {
            return damaged(format!("a node of level {own} at {at}"));
        }
        let size = u64::from(entries) * (self.lengths + self.offsets) as u64;
        let body = self.block(at + head.len() as u64, size)?;
        let mut fields = Fields::new(&body);
        for _ in 0..entries {
            fields.take(self.lengths)?;
            let child = fields.uint(self.offsets)?;
            match own {
                0 => self.symbol_node(child, names, children)?,
                _ => self.symbols(child, Some(own - 1), names, children)?,
            }
        }
        Ok(())
    }

    fn symbol_node(
        &mut self,
        at: u64,
        names: &[u8],
        children: &mut Vec<(String, u64)>,
    ) -> Parsed<()> {
        let head = self.block(at, 8)?;
        if !head.starts_with(b"SNOD") {
            return damaged(format!("no node of symbols at {at}"));
        }
        let entries = Fields::new(&head[6..]).u16()?;
        let body = self.block(at + 8, u64::from(entries) * (2 * self.offsets + 24) as u64)?;
        let mut fields = Fields::new(&body);
        for _ in 0..entries {
            let (name, address) = (fields.size(self.offsets)?, fields.uint(self.offsets)?);
            let kind = fields.u32()?;
            fields.take(20)?;
            if kind != 2 {
                let Some(name) = names.get(name..) else {
                    return damaged("a name that is not in the heap of its group");
                };
                // names share their heap, so each counts: else a thousand symbols copy it whole
                let name = Fields::new(name).text()?;
                self.spend(name.len() as u64)?;
                children.push((name, address));
            }
        }
        Ok(())
    }
}
