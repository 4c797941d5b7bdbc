//! Documents of frames.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::entry::{About, Entry};
use super::frame::Malformed;

/// Longest name of a stream.
pub const NAME_BYTES_MAX: usize = 511;
/// Longest document that a client may keep with a stream.
pub const ABOUT_BYTES_MAX: usize = 16 << 10;
/// Names of one question. What is told of so many streams, with the longest names and documents, fits a frame.
pub(crate) const NAMES_AT_ONCE: usize = 48;

/// Names a session; whoever knows it and has its token can go on with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId([u8; 16]);

/// Who the client is.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What lets it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The workload, if the token does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<String>,
    /// What it is, for people.
    #[serde(default)]
    pub(crate) client: String,
    /// A session to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<SessionId>,
}

/// What a client is told first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// Its session.
    pub(crate) session: SessionId,
    /// The workload.
    pub(crate) workload: String,
    /// How much content may be under way.
    pub(crate) window_bytes: u64,
    /// How long the session outlives its connection.
    pub(crate) resume_seconds: u64,
    /// The daemon's version.
    pub(crate) daemon: String,
    /// The stream that was under way, in a session that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) put: Option<UnderWay>,
}

/// What became of a stream whose connection was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnderWay {
    /// Its name.
    pub(crate) name: String,
    /// All before was taken.
    pub(crate) received_bytes: u64,
    /// Whether it was committed already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) committed: Option<Entry>,
}

/// Begins a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Put {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    #[serde(default)]
    pub(crate) about: About,
}

/// Asks for a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Get {
    /// Its name.
    pub(crate) name: String,
    /// From where on.
    #[serde(default)]
    pub(crate) offset: u64,
}

/// Asks what there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct List {
    /// How names begin.
    #[serde(default)]
    pub(crate) prefix: String,
    /// The last name of the answer before.
    #[serde(default)]
    pub(crate) after: Option<String>,
    /// Most entries of the answer.
    #[serde(default)]
    pub(crate) limit: Option<usize>,
}

/// What there is, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The streams.
    pub entries: Vec<Entry>,
    /// Whether there are more behind the last.
    pub more: bool,
}

/// Asks what these are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Describe {
    /// Their names.
    pub(crate) names: Vec<String>,
}

/// What they are, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    /// None where there is no such stream.
    pub(crate) entries: Vec<Option<Entry>>,
}

/// Removes streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remove {
    /// Their names.
    pub(crate) names: Vec<String>,
}

/// What was removed, in the order of the names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// Whether it was there.
    pub(crate) removed: Vec<bool>,
}

/// Why a request was refused, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// No token, or one that does not cover this.
    Unauthorized,
    /// The request makes no sense here.
    Invalid,
    /// There is such a stream already.
    Exists,
    /// There is no such stream.
    NotFound,
    /// It is locked or starred.
    Kept,
    /// The session is not known.
    SessionLost,
    /// Too many sessions.
    Busy,
    /// There is no room.
    StorageFull,
    /// What is stored is hurt.
    Damaged,
    /// Something else.
    #[serde(other)]
    Failed,
}

/// A request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why, for programs.
    pub code: Code,
    /// Why, and what to do, for people.
    pub message: String,
    /// Stands in the daemon's log.
    #[serde(default)]
    pub request: String,
    /// What the log has besides; it is not sent.
    #[serde(skip)]
    pub cause: String,
}

impl Refusal {
    /// A refusal that nobody has logged yet.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            request: String::new(),
            cause: String::new(),
        }
    }
}

impl SessionId {
    /// From 128 bits.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever has it can go on with the session.
        formatter.write_str("SessionId")
    }
}

impl FromStr for SessionId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed("a session's name has another form");
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong)?;
        if text.len() != 32 || text.starts_with('+') {
            return Err(wrong);
        }
        Ok(Self(number.to_be_bytes()))
    }
}

impl TryFrom<String> for SessionId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Hello")
            .field("workload", &self.workload)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_have_32_digits() {
        let id = SessionId::from_bytes([0x0A; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "0a", &"0".repeat(33), &format!("+{}", "0".repeat(31))] {
            assert!(wrong.parse::<SessionId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn codes_of_tomorrow_are_failures() {
        let refusal: Refusal =
            serde_json::from_str(r#"{"code":"too-late","message":"why"}"#).unwrap();
        assert_eq!(refusal.code, Code::Failed);
        let text = serde_json::to_string(&Refusal::new(Code::StorageFull, "full")).unwrap();
        assert!(text.contains("\"storage-full\""), "{text}");
    }
}
