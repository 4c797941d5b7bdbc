//! All files of a filesystem with the places of their content, for what no single folder can tell.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use export::FileKind;

use crate::entry_tree::EntryFormat;
use crate::extents::Extents;
use crate::{GuestError, Leavable, Place};

/// A format that says which parts of the disk belong to an object.
pub(crate) trait PlacedFormat: EntryFormat {
    /// All that is taken for an object: whole clusters.
    fn clusters(&self, object: &Self::Object) -> Result<Arc<Extents>, GuestError>;
}

/// A part of the disk that belongs to a file or folder.
pub(crate) struct Owned {
    pub range: Range<u64>,
    /// Why it could be left out.
    pub leavable: Option<Leavable>,
}

/// What belongs to files and folders, ascending. Fails if anything is damaged or belongs to two.
pub(crate) fn owned<F: PlacedFormat>(format: &F) -> Result<Vec<Owned>, GuestError> {
    let root = format.root();
    let mut waiting = vec![(root, None)];
    let mut known = BTreeSet::from([root]);
    let mut owned = Vec::new();
    let mut add = |extents: &Extents, leavable| {
        let more = extents.ranges().map(|range| Owned { range, leavable });
        owned.extend(more);
        if owned.len() > OWNED_MAX {
            return Err(GuestError::TooLarge {
                what: "the number of pieces of all files",
                limit: OWNED_MAX as u64,
            });
        }
        Ok(())
    };
    while let Some((id, above)) = waiting.pop() {
        let folder = format.object(id)?;
        add(&*format.clusters(&folder)?, None)?;
        format.scan(&folder, 0, &mut |entry| {
            let attributes = format.attributes(entry.object);
            if attributes.mode == 0 {
                // Damaged: asking for it again says in which way.
                format.object(attributes.file.0)?;
            }
            let leavable = match above {
                None if id == root => by_name(&format.fold(entry.name), attributes.kind),
                above => above,
            };
            if attributes.kind == FileKind::Directory {
                if !known.insert(attributes.file.0) {
                    return Err(twice(attributes.file.0));
                }
                waiting.push((attributes.file.0, leavable));
            } else if attributes.size_bytes > 0 {
                add(&*format.clusters(entry.object)?, leavable)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    owned.sort_unstable_by_key(|owned| owned.range.start);
    let neighbours = owned.iter().zip(owned.iter().skip(1));
    for (one, next) in neighbours {
        if next.range.start < one.range.end {
            return Err(twice(next.range.start));
        }
    }
    Ok(owned)
}

/// What can be left out of a filesystem that Windows may have used.
pub(crate) fn leavable<F: PlacedFormat>(
    format: &F,
) -> Result<Vec<(Leavable, Range<u64>)>, GuestError> {
    let mut has_any = false;
    let root = format.object(format.root())?;
    format.scan(&root, 0, &mut |entry| {
        let kind = format.attributes(entry.object).kind;
        has_any |= by_name(&format.fold(entry.name), kind).is_some();
        Ok(if has_any {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    if !has_any {
        return Ok(Vec::new());
    }
    let mut found: Vec<(Leavable, Range<u64>)> = Vec::new();
    for owned in owned(format)? {
        let Some(why) = owned.leavable else {
            continue;
        };
        match found.last_mut() {
            Some((last_why, last)) if *last_why == why && last.end == owned.range.start => {
                last.end = owned.range.end;
            }
            _ => found.push((why, owned.range)),
        }
    }
    Ok(found)
}

/// What Windows makes in the folder at the top, by its name in upper case.
fn by_name(name: &[u8], kind: FileKind) -> Option<Leavable> {
    match (name, kind) {
        (b"PAGEFILE.SYS" | b"SWAPFILE.SYS", FileKind::File) => Some(Leavable::PageFile),
        (b"HIBERFIL.SYS", FileKind::File) => Some(Leavable::Hibernation),
        (b"$RECYCLE.BIN" | b"RECYCLED" | b"RECYCLER", FileKind::Directory) => {
            Some(Leavable::RecycleBin)
        }
        _ => None,
    }
}

fn twice(offset_bytes: u64) -> GuestError {
    GuestError::corrupt(
        Place::Entry { offset_bytes },
        "what lies there belongs to two files or folders",
    )
}

/// Of all files together: 192 MiB of memory while it lasts.
const OWNED_MAX: usize = 6 << 20;
