//! Meta contexts (NBD protocol, "Metadata querying").

use export::{BlockExport, BlockState, Extent};

/// A way to describe ranges of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: what is a hole and what reads as zeroes.
    BaseAllocation,
    /// `qemu:allocation-depth`: which layer holds a range.
    AllocationDepth,
    /// `qemu:dirty-bitmap:NAME`: what differs from an earlier state.
    DirtyBitmap(String),
}

impl Context {
    /// All contexts of an export; their places are their numbers.
    pub fn all(export: &dyn BlockExport) -> Vec<Self> {
        let fixed = [Self::BaseAllocation, Self::AllocationDepth];
        fixed
            .into_iter()
            .chain(export.change_maps().into_iter().map(Self::DirtyBitmap))
            .collect()
    }

    /// The name on the wire.
    pub fn name(&self) -> String {
        match self {
            Self::BaseAllocation => "base:allocation".to_owned(),
            Self::AllocationDepth => "qemu:allocation-depth".to_owned(),
            Self::DirtyBitmap(map) => format!("{BITMAP_PREFIX}{map}"),
        }
    }

    /// Whether a query of `NBD_OPT_LIST_META_CONTEXT` asks for this one: by name, or by its group.
    pub fn is_listed_by(&self, query: &str) -> bool {
        let group = match self {
            Self::BaseAllocation => query == "base:",
            Self::AllocationDepth => query == "qemu:",
            Self::DirtyBitmap(_) => query == "qemu:" || query == BITMAP_PREFIX,
        };
        group || query == self.name()
    }

    /// The flags of an extent, for the contexts that show extents.
    pub(super) fn flags(&self, extent: &Extent) -> u64 {
        match (self, extent.state) {
            (Self::AllocationDepth, _) => u64::from(extent.depth),
            (_, BlockState::Data) => 0,
            (_, BlockState::Zero) => STATE_ZERO,
            (_, BlockState::Hole) => STATE_ZERO | STATE_HOLE,
        }
    }
}

const BITMAP_PREFIX: &str = "qemu:dirty-bitmap:";
/// `NBD_STATE_HOLE`.
const STATE_HOLE: u64 = 1 << 0;
/// `NBD_STATE_ZERO`.
const STATE_ZERO: u64 = 1 << 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_names_list_contexts() {
        let bitmap = Context::DirtyBitmap("since point 7".into());
        assert_eq!(bitmap.name(), "qemu:dirty-bitmap:since point 7");
        for (context, query, listed) in [
            (&Context::BaseAllocation, "base:", true),
            (&Context::BaseAllocation, "base:allocation", true),
            (&Context::BaseAllocation, "qemu:", false),
            (&Context::AllocationDepth, "qemu:", true),
            (&Context::AllocationDepth, "qemu:dirty-bitmap:", false),
            (&bitmap, "qemu:dirty-bitmap:", true),
            (&bitmap, "qemu:dirty-bitmap:since", false),
            (&bitmap, "", false),
        ] {
            assert_eq!(
                context.is_listed_by(query),
                listed,
                "{context:?} by {query}"
            );
        }
    }
}
