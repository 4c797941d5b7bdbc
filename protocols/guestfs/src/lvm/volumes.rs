//! The logical volumes of a group, put together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use export::Segments;

use super::group::{Group, Logical, Segment, broken};
use super::raid::{self, Kind};
use super::snapshot::Snapshot;
use super::thin::{Pool, Thin};
use crate::GuestError;
use crate::Source;
use crate::layers::{Chain, Found, Layer, Slice, Stripes, bounded, is_sound_chunk, zeroes};
use crate::md::redundant;
use crate::source::end_within;

/// A group whose volumes are put together.
pub(crate) struct Assembly {
    group: Group,
    /// Physical volumes that are there and up to date, by their names in the text.
    physical: BTreeMap<String, Arc<dyn Layer>>,
    /// What was put together, by name.
    built: BTreeMap<String, Result<Arc<dyn Layer>, GuestError>>,
    pools: BTreeMap<String, Result<Arc<Pool>, GuestError>>,
    /// Stores of snapshots: the origin of each, and how many extents the snapshot shows.
    snapshots: BTreeMap<String, (String, u64)>,
    /// Origins and stores that are being merged.
    merging: BTreeSet<String>,
}

impl Assembly {
    /// Of those physical volumes that are at hand, by their names for themselves.
    pub(crate) fn new(group: Group, at_hand: &BTreeMap<String, Arc<dyn Layer>>) -> Self {
        let physical = group
            .physical
            .iter()
            .filter(|(_, physical)| !physical.is_left_behind)
            .filter_map(|(name, physical)| {
                Some((name.clone(), Arc::clone(at_hand.get(&physical.id)?)))
            })
            .collect();
        let mut snapshots = BTreeMap::new();
        let mut merging = BTreeSet::new();
        let segments = group.logical.values().flat_map(|logical| &logical.segments);
        for segment in segments.filter(|segment| segment.kind == "snapshot") {
            let Ok(origin) = segment.text("origin") else {
                continue;
            };
            if let Ok(store) = segment.text("merging_store") {
                merging.extend([origin.to_owned(), store.to_owned()]);
            }
            if let Ok(store) = segment.text("cow_store") {
                snapshots.insert(store.to_owned(), (origin.to_owned(), segment.extents));
            }
        }
        Self {
            group,
            physical,
            built: BTreeMap::new(),
            pools: BTreeMap::new(),
            snapshots,
            merging,
        }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// Whether there is nothing among `at_hand` of the group's physical volumes that it does not have.
    pub(crate) fn has_all_of(&self, at_hand: &BTreeMap<String, Arc<dyn Layer>>) -> bool {
        let mut physical = self.group.physical.iter();
        physical.all(|(name, physical)| {
            physical.is_left_behind
                || self.physical.contains_key(name)
                || !at_hand.contains_key(&physical.id)
        })
    }

    /// Whether all physical volumes of the group are at hand.
    pub(crate) fn is_complete(&self) -> bool {
        self.physical.len() == self.group.physical.len()
    }

    /// Names of the volumes that are for people, and have bytes of their own.
    pub(crate) fn shown(&self) -> Vec<String> {
        let hidden = ["thin-pool", "cache-pool", "vdo-pool", "snapshot"];
        // Of a snapshot, what is marked as visible is not the volume that has its name.
        let is_shown = |(name, logical): &(&String, &Logical)| {
            self.snapshots.contains_key(*name)
                || self.merging.contains(*name)
                || logical.is_visible && !hidden.into_iter().any(|kind| logical.is(kind))
        };
        let volumes = self.group.logical.iter();
        volumes
            .filter(is_shown)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What a volume is, for people.
    pub(crate) fn description(&self, name: &str) -> String {
        if self.snapshots.contains_key(name) {
            return "snapshot".to_owned();
        }
        let segments = self
            .group
            .logical
            .get(name)
            .map(|logical| &logical.segments);
        match segments.map(Vec::as_slice) {
            Some([segment, ..]) => match segment.kind.as_str() {
                "striped" if segment.number("stripe_count").is_ok_and(|count| count <= 1) => {
                    "linear volume".to_owned()
                }
                kind => format!("{kind} volume"),
            },
            _ => "volume".to_owned(),
        }
    }

    /// Physical volumes, by their names in the text, that a volume lies on.
    pub(crate) fn needs(&self, name: &str) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut waiting = vec![name];
        while let Some(name) = waiting.pop() {
            if self.group.physical.contains_key(name) {
                needed.insert(name.to_owned());
                continue;
            }
            if !seen.insert(name) {
                continue;
            }
            if let Some((origin, _)) = self.snapshots.get(name) {
                waiting.push(origin);
            }
            let logical = self.group.logical.get(name);
            let segments = logical.map(|logical| logical.segments.as_slice());
            waiting.extend(
                segments
                    .unwrap_or_default()
                    .iter()
                    .flat_map(Segment::mentions),
            );
        }
        needed
    }

    /// Whether all physical volumes that a volume lies on are at hand.
    pub(crate) fn has_parts_of(&self, volume: &str) -> bool {
        let needed = self.needs(volume);
        needed.iter().all(|name| self.physical.contains_key(name))
    }

    /// Physical volumes that a volume lies on and that are not at hand, for people.
    pub(crate) fn missing(&self, volume: &str) -> Vec<String> {
        let needed = self.needs(volume).into_iter();
        let missing = needed.filter(|name| !self.physical.contains_key(name));
        missing.map(|name| self.describe_physical(&name)).collect()
    }

    /// A volume as it is seen: a snapshot through its store.
    pub(crate) fn view(&mut self, name: &str) -> Result<Arc<dyn Layer>, GuestError> {
        if self.merging.contains(name) {
            return Err(GuestError::unsupported(
                "a snapshot that is being merged into its origin",
            ));
        }
        let layer = match self.snapshots.get(name).cloned() {
            None => self.build(name, 0)?,
            Some((origin, extents)) => {
                let store = self.build(name, 0)?;
                let origin = self.build(&origin, 0)?;
                Arc::new(Snapshot::open(origin, store, self.group.bytes(extents)?)?)
            }
        };
        bounded(layer)
    }

    /// A volume as its segments say. Each is put together once.
    fn build(&mut self, name: &str, depth: u32) -> Result<Arc<dyn Layer>, GuestError> {
        if let Some(built) = self.built.get(name) {
            return built.clone();
        }
        if depth >= DEPTH_MAX {
            return Err(broken(
                "has a volume that is part of itself, or nested too deep",
            ));
        }
        let logical = self.group.logical.get(name).cloned();
        let logical = logical.ok_or_else(|| broken("mentions a volume that it does not have"))?;
        // Until it is done, whoever asks for it again is part of it.
        let circle = Err(broken("has a volume that is part of itself"));
        self.built.insert(name.to_owned(), circle);
        let built = self.build_segments(&logical, depth).and_then(bounded);
        self.built.insert(name.to_owned(), built.clone());
        built
    }

    fn build_segments(
        &mut self,
        logical: &Logical,
        depth: u32,
    ) -> Result<Arc<dyn Layer>, GuestError> {
        if let Some(fault) = &logical.fault {
            return Err(fault.clone());
        }
        let mut layers = Vec::with_capacity(logical.segments.len());
        for segment in &logical.segments {
            let bytes = self.group.bytes(segment.extents)?;
            let layer = self.build_segment(segment, bytes, depth + 1)?;
            let whole = Slice::new(layer, 0..bytes);
            let whole =
                whole.ok_or_else(|| broken("has a segment that is longer than its parts"))?;
            layers.push(Arc::new(whole) as Arc<dyn Layer>);
        }
        Ok(match <[_; 1]>::try_from(layers) {
            Ok([layer]) => layer,
            Err(layers) => Arc::new(Chain::new(layers)),
        })
    }

    fn build_segment(
        &mut self,
        segment: &Segment,
        bytes: u64,
        depth: u32,
    ) -> Result<Arc<dyn Layer>, GuestError> {
        match segment.kind.as_str() {
            "striped" | "linear" => self.build_stripes(segment, depth),
            // The first leg is the one that others are copied from.
            "mirror" => {
                let legs = segment.areas("mirrors")?;
                let (name, extent) = legs
                    .first()
                    .ok_or_else(|| broken("has a mirror without legs"))?;
                self.build_area(name, *extent, segment.extents, depth)
            }
            "raid0" | "raid0_meta" => self.build_raid0(segment, depth),
            "thin" => self.build_thin(segment, bytes, depth),
            "zero" => Ok(Arc::new(Zeroes(bytes))),
            "error" => Err(GuestError::missing("a part that the guest has given up")),
            kind => {
                let chunk_bytes = segment
                    .number("stripe_size")
                    .unwrap_or(0)
                    .saturating_mul(512);
                let copies = segment.number("data_copies").unwrap_or(2);
                let copies = u32::try_from(copies).unwrap_or(0).min(0xFF);
                match Kind::named(kind, chunk_bytes, copies) {
                    Some(kind) => self.build_raid(segment, &kind, bytes, depth),
                    None => Err(GuestError::unsupported(format!(
                        "a logical volume of the kind {kind}"
                    ))),
                }
            }
        }
    }

    /// Extents of a physical volume, or of another logical one.
    fn build_area(
        &mut self,
        name: &str,
        extent: u64,
        extents: u64,
        depth: u32,
    ) -> Result<Arc<dyn Layer>, GuestError> {
        let (start, length) = (self.group.bytes(extent)?, self.group.bytes(extents)?);
        let (layer, base) = match self.group.physical.get(name) {
            Some(physical) => {
                let end = extent.checked_add(extents);
                if end.is_none_or(|end| end > physical.extents) {
                    return Err(broken(
                        "has an area beyond the extents of its physical volume",
                    ));
                }
                let found = self.physical.get(name).ok_or_else(|| self.absent(name))?;
                (Arc::clone(found), physical.start_bytes)
            }
            None => (self.build(name, depth)?, 0),
        };
        let start = base.checked_add(start);
        let place = start.and_then(|start| Some(start..start.checked_add(length)?));
        let slice = place.and_then(|place| Slice::new(layer, place));
        match slice {
            Some(slice) => Ok(Arc::new(slice)),
            None => Err(broken(
                "has an area beyond the end of the volume that it is on",
            )),
        }
    }

    fn absent(&self, name: &str) -> GuestError {
        let stale = match self.group.physical.get(name) {
            Some(physical) if physical.is_left_behind => ", which the group has gone on without,",
            _ => "",
        };
        let what = self.describe_physical(name);
        GuestError::missing(format!("{what} of volume group {}{stale}", self.group.name))
    }

    fn describe_physical(&self, name: &str) -> String {
        let physical = self.group.physical.get(name);
        let id = physical.map_or("", |physical| physical.id.as_str());
        match physical.and_then(|physical| physical.device.as_deref()) {
            Some(device) => {
                format!("physical volume {name} ({id}, which was {device} in the guest)")
            }
            None => format!("physical volume {name} ({id})"),
        }
    }

    fn build_stripes(
        &mut self,
        segment: &Segment,
        depth: u32,
    ) -> Result<Arc<dyn Layer>, GuestError> {
        let areas = segment.areas("stripes")?;
        let count = areas.len() as u64;
        if segment.number("stripe_count")? != count || !segment.extents.is_multiple_of(count) {
            return Err(broken("has stripes that do not fit their number"));
        }
        let extents = segment.extents / count;
        let mut members = Vec::with_capacity(areas.len());
        for (name, extent) in &areas {
            members.push(self.build_area(name, *extent, extents, depth)?);
        }
        if let [member] = members.as_slice() {
            return Ok(Arc::clone(member));
        }
        striped(members, segment)
    }

    fn build_raid0(&mut self, segment: &Segment, depth: u32) -> Result<Arc<dyn Layer>, GuestError> {
        let images: Vec<String> = match segment.section.has("raid0_lvs") {
            true => segment
                .names("raid0_lvs")?
                .into_iter()
                .map(str::to_owned)
                .collect(),
            false => images(segment)?
                .into_iter()
                .map(|(_, image)| image)
                .collect(),
        };
        let mut members = Vec::with_capacity(images.len());
        for name in &images {
            members.push(self.build(name, depth)?);
        }
        striped(members, segment)
    }

    fn build_raid(
        &mut self,
        segment: &Segment,
        kind: &Kind,
        bytes: u64,
        depth: u32,
    ) -> Result<Arc<dyn Layer>, GuestError> {
        if segment.number("data_offset").is_ok_and(|offset| offset > 0) {
            return Err(GuestError::unsupported("a RAID volume that was reshaped"));
        }
        let images = images(segment)?;
        let member_bytes = kind
            .member_bytes(bytes, images.len() as u64)
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| broken("has a RAID volume of an impossible length"))?;
        let mut legs = Vec::with_capacity(images.len());
        for (metadata, image) in &images {
            legs.push(
                match (self.build(metadata, depth), self.build(image, depth)) {
                    (Err(GuestError::Missing { .. }), _) | (_, Err(GuestError::Missing { .. })) => {
                        None
                    }
                    (metadata, image) => Some((metadata?, whole_image(image?, member_bytes)?)),
                },
            );
        }
        let (members, trust) = raid::members(kind, legs)?;
        redundant(
            kind.level,
            kind.layout,
            kind.chunk_bytes,
            members,
            member_bytes,
            trust,
        )
    }

