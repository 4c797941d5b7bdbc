//! Errors as problem+json (RFC 9457): the one place that maps what went wrong to a status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use repo::{Culprit, RepoError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::backups::BackupError;
use crate::exports::chain;
use crate::framing::FramingError;
use crate::recovery::RecoveryError;
use crate::state::TokenError;

/// Why a request was refused or failed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem, stable: `urn:holdfast:` and a word.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What exactly, and what to do.
    pub detail: String,
    /// The request's number, as in the log.
    #[serde(default)]
    pub request_id: String,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(status: StatusCode, word: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:holdfast:{word}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            request_id: String::new(),
        }
    }

    /// The request makes no sense.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// The daemon is at fault. The cause goes to the log with the request's number.
    pub fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(error = chain(cause), "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("{}; see the daemon's log", chain(cause)),
        )
    }

    fn conflict(word: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, word, detail)
    }
}

impl IntoResponse for Problem {
    /// The body is written by the outermost layer, which knows the request's number.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response.extensions_mut().insert(self);
        response
    }
}

impl From<RepoError> for Problem {
    fn from(error: RepoError) -> Self {
        let detail = chain(&error);
        match &error {
            RepoError::NoSuchWorkload(_) | RepoError::NoSuchOverlay(_) => Self::not_found(detail),
            RepoError::NoSuchPoint(_) => {
                Self::not_found(format!("{detail}; see `holdfast point list`"))
            }
            RepoError::NoSuchKeySlot(_) => {
                Self::not_found(format!("{detail}; see `holdfast key list`"))
            }
            RepoError::KeySlotTaken(_) => Self::conflict("name-taken", detail),
            RepoError::NoSuchDisk { .. } | RepoError::NoSuchStream { .. } => {
                Self::not_found(detail)
            }
            RepoError::Starred(_) => Self::conflict("starred", detail),
            RepoError::Locked { .. } | RepoError::LockNotLonger { .. } => {
                Self::conflict("locked", detail)
            }
            RepoError::MarkDamaged { .. } => Self::conflict("mark-damaged", detail),
            RepoError::NotLocked(_) => Self::conflict("not-locked", detail),
            RepoError::AuthorityTooYoung(_)
            | RepoError::KeySlotHeld(_)
            | RepoError::KeySlotHeldLonger(_) => Self::conflict("held", detail),
            RepoError::PointInUse { .. } => Self::conflict("in-use", detail),
            RepoError::Overtaken(_) => Self::conflict("overtaken", detail),
            RepoError::OverlaySealed(_) => Self::conflict("sealed", detail),
            error if error.is_full() => {
                let detail = format!(
                    "{detail}: the repository's storage is full; free space there, nothing stored was hurt"
                );
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", detail)
            }
            error if error.is_corrupt() => {
                tracing::error!(error = detail, "a request met damage");
                let detail = format!("{detail}; run `holdfast verify` to learn what else is hurt");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", detail)
            }
            error if error.culprit() == Culprit::Caller => Self::bad_request(detail),
            error => Self::internal(error),
        }
    }
}

impl From<RecoveryError> for Problem {
    fn from(error: RecoveryError) -> Self {
        let detail = chain(&error);
        match error {
            RecoveryError::Repository(error) => error.into(),
            RecoveryError::State(_)
            | RecoveryError::Folder { .. }
            | RecoveryError::Target { .. }
            | RecoveryError::Backstore { .. }
            | RecoveryError::Share { .. }
            | RecoveryError::ShareMount { .. } => Self::internal(&error),
            RecoveryError::Kernel(tcmu::KernelError::InUse { .. }) => {
                Self::conflict("in-use", detail)
            }
            // All of them are for who runs the machine, and it may be the caller.
            RecoveryError::Kernel(_) => Self::conflict("not-served", detail),
            RecoveryError::NotServed(_) => Self::conflict("not-served", detail),
            RecoveryError::NoSuchSession(_)
            | RecoveryError::NoPoint(_)
            | RecoveryError::NoSuchDisk { .. } => Self::not_found(detail),
            RecoveryError::BadPoint(_) | RecoveryError::BadName(_) => Self::bad_request(detail),
            RecoveryError::FilesNotShown => Self::bad_request(detail),
            RecoveryError::NameTaken { .. } => Self::conflict("name-taken", detail),
            RecoveryError::Busy(_) => Self::conflict("busy", detail),
            RecoveryError::NothingToSeal(_) => Self::conflict("read-only", detail),
            RecoveryError::TooMany(_) => Self::conflict("too-many", detail),
            RecoveryError::Format { .. } => Self::conflict("format", detail),
        }
    }
}

impl From<BackupError> for Problem {
    fn from(error: BackupError) -> Self {
        let detail = chain(&error);
        match error {
            BackupError::Repository(error) => error.into(),
            BackupError::NoSuchBackup(_) | BackupError::NoSuchImage { .. } => {
                Self::not_found(detail)
            }
            BackupError::NoImages => Self::bad_request(detail),
            BackupError::NotWaiting(_) | BackupError::Incomplete(_) | BackupError::Ending => {
                Self::conflict("state", detail)
            }
            BackupError::TooMany(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail),
            BackupError::WrongBase { .. } => Self::conflict("wrong-base", detail),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let detail = chain(&error);
        match error {
            TokenError::BadName(_) | TokenError::NotForOne => Self::bad_request(detail),
            TokenError::Taken(_) => Self::conflict("name-taken", detail),
            TokenError::TooMany => Self::conflict("too-many", detail),
            TokenError::NoSuchToken(_) => Self::not_found(detail),
            TokenError::State(error) => Self::internal(&error),
        }
    }
}

impl From<FramingError> for Problem {
    fn from(error: FramingError) -> Self {
        Self::bad_request(format!("{error}; see docs/api/framing.md"))
    }
}

pub(super) const CONTENT_TYPE: &str = "application/problem+json";
