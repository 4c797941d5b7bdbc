//! Proving packs, record by record.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::unbounded;

use super::{Damage, VerifyProgress, VerifyReport, step};
use crate::chunk::ChunkId;
use crate::error::RepoError;
use crate::pack::{PackFault, Place, RecordDecoder, RecordKind, scan_pack};
use crate::store::ChunkStore;

/// Reads every pack whole. Gives the places of hurt records, and lists hurt packs in the report.
pub(super) fn prove_packs(
    store: &ChunkStore,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
) -> Result<HashSet<Place>, RepoError> {
    let packs: Vec<u32> = store
        .packs()
        .summaries()
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    let total_bytes = store.packs().stored_bytes();
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let mut hurt = HashSet::new();
    let (found, results) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let found = found.clone();
            scope.spawn(|| {
                let found = found;
                while let Some(number) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let proven = prove_pack(store, *number, &stopped);
                    if found.send(proven).is_err() || stopped.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        drop(found);
        for proven in results {
            let outcome = proven.and_then(|proven| {
                proven.tell(report, &mut hurt);
                step(progress, report, total_bytes)
            });
            if outcome.is_err() {
                stopped.store(true, Ordering::Relaxed);
                return outcome;
            }
        }
        Ok(())
    })?;
    Ok(hurt)
}

/// What became of one pack.
#[derive(Debug, Default)]
struct ProvenPack {
    read_bytes: u64,
    records: u64,
    faults: Vec<String>,
    hurt: Vec<Place>,
}

impl ProvenPack {
    fn tell(self, report: &mut VerifyReport, hurt: &mut HashSet<Place>) {
        report.packs += 1;
        report.records += self.records;
        report.read_bytes += self.read_bytes;
        hurt.extend(self.hurt);
        for what in self.faults {
            report.note(Damage {
                what,
                point: None,
                part: None,
                offset: None,
                length: None,
            });
        }
    }
}

fn prove_pack(
    store: &ChunkStore,
    number: u32,
    stopped: &AtomicBool,
) -> Result<ProvenPack, RepoError> {
    let mut proven = ProvenPack::default();
    let name = store.packs().describe(number);
    let Some(file) = store.reader().file(number)? else {
        proven.faults.push(format!("{name} is gone"));
        return Ok(proven);
    };
    let mut decoder = RecordDecoder::new(Arc::clone(store.keys()))?;
    let mut seen: HashSet<(u32, ChunkId)> = HashSet::new();
    let faults = scan_pack(file.as_ref(), number, &mut |record| {
        if stopped.load(Ordering::Relaxed) {
            return Err(RepoError::Stopped);
        }
        proven.records += 1;
        if record.header.kind == RecordKind::Padding {
            return Ok(());
        }
        match decoder.open(&record.header, record.bytes) {
            Ok(_) => drop(seen.insert((record.place.slot, record.header.id))),
            Err(detail) => {
                proven.faults.push(format!(
                    "{name}: record at byte {}: {detail}",
                    record.place.offset()
                ));
            }
        }
        Ok(())
    });
    match faults {
        Ok(found) => proven.faults.extend(
            found
                .iter()
                .map(|fault: &PackFault| format!("{name}: {fault}")),
        ),
        Err(RepoError::Stopped) => return Err(RepoError::Stopped),
        // A bad sector must not keep the rest from being proven.
        Err(error) => proven
            .faults
            .push(format!("{name}: {error}: {}", source_text(&error))),
    }
    proven.read_bytes = file.length()?;
    if let Some(table) = store.packs().table(number)? {
        let missing = table
            .iter()
            .filter(|(id, slot)| !seen.contains(&(*slot, *id)));
        proven.hurt = missing
            .map(|(_, slot)| Place { pack: number, slot })
            .collect();
    }
    for place in &proven.hurt {
        proven.faults.push(format!(
            "{name}: the record at byte {} is not there or hurt",
            place.offset()
        ));
    }
    Ok(proven)
}

fn source_text(error: &RepoError) -> String {
    std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default()
}

const THREADS: usize = 2;
