//! A volume group as its text describes it.

use std::collections::BTreeMap;

use super::text::{Item, Section};
use crate::GuestError;

/// A volume group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub id: String,
    pub name: String,
    /// Grows with every change.
    pub sequence: u64,
    pub extent_bytes: u64,
    /// Physical volumes by their names in the text.
    pub physical: BTreeMap<String, Physical>,
    /// Logical volumes by name.
    pub logical: BTreeMap<String, Logical>,
}

/// A physical volume as its group knows it.
#[derive(Debug, Clone)]
pub(crate) struct Physical {
    /// Its name for itself, without hyphens.
    pub id: String,
    /// How the guest called it when it wrote the text.
    pub device: Option<String>,
    /// Where its first extent lies.
    pub start_bytes: u64,
    pub extents: u64,
    /// Whether the group has gone on without it, so that what is on it is stale.
    pub is_left_behind: bool,
}

/// A logical volume.
#[derive(Debug, Clone)]
pub(crate) struct Logical {
    /// Whether it is one for people, not a part of another.
    pub is_visible: bool,
    pub segments: Vec<Segment>,
    /// Why it cannot be read, whatever it is made of.
    pub fault: Option<GuestError>,
}

/// Some extents of a logical volume.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub extents: u64,
    /// What it is, such as `striped` or `thin`.
    pub kind: String,
    pub section: Section,
}

/// A part of a physical or logical volume: its name, and the extent at which it begins.
pub(crate) type Area = (String, u64);

impl Group {
    /// The one group in a text.
    pub(crate) fn read(root: &Section) -> Result<Self, GuestError> {
        let (name, section) = root
            .sections()
            .find(|(_, section)| section.has("seqno"))
            .ok_or_else(|| broken("has no group"))?;
        let number = |name: &'static str| {
            section
                .number(name)
                .ok_or_else(|| broken("lacks a number of its group"))
        };
        let extent_bytes = number("extent_size")?.checked_mul(512);
        let extent_bytes = extent_bytes
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| broken("has an impossible length of extents"))?;
        let physical = section
            .section("physical_volumes")
            .cloned()
            .unwrap_or_default();
        let physical = physical
            .sections()
            .map(|(name, section)| Ok((name.to_owned(), Physical::read(section)?)));
        let logical = section
            .section("logical_volumes")
            .cloned()
            .unwrap_or_default();
        let logical = logical
            .sections()
            .map(|(name, section)| (name.to_owned(), Logical::read(section)));
        Ok(Self {
            id: without_hyphens(
                section
                    .text("id")
                    .ok_or_else(|| broken("has a group without a name for itself"))?,
            ),
            name: name.to_owned(),
            sequence: number("seqno")?,
            extent_bytes,
            physical: physical.collect::<Result<_, GuestError>>()?,
            logical: logical.collect(),
        })
    }

    /// How long so many extents are.
    pub(crate) fn bytes(&self, extents: u64) -> Result<u64, GuestError> {
        extents
            .checked_mul(self.extent_bytes)
            .ok_or_else(|| broken("has a volume that is too long"))
    }
}

impl Physical {
    fn read(section: &Section) -> Result<Self, GuestError> {
        let id = section.text("id").map(without_hyphens);
        let start_bytes = section
            .number("pe_start")
            .and_then(|sectors| sectors.checked_mul(512));
        Ok(Self {
            id: id.ok_or_else(|| broken("has a physical volume without a name for itself"))?,
            device: section.text("device").map(str::to_owned),
            start_bytes: start_bytes
                .ok_or_else(|| broken("has a physical volume without extents"))?,
            extents: section.number("pe_count").unwrap_or(0),
            is_left_behind: section.lists("flags", "MISSING") || section.lists("status", "MISSING"),
        })
    }
}