    fn build_thin(
        &mut self,
        segment: &Segment,
        bytes: u64,
        depth: u32,
    ) -> Result<Arc<dyn Layer>, GuestError> {
        let pool = self.pool(segment.text("thin_pool")?, depth)?;
        let outside = match segment.text("external_origin") {
            Ok(name) => Some(self.build(name, depth)?),
            Err(_) => None,
        };
        let device = segment.number("device_id")?;
        Ok(Arc::new(Thin::open(pool, device, bytes, outside)?))
    }

    fn pool(&mut self, name: &str, depth: u32) -> Result<Arc<Pool>, GuestError> {
        if let Some(pool) = self.pools.get(name) {
            return pool.clone();
        }
        let pool = self.open_pool(name, depth);
        self.pools.insert(name.to_owned(), pool.clone());
        pool
    }

    fn open_pool(&mut self, name: &str, depth: u32) -> Result<Arc<Pool>, GuestError> {
        let logical = self.group.logical.get(name).cloned();
        let segments = logical.map(|logical| logical.segments).unwrap_or_default();
        let [segment] = segments.as_slice() else {
            return Err(broken("has a thin pool that is none"));
        };
        if segment.kind != "thin-pool" {
            return Err(broken("has a thin pool that is none"));
        }
        let metadata = self.build(segment.text("metadata")?, depth)?;
        let data = self.build(segment.text("pool")?, depth)?;
        let pool = Pool::open(metadata, data)?;
        if segment.number("chunk_size")?.checked_mul(512) != Some(pool.block_bytes) {
            return Err(broken(
                "gives a thin pool blocks of another length than the pool does",
            ));
        }
        Ok(Arc::new(pool))
    }

