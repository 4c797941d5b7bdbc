//! Subvolumes and snapshots: which there are, and where they are shown.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::items::Items;
use super::key::{Key, is_subvolume, kind, object};
use super::node::Pointer;
use super::nodes::Nodes;
use crate::bytes::View;
use crate::{GuestError, Place};

/// A tree of files of its own.
#[derive(Debug)]
pub(super) struct Subvolume {
    pub items: Items,
    /// Where it is shown; nowhere for the uppermost, and for those that are being removed.
    pub shown: Option<Shown>,
}

/// A folder's entry that leads to a subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub subvolume: u64,
    pub folder: u64,
    pub name: Vec<u8>,
}

/// What the tree of roots says.
#[derive(Debug)]
pub(super) struct Roots {
    /// In the order of their numbers.
    pub subvolumes: Vec<Subvolume>,
    /// All other trees.
    pub others: BTreeMap<u64, Items>,
}

impl Roots {
    pub(super) fn read(nodes: &Nodes, root_tree: &Items) -> Result<Self, GuestError> {
        let mut trees: BTreeMap<u64, Items> = BTreeMap::new();
        let mut shown = BTreeMap::new();
        root_tree.scan(nodes, Key::MIN, Key::MAX, &mut |key, item| {
            match key.kind {
                kind::ROOT => {
                    if let Some(root) = decode_root(key.object, item)? {
                        trees.insert(key.object, Items::new(key.object, root));
                    }
                }
                kind::NAME_OF_SUBVOLUME => {
                    shown.insert(key.object, decode_shown(key.object, key.offset, item)?);
                }
                _ => {}
            }
            match trees.len() + shown.len() > TREES_MAX {
                true => Err(GuestError::TooLarge {
                    what: "the number of subvolumes",
                    limit: TREES_MAX as u64 / 2,
                }),
                false => Ok(ControlFlow::Continue(())),
            }
        })?;
        let others = trees.split_off(&0);
        let (subvolumes, others): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|(tree, _)| is_subvolume(*tree));
        let subvolume = |(tree, items)| Subvolume {
            items,
            shown: shown.remove(&tree),
        };
        Ok(Self {
            subvolumes: subvolumes.into_iter().map(subvolume).collect(),
            others: others.into_iter().collect(),
        })
    }

    /// The place of a subvolume among all.
    pub(super) fn index_of(&self, number: u64) -> Option<usize> {
        let found = self
            .subvolumes
            .binary_search_by_key(&number, |subvolume| subvolume.items.tree);
        found.ok()
    }
}

/// `None` for a subvolume that is being removed.
pub(super) fn decode_root(tree: u64, item: &[u8]) -> Result<Option<Pointer>, GuestError> {
    let view = View::new(item, Place::Tree(tree));
    let root = Pointer {
        generation: view.u64(160)?,
        logical: view.u64(176)?,
        level: view.u8(238)?,
        first: None,
    };
    let references = view.u32(216)?;
    Ok((references > 0 || !is_subvolume(tree)).then_some(root))
}

fn decode_shown(tree: u64, parent: u64, item: &[u8]) -> Result<Shown, GuestError> {
    let view = View::new(item, Place::Tree(tree));
    let length = usize::from(view.u16(16)?);
    Ok(Shown {
        subvolume: parent,
        folder: view.u64(0)?,
        name: view.slice(18, length)?.to_vec(),
    })
}

/// The number of the tree of log trees' own roots is where they are found by.
pub(super) fn log_roots(nodes: &Nodes, log: &Items) -> Result<Vec<(u64, Items)>, GuestError> {
    let mut logs = Vec::new();
    let first = Key::new(object::LOG, kind::ROOT, 0);
    let last = Key::new(object::LOG, kind::ROOT, u64::MAX);
    log.scan(nodes, first, last, &mut |key, item| {
        if let Some(root) = decode_root(object::LOG, item)? {
            logs.push((key.offset, Items::new(object::LOG, root)));
        }
        Ok(if logs.len() > TREES_MAX {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(logs)
}

/// Trees and the names of subvolumes: as many as are worth the memory.
const TREES_MAX: usize = 1 << 20;
