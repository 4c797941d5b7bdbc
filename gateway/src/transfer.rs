//! The daemon's own configuration as one document, to be kept and taken over by another daemon.
//!
//! It holds settings, retention rules, the definitions of recovery sessions, and who has a token; no secret, and nothing that was backed
//! up or written. `docs/operations/configuration.md` is the operator's view.

use std::collections::{BTreeMap, BTreeSet};

use repo::WorkloadName;
use repo::clock::{Clock as _, SystemClock, UnixNanoseconds};
use repo::retention::RetentionRules;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::config::{Config, Peers};
use crate::exports::{DiskFormat, chain};
use crate::jobs::{Retention, RuleBook};
use crate::recovery::{Protocol, SessionMode, SessionRecord, SessionState, StartRequest};
use crate::state::{NewToken, Role, TokenRecord};

/// An exported configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Says what this is: `holdfast-configuration`.
    pub kind: String,
    /// Version of this form.
    pub version: u32,
    /// When it was exported, RFC 3339.
    pub exported: String,
    /// The repository of the daemon.
    pub repository: String,
    /// What the daemon was told by its configuration file and command line.
    #[schema(value_type = Object)]
    pub settings: Config,
    /// How long points are kept, by workload.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub rules: RuleBook,
    /// Who has a token.
    pub tokens: Vec<TokenEntry>,
    /// Recovery sessions.
    pub sessions: Vec<SessionEntry>,
}

/// A token without what it takes to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// Who has it.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// The one workload that it may back up, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// When it ends, in nanoseconds since 1970; none: never.
    #[serde(default)]
    pub expires: Option<u64>,
}

/// How a recovery session was started. What was written in it is not part of this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionEntry {
    /// Its name.
    pub name: String,
    /// The restore point.
    pub point: String,
    /// Whether it can be written.
    pub mode: SessionMode,
    /// Its disks by number.
    pub disks: Vec<usize>,
    /// How it is served.
    pub protocols: Vec<Protocol>,
    /// Who may come.
    #[schema(value_type = Vec<String>)]
    pub allow: Peers,
    /// Initiators that may come over iSCSI; none: as configured.
    #[serde(default)]
    pub initiators: Vec<String>,
    /// The formats of its disks' files; none: raw.
    #[serde(default)]
    pub formats: Vec<DiskFormat>,
    /// Whether its share shows what lies on the disks.
    #[serde(default)]
    pub files: bool,
    /// Whether it is served now.
    pub served: bool,
}

/// What an import does, or would do, about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// The thing: `token probe`, `session lab`, `setting nbd.tls`.
    pub subject: String,
    /// What becomes of it.
    pub action: Action,
    /// Why, or what to do.
    pub detail: String,
    /// The secret of a token that was made. Nobody can show it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What becomes of one thing in an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is as the document says.
    Same,
    /// It is made.
    Add,
    /// It differs, and is left to a person.
    Differs,
    /// It cannot be made.
    Failed,
}

/// A document that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// It is something else.
    #[error("this is no exported configuration; give a file that `holdfast config export` made")]
    NoDocument,
    /// It is of another version.
    #[error(
        "the exported configuration has version {0}, and this program reads {VERSION}; take a newer program"
    )]
    Version(u32),
}

impl Document {
    /// The configuration of a running daemon.
    pub fn export(core: &Core) -> Self {
        let tokens = core.tokens.list();
        let sessions = core.sessions.list();
        Self {
            kind: KIND.to_owned(),
            version: VERSION,
            exported: SystemClock.now().to_string(),
            repository: core.repository.uuid().to_string(),
            settings: core.config.clone(),
            rules: core.retention.rules(),
            tokens: tokens.iter().map(TokenEntry::new).collect(),
            sessions: sessions.iter().filter_map(SessionEntry::new).collect(),
        }
    }