    /// Gives all that is in use of the physical volumes, whatever lies in the volumes named `opened`: what makes them up,
    /// and all of what is not read through them.
    pub(crate) fn held(
        &self,
        opened: &BTreeSet<String>,
        found: &mut Found<'_>,
    ) -> Result<(), GuestError> {
        let mut through = self.read_through(opened);
        let pools = self
            .group
            .logical
            .iter()
            .filter(|(_, logical)| logical.is("thin-pool"));
        for (pool, _) in pools {
            if let Some(data) = self.pool_part(pool, "pool")
                && through.contains(data)
                && let Err(error) = self.hold_blocks(pool, opened, found)
            {
                tracing::warn!(%error, "all of a thin pool counts as used");
                through.remove(data);
            }
        }
        let whole = self
            .group
            .logical
            .iter()
            .filter(|(name, _)| !through.contains(*name));
        for segment in whole.flat_map(|(_, logical)| &logical.segments) {
            self.hold_areas(segment, found)?;
        }
        Ok(())
    }

    /// Volumes of which all that is in use can be told by looking at what is in use of those in `opened`.
    fn read_through(&self, opened: &BTreeSet<String>) -> BTreeSet<String> {
        let mut through = BTreeSet::new();
        let mut waiting: Vec<&str> = opened.iter().map(String::as_str).collect();
        while let Some(name) = waiting.pop() {
            if let Some((origin, _)) = self.snapshots.get(name) {
                // The store itself stays in use as a whole.
                waiting.push(origin);
                continue;
            }
            let Some(logical) = self.group.logical.get(name) else {
                continue;
            };
            // Which leg of a mirror is good cannot be told: all are kept.
            let is_mirror = logical
                .segments
                .iter()
                .any(|segment| segment.kind == "mirror");
            if is_mirror || !through.insert(name.to_owned()) {
                continue;
            }
            for segment in &logical.segments {
                match segment.kind.as_str() {
                    "thin" => {
                        let pool = segment.text("thin_pool").ok();
                        waiting.extend(pool.and_then(|pool| self.pool_part(pool, "pool")));
                        waiting.extend(segment.text("external_origin").ok());
                    }
                    // What members say of themselves stays in use as a whole.
                    kind if kind.starts_with("raid") => {
                        let pairs = segment.names("raids").unwrap_or_default();
                        waiting.extend(pairs.into_iter().skip(1).step_by(2));
                        waiting.extend(segment.names("raid0_lvs").unwrap_or_default());
                    }
                    "striped" | "linear" => {
                        let areas = segment.mentions();
                        waiting
                            .extend(areas.filter(|name| !self.group.physical.contains_key(*name)));
                    }
                    _ => {}
                }
            }
        }
        through
    }

