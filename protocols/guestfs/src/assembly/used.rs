//! Which bytes of disks are in use, through all that is put together from them.
//!
//! What is in use of a node is what the filesystem in it uses, and what all nodes use that it is a part of. Nodes are
//! looked at from the last to the first, so that all that lies on a node has been looked at before it. Whatever goes wrong
//! makes everything used that it would have told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::ranges::Ranges;
use crate::layers::{Layer, NodeId, Part};
use crate::lvm::Assembly;
use crate::{Content, GuestError, Leavable, Source, Volume};

/// What is in use of a disk.
#[derive(Debug, Clone)]
pub struct UsedDisk {
    /// Bytes in use, in order and apart.
    pub ranges: Vec<Range<u64>>,
    /// What counts as used as a whole on this disk, or on what it is a part of.
    pub whole: Vec<Whole>,
}

/// Something that counts as used as a whole.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its name, as in [`super::Assembled::members`].
    pub name: String,
    /// Why it could not be looked into.
    pub reason: GuestError,
}

/// All nodes. What a node lies on has a smaller number.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// The nodes of the disks, in their order.
    pub(super) disks: Vec<NodeId>,
    /// Volume groups, with the nodes of their physical volumes by their names in the text.
    pub(super) groups: Vec<(Assembly, BTreeMap<String, NodeId>)>,
    /// Logical volumes that are nodes, by the name of their group for itself.
    pub(super) read: BTreeMap<String, BTreeSet<String>>,
}

/// Something that bytes can be read of.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) source: Arc<dyn Source>,
    /// How it lies on other nodes; `None` for a disk.
    layer: Option<Arc<dyn Layer>>,
    /// The nodes that it lies on.
    on: Vec<NodeId>,
    /// How many things were put together on the way to it.
    pub(super) depth: u32,
    /// What lies in it, if it has no partitions.
    pub(super) volume: Option<Volume>,
    pub(super) partitions: Vec<NodeId>,
    /// The part of it that an array reads.
    pub(super) data: Option<Range<u64>>,
}

impl Node {
    pub(super) fn new(
        name: String,
        source: Arc<dyn Source>,
        below: Option<(Arc<dyn Layer>, Vec<NodeId>)>,
        depth: u32,
    ) -> Self {
        let (layer, on) = below.unzip();
        Self {
            name,
            source,
            layer,
            on: on.unwrap_or_default(),
            depth,
            volume: None,
            partitions: Vec::new(),
            data: None,
        }
    }

    pub(super) fn cost(&self) -> u64 {
        self.layer.as_ref().map_or(1, |layer| layer.cost())
    }
}

impl Graph {
    pub(super) fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(super) fn ids(&self) -> Range<NodeId> {
        0..self.nodes.len()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(id).expect("nodes are never removed")
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(id).expect("nodes are never removed")
    }

    /// All of a node, as something to build on.
    pub(super) fn whole(&self, id: NodeId) -> Option<Arc<dyn Layer>> {
        let node = self.node(id);
        let all = 0..node.source.length_bytes();
        let part = Part::new(id, Arc::clone(&node.source), node.cost(), all)?;
        Some(Arc::new(part))
    }

    pub(super) fn used(&self, leave: &BTreeSet<Leavable>) -> Vec<UsedDisk> {
        let mut search = Search {
            graph: self,
            leave,
            used: self.nodes.iter().map(|_| Ranges::default()).collect(),
            told: BTreeSet::new(),
            whole: vec![Vec::new(); self.nodes.len()],
        };
        for (assembly, nodes) in &self.groups {
            search.group(assembly, nodes);
        }
        for id in (0..self.nodes.len()).rev() {
            search.content(id);
            search.pass_down(id);
        }
        self.disks.iter().map(|id| search.disk(*id)).collect()
    }

    /// Which kinds of what need not be kept lie anywhere.
    pub(super) fn leavable(&self) -> BTreeSet<Leavable> {
        let volumes = self.nodes.iter().filter_map(|node| node.volume.as_ref());
        let found = volumes.filter_map(|volume| volume.leavable().ok());
        found.flatten().map(|(kind, _)| kind).collect()
    }
}

struct Search<'a> {
    graph: &'a Graph,
    /// What need not be kept although it is in use.
    leave: &'a BTreeSet<Leavable>,
    used: Vec<Ranges>,
    /// Physical volumes of which it is known what is in use.
    told: BTreeSet<NodeId>,
    /// What counts as used as a whole on each node, and above it.
    whole: Vec<Vec<Whole>>,
}

