//! Global heaps, where variable-length values lie.

use super::super::flaw::{Fields, Parsed, damaged};
use super::Hdf5;
use std::collections::BTreeMap;

/// Place and size of the objects of one collection, by their number.
pub(super) type Objects = BTreeMap<u16, (u64, u64)>;

impl Hdf5 {
    /// The bytes behind a variable-length value, as it lies in a record: number of elements, address
    /// of the collection, number of the object; `size` is that of one element.
    pub(in crate::arrays) fn variable(&mut self, value: &[u8], size: usize) -> Parsed<Vec<u8>> {
        let mut fields = Fields::new(value);
        let count = fields.u32()?;
        let (collection, index) = (self.address(&mut fields)?, fields.u32()?);
        let needed = u64::from(count).saturating_mul(size as u64);
        let Some(collection) = collection.filter(|address| *address > 0 && needed > 0) else {
            return match needed {
                0 => Ok(Vec::new()),
                _ => damaged("a value of variable length without a place"),
            };
        };
        if !self.heaps.contains_key(&collection) {
            let objects = self.objects(collection)?;
            self.heaps.insert(collection, objects);
        }
        let objects = self.heaps.get(&collection);
        let object = u16::try_from(index).ok().and_then(|index| objects?.get(&index).copied());
        match object {
            Some((at, held)) if held >= needed => self.block(at, needed),
            Some((_, held)) => damaged(format!("a value of {needed} bytes in {held} of a heap")),
            None => damaged(format!("no object {index} in the heap at {collection}")),
        }
    }

    fn objects(&mut self, at: u64) -> Parsed<Objects> {
        let head = self.block(at, 8 + self.lengths as u64)?;
        let mut fields = Fields::new(&head);
        if fields.take(4)? != b"GCOL" {
            return damaged(format!("no global heap at {at}"));
        }
        fields.take(4)?;
        let size = fields.uint(self.lengths)?;
        let Some(end) = at.checked_add(size).filter(|end| *end <= self.length) else {
            return damaged(format!("a heap of {size} bytes at {at}, beyond the end"));
        };
        let each = 8 + self.lengths as u64;
        let (mut objects, mut next) = (Objects::new(), at + each);
        while next.checked_add(each).is_some_and(|first| first <= end) {
            let head = self.block(next, each)?;
            let mut fields = Fields::new(&head);
            let index = fields.u16()?;
            fields.take(6)?;
            let held = fields.uint(self.lengths)?;
            if index == 0 {
                break; // the free space at the end
            }
            let start = next + each;
            let Some(last) = start.checked_add(held).filter(|last| *last <= end) else {
                return damaged(format!("an object of {held} bytes at {start}, beyond its heap"));
            };
            objects.insert(index, (start, held));
            next = at + (last - at).next_multiple_of(8);
        }
        Ok(objects)
    }
}
