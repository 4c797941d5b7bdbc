//! Proving packs, several at a time.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, unbounded};

use super::care::{Examined, Repair, examine};
use super::pace::Pace;
use super::{Damage, VerifyProgress, VerifyReport, VerifyScope, step};
use crate::error::RepoError;
use crate::pack::Place;
use crate::store::ChunkStore;

/// The packs that are to be read, those first that were proven longest ago or never.
pub(super) fn choose_packs(store: &ChunkStore, scope: &VerifyScope) -> Vec<u32> {
    let mut summaries = store.packs().summaries();
    if *scope != VerifyScope::All {
        // What is still open has no proof, and would come first for ever.
        summaries.retain(|(_, summary)| summary.sealed);
    }
    let count = match scope {
        VerifyScope::All => usize::MAX,
        VerifyScope::Point(_) | VerifyScope::Lost => 0,
        VerifyScope::Oldest { packs } => usize::try_from(*packs).unwrap_or(usize::MAX),
        VerifyScope::OneIn { parts } => {
            let parts = usize::try_from(*parts).unwrap_or(usize::MAX).max(1);
            summaries.len().div_ceil(parts)
        }
    };
    let now = store.packs().now();
    let mut packs: Vec<_> = summaries
        .into_iter()
        .map(|(number, summary)| {
            let examined = store.health().examined(number, now);
            (examined, number, summary.length_bytes)
        })
        .collect();
    packs.sort_unstable();
    packs.truncate(count);
    // Long ones first, so that no thread is left alone with one in the end.
    packs.sort_by_key(|(_, _, length)| Reverse(*length));
    packs.into_iter().map(|(_, number, _)| number).collect()
}

/// Reads packs whole. Gives the places of records that are lost, and lists what is hurt in the report.
pub(super) fn prove_packs(
    store: &ChunkStore,
    packs: &[u32],
    repair: Repair,
    pace: &Pace<'_>,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
) -> Result<HashSet<Place>, RepoError> {
    let total_bytes = packs
        .iter()
        .filter_map(|number| store.packs().durable_length(*number).ok())
        .map(|(length, _)| length)
        .sum();
    let next = AtomicUsize::new(0);
    let mut lost = HashSet::new();
    let (found, results) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(packs.len()) {
            let found = found.clone();
            let next = &next;
            scope.spawn(move || {
                while let Some(number) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let examined = examine(store, *number, repair, pace);
                    let ended = examined.is_err();
                    if found.send(examined).is_err() || ended {
                        break;
                    }
                }
            });
        }
        drop(found);
        loop {
            let outcome = match results.recv_timeout(PATIENCE) {
                Ok(examined) => examined.map(|examined| tell(examined, report, &mut lost)),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let read_bytes = pace.read_bytes().max(report.read_bytes);
            let outcome = outcome.and_then(|()| step(progress, report, read_bytes, total_bytes));
            if outcome.is_err() {
                pace.stop();
                return outcome;
            }
        }
    })?;
    Ok(lost)
}

pub(super) fn tell(examined: Examined, report: &mut VerifyReport, lost: &mut HashSet<Place>) {
    report.packs += 1;
    report.records += examined.records;
    report.read_bytes += examined.read_bytes;
    report.lost_records += examined.lost.len() as u64;
    report.replaced_records += examined.replaced;
    report.mended_pages += examined.mended_pages;
    report.parity_made += u64::from(examined.made_parity);
    report.mended.extend(examined.mended);
    report.mendable.extend(examined.mendable);
    lost.extend(examined.lost.into_iter().map(|(_, place)| place));
    for what in examined.faults {
        report.note(Damage {
            what,
            point: None,
            part: None,
            offset: None,
            length: None,
        });
    }
}

/// What comes next of each pack is read meanwhile.
const THREADS: usize = 3;

/// Time between two looks at whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);
