//! Filesystems that lie on several devices, each of which is a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names::Names;
use super::used::Graph;
use super::{Assembled, Membership};
use crate::btrfs::{Btrfs, DeviceIdentity};
use crate::layers::NodeId;
use crate::{Content, GuestError};

/// A node that is a device of a filesystem.
struct Device {
    node: NodeId,
    identity: DeviceIdentity,
    depth: u32,
}

/// Puts the devices of each filesystem together that says that it has several. Their nodes know one another afterwards.
pub(super) fn assemble(graph: &mut Graph, names: &mut Names) -> Vec<(Assembled, Vec<Membership>)> {
    let mut filesystems: BTreeMap<[u8; 16], Vec<Device>> = BTreeMap::new();
    for device in graph.ids().filter_map(|id| identify(graph, id)) {
        let devices = filesystems.entry(device.identity.filesystem).or_default();
        devices.push(device);
    }
    let filesystems = filesystems.into_values();
    filesystems
        .filter_map(|devices| Some((newest(&devices).filter(|count| *count > 1)?, devices)))
        .map(|(count, devices)| put_together(graph, names, count, devices))
        .collect()
}

fn identify(graph: &Graph, id: NodeId) -> Option<Device> {
    let node = graph.node(id);
    let volume = node.volume.as_ref()?;
    // What lies on a member of an array is not in order.
    if volume.content != Content::Btrfs || volume.is_striped {
        return None;
    }
    match Btrfs::identify(&*volume.source()) {
        Ok(identity) => Some(Device {
            node: id,
            identity,
            depth: node.depth,
        }),
        Err(error) => {
            tracing::warn!(%error, node = %node.name, "it cannot be told what something is a device of");
            None
        }
    }
}

/// How many devices there are, by the one that was written last.
fn newest(devices: &[Device]) -> Option<u64> {
    let identities = devices.iter().map(|device| &device.identity);
    let newest = identities.max_by_key(|identity| identity.generation);
    newest.map(|identity| identity.devices)
}

fn put_together(
    graph: &mut Graph,
    names: &mut Names,
    count: u64,
    devices: Vec<Device>,
) -> (Assembled, Vec<Membership>) {
    let label = devices.iter().find_map(|device| {
        let volume = graph.node(device.node).volume.as_ref()?;
        volume.label.clone()
    });
    let name = names.give(&match (label, devices.first()) {
        (Some(label), _) => format!("btrfs-{label}"),
        (None, first) => {
            let [first, second, third, fourth, ..] =
                first.map_or([0; 16], |first| first.identity.filesystem);
            format!("btrfs-{first:02x}{second:02x}{third:02x}{fourth:02x}")
        }
    });
    let membership = |device: &Device| Membership {
        member: graph.node(device.node).name.clone(),
        role: format!("a device of the filesystem {name}"),
    };
    let memberships = devices.iter().map(membership).collect();
    let chosen = each_once(graph, devices);
    let nodes: Vec<NodeId> = match &chosen {
        Ok(nodes) => nodes.clone(),
        Err(_) => Vec::new(),
    };
    let absent = count.saturating_sub(nodes.len() as u64);
    let missing = match (&chosen, absent) {
        (Err(_), _) | (_, 0) => Vec::new(),
        (Ok(_), absent) => vec![format!("{absent} of {count} devices")],
    };
    let description = match missing.first() {
        None => format!("btrfs on {count} devices"),
        Some(absent) => format!("btrfs, {absent} missing"),
    };
    let members = nodes.iter().map(|node| graph.node(*node).name.clone());
    let members = members.collect();
    let mut found = Assembled::unread(name, description, members, missing);
    match chosen {
        Err(error) => found.volume = Err(error),
        Ok(nodes) => {
            acquaint(graph, &nodes);
            let first = nodes.first().map(|node| graph.node(*node));
            if let Some(volume) = first.and_then(|node| node.volume.clone()) {
                found.volume = Ok(volume);
            }
        }
    }
    if let Ok(volume) = &mut found.volume {
        volume.name.clone_from(&found.name);
        volume.partition = None;
        volume.offset_bytes = 0;
    }
    (found, memberships)
}

/// One node for each device, in the order of their numbers. What lies on the disks themselves goes before what lies within.
fn each_once(graph: &Graph, mut devices: Vec<Device>) -> Result<Vec<NodeId>, GuestError> {
    devices.sort_by_key(|device| (device.identity.number, device.identity.name, device.depth));
    let mut chosen: Vec<Device> = Vec::new();
    for device in devices {
        let same = chosen.last().filter(|last| {
            (last.identity.number, last.identity.name)
                == (device.identity.number, device.identity.name)
        });
        match same {
            None => chosen.push(device),
            Some(other) if other.depth < device.depth => {}
            Some(other) => {
                return Err(GuestError::unsupported(format!(
                    "a filesystem of which device {} is there twice, as {} and as {}",
                    device.identity.number,
                    graph.node(other.node).name,
                    graph.node(device.node).name
                )));
            }
        }
    }
    Ok(chosen.into_iter().map(|device| device.node).collect())
}

/// Tells each of the nodes of the others.
fn acquaint(graph: &mut Graph, nodes: &[NodeId]) {
    let sources: Vec<_> = nodes
        .iter()
        .map(|node| (*node, Arc::clone(&graph.node(*node).source)))
        .collect();
    for node in nodes {
        let others = sources.iter().filter(|(other, _)| other != node);
        let others = others.map(|(_, source)| Arc::clone(source));
        let others = others.collect();
        if let Some(volume) = &mut graph.node_mut(*node).volume {
            volume.others = others;
        }
    }
}
