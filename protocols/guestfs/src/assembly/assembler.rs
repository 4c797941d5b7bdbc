//! Finds members, and puts together what can be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::filesystems;
use super::names::{Names, safe};
use super::used::{Graph, Node};
use super::{Assembled, DiskSet, Membership};
use crate::layers::{Layer, NodeId, Part};
use crate::lvm::{Assembly, Group, PhysicalVolume};
use crate::md::{Array, Found, Superblock};
use crate::volume::{Volume, open_source};
use crate::{Content, GuestError, Source};

/// Puts together in rounds: what is complete first, as what a part is missing of may find it in a later round.
pub(super) struct Assembler {
    graph: Graph,
    disks: Vec<Result<Vec<Volume>, GuestError>>,
    assembled: Vec<Assembled>,
    memberships: Vec<Membership>,
    names: Names,
    /// Nodes that were not yet looked at.
    fresh: Vec<NodeId>,
    arrays: BTreeMap<[u8; 16], ArrayState>,
    groups: BTreeMap<String, GroupState>,
    physical: BTreeMap<String, PhysicalState>,
    /// All nodes with a label of a physical volume, and its name for itself.
    labelled: Vec<(NodeId, String)>,
}

#[derive(Default)]
struct ArrayState {
    found: Vec<Found>,
    nodes: Vec<NodeId>,
    is_done: bool,
}

struct GroupState {
    newest: Group,
    assembly: Option<Assembly>,
    /// Volumes that were put together, or given up.
    done: BTreeSet<String>,
}

/// A physical volume, by its name for itself.
struct PhysicalState {
    node: NodeId,
    layer: Arc<dyn Layer>,
    depth: u32,
    /// Whether there is another that says that it is the same.
    is_doubled: bool,
}

/// Whether to wait for parts that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// For all parts of an array or a volume group.
    Wait,
    /// For those that a logical volume lies on, not for others of its group.
    WaitForOwn,
    GiveUp,
}

impl Assembler {
    pub(super) fn new(disks: &[Arc<dyn Source>]) -> Self {
        let mut assembler = Self {
            graph: Graph::default(),
            disks: Vec::new(),
            assembled: Vec::new(),
            memberships: Vec::new(),
            names: Names::default(),
            fresh: Vec::new(),
            arrays: BTreeMap::new(),
            groups: BTreeMap::new(),
            physical: BTreeMap::new(),
            labelled: Vec::new(),
        };
        for (number, disk) in disks.iter().enumerate() {
            let name = format!("disk-{number}");
            let opened = open_source(Arc::clone(disk));
            let volumes = opened.as_deref().unwrap_or_default();
            let names: Vec<_> = volumes
                .iter()
                .map(|volume| format!("{name}/{}", volume.name))
                .collect();
            let node = assembler
                .graph
                .add(Node::new(name, Arc::clone(disk), None, 0));
            assembler.add_volumes(node, volumes, &names);
            assembler.fresh.push(node);
            assembler.graph.disks.push(node);
            assembler.disks.push(opened);
        }
        assembler
    }

    pub(super) fn run(mut self) -> DiskSet {
        for _ in 0..ROUNDS_MAX {
            for node in std::mem::take(&mut self.fresh) {
                self.examine(node);
            }
            let has_more = self.assemble_arrays(Patience::Wait)
                || self.assemble_groups(Patience::Wait)
                || self.assemble_arrays(Patience::GiveUp)
                || self.assemble_groups(Patience::WaitForOwn)
                || self.assemble_groups(Patience::GiveUp);
            if !has_more && self.fresh.is_empty() {
                break;
            }
        }
        self.note_physical();
        let filesystems = filesystems::assemble(&mut self.graph, &mut self.names);
        for (assembled, memberships) in filesystems {
            self.assembled.push(assembled);
            self.memberships.extend(memberships);
        }
        self.assembled
            .sort_by(|one, other| one.name.cmp(&other.name));
        for assembly in self.groups.into_values().filter_map(|state| state.assembly) {
            let physical = assembly.group().physical.iter();
            let nodes = physical.filter_map(|(name, known)| {
                Some((name.clone(), self.physical.get(&known.id)?.node))
            });
            let nodes = nodes.collect();
            self.graph.groups.push((assembly, nodes));
        }
        DiskSet {
            disks: self.disks,
            assembled: self.assembled,
            memberships: self.memberships,
            graph: self.graph,
        }
    }