    fn pool_part(&self, pool: &str, part: &str) -> Option<&str> {
        let logical = self.group.logical.get(pool)?;
        logical.segments.first()?.section.text(part)
    }

    /// Gives the blocks of volumes of a pool that are not in `opened`. The metadata are looked at as a whole.
    fn hold_blocks(
        &self,
        name: &str,
        opened: &BTreeSet<String>,
        found: &mut Found<'_>,
    ) -> Result<(), GuestError> {
        let pool = match self.pools.get(name) {
            Some(pool) => pool.clone()?,
            None => return Err(broken("has a thin pool that was not opened")),
        };
        if !pool.is_told_by_trees() {
            return Err(GuestError::unsupported(
                "a thin pool with a held state of its metadata",
            ));
        }
        let of_pool = |segment: &&Segment| segment.section.text("thin_pool") == Some(name);
        let read: BTreeSet<u64> = opened
            .iter()
            .filter_map(|name| self.group.logical.get(name))
            .flat_map(|logical| &logical.segments)
            .filter(of_pool)
            .filter_map(|segment| segment.number("device_id").ok())
            .collect();
        for device in pool.devices()? {
            match read.contains(&device) {
                true => pool.each_mapped(device, &mut |_, _| {})?,
                false => pool.each_mapped(device, found)?,
            }
        }
        Ok(())
    }

