//! Sealing: what was written in a session becomes the workload's next restore point.

use std::sync::Arc;

use repo::{Point, PointKind, PointName, RepoError};
use serde_json::json;
use smb::Fate;
use uuid::Uuid;

use crate::exports::chain;

use super::record::{SessionMode, SessionRecord, SessionState};
use super::{RecoveryError, Sessions};

impl Sessions {
    /// Ends serving, makes a restore point of the session's disks, and drops the session.
    ///
    /// Writers are disconnected first: what they were answered is in the point, what they were not may be. Disks that
    /// the session leaves out are taken over from its restore point.
    ///
    /// # Errors
    /// If the session is read-only or the point cannot be made; the session is then served as before.
    pub fn seal(&self, name: &str) -> Result<Arc<Point>, RecoveryError> {
        let _turn = self.turn(name)?;
        let mut record = self.find(name)?;
        if record.mode == SessionMode::ReadOnly {
            return Err(RecoveryError::NothingToSeal(name.to_owned()));
        }
        self.backstores.check_unused(&self.kernel_disks(&record)?)?;
        let before = record.state;
        record.state = SessionState::Sealing;
        record.seal = Some(Uuid::new_v4());
        self.keep(&record)?;
        self.shares.remove(&record, Fate::Keep);
        self.exports.hide(name);
        self.backstores.leave(name);
        match self.make_point(&record) {
            Ok(point) => {
                self.drop_session(&record)?;
                Ok(point)
            }
            Err(error) => {
                self.take_back(record, before);
                Err(error)
            }
        }
    }

    /// Brings a session back after a seal that came to nothing, which a full disk may have been the reason for: so
    /// nothing here may depend on storing something. What the stored record says meanwhile is set right by the next
    /// change, or by a restart, which finds that the seal made no point.
    fn take_back(&self, mut record: SessionRecord, before: SessionState) {
        record.state = before;
        if let Err(error) = self.thaw(&record) {
            tell(&record, "take writes again", &error);
        }
        if let Err(error) = self.keep(&record) {
            tell(&record, "store the record", &error);
            self.remember(&record);
        }
        if before == SessionState::Active
            && let Err(error) = self.serve_or_stop(&mut record)
        {
            tell(&record, "serve it", &error);
            self.remember(&record);
        }
    }

    /// Ends a seal that a crash interrupted: if the point was committed, only the session is left to drop; else the
    /// session comes back as it was.
    pub(super) fn resume_seal(&self, record: &mut SessionRecord) -> Result<(), RecoveryError> {
        if let Some(point) = self.sealed_point(record)? {
            tracing::info!(session = record.name, point = %point.name, "the session was sealed before the restart");
            return self.drop_session(record);
        }
        record.state = SessionState::Active;
        self.keep(record)?;
        self.serve_or_stop(record)
    }

    fn make_point(&self, record: &SessionRecord) -> Result<Arc<Point>, RecoveryError> {
        let base = self.base(record)?;
        let mut backup = self
            .repository
            .begin(&base.name.workload, PointKind::Sealed)?;
        for (number, image) in base.images.iter().enumerate() {
            let overlay = record
                .disks
                .iter()
                .find(|disk| disk.number == number)
                .and_then(|disk| disk.overlay);
            match overlay {
                Some(id) => {
                    let overlay = self.repository.open_overlay(id)?;
                    overlay.freeze()?;
                    backup.seal_overlay(&overlay, &image.name)?;
                }
                None => {
                    // An overlay in which nothing was written takes the whole map over, without reading it.
                    let overlay = self.repository.create_overlay(&base, number)?;
                    overlay.freeze()?;
                    let sealed = backup.seal_overlay(&overlay, &image.name);
                    self.repository.discard_overlay(overlay.id())?;
                    sealed?;
                }
            }
        }
        backup.set_configuration(sealed_configuration(&base, record));
        Ok(backup.commit()?)
    }

    /// Lets the session's overlays take writes again.
    fn thaw(&self, record: &SessionRecord) -> Result<(), RecoveryError> {
        for id in record.disks.iter().filter_map(|disk| disk.overlay) {
            self.repository.open_overlay(id)?.thaw();
        }
        Ok(())
    }

    /// The point that sealing this session made, if it did.
    fn sealed_point(&self, record: &SessionRecord) -> Result<Option<Arc<Point>>, RecoveryError> {
        let Some(seal) = record.seal else {
            return Ok(None);
        };
        let base = self.base(record)?;
        let points = self.repository.points(Some(&base.name.workload));
        let mark = Some(json!(seal));
        Ok(points
            .into_iter()
            .find(|point| point.configuration.pointer("/sealed/seal").cloned() == mark))
    }

    fn base(&self, record: &SessionRecord) -> Result<Arc<Point>, RecoveryError> {
        let name: PointName = record
            .point
            .parse()
            .map_err(|_: RepoError| RecoveryError::BadPoint(record.point.clone()))?;
        Ok(self.repository.point(&name)?)
    }
}