impl Logical {
    fn read(section: &Section) -> Self {
        let (segments, fault) = match read_segments(section) {
            Ok(segments) => (segments, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Self {
            is_visible: section.lists("status", "VISIBLE"),
            segments,
            fault,
        }
    }

    /// Whether all of it is of one kind.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.segments
            .first()
            .is_some_and(|segment| segment.kind == kind)
    }
}

/// Segments in order, without gaps.
fn read_segments(section: &Section) -> Result<Vec<Segment>, GuestError> {
    let mut segments = BTreeMap::new();
    for (_, section) in section
        .sections()
        .filter(|(_, section)| section.has("start_extent"))
    {
        let start = section.number("start_extent");
        let extents = section.number("extent_count").filter(|count| *count > 0);
        let kind = section.text("type");
        let (Some(start), Some(extents), Some(kind)) = (start, extents, kind) else {
            return Err(broken("has a segment that does not say what it is"));
        };
        // Flags that older versions may ignore follow a plus sign.
        let kind = kind.split('+').next().unwrap_or(kind).to_owned();
        let segment = Segment {
            extents,
            kind,
            section: section.clone(),
        };
        segments.insert(start, segment);
    }
    let mut next = 0_u64;
    for (start, segment) in &segments {
        if *start != next {
            return Err(broken(
                "has a volume with a gap, or with extents that are there twice",
            ));
        }
        next = next
            .checked_add(segment.extents)
            .ok_or_else(|| broken("has a volume that is too long"))?;
    }
    let count = section.number("segment_count");
    if segments.is_empty() || count.is_some_and(|count| count != segments.len() as u64) {
        return Err(broken("lacks a segment of a volume"));
    }
    Ok(segments.into_values().collect())
}

impl Segment {
    pub(crate) fn number(&self, name: &str) -> Result<u64, GuestError> {
        self.section
            .number(name)
            .ok_or_else(|| broken("lacks a number of a segment"))
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str, GuestError> {
        self.section
            .text(name)
            .ok_or_else(|| broken("lacks a name in a segment"))
    }

    /// Names, each with an extent behind it.
    pub(crate) fn areas(&self, name: &str) -> Result<Vec<Area>, GuestError> {
        let list = self.section.list(name).unwrap_or_default();
        let areas = list.chunks(2).map(|pair| match pair {
            [Item::Text(name), Item::Number(extent)] => {
                let extent = u64::try_from(*extent);
                extent
                    .map(|extent| (name.clone(), extent))
                    .map_err(|_| broken("has an area before the first extent"))
            }
            _ => Err(broken("has a list of areas that is none")),
        });
        let areas: Vec<_> = areas.collect::<Result<_, _>>()?;
        match areas.is_empty() {
            true => Err(broken("lacks the areas of a segment")),
            false => Ok(areas),
        }
    }

    /// Names of logical volumes.
    pub(crate) fn names(&self, name: &str) -> Result<Vec<&str>, GuestError> {
        let list = self.section.list(name).unwrap_or_default();
        let names = list.iter().map(|item| match item {
            Item::Text(name) => Ok(name.as_str()),
            _ => Err(broken("has a number where a name should be")),
        });
        names.collect()
    }

    /// Every volume, logical or physical, that stands anywhere in it.
    pub(crate) fn mentions(&self) -> impl Iterator<Item = &str> {
        let lists = ["stripes", "mirrors", "raids", "raid0_lvs"];
        let listed = lists
            .into_iter()
            .flat_map(|name| self.section.list(name).unwrap_or_default())
            .filter_map(|item| match item {
                Item::Text(name) => Some(name.as_str()),
                _ => None,
            });
        let named = [
            "origin",
            "cow_store",
            "merging_store",
            "metadata",
            "pool",
            "thin_pool",
            "external_origin",
            "cache_pool",
            "mirror_log",
            "data",
            "writecache",
            "integrity_meta",
            "vdo_pool",
        ];
        listed.chain(named.into_iter().filter_map(|name| self.section.text(name)))
    }
}

fn without_hyphens(id: &str) -> String {
    id.replace('-', "")
}

pub(super) fn broken(detail: &'static str) -> GuestError {
    GuestError::corrupt(crate::Place::GroupMetadata, detail)
}