    /// Gives all extents of physical volumes that a segment names.
    fn hold_areas(&self, segment: &Segment, found: &mut Found<'_>) -> Result<(), GuestError> {
        for list in ["stripes", "mirrors"] {
            if !segment.section.has(list) {
                continue;
            }
            let areas = segment.areas(list)?;
            let parts = if list == "stripes" {
                areas.len() as u64
            } else {
                1
            };
            let length = self.group.bytes(segment.extents.div_ceil(parts))?;
            for (name, extent) in areas {
                let physical = self.group.physical.get(&name);
                let (Some(physical), Some(layer)) = (physical, self.physical.get(&name)) else {
                    continue;
                };
                let start = self
                    .group
                    .bytes(extent)?
                    .saturating_add(physical.start_bytes);
                layer.below(start..start.saturating_add(length), found)?;
            }
        }
        Ok(())
    }
}

/// Metadata and image of each member of a RAID volume, by name.
fn images(segment: &Segment) -> Result<Vec<(String, String)>, GuestError> {
    let names = segment.names("raids")?;
    let pairs = names.chunks(2).map(|pair| match pair {
        [metadata, image] => Ok(((*metadata).to_owned(), (*image).to_owned())),
        _ => Err(broken("has a RAID member without an image")),
    });
    let pairs: Vec<_> = pairs.collect::<Result<_, _>>()?;
    match pairs.is_empty() {
        true => Err(broken("has a RAID volume without members")),
        false => Ok(pairs),
    }
}

/// The part of an image that is in use.
fn whole_image(image: Arc<dyn Layer>, bytes: u64) -> Result<Arc<dyn Layer>, GuestError> {
    let slice = Slice::new(image, 0..bytes);
    let slice = slice.ok_or_else(|| broken("has a RAID member that is too short"))?;
    Ok(Arc::new(slice))
}

fn striped(members: Vec<Arc<dyn Layer>>, segment: &Segment) -> Result<Arc<dyn Layer>, GuestError> {
    let chunk = segment.number("stripe_size")?.saturating_mul(512);
    if !is_sound_chunk(chunk) {
        return Err(broken("has stripes of an impossible length"));
    }
    let stripes = Stripes::new(members, chunk, 0);
    let stripes = stripes.ok_or_else(|| broken("has a striped volume of an impossible length"))?;
    Ok(Arc::new(stripes))
}

/// Nothing but zeroes.
struct Zeroes(u64);

impl Source for Zeroes {
    fn length_bytes(&self) -> u64 {
        self.0
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        end_within(offset, length, self.0)?;
        Ok(zeroes(length))
    }
}

impl Layer for Zeroes {
    fn below(&self, _: std::ops::Range<u64>, _: &mut Found<'_>) -> Result<(), GuestError> {
        Ok(())
    }

    fn cost(&self) -> u64 {
        0
    }
}

/// Thin volumes lie on pools, those on RAID volumes, those on images, those on extents.
const DEPTH_MAX: u32 = 8;
