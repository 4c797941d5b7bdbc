//! ISO 9660 with Rock Ridge or Joliet.
//!
//! `docs/protocols/guestfs.md` says what is read and what is refused. One [`Iso`] is used by many threads; nothing in it
//! changes but its cache.

mod descriptor;
mod object;
mod record;
mod rock_ridge;
mod system_use;
mod tree;

use std::fmt;
use std::sync::Arc;

use self::descriptor::{Descriptors, Top};
use self::record::Names;
use crate::pages::Pages;
use crate::{GuestError, Source};

/// A filesystem, through the best of its trees.
pub(crate) struct Iso {
    pages: Pages,
    top: Top,
    names: Names,
    total_bytes: u64,
}

impl Iso {
    /// Opens what lies in `source`: by Rock Ridge if it has that, else by Joliet, else as it is.
    pub(crate) fn open(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let descriptors = Descriptors::read(&*source)?;
        let mut iso = Self {
            pages: Pages::new(source),
            total_bytes: descriptors.total_bytes,
            top: descriptors.primary,
            names: Names::Plain,
        };
        let skip = match iso.rock_ridge_skip() {
            Err(error) if error.is_of_one_place() && descriptors.joliet.is_some() => {
                tracing::debug!(%error, "the tree of Joliet is taken");
                None
            }
            other => other?,
        };
        match (skip, descriptors.joliet) {
            (Some(skip), _) => iso.names = Names::RockRidge { skip },
            (None, Some(joliet)) => (iso.top, iso.names) = (joliet, Names::Joliet),
            (None, None) => {}
        }
        Ok(iso)
    }
}

impl fmt::Debug for Iso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iso")
            .field("top", &self.top)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
