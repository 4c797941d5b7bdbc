//! Starting, stopping and discarding sessions, and bringing them back after a restart.

use std::path::Path;
use std::sync::Arc;

use export::{BlockExport, FileExport};
use repo::clock::{Clock as _, SystemClock};
use repo::{Point, PointName, RepoError};
use smb::{Fate, Login};

use crate::exports::{
    DiskFormat, EarlierPoints, FolderAccess, FolderDisk, FolderLimits, OverlayDisk, PointDisk,
    ROOT_ID, ServedSession, SessionFolder, chain,
};

use super::backstores::{KernelDisk, backstore_name};
use super::record::{
    DiskRecord, Protocol, SessionMode, SessionRecord, SessionState, VERSION, raw_only,
};
use super::targets::make_target;
use super::workload_points::WorkloadPoints;
use super::{Records, RecoveryError, Sessions, StartRequest};

impl Sessions {
    /// Starts a session, or serves one again that was stopped. Asking again for a session that is there with the same
    /// properties gives that one.
    ///
    /// # Errors
    /// If the point or name is no good, or the session cannot be recorded or served.
    pub fn start(&self, request: &StartRequest) -> Result<SessionRecord, RecoveryError> {
        let point = resolve(&self.repository, &request.point)?;
        if let Some(name) = &request.name {
            check_name(name)?;
            match self.find(name) {
                Ok(record) => return self.start_again(&record, &point, request),
                Err(RecoveryError::NoSuchSession(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if request.protocols.contains(&Protocol::Iscsi) && !self.serves(Protocol::Iscsi) {
            return Err(RecoveryError::NotServed("iscsi"));
        }
        if request.protocols.contains(&Protocol::Smb) && !self.serves(Protocol::Smb) {
            return Err(RecoveryError::NotServed("smb"));
        }
        if request.files && !(request.read_only && request.protocols == [Protocol::Smb]) {
            return Err(RecoveryError::FilesNotShown);
        }
        if request.protocols.contains(&Protocol::Tcmu) {
            self.backstores.check()?;
        }
        let disks = chosen_disks(&point, &request.disks)?;
        let mut record = self.claim(&point, disks, request)?;
        match self.make(&mut record, &point) {
            Ok(()) => Ok(record),
            Err(error) => {
                self.drop_session(&record)?;
                Err(error)
            }
        }
    }

    /// Ends serving. Overlays and small files are kept; starting a session of that name serves them again.
    ///
    /// # Errors
    /// If there is no such session or its record cannot be stored.
    pub fn stop(&self, name: &str) -> Result<SessionRecord, RecoveryError> {
        let _turn = self.turn(name)?;
        let mut record = self.find(name)?;
        if matches!(record.state, SessionState::Active | SessionState::Stopped) {
            let disks = self.kernel_disks(&record)?;
            self.backstores.check_unused(&disks)?;
            if record.state == SessionState::Active {
                record.state = SessionState::Stopped;
                self.keep(&record)?;
                self.hide(&record);
            }
            // Also what a stop or a start has left that did not come to its end.
            self.backstores.remove(name, &disks)?;
        }
        Ok(record)
    }

    /// Ends serving and drops everything that was written. The restore point is not touched.
    ///
    /// # Errors
    /// If there is no such session, or its overlays cannot be removed.
    pub fn discard(&self, name: &str) -> Result<SessionRecord, RecoveryError> {
        let _turn = self.turn(name)?;
        let mut record = self.find(name)?;
        self.backstores.check_unused(&self.kernel_disks(&record)?)?;
        record.state = SessionState::Discarding;
        self.keep(&record)?;
        self.drop_session(&record)?;
        Ok(record)
    }

    /// Reads all records and serves what was served.
    pub(super) fn restore(&self) -> Result<(), RecoveryError> {
        let records = self.load_records()?;
        self.discard_orphans(&records)?;
        for mut record in records {
            match record.state {
                SessionState::Starting | SessionState::Discarding => self.drop_session(&record),
                SessionState::Stopped => Ok(()),
                SessionState::Sealing => self.resume_seal(&mut record),
                SessionState::Active => self.serve_or_stop(&mut record),
            }
            // One that cannot come back must not keep the others from it.
            .unwrap_or_else(|error| {
                tracing::error!(
                    session = record.name,
                    error = chain(&error),
                    "a recovery session is left as it is"
                );
            });
        }
        Ok(())
    }

    /// Serves a session. One that cannot be served is left stopped, so that the others come back.
    pub(super) fn serve_or_stop(&self, record: &mut SessionRecord) -> Result<(), RecoveryError> {
        if let Err(error) = self.serve(record, Login::Kept) {
            tracing::error!(
                session = record.name,
                error = chain(&error),
                "a recovery session cannot be served"
            );
            record.state = SessionState::Stopped;
            self.keep(record)?;
        }
        Ok(())
    }

    /// Stores a record and remembers it.
    pub(super) fn keep(&self, record: &SessionRecord) -> Result<(), RecoveryError> {
        record.store(&self.state)?;
        self.remember(record);
        Ok(())
    }

    /// What this process goes by from now on, stored or not.
    pub(super) fn remember(&self, record: &SessionRecord) {
        self.records
            .lock()
            .by_name
            .insert(record.name.clone(), record.clone());
    }

    /// Ends serving and removes overlays, folder and record, in an order that can be resumed anywhere.
    pub(super) fn drop_session(&self, record: &SessionRecord) -> Result<(), RecoveryError> {
        self.hide(record);
        let disks = self.kernel_disks(record)?;
        self.backstores.remove(&record.name, &disks)?;
        for overlay in record.disks.iter().filter_map(|disk| disk.overlay) {
            match self.repository.discard_overlay(overlay) {
                Ok(()) | Err(RepoError::NoSuchOverlay(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.state.remove_directory(&record.folder())?;
        self.records.lock().by_name.remove(&record.name);
        Ok(())
    }

    /// Keeps other commands out of a session until the value is dropped.
    pub(super) fn turn(&self, name: &str) -> Result<Turn<'_>, RecoveryError> {
        let mut records = self.records.lock();
        if records.busy.iter().any(|busy| busy == name) {
            return Err(RecoveryError::Busy(name.to_owned()));
        }
        records.busy.push(name.to_owned());
        Ok(Turn {
            sessions: self,
            name: name.to_owned(),
        })
    }

    /// Takes a session's disks and folder from the servers, all but the kernel's.
    pub(super) fn hide(&self, record: &SessionRecord) {
        self.passwords.lock().remove(&record.name);
        self.shares.remove(record, Fate::Forget);
        self.exports.hide(&record.name);
    }

    /// Shows a session's disks and folder to the servers.
    fn serve(&self, record: &SessionRecord, login: Login) -> Result<(), RecoveryError> {
        let name: PointName = parse_point(&record.point)?;
        let point = self.repository.point(&name)?;
        let mut disks: Vec<(usize, Arc<dyn BlockExport>)> = Vec::new();
        for disk in &record.disks {
            let earlier = EarlierPoints::new(self.repository.clone(), &point, disk.number)?;
            let export: Arc<dyn BlockExport> = match disk.overlay {
                Some(id) => Arc::new(OverlayDisk::new(self.repository.open_overlay(id)?, earlier)),
                None => {
                    let image = self.repository.image(&point, disk.number)?;
                    let identity = self.identity(&name, disk.number);
                    Arc::new(PointDisk::new(image, earlier, identity))
                }
            };
            disks.push((disk.number, export));
        }
        let description = format!("{} of {}", record.name, record.point);
        let mut served = ServedSession::new(
            record.name.clone(),
            record.number,
            description,
            record.allow.clone(),
        );
        served.nbd = record.protocols.contains(&Protocol::Nbd);
        let shown = show_formats(record, &disks)?;
        served.faces = shown
            .iter()
            .filter(|disk| !matches!(disk.format, DiskFormat::Raw | DiskFormat::Vmdk))
            .map(|disk| (disk.format.file_name(disk.number), Arc::clone(&disk.export)))
            .collect();
        let is_shared = record.protocols.contains(&Protocol::Smb) && self.serves(Protocol::Smb);
        let is_nfs = record.protocols.contains(&Protocol::Nfs);
        if is_nfs || is_shared && !record.files {
            let folder = Arc::new(self.open_folder(record, shown)?);
            served.shared = is_shared.then(|| Arc::clone(&folder));
            served.folder = is_nfs.then_some(folder);
        }
        if record.protocols.contains(&Protocol::Iscsi) && self.serves(Protocol::Iscsi) {
            let target = make_target(record, &disks, &self.iscsi, &self.state)?;
            served.target = Some(target);
        }
        if record.protocols.contains(&Protocol::Tcmu) {
            self.backstores.serve(record, &disks)?;
        }
        if is_shared {
            let tree = match &served.shared {
                Some(folder) => Arc::clone(folder) as Arc<dyn FileExport>,
                None => self.files(record, name)?,
            };
            if let Some(password) = self.shares.serve(record, tree, login)? {
                self.passwords.lock().insert(record.name.clone(), password);
            }
        }
        served.disks = disks;
        self.exports.show(served);
        Ok(())
    }

    /// What lies on a session's disks, and on those of other points.
    fn files(
        &self,
        record: &SessionRecord,
        shown: PointName,
    ) -> Result<Arc<dyn FileExport>, RecoveryError> {
        let worker = self.shares.worker();
        let points = WorkloadPoints {
            repository: self.repository.clone(),
            shown,
            disks: record.disks.iter().map(|disk| disk.number).collect(),
            formats: record.formats.clone(),
            worker: worker.ok_or(RecoveryError::NotServed("smb"))?.clone(),
        };
        Ok(Arc::new(points.tree()?))
    }

    /// Whether the daemon has a server for it.
    fn serves(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Iscsi => !self.iscsi.listen.is_empty(),
            Protocol::Smb => self.shares.server().is_some(),
            Protocol::Nbd | Protocol::Nfs | Protocol::Tcmu => true,
        }
    }

    fn open_folder(
        &self,
        record: &SessionRecord,
        disks: Vec<FolderDisk>,
    ) -> Result<SessionFolder, RecoveryError> {
        let access = match record.mode {
            SessionMode::ReadWrite => FolderAccess::ReadWrite,
            SessionMode::ReadOnly => FolderAccess::ReadOnly,
        };
        let limits = FolderLimits {
            files: self.config.files,
            file_bytes: self.config.file_bytes.bytes(),
        };
        SessionFolder::open(
            &self.folder(record),
            self.repository.root(),
            disks,
            access,
            limits,
        )
        .map_err(|source| RecoveryError::Folder {
            session: record.name.clone(),
            source,
        })
    }

    fn start_again(
        &self,
        record: &SessionRecord,
        point: &Point,
        request: &StartRequest,
    ) -> Result<SessionRecord, RecoveryError> {
        let taken = |differs| RecoveryError::NameTaken {
            name: record.name.clone(),
            differs,
        };
        let numbers: Vec<usize> = record.disks.iter().map(|disk| disk.number).collect();
        if record.point != point.name.to_string() {
            return Err(taken("restore point"));
        }
        if (record.mode == SessionMode::ReadOnly) != request.read_only {
            return Err(taken("mode"));
        }
        if !request.disks.is_empty() && request.disks != numbers {
            return Err(taken("choice of disks"));
        }
        if !request.protocols.is_empty() && request.protocols != record.protocols {
            return Err(taken("choice of protocols"));
        }
        if request
            .allow
            .as_ref()
            .is_some_and(|allow| *allow != record.allow)
        {
            return Err(taken("list of addresses"));
        }
        if !request.initiators.is_empty() && request.initiators != record.initiators {
            return Err(taken("list of initiators"));
        }
        let formats = || chosen_formats(&request.formats, &record.protocols);
        if !request.formats.is_empty() && formats() != record.formats {
            return Err(taken("choice of formats"));
        }
        if request.files && !record.files {
            return Err(taken("choice of files"));
        }
        let _turn = self.turn(&record.name)?;
        let mut record = self.find(&record.name)?;
        if record.state == SessionState::Stopped {
            if let Err(error) = self.serve(&record, Login::New) {
                self.give_back(&record);
                return Err(error);
            }
            record.state = SessionState::Active;
            self.keep(&record)?;
        }
        Ok(record)
    }

    /// Removes the backstores of a session that could not be served again, unless initiators see them and wait.
    fn give_back(&self, record: &SessionRecord) {
        let removed = self.kernel_disks(record).and_then(|disks| {
            self.backstores.check_unused(&disks)?;
            self.backstores.remove(&record.name, &disks)
        });
        if let Err(error) = removed {
            tracing::warn!(
                session = record.name,
                error = chain(&error),
                "backstores of a session that is not served stay in the kernel"
            );
        }
    }

    /// Takes a name and a number for a new session.
    fn claim(
        &self,
        point: &Point,
        disks: Vec<DiskRecord>,
        request: &StartRequest,
    ) -> Result<SessionRecord, RecoveryError> {
        let mut records = self.records.lock();
        if records.by_name.len() >= self.config.sessions {
            return Err(RecoveryError::TooMany(records.by_name.len()));
        }
        let name = match &request.name {
            Some(name) if records.by_name.contains_key(name) => {
                return Err(RecoveryError::Busy(name.clone()));
            }
            Some(name) => name.clone(),
            None => free_name(&point.name, |name| records.by_name.contains_key(name)),
        };
        let mut protocols = request.protocols.clone();
        if protocols.is_empty() {
            protocols = Protocol::OWN.to_vec();
            protocols.retain(|protocol| self.serves(*protocol));
        }
        let formats = chosen_formats(&request.formats, &protocols);
        let record = SessionRecord {
            version: VERSION,
            name,
            number: self.take_number(&mut records)?,
            point: point.name.to_string(),
            mode: if request.read_only {
                SessionMode::ReadOnly
            } else {
                SessionMode::ReadWrite
            },
            disks,
            protocols,
            allow: request
                .allow
                .clone()
                .unwrap_or_else(|| self.config.allow.clone()),
            created: SystemClock.now().0,
            state: SessionState::Starting,
            initiators: request.initiators.clone(),
            formats,
            files: request.files,
            seal: None,
        };
        records.by_name.insert(record.name.clone(), record.clone());
        Ok(record)
    }

    /// A number that no session ever had, even one that is gone without a trace: blocks of numbers are taken durably
    /// before the first of them is used.
    fn take_number(&self, records: &mut Records) -> Result<u64, RecoveryError> {
        if records.next_number >= records.reserved_number {
            let reserved = records.next_number + NUMBERS_AHEAD;
            self.state
                .replace(Path::new(NEXT_FILE), reserved.to_string().as_bytes())?;
            records.reserved_number = reserved;
        }
        let number = records.next_number;
        records.next_number += 1;
        Ok(number)
    }

    /// Makes what a new session needs, records it and serves it.
    fn make(&self, record: &mut SessionRecord, point: &Point) -> Result<(), RecoveryError> {
        let _turn = self.turn(&record.name)?;
        if record.mode == SessionMode::ReadWrite {
            for disk in &mut record.disks {
                disk.overlay = Some(self.repository.create_overlay(point, disk.number)?.id());
            }
        }
        // An overlay that a crash leaves here belongs to no record; the next start finds it empty and discards it.
        self.keep(record)?;
        self.serve(record, Login::New)?;
        record.state = SessionState::Active;
        self.keep(record)
    }

    /// Drops overlays that no record names and nobody wrote to. One with data is kept for a person to look at.
    fn discard_orphans(&self, records: &[SessionRecord]) -> Result<(), RecoveryError> {
        let known: Vec<_> = records
            .iter()
            .flat_map(|record| &record.disks)
            .filter_map(|disk| disk.overlay)
            .collect();
        for orphan in self
            .repository
            .overlays()?
            .into_iter()
            .filter(|overlay| !known.contains(&overlay.id))
        {
            let written = match self.repository.open_overlay(orphan.id) {
                Ok(overlay) => overlay.statistics().written_bytes,
                Err(error) => {
                    tracing::error!(overlay = %orphan.id, %error, "an overlay of no session cannot be opened and is left alone");
                    continue;
                }
            };
            if written == 0 {
                self.repository.discard_overlay(orphan.id)?;
            } else {
                tracing::warn!(overlay = %orphan.id, point = %orphan.point, written, "an overlay belongs to no session");
            }
        }
        Ok(())
    }

    fn load_records(&self) -> Result<Vec<SessionRecord>, RecoveryError> {
        let folder = self.state.file("sessions");
        let failed = |source| RecoveryError::Folder {
            session: "(all)".to_owned(),
            source,
        };
        let mut loaded = Vec::new();
        let mut next_number = self.stored_next_number()?;
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse::<u64>().ok()) else {
                continue;
            };
            next_number = next_number.max(number + 1);
            let inside = Path::new("sessions").join(&name);
            match SessionRecord::load(&self.state, &inside)? {
                Some(record) => loaded.push(record),
                None => self.state.remove_directory(&inside)?,
            }
        }
        let mut records = self.records.lock();
        records.next_number = next_number;
        records.reserved_number = next_number;
        records.by_name = loaded
            .iter()
            .map(|record| (record.name.clone(), record.clone()))
            .collect();
        Ok(loaded)
    }

    fn stored_next_number(&self) -> Result<u64, RecoveryError> {
        let text = self.state.read(Path::new(NEXT_FILE), 64)?;
        let number = text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        Ok(number.unwrap_or(ROOT_ID + 1))
    }

    /// A session's disks as the kernel knows them; none if it is not served through its target.
    pub(super) fn kernel_disks(
        &self,
        record: &SessionRecord,
    ) -> Result<Vec<KernelDisk>, RecoveryError> {
        if !record.protocols.contains(&Protocol::Tcmu) {
            return Ok(Vec::new());
        }
        let point = parse_point(&record.point)?;
        let disks = record.disks.iter().map(|disk| KernelDisk {
            name: backstore_name(&record.name, disk.number),
            identity: match disk.overlay {
                Some(id) => *id.as_bytes(),
                None => self.identity(&point, disk.number),
            },
        });
        Ok(disks.collect())
    }

    /// What identifies a disk of a point for ever.
    fn identity(&self, point: &PointName, disk: usize) -> [u8; 16] {
        let name = format!("{}/{point}/{disk}", self.repository.uuid());
        let mut identity = [0; 16];
        blake3::Hasher::new()
            .update(name.as_bytes())
            .finalize_xof()
            .fill(&mut identity);
        identity
    }
}

/// The right to change one session.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    sessions: &'a Sessions,
    name: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.sessions
            .records
            .lock()
            .busy
            .retain(|busy| *busy != self.name);
    }
}

/// The point that `text` names.
///
/// # Errors
/// If it names none.
pub(crate) fn resolve(
    repository: &repo::Repository,
    text: &str,
) -> Result<Arc<Point>, RecoveryError> {
    if let Some(workload) = text.strip_suffix("@latest") {
        let workload = repo::WorkloadName::parse(workload)
            .map_err(|_| RecoveryError::BadPoint(text.to_owned()))?;
        return repository
            .latest(&workload)
            .ok_or_else(|| RecoveryError::NoPoint(workload.to_string()));
    }
    Ok(repository.point(&parse_point(text)?)?)
}

fn parse_point(text: &str) -> Result<PointName, RecoveryError> {
    text.parse()
        .map_err(|_| RecoveryError::BadPoint(text.to_owned()))
}

/// Each disk in each form that the session shows.
fn show_formats(
    record: &SessionRecord,
    disks: &[(usize, Arc<dyn BlockExport>)],
) -> Result<Vec<FolderDisk>, RecoveryError> {
    let mut shown = Vec::new();
    for (number, disk) in disks {
        for format in &record.formats {
            let export = format.show(Arc::clone(disk), *number);
            shown.push(FolderDisk {
                number: *number,
                format: *format,
                export: export.map_err(|source| RecoveryError::Format {
                    session: record.name.clone(),
                    disk: *number,
                    source,
                })?,
            });
        }
    }
    Ok(shown)
}

/// Each form once, in one order. If none was chosen, what those who come over the protocols open.
fn chosen_formats(wanted: &[DiskFormat], protocols: &[Protocol]) -> Vec<DiskFormat> {
    let mut formats = wanted.to_vec();
    formats.sort_unstable();
    formats.dedup();
    if !formats.is_empty() {
        return formats;
    }
    match protocols {
        [Protocol::Smb] => vec![DiskFormat::Vhdx],
        protocols if protocols.contains(&Protocol::Smb) => {
            vec![DiskFormat::Raw, DiskFormat::Vhdx]
        }
        _ => raw_only(),
    }
}

fn chosen_disks(point: &Point, numbers: &[usize]) -> Result<Vec<DiskRecord>, RecoveryError> {
    let mut chosen: Vec<usize> = if numbers.is_empty() {
        (0..point.images.len()).collect()
    } else {
        numbers.to_vec()
    };
    chosen.sort_unstable();
    chosen.dedup();
    chosen
        .into_iter()
        .map(|number| match point.images.get(number) {
            Some(image) => Ok(DiskRecord {
                number,
                name: image.name.clone(),
                size_bytes: image.size_bytes,
                overlay: None,
            }),
            None => {
                let count = point.images.len();
                Err(RecoveryError::NoSuchDisk {
                    point: point.name.to_string(),
                    disk: number,
                    count,
                })
            }
        })
        .collect()
}

/// `WORKLOAD-SEQUENCE`, and a count if that is taken.
fn free_name(point: &PointName, taken: impl Fn(&str) -> bool) -> String {
    let mut workload = point.workload.to_string();
    workload.truncate(NAME_BYTES_MAX - 30);
    let first = format!("{workload}-{}", point.sequence);
    if !taken(&first) {
        return first;
    }
    (2_u64..)
        .map(|count| format!("{first}.{count}"))
        .find(|name| !taken(name))
        .unwrap_or(first)
}

fn check_name(name: &str) -> Result<(), RecoveryError> {
    let allowed =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    let good = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|character: char| character.is_ascii_alphanumeric())
        && name.chars().all(allowed);
    if good {
        Ok(())
    } else {
        Err(RecoveryError::BadName(name.to_owned()))
    }
}

const NAME_BYTES_MAX: usize = 64;
const NEXT_FILE: &str = "sessions/next";
const NUMBERS_AHEAD: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_fit_into_urls_and_paths() {
        for name in ["web01-3", "a", "A.b_c-9"] {
            check_name(name).unwrap();
        }
        for name in ["", ".", "..", "-x", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_is_made_from_the_point_and_counts_up() {
        let point: PointName = "web01@3".parse().unwrap();
        assert_eq!(free_name(&point, |_| false), "web01-3");
        assert_eq!(free_name(&point, |name| name != "web01-3.4"), "web01-3.4");
        let long: PointName = format!("{}@3", "w".repeat(128)).parse().unwrap();
        check_name(&free_name(&long, |_| false)).unwrap();
    }
}