    /// Says of all physical volumes what group they are of.
    fn note_physical(&mut self) {
        let mut group_of = BTreeMap::new();
        for state in self.groups.values() {
            let group = state
                .assembly
                .as_ref()
                .map_or(&state.newest, Assembly::group);
            for physical in group.physical.values() {
                group_of.insert(physical.id.clone(), safe(&group.name));
            }
        }
        for (node, id) in &self.labelled {
            let is_doubled = self.physical.get(id).is_some_and(|state| state.is_doubled);
            let role = match (group_of.get(id), is_doubled) {
                (Some(group), false) => {
                    format!("a physical volume of the LVM2 volume group {group}")
                }
                (Some(group), true) => format!(
                    "a physical volume of the LVM2 volume group {group} that is there twice, so that neither is read"
                ),
                (None, _) => {
                    "an LVM2 physical volume of which no volume group on these disks knows"
                        .to_owned()
                }
            };
            let member = self.graph.node(*node).name.clone();
            self.memberships.push(Membership { member, role });
        }
    }

    /// Notes what lies on a node: itself, or partitions, each of which is a node with the name given.
    fn add_volumes(&mut self, node: NodeId, volumes: &[Volume], names: &[String]) {
        if let [volume] = volumes
            && volume.partition.is_none()
        {
            self.graph.node_mut(node).volume = Some(volume.clone());
            return;
        }
        let parent = self.graph.node(node);
        let (source, depth, cost) = (Arc::clone(&parent.source), parent.depth, parent.cost());
        for (volume, name) in volumes.iter().zip(names) {
            let place =
                volume.offset_bytes..volume.offset_bytes.saturating_add(volume.length_bytes);
            let Some(part) = Part::new(node, Arc::clone(&source), cost, place) else {
                continue;
            };
            let below: (Arc<dyn Layer>, _) = (Arc::new(part), vec![node]);
            let mut inner = Node::new(name.clone(), volume.source(), Some(below), depth);
            inner.volume = Some(volume.clone());
            let inner = self.graph.add(inner);
            self.graph.node_mut(node).partitions.push(inner);
            self.fresh.push(inner);
        }
    }

