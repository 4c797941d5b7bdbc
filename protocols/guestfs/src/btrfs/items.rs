//! The items of one tree, with what the log has made of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ::bytes::Bytes;

use super::key::Key;
use super::node::{Node, Pointer};
use super::nodes::Nodes;
use crate::GuestError;

/// A tree.
#[derive(Debug, Clone)]
pub(super) struct Items {
    pub tree: u64,
    pub root: Pointer,
    /// Items that were changed, and `None` for those that were removed.
    changes: BTreeMap<Key, Option<Bytes>>,
    changed_bytes: usize,
}

type Visit<'v> = &'v mut dyn FnMut(Key, &[u8]) -> Result<ControlFlow<()>, GuestError>;

impl Items {
    pub(super) fn new(tree: u64, root: Pointer) -> Self {
        Self {
            tree,
            root,
            changes: BTreeMap::new(),
            changed_bytes: 0,
        }
    }

    pub(super) fn set(&mut self, key: Key, item: Vec<u8>) {
        self.change(key, Some(Bytes::from(item)));
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.change(key, None);
    }

    fn change(&mut self, key: Key, item: Option<Bytes>) {
        let size = |item: &Option<Bytes>| item.as_ref().map_or(0, Bytes::len) + CHANGE_BYTES;
        self.changed_bytes += size(&item);
        if let Some(old) = self.changes.insert(key, item) {
            self.changed_bytes -= size(&old);
        }
    }

    /// About how much memory the changes take.
    pub(super) fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    pub(super) fn get(&self, nodes: &Nodes, key: Key) -> Result<Option<Bytes>, GuestError> {
        if let Some(change) = self.changes.get(&key) {
            return Ok(change.clone());
        }
        let (leaf, _) = self.leaf(nodes, key)?;
        let index = leaf.count_before(key)?;
        if index < leaf.entries() && leaf.key(index)? == key {
            return leaf.item_bytes(index).map(Some);
        }
        Ok(None)
    }

    /// Calls `visit` with the items from `from` to `to`, both included.
    pub(super) fn scan(
        &self,
        nodes: &Nodes,
        from: Key,
        to: Key,
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        if from > to {
            return Ok(());
        }
        let mut changes = self.changes.range(from..=to).peekable();
        let mut start = from;
        loop {
            let (leaf, next) = self.leaf(nodes, start)?;
            for index in leaf.count_before(start)?..leaf.entries() {
                let key = leaf.key(index)?;
                if key > to {
                    break;
                }
                while let Some((changed, item)) = changes.next_if(|(changed, _)| **changed < key) {
                    if let Some(item) = item
                        && visit(*changed, item)?.is_break()
                    {
                        return Ok(());
                    }
                }
                let flow = match changes.next_if(|(changed, _)| **changed == key) {
                    Some((_, Some(item))) => visit(key, item)?,
                    Some((_, None)) => ControlFlow::Continue(()),
                    None => visit(key, leaf.item(index)?)?,
                };
                if flow.is_break() {
                    return Ok(());
                }
            }
            match next {
                // It is behind `start`, so that every way ends.
                Some(next) if next <= to => start = next,
                _ => break,
            }
        }
        for (changed, item) in changes {
            if let Some(item) = item
                && visit(*changed, item)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// The last item from `least` to `key`, both included.
    pub(super) fn last_until(
        &self,
        nodes: &Nodes,
        key: Key,
        least: Key,
    ) -> Result<Option<(Key, Bytes)>, GuestError> {
        if least > key {
            return Ok(None);
        }
        let changed = self.changes.range(least..=key).rev();
        let changed = changed
            .filter_map(|(key, item)| item.as_ref().map(|item| (*key, item)))
            .next();
        let mut until = key;
        loop {
            let stored = self.stored_until(nodes, until)?;
            let stored = stored.filter(|(key, _)| *key >= least);
            let Some((at, item)) = stored else {
                break;
            };
            if changed.is_some_and(|(changed, _)| changed >= at) {
                break;
            }
            if !self.changes.contains_key(&at) {
                return Ok(Some((at, item)));
            }
            match at.before() {
                Some(before) => until = before,
                None => break,
            }
        }
        Ok(changed.map(|(key, item)| (key, item.clone())))
    }

    fn stored_until(&self, nodes: &Nodes, key: Key) -> Result<Option<(Key, Bytes)>, GuestError> {
        let (leaf, _) = self.leaf(nodes, key)?;
        match leaf.last_until(key)? {
            Some(index) => Ok(Some((leaf.key(index)?, leaf.item_bytes(index)?))),
            None => Ok(None),
        }
    }

    /// The leaf that has `key` if any has, and the first key of the one behind it.
    fn leaf(&self, nodes: &Nodes, key: Key) -> Result<(Arc<Node>, Option<Key>), GuestError> {
        let mut node = nodes.read(&self.root, self.tree)?;
        let mut next = None;
        // Levels go down by one from node to node.
        while node.level > 0 {
            let index = node.last_until(key)?.unwrap_or(0);
            if index + 1 < node.entries() {
                next = Some(node.key(index + 1)?);
            }
            node = nodes.read(&node.pointer(index)?, self.tree)?;
            node.check_end(next)?;
        }
        Ok((node, next))
    }

    /// Calls `visit` with every node.
    pub(super) fn walk(
        &self,
        nodes: &Nodes,
        visit: &mut dyn FnMut(&Node) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let mut waiting = vec![(self.root, None)];
        while let Some((pointer, end)) = waiting.pop() {
            let node = nodes.read(&pointer, self.tree)?;
            // Nodes of one level have keys of their own, so that none is met twice.
            node.check_end(end)?;
            visit(&node)?;
            if node.level > 0 {
                let mut end = end;
                for index in (0..node.entries()).rev() {
                    waiting.push((node.pointer(index)?, end));
                    end = Some(node.key(index)?);
                }
            }
        }
        Ok(())
    }
}

/// What a change takes besides its item.
const CHANGE_BYTES: usize = 96;
