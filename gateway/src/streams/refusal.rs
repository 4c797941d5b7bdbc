//! Errors as clients of streams are told them.

use ingest::{Code, Refusal};
use repo::RepoError;

use crate::exports::chain;

/// What to tell a client for whom the repository did not do what was asked.
pub(super) fn refusal(error: &RepoError) -> Refusal {
    let (code, message) = if error.is_full() || matches!(error, RepoError::LostRecords) {
        (
            Code::StorageFull,
            "the daemon's storage is full; make room there (`holdfast point expire`, then `holdfast collect`) and begin the stream again",
        )
    } else if error.is_corrupt() {
        (
            Code::Damaged,
            "what is stored of the stream is damaged; `holdfast verify --repair` on the daemon's machine mends what it can and names the rest",
        )
    } else if matches!(error, RepoError::Poisoned) {
        (
            Code::Failed,
            "the daemon's storage failed and takes no more writes; see its log, mend the storage and start the daemon again",
        )
    } else {
        (
            Code::Failed,
            "the daemon could not do that; its log says why beside this request's name",
        )
    };
    Refusal {
        cause: chain(error),
        ..Refusal::new(code, message)
    }
}
