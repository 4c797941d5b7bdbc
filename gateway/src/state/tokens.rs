//! Bearer tokens: kept as hashes, compared in constant time.

use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use repo::WorkloadName;
use repo::clock::{Clock, SystemClock, UnixNanoseconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{StateError, StateFolder, hexadecimal, random};

/// All tokens that the HTTP interface accepts.
#[derive(Debug)]
pub struct Tokens {
    state: Arc<StateFolder>,
    clock: Arc<dyn Clock>,
    /// Held by whoever adds or revokes one, while the file is written. Taken before `records`.
    changing: Mutex<()>,
    /// Held for moments only.
    records: RwLock<Vec<TokenRecord>>,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Who has it.
    pub name: String,
    /// BLAKE3 of it. Tokens are 256 random bits, so that no slow hash is needed.
    hash: String,
    /// What it is good for.
    #[serde(default)]
    pub role: Role,
    /// The one workload that it may back up, and nothing else with it; none: as far as its role goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
    /// When it was made, in nanoseconds since 1970; 0: before that was noted.
    #[serde(default)]
    pub created: u64,
    /// When it ends, in nanoseconds since 1970; none: never.
    #[serde(default)]
    pub expires: Option<u64>,
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    /// Who gets it.
    pub name: &'a str,
    /// What for.
    pub role: Role,
    /// The one workload that it may back up.
    pub workload: Option<WorkloadName>,
    /// When it ends; none: never.
    pub expires: Option<UnixNanoseconds>,
}

/// What the holder of a token may do.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    #[default]
    Admin,
    /// Make backups, and look. No content of a disk, no change of what is there.
    Backup,
    /// Look: lists, points, statistics. No content of a disk.
    ReadOnly,
    /// Bring, get, list and remove streams, and nothing over HTTP: what a database needs.
    Streams,
}

/// What a token turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is good.
    Valid {
        /// Who has it.
        name: String,
        /// What for.
        role: Role,
        /// The one workload that it may back up, if it is for one.
        workload: Option<WorkloadName>,
    },
    /// It was.
    Expired {
        /// Who has it.
        name: String,
        /// Until when.
        at: UnixNanoseconds,
    },
    /// It is none of ours: wrong, or revoked.
    Unknown,
}

/// A token could not be added or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name cannot be used.
    #[error(
        "`{0}` is no name for a token; use up to 64 letters, digits, `-`, `_` and `.`, and begin with a letter or digit"
    )]
    BadName(String),
    /// Only backups and streams can be for one workload.
    #[error(
        "a token for one workload has the role backup, which makes backups of that and sees nothing, or streams"
    )]
    NotForOne,
    /// The name is in use.
    #[error("there is a token {0} already; revoke that, or take another name")]
    Taken(String),
    /// There is none of that name.
    #[error("there is no token {0}; see `holdfast token list`")]
    NoSuchToken(String),
    /// There are too many.
    #[error("there are {TOKENS_MAX} tokens already; revoke one first")]
    TooMany,
    /// The file could not be written.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Role {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Backup => "backup",
            Self::ReadOnly => "read-only",
            Self::Streams => "streams",
        }
    }
}

impl Tokens {
    /// Loads the tokens. The first time ever it makes one and stores it in clear in the file `token`.
    ///
    /// # Errors
    /// If they cannot be read or stored.
    pub fn load_or_create(state: &Arc<StateFolder>) -> Result<Self, StateError> {
        Self::with_clock(state, Arc::new(SystemClock))
    }

    fn with_clock(state: &Arc<StateFolder>, clock: Arc<dyn Clock>) -> Result<Self, StateError> {
        let records = match state.read(Path::new(FILE), LIMIT_BYTES)? {
            Some(text) => serde_json::from_slice(&text).map_err(|error| StateError::Damaged {
                path: state.file(FILE),
                detail: error.to_string(),
                remedy: "remove it and `token`, and start again; clients then need the new token",
            })?,
            None => vec![create_first(state, clock.now())?],
        };
        Ok(Self {
            state: Arc::clone(state),
            clock,
            changing: Mutex::new(()),
            records: RwLock::new(records),
        })
    }