    /// Refuses what is no such document.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn check(&self) -> Result<(), TransferError> {
        if self.kind != KIND {
            return Err(TransferError::NoDocument);
        }
        if self.version != VERSION {
            return Err(TransferError::Version(self.version));
        }
        Ok(())
    }

    /// Makes what the document has and the daemon has not. What is there and differs is left alone.
    pub fn import(&self, core: &Core, effort: Effort) -> Vec<Step> {
        let mut steps = self.compare_settings(&core.config);
        steps.extend(import_rules(&self.rules, &core.retention, effort));
        steps.extend(self.tokens.iter().map(|token| token.import(core, effort)));
        steps.extend(
            self.sessions
                .iter()
                .map(|session| session.import(core, effort)),
        );
        steps
    }

    /// Settings take effect when a daemon starts, so an import only says where they differ.
    fn compare_settings(&self, here: &Config) -> Vec<Step> {
        let (here, there) = (flat(here), flat(&self.settings));
        let names: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        let shown = |value: Option<&String>| value.map_or("not set", String::as_str).to_owned();
        names
            .into_iter()
            .filter(|name| !OWN_SETTINGS.contains(&name.as_str()))
            .filter(|name| here.get(*name) != there.get(*name))
            .map(|name| Step {
                subject: format!("setting {name}"),
                action: Action::Differs,
                detail: format!(
                    "{} here, {} in the file; `holdfast config settings FILE` prints all for `holdfast serve --config`",
                    shown(here.get(name)),
                    shown(there.get(name))
                ),
                token: None,
            })
            .collect()
    }
}

/// Whether an import does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// It does.
    Real,
    /// It only says what it would do.
    DryRun,
}

impl TokenEntry {
    fn new(record: &TokenRecord) -> Self {
        Self {
            name: record.name.clone(),
            role: record.role,
            workload: record.workload.as_ref().map(ToString::to_string),
            expires: record.expires,
        }
    }

    fn import(&self, core: &Core, effort: Effort) -> Step {
        let step = |action, detail: &str| Step {
            subject: format!("token {}", self.name),
            action,
            detail: detail.to_owned(),
            token: None,
        };
        let there = core.tokens.list();
        match there.iter().find(|record| record.name == self.name) {
            Some(record) if Self::new(record) == *self => return step(Action::Same, ""),
            Some(_) => {
                let detail = "role, workload or end differ; revoke the one that is there to have it made anew";
                return step(Action::Differs, detail);
            }
            None => {}
        }
        if self.expires.is_some_and(|at| at <= SystemClock.now().0) {
            return step(Action::Same, "it has expired and is left out");
        }
        if effort == Effort::DryRun {
            return step(Action::Add, "with a new secret, which the import prints");
        }
        let workload = self.workload.as_deref().map(WorkloadName::parse);
        let workload = match workload.transpose() {
            Ok(workload) => workload,
            Err(error) => return step(Action::Failed, &chain(&error)),
        };
        match core.tokens.add(NewToken {
            name: &self.name,
            role: self.role,
            workload,
            expires: self.expires.map(UnixNanoseconds),
        }) {
            Ok((_, token)) => Step {
                token: Some(token),
                ..step(Action::Add, "with a new secret: give it to its holder")
            },
            Err(error) => step(Action::Failed, &chain(&error)),
        }
    }
}

impl SessionEntry {
    /// None for a session that is just coming or going.
    fn new(record: &SessionRecord) -> Option<Self> {
        let served = match record.state {
            SessionState::Active | SessionState::Sealing => true,
            SessionState::Stopped => false,
            SessionState::Starting | SessionState::Discarding => return None,
        };
        Some(Self {
            name: record.name.clone(),
            point: record.point.clone(),
            mode: record.mode,
            disks: record.disks.iter().map(|disk| disk.number).collect(),
            protocols: record.protocols.clone(),
            allow: record.allow.clone(),
            initiators: record.initiators.clone(),
            formats: record.formats.clone(),
            files: record.files,
            served,
        })
    }

    fn import(&self, core: &Core, effort: Effort) -> Step {
        let step = |action, detail: &str| Step {
            subject: format!("session {}", self.name),
            action,
            detail: detail.to_owned(),
            token: None,
        };
        if let Ok(record) = core.sessions.find(&self.name) {
            return match Self::new(&record) {
                Some(there) if there == *self => step(Action::Same, ""),
                _ => step(
                    Action::Differs,
                    "one of that name is there; discard it to have it made anew",
                ),
            };
        }
        if let Err(error) = crate::recovery::resolve(&core.repository, &self.point) {
            return step(Action::Failed, &chain(&error));
        }
        if effort == Effort::DryRun {
            return step(Action::Add, "from its restore point, with nothing written");
        }
        match self.start(core) {
            Ok(()) => step(Action::Add, "from its restore point, with nothing written"),
            Err(error) => step(Action::Failed, &chain(&error)),
        }
    }

