//! Looking after one pack: proving it, mending it, giving it parity.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pace::Pace;
use super::survey::{Survey, survey};
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::health::{Care, CareReport};
use crate::pack::{Covered, NoParity, PackView, ParityFile, Place, Rebuild, Sealed, make_parity};
use crate::store::ChunkStore;

/// What is done about what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing: it is reported.
    No,
    /// Damaged pages are rebuilt from parity and written back; missing and damaged parity is made again.
    Yes,
}

/// What became of one pack.
#[derive(Debug, Default)]
pub(super) struct Examined {
    pub(super) read_bytes: u64,
    pub(super) records: u64,
    /// Faults that nothing could mend, as sentences.
    pub(super) faults: Vec<String>,
    /// Records that nothing could rebuild.
    pub(super) lost: Vec<(ChunkId, Place)>,
    /// Hurt records that were stored again elsewhere.
    pub(super) replaced: u64,
    /// Damage that was mended, or can be, as a sentence.
    pub(super) mended: Option<String>,
    pub(super) mendable: Option<String>,
    pub(super) mended_pages: u64,
    pub(super) made_parity: bool,
}

/// Does what was asked for a pack.
pub(super) fn care_for(
    store: &ChunkStore,
    number: u32,
    care: Care,
    pace: &Pace<'_>,
) -> Result<Option<Examined>, RepoError> {
    if store.packs().summary(number).is_none() {
        return Ok(None);
    }
    match care {
        Care::Parity => {
            let covered = store
                .packs()
                .parity(number)
                .is_ok_and(|parity| covers_all(store, number, &parity));
            if !store.parity_share().is_none() && !covered {
                give_parity(store, number, pace)?;
            }
            Ok(None)
        }
        Care::Mend => examine(store, number, Repair::Yes, pace).map(Some),
    }
}

/// Does what was asked for a pack in the background, and logs what comes of it.
pub(crate) fn look_after(
    store: &ChunkStore,
    number: u32,
    care: Care,
    stop: &AtomicBool,
) -> Result<(), RepoError> {
    let Some(examined) = care_for(store, number, care, &Pace::new(None, stop))? else {
        return Ok(());
    };
    if let Some(what) = &examined.mended {
        tracing::warn!(what, "mended a pack");
    }
    for what in &examined.faults {
        tracing::error!(what, "damage that cannot be mended");
    }
    store.health().tell(CareReport {
        mended: examined.mended,
        mendable: examined.mendable,
        lost: examined.faults,
    });
    Ok(())
}

/// Proves a pack, and repairs it if that is wanted and can be done.
pub(super) fn examine(
    store: &ChunkStore,
    number: u32,
    repair: Repair,
    pace: &Pace<'_>,
) -> Result<Examined, RepoError> {
    let name = store.packs().describe(number);
    let mut examined = Examined::default();
    let file = match store.reader().file(number) {
        Ok(Some(file)) => file,
        // One that cannot be opened must not keep the others from being proven.
        failed => {
            if store.packs().summary(number).is_some() {
                examined.faults.push(match failed {
                    Err(error) => format!("{name} cannot be opened: {error}"),
                    Ok(_) => format!("{name} is gone"),
                });
            }
            return Ok(examined);
        }
    };
    let sealed = store.packs().is_sealed(number);
    let parity = parity_to_use(store, number);
    let view = PackView::new(Arc::clone(&file), parity.clone(), Rebuild::No);
    let mut found = survey(&view, store.keys(), number, sealed, pace)?;
    examined.read_bytes = found.read_bytes;
    if !found.is_sound() && parity.is_some() {
        let rebuilt = PackView::new(file, parity.clone(), Rebuild::Yes);
        let better = survey(&rebuilt, store.keys(), number, sealed, pace)?;
        found = choose(
            store,
            number,
            repair,
            found,
            better,
            &rebuilt,
            &mut examined,
        )?;
    }
    examined.records = found.records;
    let now = store.packs().now();
    store
        .health()
        .set_examined(number, examined.read_bytes, now);
    sort_out(store, &name, &found, &mut examined);
    let sound = examined.lost.is_empty() && examined.faults.is_empty();
    if sound && examined.mendable.is_none() {
        if examined.replaced == 0 {
            store.health().clear_lost(number);
        }
        if sealed {
            store.health().set_proof(number, now);
        }
    } else {
        store.health().set_lost(&examined.lost);
    }
    if repair == Repair::Yes && !store.parity_share().is_none() {
        let agrees = found.bad_pages.is_empty() || examined.mended.is_some();
        let fit = parity.is_some_and(|parity| {
            agrees && covers_all(store, number, &parity) && parity.is_whole()
        });
        // Old parity of a damaged pack may still help; none at all helps nobody.
        if !fit && (sound || store.packs().parity(number).is_err()) {
            match give_parity(store, number, pace) {
                Ok(()) => examined.made_parity = true,
                Err(RepoError::Stopped) => return Err(RepoError::Stopped),
                Err(error) => {
                    tracing::warn!(pack = name, %error, "parity of a pack cannot be made");
                }
            }
        }
    }
    Ok(examined)
}