fn tell(record: &SessionRecord, step: &'static str, error: &RecoveryError) {
    tracing::error!(
        session = record.name,
        step,
        error = chain(error),
        "a seal failed, and so did a step of taking it back"
    );
}

/// The configuration of the point below, with a note of what was sealed, and the mark of this very seal.
fn sealed_configuration(base: &Point, record: &SessionRecord) -> serde_json::Value {
    let mut configuration = match &base.configuration {
        serde_json::Value::Object(map) => map.clone(),
        _ => serde_json::Map::new(),
    };
    configuration.insert(
        "sealed".to_owned(),
        json!({ "seal": record.seal, "session": record.number, "name": record.name, "point": record.point }),
    );
    serde_json::Value::Object(configuration)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use repo::{CreateOptions, ImageBase, ImageSpec, OpenOptions, Repository, WorkloadName};

    use super::super::{Backstores, Protocol, Shares, StartRequest};
    use super::*;
    use crate::config::{IscsiConfig, Peers, RecoveryConfig};
    use crate::exports::Exports;
    use crate::state::StateFolder;

    /// Sessions over a repository with the point `web@1` of one empty disk.
    fn sessions(folder: &Path) -> Sessions {
        let root = folder.join("repository");
        Repository::create(&root, &CreateOptions::default()).unwrap();
        let repository = Repository::open(&root, &OpenOptions::default()).unwrap();
        let workload = WorkloadName::parse("web").unwrap();
        let mut backup = repository.begin(&workload, PointKind::Full).unwrap();
        let spec = ImageSpec {
            name: "root".to_owned(),
            size_bytes: 1 << 20,
            base: ImageBase::Nothing,
        };
        let writer = backup.image(&spec).unwrap();
        backup.finish_image(writer).unwrap();
        backup.commit().unwrap();
        let state = StateFolder::open(&folder.join("state")).unwrap();
        let exports = Exports::new(&Peers::loopback(), iscsi::Authentication::None);
        let server = tcmu::Server::new(
            tcmu::Kernel::at(folder),
            tcmu::ServerConfig::default(),
            Arc::new(export::BlockingPool::start(1, 1).unwrap()),
            tcmu::Metrics::unregistered(),
        );
        Sessions::open(
            repository,
            exports,
            Arc::new(state),
            RecoveryConfig::default(),
            IscsiConfig::default(),
            Backstores::new(server, 512),
            Shares::default(),
        )
        .unwrap()
    }

    #[test]
    fn a_failed_seal_gives_the_session_back_though_nothing_can_be_stored() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = sessions(folder.path());
        let request = StartRequest {
            point: "web@1".to_owned(),
            name: Some("lab".to_owned()),
            ..StartRequest::default()
        };
        let mut record = sessions.start(&request).unwrap();
        // As far as a seal comes before its point cannot be made.
        record.state = SessionState::Sealing;
        record.seal = Some(Uuid::new_v4());
        sessions.keep(&record).unwrap();
        sessions.exports.hide("lab");
        // A folder in the place of the record keeps it from being stored, as a full disk would.
        let stored = sessions.folder(&record).join("session.json");
        std::fs::remove_file(&stored).unwrap();
        std::fs::create_dir(&stored).unwrap();
        sessions.take_back(record, SessionState::Active);
        assert_eq!(sessions.find("lab").unwrap().state, SessionState::Active);
        assert!(sessions.exports.session("lab").is_some(), "it is served");
        std::fs::remove_dir(&stored).unwrap();
        assert_eq!(sessions.seal("lab").unwrap().name.to_string(), "web@2");
    }

    #[test]
    fn a_stop_goes_on_with_what_another_has_left_in_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = sessions(folder.path());
        let request = StartRequest {
            point: "web@1".to_owned(),
            name: Some("lab".to_owned()),
            ..StartRequest::default()
        };
        let mut record = sessions.start(&request).unwrap();
        record.protocols = vec![Protocol::Tcmu];
        sessions.keep(&record).unwrap();
        sessions.stop("lab").unwrap();
        // A backstore that was not removed: nobody serves it, and its initiators would wait for ever.
        let disk = &sessions.kernel_disks(&record).unwrap()[0];
        let identity: String = disk
            .identity
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let core = folder.path().join("sys/kernel/config/target/core");
        let attributes = core.join("user_0").join(&disk.name).join("attrib");
        std::fs::create_dir_all(&attributes).unwrap();
        std::fs::write(
            attributes.join("dev_config"),
            format!("holdfast/{identity}"),
        )
        .unwrap();
        // It is tried, and the folder that plays the kernel does not let go.
        let error = sessions.stop("lab").unwrap_err();
        assert!(chain(&error).contains("cannot remove"), "{}", chain(&error));
    }
}
