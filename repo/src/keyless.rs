//! Proving what can be proven of an encrypted repository without its key: for machines that keep a copy and must not
//! read it.
//!
//! Everything outside of the ciphertext has checksums that need no key: the frame of each record, the tables and pages
//! of packs, and the text files. They find every accident. They find no forgery: whoever can write can make them
//! right. Nothing is written and no lock is taken.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::catalog::check_head;
use crate::chunk::ChunkId;
use crate::disk::{Access, Caching, Disk, DiskFile, ReadOnlyDisk, SystemDisk};
use crate::error::RepoError;
use crate::keys::KeySlots;
use crate::pack::{
    Fetch, NoParity, PackFile, PackOwner, PackView, ParityFile, ParityOwner, Rebuild, RecordKind,
    owner_of_pack, pack_table, packs_on, scan_pack,
};
use crate::superblock::Superblock;

/// What was proven without a key, and what was found hurt.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KeylessReport {
    /// The repository's name.
    pub repository: Uuid,
    /// Packs read.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Records whose frame and stored bytes have the checksum in their head.
    pub records: u64,
    /// Packs with a table, whose lines were compared with the records.
    pub tables: u64,
    /// Packs without a table: still being written, or cut off.
    pub open_packs: u64,
    /// Packs with parity that is whole, so that small damage can be mended.
    pub parity: u64,
    /// Packs without parity.
    pub without_parity: u64,
    /// Manifests, marks, key slots and the superblock, whose content has the hash in their first line.
    pub texts: u64,
    /// Damage that parity makes good, as sentences.
    pub mendable: Vec<String>,
    /// Damage that nothing here makes good, as sentences.
    pub damaged: Vec<String>,
    /// More damage than is listed.
    pub more_damage: bool,
    /// What was not proven, as sentences.
    pub not_proven: Vec<String>,
}

impl KeylessReport {
    /// Whether nothing was found hurt.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.mendable.is_empty()
    }

    fn hurt(&mut self, what: String) {
        if self.damaged.len() < DAMAGES_MAX {
            self.damaged.push(what);
        } else {
            self.more_damage = true;
        }
    }
}

/// Proves what needs no key of the encrypted repository in `root`. `progress` is told of bytes read, and of how many;
/// it may stop the work.
///
/// # Errors
/// If there is no repository, it is not encrypted, it is too new, or `progress` stops it. Damage is no error.
pub fn verify_without_key(
    root: &Path,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<KeylessReport, RepoError> {
    verify_without_key_on(Arc::new(SystemDisk::new(root)), root, progress)
}

/// As [`verify_without_key`], on any disk; `root` is only named in errors.
///
/// # Errors
/// As there.
pub fn verify_without_key_on(
    disk: Arc<dyn Disk>,
    root: &Path,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<KeylessReport, RepoError> {
    let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new(disk));
    let superblock = Superblock::open(disk.as_ref(), root)?;
    if !superblock.is_encrypted() {
        return Err(RepoError::NotEncrypted {
            path: root.to_owned(),
        });
    }
    let mut check = Check {
        disk,
        report: KeylessReport {
            repository: superblock.repository,
            texts: 1,
            ..KeylessReport::default()
        },
    };
    check.texts();
    check.packs(progress)?;
    check.say_what_is_not_proven();
    Ok(check.report)
}

struct Check {
    disk: Arc<dyn Disk>,
    report: KeylessReport,
}

/// What one reading of a pack showed.
#[derive(Debug, Default)]
struct Reading {
    records: u64,
    sealed: bool,
    faults: Vec<String>,
    bad_pages: u64,
}

impl Reading {
    fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.bad_pages == 0
    }
}

impl Check {
    /// Manifests, marks and key slots.
    fn texts(&mut self) {
        self.texts_in(Path::new(KeySlots::FOLDER));
        let folders = self.disk.list(Path::new("points"));
        match folders {
            Err(error) => self.report.hurt(error.to_string()),
            Ok(folders) => {
                for folder in folders.iter().filter(|folder| folder.is_directory) {
                    self.texts_in(&Path::new("points").join(&folder.name));
                }
            }
        }
    }

    fn texts_in(&mut self, folder: &Path) {
        let items = match self.disk.list(folder) {
            Ok(items) => items,
            Err(error) => return self.report.hurt(error.to_string()),
        };
        // A tombstone whose point is out of the account is empty.
        for item in items.iter().filter(|item| item.length_bytes > 0) {
            let path = folder.join(&item.name);
            match self.text(&path) {
                Ok(true) => self.report.texts += 1,
                Ok(false) => {}
                Err(detail) => self
                    .report
                    .hurt(format!("file {}: {detail}", path.display())),
            }
        }
    }

