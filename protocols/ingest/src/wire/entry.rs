//! What is told of a stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a stream holds, as far as chains are concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Everything.
    Full,
    /// What changed since the backup before.
    Incremental,
    /// What changed since the last full backup.
    Differential,
    /// A stretch of the database's log.
    Log,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

/// What a client says of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What made it, such as `oracle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// What it holds.
    #[serde(default)]
    pub kind: StreamKind,
    /// The set that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Where in the database's log it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Where in the database's log it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whatever else.
    #[serde(default, flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// A stream that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in the workload.
    pub name: String,
    /// Length of its content.
    pub size_bytes: u64,
    /// Space that it took.
    pub stored_bytes: u64,
    /// When it was committed, RFC 3339.
    pub created: String,
    /// The restore point that holds it.
    pub point: String,
    /// What the client said of it.
    #[serde(default)]
    pub about: About,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_kept() {
        let text = r#"{"kind":"log","media_pool":3,"from":"100"}"#;
        let about: About = serde_json::from_str(text).unwrap();
        assert_eq!(
            (about.kind, about.from.as_deref()),
            (StreamKind::Log, Some("100"))
        );
        assert_eq!(about.more["media_pool"], 3);
        let again: About = serde_json::from_str(&serde_json::to_string(&about).unwrap()).unwrap();
        assert_eq!(again, about);
        let about: About = serde_json::from_str(r#"{"kind":"of tomorrow"}"#).unwrap();
        assert_eq!(about.kind, StreamKind::Other);
    }
}