/// The parity of a pack, if there is any that can be used.
fn parity_to_use(store: &ChunkStore, number: u32) -> Option<Arc<ParityFile>> {
    match store.packs().parity(number) {
        Ok(parity) => Some(Arc::new(parity)),
        Err(NoParity::Missing) => None,
        Err(NoParity::Unusable(detail)) => {
            let pack = store.packs().describe(number);
            tracing::warn!(pack, detail, "parity of a pack cannot be used");
            None
        }
    }
}

/// Takes the pack as it is with rebuilt pages, if nothing gets worse by that, and writes them back if wanted.
fn choose(
    store: &ChunkStore,
    number: u32,
    repair: Repair,
    before: Survey,
    after: Survey,
    view: &PackView,
    examined: &mut Examined,
) -> Result<Survey, RepoError> {
    let name = store.packs().describe(number);
    let pages = view.rebuilt_pages();
    let bad = before.bad_pages.count();
    if !after.includes(&before) {
        // Parity was made of other bytes than these.
        return Ok(before);
    }
    if pages.is_empty() {
        // It does not suffice for anything, or somebody else has mended the pack between the two readings.
        return Ok(match after.hurt.is_empty() && after.faults.is_empty() {
            true => after,
            false => before,
        });
    }
    let back = after.proven.len() - before.proven.len();
    let what = format!(
        "{name}: {bad} damaged pages, {} of them rebuilt from parity with {back} records",
        pages.len()
    );
    if repair == Repair::No {
        examined.mendable = Some(what);
        return Ok(after);
    }
    let outcome = store.packs().mend(number, &pages, view.whole_length());
    store.packs().forget_table(number);
    store.reader().forget_view(number);
    match outcome {
        Ok(mended) => {
            let counters = store.health().counters();
            counters.mended_pages.fetch_add(mended, Ordering::Relaxed);
            examined.mended_pages = mended;
            if mended == pages.len() as u64 {
                counters.mended_packs.fetch_add(1, Ordering::Relaxed);
                examined.mended = Some(what);
            } else {
                examined.mendable = Some(format!("{what}; some could not be written back"));
            }
        }
        Err(error) => {
            tracing::warn!(pack = name, %error, "rebuilt pages cannot be written back; reads go on rebuilding them");
            examined.mendable = Some(format!("{what}; they could not be written back: {error}"));
        }
    }
    Ok(after)
}

/// Tells records that are lost from those that another pack has by now.
fn sort_out(store: &ChunkStore, name: &str, found: &Survey, examined: &mut Examined) {
    for (id, place) in &found.hurt {
        if store.has_elsewhere(*id, *place) {
            examined.replaced += 1;
            continue;
        }
        examined.lost.push((*id, *place));
        examined.faults.push(format!(
            "{name}: the record at byte {} is not there or hurt",
            place.offset()
        ));
    }
    // Bytes that are no records are those of hurt ones, if there are such.
    if found.hurt.is_empty() || examined.replaced < found.hurt.len() as u64 {
        let whole = found.faults.iter();
        examined
            .faults
            .extend(whole.map(|fault| format!("{name}: {fault}")));
    }
    // Without a record that suffers, a page that does not read is still a page to worry about.
    if found.hurt.is_empty() {
        for page in &found.bad_pages.unreadable {
            if examined.mended.is_none() && examined.mendable.is_none() {
                examined
                    .faults
                    .push(format!("{name}: page {page} cannot be read"));
            }
        }
    }
}

/// Whether parity covers all of the pack.
fn covers_all(store: &ChunkStore, number: u32, parity: &ParityFile) -> bool {
    let Ok((length, sealed)) = store.packs().durable_length(number) else {
        return true;
    };
    match sealed {
        Sealed::Yes => parity.covers() == Covered::Whole && parity.covered_bytes() == length,
        Sealed::No => parity.covered_bytes() >= length,
    }
}

/// Makes parity for what is durable of a pack.
fn give_parity(store: &ChunkStore, number: u32, pace: &Pace<'_>) -> Result<(), RepoError> {
    let packs = store.packs();
    let (length, sealed) = packs.durable_length(number)?;
    let extent = match sealed {
        Sealed::Yes => Covered::Whole,
        Sealed::No => Covered::Start,
    };
    let Some(file) = store.reader().file(number)? else {
        return Ok(());
    };
    let covered = length - length % crate::disk::DIRECT_ALIGNMENT as u64;
    if covered == 0 {
        return Ok(());
    }
    let owner = packs.parity_owner(number);
    let share = store.parity_share();
    let content = make_parity(file.as_ref(), covered, extent, owner, share, &mut |read| {
        pace.spend(read)
    })?;
    packs.store_parity(number, &content)?;
    store.reader().forget_view(number);
    let counters = store.health().counters();
    counters.parity_files.fetch_add(1, Ordering::Relaxed);
    counters
        .parity_bytes
        .fetch_add(content.len() as u64, Ordering::Relaxed);
    tracing::debug!(
        pack = packs.describe(number),
        bytes = content.len(),
        "made parity for a pack"
    );
    Ok(())
}
