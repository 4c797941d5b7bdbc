//! A session as an iSCSI target: one logical unit for each disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use export::BlockExport;
use iscsi::InitiatorPattern;
use scsi::{ReservationStore, Target, TargetIdentity, TargetPort, UnitOptions};

use crate::config::IscsiConfig;
use crate::exports::ServedTarget;
use crate::state::StateFolder;

use super::RecoveryError;
use super::record::SessionRecord;

/// The name of a session's target. Session names allow more characters than iSCSI names do; one that has to be changed
/// for that gets the session's number, so that no two are alike.
pub(super) fn target_name(prefix: &str, record: &SessionRecord) -> String {
    let is_allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if record.name.chars().all(is_allowed) {
        return format!("{prefix}:{}", record.name);
    }
    let name: String = record
        .name
        .to_lowercase()
        .chars()
        .map(|c| if is_allowed(c) { c } else { '-' })
        .collect();
    format!("{prefix}:{name}:{}", record.number)
}

/// What initiators are told of a recovered disk, with logical blocks of `block_bytes` if it has only whole ones.
pub(super) fn unit_options(disk: &dyn BlockExport, block_bytes: u32) -> UnitOptions {
    let size_bytes = disk.properties().size_bytes;
    let is_whole = size_bytes.is_multiple_of(u64::from(block_bytes));
    UnitOptions {
        product: "RECOVERED DISK".to_owned(),
        logical_block_bytes: if is_whole { block_bytes } else { 512 },
        ..UnitOptions::default()
    }
}

/// Makes the target of a session.
pub(super) fn make_target(
    record: &SessionRecord,
    disks: &[(usize, Arc<dyn BlockExport>)],
    config: &IscsiConfig,
    state: &Arc<StateFolder>,
) -> Result<ServedTarget, RecoveryError> {
    let name = target_name(&config.name, record);
    let ports = (1..=u16::try_from(config.listen.len()).unwrap_or(u16::MAX)).map(|relative_id| {
        TargetPort {
            relative_id,
            name: format!("{name},t,{relative_id:#06x}"),
        }
    });
    let target = Target::new(TargetIdentity {
        ports: ports.collect(),
        name,
    });
    for (number, disk) in disks {
        let failed = |source| RecoveryError::Target {
            session: record.name.clone(),
            source,
        };
        let options = UnitOptions {
            physical_block_bytes: config.physical_block_bytes,
            reservations: Some(Arc::new(KeptReservations {
                state: Arc::clone(state),
                file: record.folder().join(format!("reservations-{number}")),
            })),
            ..unit_options(&**disk, config.block_bytes)
        };
        let lun = u16::try_from(*number).unwrap_or(u16::MAX);
        target
            .attach(lun, Arc::clone(disk), options)
            .map_err(failed)?;
    }
    let initiators = match record.initiators.as_slice() {
        [] => &config.initiators,
        own => own,
    };
    Ok(ServedTarget {
        target,
        initiators: initiators
            .iter()
            .map(|pattern| InitiatorPattern::new(pattern))
            .collect(),
    })
}

/// Persistent reservations of one disk, in the session's folder: they go with it.
struct KeptReservations {
    state: Arc<StateFolder>,
    file: PathBuf,
}

impl ReservationStore for KeptReservations {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        self.state
            .read(&self.file, RESERVATION_BYTES_MAX)
            .map_err(io::Error::other)
    }

    fn save(&self, document: &[u8]) -> io::Result<()> {
        self.state
            .replace(&self.file, document)
            .map_err(io::Error::other)
    }
}

const RESERVATION_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn every_session_has_a_name_that_initiators_take_and_no_other_has() {
        let named = |name: &str, number| {
            let mut record = record();
            record.name = name.to_owned();
            record.number = number;
            target_name("iqn.2026-01.holdfast", &record)
        };
        assert_eq!(named("web01-3", 2), "iqn.2026-01.holdfast:web01-3");
        assert_eq!(named("Web_01", 7), "iqn.2026-01.holdfast:web-01:7");
        assert_ne!(named("WEB-01", 8), named("Web_01", 7));
    }
}