    /// What `token` is good for now.
    pub fn judge(&self, token: &str) -> Verdict {
        let given = hash(token);
        let now = self.clock.now();
        let mut verdict = Verdict::Unknown;
        for record in self.records.read().iter() {
            // `blake3::Hash` compares in constant time; every record is looked at.
            if blake3::Hash::from_hex(&record.hash).is_ok_and(|hash| hash == given) {
                let name = record.name.clone();
                verdict = match record.expires {
                    Some(at) if at <= now.0 => Verdict::Expired {
                        name,
                        at: UnixNanoseconds(at),
                    },
                    _ => Verdict::Valid {
                        name,
                        role: record.role,
                        workload: record.workload.clone(),
                    },
                };
            }
        }
        verdict
    }

    /// All tokens by name, without anything by which one could be used.
    pub fn list(&self) -> Vec<TokenRecord> {
        let mut records = self.records.read().clone();
        records.sort_by(|one, other| one.name.cmp(&other.name));
        records
    }

    /// Makes a token and gives it in clear, for the only time.
    ///
    /// # Errors
    /// If the name cannot be used, it is for one workload and no backups, or the storage refuses.
    pub fn add(&self, new: NewToken<'_>) -> Result<(TokenRecord, String), TokenError> {
        let NewToken {
            name,
            role,
            workload,
            expires,
        } = new;
        if workload.is_some() && !matches!(role, Role::Backup | Role::Streams) {
            return Err(TokenError::NotForOne);
        }
        if !is_name(name) {
            return Err(TokenError::BadName(name.to_owned()));
        }
        let _changing = self.changing.lock();
        let mut records = self.records.read().clone();
        if records.iter().any(|record| record.name == name) {
            return Err(TokenError::Taken(name.to_owned()));
        }
        if records.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let (mut record, token) = make(name, self.clock.now());
        record.role = role;
        record.workload = workload;
        record.expires = expires.map(|at| at.0);
        records.push(record.clone());
        self.store(records)?;
        Ok((record, token))
    }

    /// Ends a token at once.
    ///
    /// # Errors
    /// If there is none of that name or the storage refuses.
    pub fn revoke(&self, name: &str) -> Result<(), TokenError> {
        let _changing = self.changing.lock();
        let mut records = self.records.read().clone();
        let before = records.len();
        records.retain(|record| record.name != name);
        if records.len() == before {
            return Err(TokenError::NoSuchToken(name.to_owned()));
        }
        Ok(self.store(records)?)
    }

    fn store(&self, records: Vec<TokenRecord>) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(&records).expect("token records are plain text");
        self.state.replace(Path::new(FILE), &text)?;
        *self.records.write() = records;
        Ok(())
    }
}

/// The first token of a daemon, which is stored in clear for the command line.
fn create_first(state: &StateFolder, now: UnixNanoseconds) -> Result<TokenRecord, StateError> {
    let (record, token) = make("operator", now);
    // The clear text first: a token whose hash is stored but that nobody knows would lock everyone out. One without a
    // hash, left by a crash between the two, is replaced.
    drop(std::fs::remove_file(state.file(TOKEN_FILE)));
    state.create_secret(Path::new(TOKEN_FILE), format!("{token}\n").as_bytes())?;
    let text = serde_json::to_vec_pretty(&[&record]).expect("token records are plain text");
    state.create_secret(Path::new(FILE), &text)?;
    Ok(record)
}

/// A new token for everything, for ever.
fn make(name: &str, now: UnixNanoseconds) -> (TokenRecord, String) {
    let token = format!("hf_{}", hexadecimal(&random::<32>()));
    let record = TokenRecord {
        name: name.to_owned(),
        hash: hash(&token).to_hex().to_string(),
        role: Role::Admin,
        workload: None,
        created: now.0,
        expires: None,
    };
    (record, token)
}

fn is_name(name: &str) -> bool {
    let allowed =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|character: char| character.is_ascii_alphanumeric())
        && name.chars().all(allowed)
}

fn hash(token: &str) -> blake3::Hash {
    blake3::derive_key("holdfast 2026 API token", token.as_bytes()).into()
}