    /// Looks whether a node is a member of something.
    fn examine(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let source = Arc::clone(&node.source);
        let depth = node.depth;
        if depth >= DEPTH_MAX {
            return;
        }
        let content = node.volume.as_ref().map(|volume| volume.content);
        let name = node.name.clone();
        let result = match content {
            Some(Content::Lvm2) => self.examine_physical(id, &source, depth),
            // A whole disk may be a member and seem to have partitions of its own, which are the array's.
            Some(Content::Md | Content::Unreadable) | None => self.examine_member(id, &source),
            Some(_) => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, node = %name, "it cannot be told what something is a member of");
        }
    }

    fn examine_member(&mut self, id: NodeId, source: &Arc<dyn Source>) -> Result<(), GuestError> {
        let Some(superblock) = Superblock::find(&**source)? else {
            return Ok(());
        };
        let node = self.graph.node(id);
        let partitions = node.partitions.iter();
        let partitions: Vec<Volume> = partitions
            .filter_map(|partition| self.graph.node(*partition).volume.clone())
            .collect();
        if superblock.is_of_partition(&partitions) {
            return Ok(());
        }
        let Some(layer) = self.graph.whole(id) else {
            return Ok(());
        };
        let name = node.name.clone();
        let state = self.arrays.entry(superblock.array).or_default();
        if state.is_done || state.found.len() >= MEMBERS_MAX {
            tracing::warn!(member = %name, "a member turned up for an array that is put together already");
            return Ok(());
        }
        state.nodes.push(id);
        state.found.push(Found {
            superblock,
            layer,
            name,
        });
        Ok(())
    }

    fn examine_physical(
        &mut self,
        id: NodeId,
        source: &Arc<dyn Source>,
        depth: u32,
    ) -> Result<(), GuestError> {
        let Some(found) = PhysicalVolume::find(&**source)? else {
            return Ok(());
        };
        if let Some(group) = found.group(&**source)? {
            let newest = self.groups.entry(group.id.clone());
            let state = newest.or_insert_with(|| GroupState {
                newest: group.clone(),
                assembly: None,
                done: BTreeSet::new(),
            });
            if group.sequence > state.newest.sequence && state.done.is_empty() {
                state.newest = group;
            }
        }
        self.labelled.push((id, found.id.clone()));
        match self.physical.get_mut(&found.id) {
            // What lies on the disks themselves goes before what lies within.
            Some(other) if other.depth < depth => {}
            Some(other) => {
                tracing::warn!(id = %found.id, "a physical volume is there twice");
                other.is_doubled = true;
            }
            None => {
                if let Some(layer) = self.graph.whole(id) {
                    let state = PhysicalState {
                        node: id,
                        layer,
                        depth,
                        is_doubled: false,
                    };
                    self.physical.insert(found.id, state);
                }
            }
        }
        Ok(())
    }

    /// Whether there is more to look at afterwards.
    fn assemble_arrays(&mut self, patience: Patience) -> bool {
        let ids: Vec<_> = self.arrays.keys().copied().collect();
        let mut has_more = false;
        for id in ids {
            let Some(state) = self.arrays.get(&id).filter(|state| !state.is_done) else {
                continue;
            };
            let array = Array::of(&state.found);
            let is_complete = array.as_ref().is_ok_and(Array::is_complete);
            if patience == Patience::Wait && !is_complete {
                continue;
            }
            has_more = true;
            let wanted = wanted_name(&id, &state.found);
            let (layer, description, members) = match &array {
                Ok(array) => (array.layer(), array.description(), array.names()),
                Err(error) => {
                    let names = state.found.iter().map(|found| found.name.clone());
                    (Err(error.clone()), "array".to_owned(), names.collect())
                }
            };
            if layer.is_ok() {
                let chosen = members.iter().collect::<BTreeSet<_>>();
                let read = state.found.iter().zip(&state.nodes);
                let read = read.filter(|(found, _)| chosen.contains(&found.name));
                for (found, node) in read {
                    self.graph.node_mut(*node).data = Some(found.superblock.read_bytes());
                }
            }
            let name = self.names.give(&wanted);
            let missing = array.as_ref().map(Array::missing).unwrap_or_default();
            let nodes = state.nodes.clone();
            for node in &nodes {
                self.memberships.push(Membership {
                    member: self.graph.node(*node).name.clone(),
                    role: format!("a member of the array {name}"),
                });
            }
            if let Some(state) = self.arrays.get_mut(&id) {
                state.is_done = true;
            }
            let found = Assembled::unread(name, description, members, missing);
            self.add_assembled(found, &nodes, layer);
        }
        has_more
    }

    fn assemble_groups(&mut self, patience: Patience) -> bool {
        let ids: Vec<_> = self.groups.keys().cloned().collect();
        let mut has_more = false;
        for id in ids {
            let at_hand: BTreeMap<_, _> = self
                .physical
                .iter()
                .filter(|(_, state)| !state.is_doubled)
                .map(|(id, state)| (id.clone(), Arc::clone(&state.layer)))
                .collect();
            let Some(state) = self.groups.get_mut(&id) else {
                continue;
            };
            // Parts that turned up since may have been missing before.
            let mut assembly = match state.assembly.take() {
                Some(assembly) if assembly.has_all_of(&at_hand) => assembly,
                _ => Assembly::new(state.newest.clone(), &at_hand),
            };
            let done = state.done.clone();
            for volume in assembly.shown() {
                let is_ready = match patience {
                    Patience::Wait => assembly.is_complete(),
                    Patience::WaitForOwn => assembly.has_parts_of(&volume),
                    Patience::GiveUp => true,
                };
                if done.contains(&volume) || !is_ready {
                    continue;
                }
                has_more = true;
                self.add_volume(&mut assembly, &volume);
                if let Some(state) = self.groups.get_mut(&id) {
                    state.done.insert(volume);
                }
            }
            if let Some(state) = self.groups.get_mut(&id) {
                state.assembly = Some(assembly);
            }
        }
        has_more
    }

    fn add_volume(&mut self, assembly: &mut Assembly, volume: &str) {
        let layer = assembly.view(volume);
        let needed = assembly.needs(volume);
        let group = assembly.group();
        let nodes: Vec<NodeId> = needed
            .iter()
            .filter_map(|name| group.physical.get(name))
            .filter_map(|physical| self.physical.get(&physical.id))
            .map(|state| state.node)
            .collect();
        let members = nodes.iter().map(|node| self.graph.node(*node).name.clone());
        let members = members.collect();
        let name = self.names.give(&format!("{}-{volume}", group.name));
        let description = assembly.description(volume);
        let is_read = layer.is_ok();
        let id = group.id.clone();
        let found = Assembled::unread(name, description, members, assembly.missing(volume));
        self.add_assembled(found, &nodes, layer);
        if is_read {
            self.graph
                .read
                .entry(id)
                .or_default()
                .insert(volume.to_owned());
        }
    }

    /// Adds what was put together, and what lies in it.
    fn add_assembled(
        &mut self,
        found: Assembled,
        nodes: &[NodeId],
        layer: Result<Arc<dyn Layer>, GuestError>,
    ) {
        let opened = layer.and_then(|layer| {
            let volumes = open_source(Arc::clone(&layer) as Arc<dyn Source>)?;
            Ok((layer, volumes))
        });
        let (layer, volumes) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.assembled.push(Assembled {
                    volume: Err(error),
                    ..found
                });
                return;
            }
        };
        let depths = nodes.iter().map(|node| self.graph.node(*node).depth);
        let depth = depths.max().unwrap_or(0) + 1;
        let source = Arc::clone(&layer) as Arc<dyn Source>;
        let below = Some((layer, nodes.to_vec()));
        let node = self
            .graph
            .add(Node::new(found.name.clone(), source, below, depth));
        let names: Vec<_> = volumes
            .iter()
            .map(|volume| match volume.partition {
                None => found.name.clone(),
                Some(_) => self.names.give(&format!("{}-{}", found.name, volume.name)),
            })
            .collect();
        self.add_volumes(node, &volumes, &names);
        self.fresh.push(node);
        for (mut volume, name) in volumes.into_iter().zip(names) {
            let members = match volume.partition {
                None => found.members.clone(),
                Some(_) => vec![found.name.clone()],
            };
            volume.name.clone_from(&name);
            self.assembled.push(Assembled {
                name,
                members,
                volume: Ok(volume),
                ..found.clone()
            });
        }
    }
}

/// The name that an array wants to have: as the kernel names it if its name is a number.
fn wanted_name(id: &[u8; 16], found: &[Found]) -> String {
    let given = found
        .first()
        .map_or("", |found| found.superblock.name.as_str());
    match given {
        "" => {
            let [first, second, third, fourth, ..] = id;
            format!("md-{first:02x}{second:02x}{third:02x}{fourth:02x}")
        }
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("md{number}"),
        name => format!("md-{name}"),
    }
}

/// Arrays on volumes on arrays on partitions are more than anybody builds.
const DEPTH_MAX: u32 = 6;
/// Each round puts something together or is the last.
const ROUNDS_MAX: usize = 64;
const MEMBERS_MAX: usize = 4096;