    fn start(&self, core: &Core) -> Result<(), crate::recovery::RecoveryError> {
        let request = StartRequest {
            point: self.point.clone(),
            name: Some(self.name.clone()),
            disks: self.disks.clone(),
            read_only: self.mode == SessionMode::ReadOnly,
            protocols: self.protocols.clone(),
            allow: Some(self.allow.clone()),
            initiators: self.initiators.clone(),
            formats: self.formats.clone(),
            files: self.files,
        };
        core.sessions.start(&request)?;
        if !self.served {
            core.sessions.stop(&self.name)?;
        }
        Ok(())
    }
}

/// Rules that are there and differ are left alone: which of the two keeps more is for a person to say.
fn import_rules(book: &RuleBook, retention: &Retention, effort: Effort) -> Vec<Step> {
    let here = retention.rules();
    let default = (book.default != RetentionRules::default()).then_some((None, &book.default));
    let own = book.workloads.iter();
    let wanted = default
        .into_iter()
        .chain(own.map(|(workload, rules)| (Some(workload), rules)));
    let import = |(workload, rules): (Option<&WorkloadName>, &RetentionRules)| {
        let step = |action, detail: &str| Step {
            subject: match workload {
                None => "rules for all workloads".to_owned(),
                Some(workload) => format!("rules for {workload}"),
            },
            action,
            detail: detail.to_owned(),
            token: None,
        };
        let there = match workload {
            None => Some(&here.default).filter(|rules| **rules != RetentionRules::default()),
            Some(workload) => here.workloads.get(workload),
        };
        match there {
            Some(there) if there == rules => return step(Action::Same, ""),
            Some(_) => {
                let detail = "others are set; `holdfast retention set` changes them";
                return step(Action::Differs, detail);
            }
            None if effort == Effort::DryRun => return step(Action::Add, ""),
            None => {}
        }
        match retention.set(workload, Some(rules.clone())) {
            Ok(()) => step(Action::Add, ""),
            Err(error) => step(Action::Failed, &chain(&error)),
        }
    };
    wanted.map(import).collect()
}

/// Every setting under its full name, in the words of the configuration file.
fn flat(config: &Config) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let value = toml::Value::try_from(config).unwrap_or(toml::Value::Boolean(false));
    collect("", &value, &mut all);
    all
}

fn collect(name: &str, value: &toml::Value, all: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = match name {
                    "" => key.clone(),
                    name => format!("{name}.{key}"),
                };
                collect(&name, value, all);
            }
        }
        value => drop(all.insert(name.to_owned(), value.to_string())),
    }
}

const KIND: &str = "holdfast-configuration";
const VERSION: u32 = 1;
/// Where a daemon lies is its own affair.
const OWN_SETTINGS: [&str; 2] = ["repository.path", "state.path"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, NbdTls};

    fn document(settings: Config) -> Document {
        Document {
            kind: KIND.to_owned(),
            version: VERSION,
            exported: String::new(),
            repository: String::new(),
            settings,
            rules: RuleBook::default(),
            tokens: Vec::new(),
            sessions: Vec::new(),
        }
    }

    #[test]
    fn settings_come_back_from_their_text_and_differences_are_named() {
        let mut settings = Config::for_repository("/srv/a".as_ref());
        settings.nbd.tls = NbdTls::Require;
        settings.nbd.client_authority = Some("/etc/a.pem".into());
        settings.repository.chunk_cache = ByteSize::mebibytes(1536);
        settings.recovery.allow = Peers::parse(&["10.0.0.0/8".to_owned()]).unwrap();
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(Config::parse(&text).unwrap(), settings);
        let json = serde_json::to_string(&document(settings.clone())).unwrap();
        let back: Document = serde_json::from_str(&json).unwrap();
        assert_eq!(back.settings, settings);

        let here = Config::for_repository("/srv/b".as_ref());
        let steps = back.compare_settings(&here);
        let subjects: Vec<_> = steps.iter().map(|step| step.subject.as_str()).collect();
        assert_eq!(
            subjects,
            [
                "setting nbd.client_authority",
                "setting nbd.tls",
                "setting recovery.allow",
                "setting repository.chunk_cache"
            ]
        );
        assert!(
            steps[1]
                .detail
                .starts_with("\"off\" here, \"require\" in the file"),
            "{}",
            steps[1].detail
        );
        assert!(document(here.clone()).compare_settings(&here).is_empty());
    }

    #[test]
    fn other_documents_are_refused() {
        let mut other = document(Config::default());
        other.kind = "something".to_owned();
        assert!(matches!(other.check(), Err(TransferError::NoDocument)));
        let mut newer = document(Config::default());
        newer.version = 2;
        assert!(matches!(newer.check(), Err(TransferError::Version(2))));
    }
}
