//! Nodes by their places, the other copy tried where one is bad.

use std::sync::Arc;

use ::bytes::Bytes;
use quick_cache::sync::Cache;

use super::checksum::Checksum;
use super::key::{is_subvolume, object};
use super::node::{Node, Pointer};
use super::storage::Storage;
use super::superblock::Superblock;
use crate::{GuestError, Place};

/// Where nodes are read from. Those that were read last are kept.
pub(super) struct Nodes {
    storage: Storage,
    checksum: Checksum,
    name: [u8; 16],
    node_bytes: usize,
    cache: Cache<u64, Arc<Node>>,
}

impl Nodes {
    pub(super) fn new(storage: Storage, superblock: &Superblock) -> Self {
        let node_bytes = superblock.node_bytes as usize;
        Self {
            storage,
            checksum: superblock.checksum,
            name: superblock.in_nodes,
            node_bytes,
            cache: Cache::new(CACHE_BYTES / node_bytes),
        }
    }

    /// The same with another knowledge of chunks.
    pub(super) fn with_storage(self, change: impl FnOnce(Storage) -> Storage) -> Self {
        Self {
            storage: change(self.storage),
            ..self
        }
    }

    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(super) fn node_bytes(&self) -> usize {
        self.node_bytes
    }

    /// The node that `pointer` leads to in tree `tree`.
    pub(super) fn read(&self, pointer: &Pointer, tree: u64) -> Result<Arc<Node>, GuestError> {
        if let Some(node) = self.cache.get(&pointer.logical) {
            // Another way to it may expect something else.
            check(&node, pointer, tree)?;
            return Ok(node);
        }
        let (_, ways) = self.storage.extent_of(pointer.logical)?;
        let mut first_fault = None;
        for way in 0..ways {
            match self.read_way(pointer, tree, way) {
                Ok(node) => {
                    let node = Arc::new(node);
                    self.cache.insert(pointer.logical, Arc::clone(&node));
                    return Ok(node);
                }
                Err(error) if error.is_of_one_place() => {
                    tracing::debug!(%error, way, "a copy of a node is bad");
                    first_fault.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(first_fault.unwrap_or(GuestError::corrupt(
            Place::Node(pointer.logical),
            "there is no copy of it",
        )))
    }

    fn read_way(&self, pointer: &Pointer, tree: u64, way: usize) -> Result<Node, GuestError> {
        let read = self.storage.read(pointer.logical, self.node_bytes, way)?;
        // Copied, as what a disk gives may be a small part of a large piece, which must not stay in memory for it.
        let bytes = Bytes::from(read.to_vec());
        let node = Node::decode(bytes, pointer.logical, self.checksum, &self.name)?;
        check(&node, pointer, tree)?;
        Ok(node)
    }
}

fn check(node: &Node, pointer: &Pointer, tree: u64) -> Result<(), GuestError> {
    node.check(pointer)?;
    let fits = match tree {
        // Logs are all of one owner, and older systems did not say so.
        object::LOG => true,
        tree if is_subvolume(tree) => is_subvolume(node.owner),
        tree => node.owner == tree,
    };
    if !fits {
        return Err(GuestError::corrupt(
            Place::Node(pointer.logical),
            "it belongs to another tree",
        ));
    }
    Ok(())
}

/// Memory for nodes of one filesystem.
const CACHE_BYTES: usize = 16 << 20;