/// The file with the first token in clear.
pub(crate) const TOKEN_FILE: &str = "token";
const FILE: &str = "tokens.json";
const LIMIT_BYTES: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 64;
const TOKENS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use repo::clock::ManualClock;

    use super::*;

    fn open(folder: &Path) -> Arc<StateFolder> {
        Arc::new(StateFolder::open(folder).unwrap())
    }

    fn valid(name: &str, role: Role) -> Verdict {
        Verdict::Valid {
            name: name.to_owned(),
            role,
            workload: None,
        }
    }

    fn new(name: &str, role: Role, expires: Option<UnixNanoseconds>) -> NewToken<'_> {
        NewToken {
            name,
            role,
            workload: None,
            expires,
        }
    }

    #[test]
    fn the_first_token_is_accepted_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path());
        Tokens::load_or_create(&state).unwrap();
        let tokens = Tokens::load_or_create(&state).unwrap();
        let token = std::fs::read_to_string(folder.path().join("token")).unwrap();
        assert_eq!(tokens.judge(token.trim()), valid("operator", Role::Admin));
        assert_eq!(tokens.judge(&token), Verdict::Unknown, "with its line end");
        assert_eq!(tokens.judge(""), Verdict::Unknown);
        let stored = std::fs::read_to_string(folder.path().join("tokens.json")).unwrap();
        assert!(
            !stored.contains(token.trim()),
            "the stored form does not show the token"
        );
    }

    #[test]
    fn tokens_are_added_end_and_are_revoked_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path());
        let clock = Arc::new(ManualClock::new(UnixNanoseconds(1000)));
        let tokens = Tokens::with_clock(&state, Arc::clone(&clock) as _).unwrap();
        let until = UnixNanoseconds(2000);
        let (record, probe) = tokens
            .add(new("probe", Role::ReadOnly, Some(until)))
            .unwrap();
        assert_eq!((record.created, record.expires), (1000, Some(2000)));
        let (_, client) = tokens.add(new("client", Role::Backup, None)).unwrap();
        assert_eq!(tokens.judge(&probe), valid("probe", Role::ReadOnly));
        assert!(matches!(
            tokens.add(new("probe", Role::Admin, None)),
            Err(TokenError::Taken(_))
        ));
        for name in ["", "-x", "a b", "a/b", &"x".repeat(65)] {
            let added = tokens.add(new(name, Role::Admin, None));
            assert!(matches!(added, Err(TokenError::BadName(_))), "{name}");
        }
        clock.advance(1000);
        let expired = Verdict::Expired {
            name: "probe".to_owned(),
            at: until,
        };
        assert_eq!(tokens.judge(&probe), expired);
        drop(tokens);
        let tokens = Tokens::with_clock(&state, clock).unwrap();
        assert_eq!(tokens.judge(&probe), expired, "it is remembered");
        assert_eq!(tokens.judge(&client), valid("client", Role::Backup));
        tokens.revoke("client").unwrap();
        assert_eq!(tokens.judge(&client), Verdict::Unknown);
        assert!(matches!(
            tokens.revoke("client"),
            Err(TokenError::NoSuchToken(_))
        ));
        let names: Vec<_> = tokens.list().into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["operator", "probe"]);
        let stored = std::fs::read_to_string(folder.path().join("tokens.json")).unwrap();
        assert!(!stored.contains(&probe) && !stored.contains("client"));
    }

    #[test]
    fn a_token_for_one_workload_makes_backups_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path());
        let tokens = Tokens::load_or_create(&state).unwrap();
        let web = WorkloadName::parse("web01").ok();
        let for_web = |role| NewToken {
            workload: web.clone(),
            ..new("agent", role, None)
        };
        for role in [Role::Admin, Role::ReadOnly] {
            let refused = tokens.add(for_web(role));
            assert!(matches!(refused, Err(TokenError::NotForOne)));
        }
        let (_, token) = tokens.add(for_web(Role::Backup)).unwrap();
        let tokens = Tokens::load_or_create(&state).unwrap();
        let judged = tokens.judge(&token);
        assert!(
            matches!(&judged, Verdict::Valid { workload, .. } if *workload == web),
            "{judged:?}"
        );
    }

    #[test]
    fn tokens_of_the_first_version_are_still_good_for_everything() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path());
        let hash = hash("hf_old").to_hex().to_string();
        let text = format!("[{{\"name\": \"operator\", \"hash\": \"{hash}\"}}]");
        std::fs::write(folder.path().join("tokens.json"), text).unwrap();
        let tokens = Tokens::load_or_create(&state).unwrap();
        assert_eq!(tokens.judge("hf_old"), valid("operator", Role::Admin));
    }
}