    /// Whether a text file is there still, and whole.
    fn text(&self, path: &Path) -> Result<bool, String> {
        match self.disk.read(path, TEXT_BYTES_MAX) {
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error.source.to_string()),
            Ok(text) => check_head(&text).map(|()| true).map_err(str::to_owned),
        }
    }

    fn packs(
        &mut self,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<(), RepoError> {
        let disk = Arc::clone(&self.disk);
        let packs = packs_on(disk.as_ref(), &mut |error| {
            self.report.hurt(error.to_string())
        });
        let total = packs.iter().map(|pack| pack.length_bytes).sum();
        let mut done = 0;
        for pack in &packs {
            let mut go_on = |read: u64| match progress(done + read, total) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(RepoError::Stopped),
            };
            match self.pack(pack, &mut go_on) {
                Err(RepoError::Stopped) => return Err(RepoError::Stopped),
                Err(error) => {
                    // A collection of a daemon beside us may have removed it.
                    if self
                        .disk
                        .open(&pack.path, Access::Read, Caching::Cached)
                        .is_ok()
                    {
                        self.report.hurt(error.to_string());
                    }
                }
                Ok(()) => {}
            }
            done += pack.length_bytes;
        }
        Ok(())
    }

    fn pack(
        &mut self,
        pack: &PackFile,
        go_on: &mut dyn FnMut(u64) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let file = self.disk.open(&pack.path, Access::Read, Caching::Direct)?;
        let parity = self.parity(pack);
        let mut found = self.read(pack, &file, &parity, Rebuild::No, go_on)?;
        self.report.packs += 1;
        self.report.pack_bytes += pack.length_bytes;
        if !found.is_sound() && parity.is_some() {
            let rebuilt = self.read(pack, &file, &parity, Rebuild::Yes, go_on)?;
            if rebuilt.faults.is_empty() && rebuilt.records >= found.records {
                self.report.mendable.push(format!(
                    "{}: {} damaged pages, which parity makes good",
                    pack.path.display(),
                    found.bad_pages
                ));
                found = Reading {
                    faults: Vec::new(),
                    ..rebuilt
                };
            }
        }
        self.report.records += found.records;
        match found.sealed {
            true => self.report.tables += 1,
            false => self.report.open_packs += 1,
        }
        for fault in found.faults {
            self.report
                .hurt(format!("{}: {fault}", pack.path.display()));
        }
        Ok(())
    }

    /// The parity of a pack, proven.
    fn parity(&mut self, pack: &PackFile) -> Option<Arc<ParityFile>> {
        let owner = ParityOwner {
            repository: self.report.repository,
            number: pack.number,
            epoch: pack.epoch,
        };
        let detail = match ParityFile::open(self.disk.as_ref(), owner) {
            Ok(parity) => {
                if parity.is_whole() {
                    self.report.parity += 1;
                } else {
                    self.report.mendable.push(parity_of(
                        &pack.path,
                        "it is damaged in part, and can be made again",
                    ));
                }
                return Some(Arc::new(parity));
            }
            Err(NoParity::Missing) => {
                self.report.without_parity += 1;
                return None;
            }
            Err(NoParity::Unusable(detail)) => detail,
        };
        self.report.mendable.push(parity_of(
            &pack.path,
            &format!("{detail}; it can be made again"),
        ));
        None
    }

    fn read(
        &self,
        pack: &PackFile,
        file: &Arc<dyn DiskFile>,
        parity: &Option<Arc<ParityFile>>,
        rebuild: Rebuild,
        go_on: &mut dyn FnMut(u64) -> Result<(), RepoError>,
    ) -> Result<Reading, RepoError> {
        let view = PackView::new(Arc::clone(file), parity.clone(), rebuild);
        let mut reading = Reading::default();
        let mut found: HashSet<(u32, ChunkId)> = HashSet::new();
        let faults = scan_pack(&view, pack.number, Fetch::Ahead, &mut |record| {
            if record.header.kind != RecordKind::Padding {
                found.insert((record.place.slot, record.header.id));
            }
            go_on(record.place.offset())
        })?;
        reading.records = found.len() as u64;
        reading.faults = faults.iter().map(ToString::to_string).collect();
        if let Some(table) = pack_table(&view)? {
            reading.sealed = true;
            let lines = table.iter().filter(|(id, _)| !id.is_zero());
            let lost = lines.filter(|(id, slot)| !found.contains(&(*slot, *id)));
            let lost = lost.count();
            if lost > 0 {
                reading.faults.push(format!(
                    "{lost} records of its table are not there, or hurt"
                ));
            }
        }
        let ours = PackOwner {
            repository: self.report.repository,
            encrypted: true,
        };
        if owner_of_pack(self.disk.as_ref(), pack).is_some_and(|owner| owner != ours) {
            reading
                .faults
                .push("it belongs to another repository".to_owned());
        }
        let bad = view.bad_pages();
        reading.bad_pages = bad.count();
        if parity.is_none() || rebuild == Rebuild::No {
            let unreadable = bad.unreadable.iter();
            reading
                .faults
                .extend(unreadable.map(|page| format!("page {page} cannot be read")));
        }
        Ok(reading)
    }

    fn say_what_is_not_proven(&mut self) {
        let open = match self.report.open_packs {
            0 => None,
            count => Some(format!(
                "that {count} packs without a table are whole: they are still being written, or their end was cut off"
            )),
        };
        let always = NOT_PROVEN.iter().map(|text| (*text).to_owned());
        self.report.not_proven = always.chain(open).collect();
    }
}

fn parity_of(pack: &Path, detail: &str) -> String {
    let path = PathBuf::from(format!("{}.parity", pack.display()));
    format!("{}: {detail}", path.display())
}

/// What no reading without a key can tell.
const NOT_PROVEN: [&str; 5] = [
    "that records decrypt to what their names say: checksums find accidents, not forgery",
    "that every record a restore point needs is in some pack: what the maps point to is encrypted",
    "that no pack, manifest, mark or key slot is missing, or was put back as it was earlier",
    "that a passphrase or key opens the key slots",
    "the overlays of recovery sessions: their codes are made with the key",
];

/// Manifests are the longest.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Damages listed one by one.
const DAMAGES_MAX: usize = 10_000;
