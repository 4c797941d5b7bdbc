//! Who asks, and where targets are found.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use scsi::LunMask;
use tokio_util::sync::CancellationToken;

use crate::chap::ChapPolicy;

/// Finds the targets that a server shows.
///
/// Asked anew for every login and every discovery, so that targets come and go while the server runs. Which initiator
/// may see what, and how it proves who it is, is decided here. Calls must not wait for a disk: they run where sockets
/// are served.
pub trait TargetDirectory: Send + Sync + 'static {
    /// The names of the targets that `initiator` may know of.
    fn list(&self, initiator: &Initiator) -> Vec<String>;

    /// The target of that name.
    ///
    /// # Errors
    /// If there is none, or none for this initiator.
    fn open(&self, name: &str, initiator: &Initiator) -> Result<OpenedTarget, OpenError>;

    /// How `initiator` proves who it is before it is told any names.
    fn discovery(&self, initiator: &Initiator) -> Authentication {
        let _ = initiator;
        Authentication::None
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initiator {
    /// Its iSCSI name, as it says. Authentication may prove it.
    pub name: String,
    /// Where it connects from.
    pub address: SocketAddr,
}

impl fmt::Display for Initiator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {}", self.name, self.address)
    }
}

/// What an initiator has to prove.
#[derive(Debug, Clone)]
pub enum Authentication {
    /// Nothing.
    None,
    /// That it knows the secret of one of these accounts.
    Chap(Arc<ChapPolicy>),
}

/// A target that a session is about to use.
#[derive(Clone)]
pub struct OpenedTarget {
    /// The device.
    pub target: Arc<scsi::Target>,
    /// A text for people; may be empty.
    pub alias: String,
    /// Which of its units this initiator may see.
    pub luns: LunMask,
    /// What it has to prove first.
    pub authentication: Authentication,
    /// Asks sessions to log out, and ends those that do not.
    pub withdrawn: CancellationToken,
}

impl fmt::Debug for OpenedTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenedTarget")
            .field("name", &self.target.identity().name)
            .finish_non_exhaustive()
    }
}

/// Why a target is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is none of that name, or the initiator must not know.
    #[error("no such target")]
    Unknown,
    /// There is one, and this initiator may not use it.
    #[error("target is not for this initiator")]
    Forbidden,
    /// The target is going away.
    #[error("target is going away")]
    Removed,
}

/// Which initiators a rule is about: a name, in which `*` stands for any bytes and `?` for any one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitiatorPattern(String);

impl InitiatorPattern {
    /// Takes a name or pattern. Names are compared in lower case, as the standard wants it (RFC 7143, 4.2.7.2).
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_lowercase())
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let (name, pattern) = (name.as_bytes(), self.0.as_bytes());
        let (mut at, mut pattern_at) = (0, 0);
        // Where the last `*` stands, and up to where in the name it reaches so far.
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match pattern.get(pattern_at) {
                Some(b'*') => {
                    star = Some((pattern_at, at));
                    pattern_at += 1;
                }
                Some(byte) if *byte == b'?' || name.get(at) == Some(byte) => {
                    at += 1;
                    pattern_at += 1;
                }
                _ => {
                    let Some((star_at, reach)) = star else {
                        return false;
                    };
                    star = Some((star_at, reach + 1));
                    at = reach + 1;
                    pattern_at = star_at + 1;
                }
            }
        }
        pattern
            .get(pattern_at..)
            .is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
    }
}

/// Who may use a target, and how.
#[derive(Debug, Clone)]
pub struct AccessRule {
    /// Whom the rule is about; the first rule that matches counts.
    pub initiators: InitiatorPattern,
    /// Which units they see.
    pub luns: LunMask,
    /// What they have to prove.
    pub authentication: Authentication,
}

/// A set of targets that the owner changes.
#[derive(Default)]
pub struct StaticDirectory {
    targets: RwLock<BTreeMap<String, Entry>>,
}

struct Entry {
    target: Arc<scsi::Target>,
    alias: String,
    rules: Vec<AccessRule>,
    withdrawn: CancellationToken,
}

impl StaticDirectory {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows `target` under its name to those whom `rules` allow. What had the name is withdrawn.
    pub fn add(&self, target: Arc<scsi::Target>, alias: impl Into<String>, rules: Vec<AccessRule>) {
        let name = target.identity().name.clone();
        let entry = Entry {
            target,
            alias: alias.into(),
            rules,
            withdrawn: CancellationToken::new(),
        };
        if let Some(old) = self.targets.write().insert(name, entry) {
            old.withdrawn.cancel();
        }
    }

    /// Removes `name`: its sessions are asked to log out. Says whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        let removed = self.targets.write().remove(name);
        if let Some(entry) = &removed {
            entry.withdrawn.cancel();
        }
        removed.is_some()
    }
}

impl TargetDirectory for StaticDirectory {
    fn list(&self, initiator: &Initiator) -> Vec<String> {
        let targets = self.targets.read();
        let visible = targets
            .iter()
            .filter(|(_, entry)| entry.rule_for(initiator).is_some());
        visible.map(|(name, _)| name.clone()).collect()
    }

    fn open(&self, name: &str, initiator: &Initiator) -> Result<OpenedTarget, OpenError> {
        let targets = self.targets.read();
        let entry = targets.get(name).ok_or(OpenError::Unknown)?;
        let rule = entry.rule_for(initiator).ok_or(OpenError::Forbidden)?;
        Ok(OpenedTarget {
            target: Arc::clone(&entry.target),
            alias: entry.alias.clone(),
            luns: rule.luns.clone(),
            authentication: rule.authentication.clone(),
            withdrawn: entry.withdrawn.clone(),
        })
    }
}

impl Entry {
    fn rule_for(&self, initiator: &Initiator) -> Option<&AccessRule> {
        self.rules
            .iter()
            .find(|rule| rule.initiators.matches(&initiator.name))
    }
}

impl fmt::Debug for StaticDirectory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_set()
            .entries(self.targets.read().keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let check = |pattern: &str, name: &str, wanted: bool| {
            let matches = InitiatorPattern::new(pattern).matches(name);
            assert_eq!(matches, wanted, "{pattern} and {name}");
        };
        check("iqn.2026-01.a:host1", "iqn.2026-01.a:host1", true);
        check("iqn.2026-01.a:host1", "IQN.2026-01.a:Host1", true);
        check("iqn.2026-01.a:host1", "iqn.2026-01.a:host10", false);
        check("iqn.2026-01.a:*", "iqn.2026-01.a:host10", true);
        check("*:host?", "iqn.2026-01.a:host1", true);
        check("*:host?", "iqn.2026-01.a:host10", false);
        check("*a*b*c", "xxaxxbxxbxxc", true);
        check("*a*b*c", "xxaxxbxxbxxcd", false);
        check("*", "", true);
        check("", "a", false);
    }
}
