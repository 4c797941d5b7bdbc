//! Who is connected, as `smbstatus` tells it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::SmbError;

/// A client that has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The user.
    pub user: String,
    /// From where.
    pub machine: String,
    /// The version of the protocol, such as `SMB3_11`.
    pub dialect: String,
    /// The cipher; none: it is not encrypted.
    pub encryption: Option<String>,
    /// The algorithm by which it is signed; none: it is not.
    pub signing: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    sessions: BTreeMap<String, Session>,
}

#[derive(Deserialize)]
struct Session {
    #[serde(default)]
    username: String,
    #[serde(default)]
    remote_machine: String,
    #[serde(default)]
    session_dialect: String,
    encryption: Option<Protection>,
    signing: Option<Protection>,
}

#[derive(Deserialize)]
struct Protection {
    #[serde(default)]
    cipher: String,
    #[serde(default)]
    degree: String,
}

/// Reads what `smbstatus --json` prints.
pub(crate) fn parse(text: &str) -> Result<Vec<Connection>, SmbError> {
    let document: Document = serde_json::from_str(text).map_err(|error| SmbError::Unreadable {
        name: "smbstatus",
        detail: error.to_string(),
    })?;
    let in_effect = |protection: Option<Protection>| {
        protection
            .filter(|protection| matches!(protection.degree.as_str(), "full" | "partial"))
            .map(|protection| protection.cipher)
    };
    let sessions = document.sessions.into_values();
    Ok(sessions
        .map(|session| Connection {
            user: session.username,
            machine: session.remote_machine,
            dialect: session.session_dialect,
            encryption: in_effect(session.encryption),
            signing: in_effect(session.signing),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read_and_nonsense_is_refused() {
        let text = r#"{"version": "4.17.12-Debian", "sessions": {"7": {"uid": 1, "username": "holdfast-2",
            "remote_machine": "::1", "session_dialect": "SMB3_11", "encryption": {"cipher": "", "degree": "none"},
            "signing": {"cipher": "AES-128-GMAC", "degree": "partial"}}}, "tcons": {}}"#;
        let connections = parse(text).unwrap();
        assert_eq!(
            connections,
            [Connection {
                user: "holdfast-2".to_owned(),
                machine: "::1".to_owned(),
                dialect: "SMB3_11".to_owned(),
                encryption: None,
                signing: Some("AES-128-GMAC".to_owned()),
            }]
        );
        assert_eq!(parse("{}").unwrap(), []);
        for text in ["", "3", "{\"sessions\": 3}", "{"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