impl Search<'_> {
    fn add(&mut self, id: NodeId, range: Range<u64>) {
        if let Some(used) = self.used.get_mut(id) {
            used.add(range);
        }
    }

    /// Takes all of a node for used.
    fn take_whole(&mut self, id: NodeId, reason: GuestError) {
        let node = self.graph.node(id);
        self.add(id, 0..node.source.length_bytes());
        if let Some(whole) = self.whole.get_mut(id) {
            whole.push(Whole {
                name: node.name.clone(),
                reason,
            });
        }
    }

    /// What a volume group holds of its physical volumes, whatever lies in those logical volumes that can be looked into.
    fn group(&mut self, assembly: &Assembly, nodes: &BTreeMap<String, NodeId>) {
        let group = assembly.group();
        // One that is not there may have newer metadata.
        if !assembly.is_complete() {
            return;
        }
        let none = BTreeSet::new();
        let read = self.graph.read.get(&group.id).unwrap_or(&none);
        let used = &mut self.used;
        let held = assembly.held(read, &mut |node, range| {
            if let Some(used) = used.get_mut(node) {
                used.add(range);
            }
        });
        if let Err(error) = held {
            tracing::warn!(%error, group = %group.name, "all of a volume group counts as used");
            return;
        }
        for (name, physical) in &group.physical {
            let Some(node) = nodes.get(name) else {
                continue;
            };
            // The label and the metadata lie before the extents, and may lie behind them.
            let extents = group.bytes(physical.extents).unwrap_or(0);
            let end = physical.start_bytes.saturating_add(extents);
            self.add(*node, 0..physical.start_bytes);
            self.add(*node, end..u64::MAX);
            self.told.insert(*node);
        }
    }

    /// What is in use of a node by what lies in it.
    fn content(&mut self, id: NodeId) {
        let graph = self.graph;
        let node = graph.node(id);
        if let Some(data) = &node.data {
            self.add(id, 0..data.start);
            self.add(id, data.end..u64::MAX);
            if node.partitions.is_empty() {
                return;
            }
        }
        if !node.partitions.is_empty() {
            self.between_partitions(id);
            return;
        }
        let Some(volume) = &node.volume else {
            return self.take_whole(
                id,
                GuestError::NoReader {
                    content: "a disk that was not opened",
                },
            );
        };
        if volume.content == Content::Lvm2 && self.told.contains(&id) {
            return;
        }
        let left = self.left_of(volume);
        match volume.allocated() {
            // All of it is one thing, which is left or is not.
            Err(_) if volume.content == Content::Swap => {
                self.add_without(id, 0..volume.length_bytes, &left);
            }
            Err(reason) => self.take_whole(id, reason),
            Ok(allocation) => {
                for range in allocation {
                    match range {
                        Ok(range) => self.add_without(id, range, &left),
                        Err(reason) => return self.take_whole(id, reason),
                    }
                }
            }
        }
    }

    /// What of a volume is in use and need not be kept. Where that cannot be told, all is kept.
    fn left_of(&self, volume: &Volume) -> Vec<Range<u64>> {
        if self.leave.is_empty() {
            return Vec::new();
        }
        let all = volume.leavable().unwrap_or_default().into_iter();
        let mut left: Vec<_> = all
            .filter(|(kind, _)| self.leave.contains(kind))
            .map(|(_, range)| range)
            .collect();
        left.sort_unstable_by_key(|range| range.start);
        left
    }

    /// Adds what of `range` is in none of `left`, which ascend.
    fn add_without(&mut self, id: NodeId, range: Range<u64>, left: &[Range<u64>]) {
        let mut at = range.start;
        let first = left.partition_point(|left| left.end <= at);
        for left in left.iter().skip(first) {
            if left.start >= range.end {
                break;
            }
            self.add(id, at..left.start);
            at = at.max(left.end);
        }
        self.add(id, at..range.end);
    }

    /// Tables, and what lies outside of all partitions.
    fn between_partitions(&mut self, id: NodeId) {
        let graph = self.graph;
        let mut places: Vec<_> = graph
            .node(id)
            .partitions
            .iter()
            .filter_map(|partition| graph.node(*partition).volume.as_ref())
            .map(|volume| {
                volume.offset_bytes..volume.offset_bytes.saturating_add(volume.length_bytes)
            })
            .collect();
        places.sort_by_key(|place| place.start);
        let mut at = 0;
        for place in places {
            self.add(id, at..place.start);
            at = at.max(place.end);
        }
        self.add(id, at..u64::MAX);
    }

    /// Takes what is in use of a node for used of those that it lies on.
    fn pass_down(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let Some(layer) = &node.layer else {
            return;
        };
        let length = node.source.length_bytes();
        let used = self
            .used
            .get_mut(id)
            .map(std::mem::take)
            .unwrap_or_default();
        let mut fault = None;
        for range in used.finish(length) {
            let all = &mut self.used;
            let found = layer.below(range, &mut |below, range| {
                if let Some(used) = all.get_mut(below) {
                    used.add(range);
                }
            });
            if let Err(error) = found {
                fault = Some(error);
                break;
            }
        }
        let whole = self
            .whole
            .get_mut(id)
            .map(std::mem::take)
            .unwrap_or_default();
        for below in &node.on {
            if let Some(fault) = &fault {
                self.take_whole(*below, fault.clone());
            }
            if let Some(list) = self.whole.get_mut(*below) {
                list.extend(whole.iter().cloned());
            }
        }
    }

    fn disk(&mut self, id: NodeId) -> UsedDisk {
        let length = self.graph.node(id).source.length_bytes();
        let used = self
            .used
            .get_mut(id)
            .map(std::mem::take)
            .unwrap_or_default();
        let mut whole = self
            .whole
            .get_mut(id)
            .map(std::mem::take)
            .unwrap_or_default();
        // The same may be reached over several members.
        let mut seen = BTreeSet::new();
        whole.retain(|whole| seen.insert(whole.name.clone()));
        UsedDisk {
            ranges: used.finish(length),
            whole,
        }
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph")
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}
