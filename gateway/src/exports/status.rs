//! What the repository's errors are to a protocol.

use std::error::Error;

use export::ExportError;
use repo::RepoError;

/// Maps an error of the repository. The texts stay in our log; peers get a code.
pub(super) fn status(error: &RepoError) -> ExportError {
    let detail = || chain(error).into();
    match error {
        RepoError::BadRange { offset, length, .. } => ExportError::OutOfRange {
            offset: *offset,
            length: *length,
        },
        RepoError::OverlaySealed(_) => ExportError::ReadOnly,
        RepoError::NoSuchOverlay(_) | RepoError::NoSuchPoint(_) => ExportError::Stale,
        error if error.is_full() => ExportError::NoSpace { detail: detail() },
        error if error.is_corrupt() => ExportError::Corrupt { detail: detail() },
        _ => ExportError::Storage { detail: detail() },
    }
}

/// An error with all its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let disk = |kind: std::io::ErrorKind| {
            RepoError::Disk(repo::disk::DiskError {
                action: "write",
                path: "packs/01".into(),
                source: kind.into(),
            })
        };
        assert!(matches!(
            status(&disk(std::io::ErrorKind::StorageFull)),
            ExportError::NoSpace { .. }
        ));
        let ExportError::Storage { detail } = status(&disk(std::io::ErrorKind::Other)) else {
            panic!("a broken disk is a storage error")
        };
        assert!(
            detail.contains("packs/01") && detail.contains("other error"),
            "{detail}"
        );
    }
}
