//! What a person must know: kept until somebody dismisses it, through restarts too.

mod changes;
mod clock;
mod damage;
mod guard;

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::clock::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use changes::watch;
pub(crate) use clock::ClockWatch;
pub(crate) use damage::{found_by_care, found_by_verification};
pub(crate) use guard::{authority_made, key_slot_changed, lock_lifted, wrong_code};

use crate::exports::chain;
use crate::state::{StateError, StateFolder};

/// All alerts that nobody dismissed.
#[derive(Debug)]
pub struct Alerts {
    state: Arc<StateFolder>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// Numbers below were given.
    next: u64,
    alerts: Vec<Alert>,
}

/// Something that a person must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its number.
    pub id: u64,
    /// What kind of thing it is.
    pub kind: AlertKind,
    /// How grave it is.
    #[serde(default)]
    pub severity: Severity,
    /// What it is about: a file, for instance.
    pub subject: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub mend: String,
    /// When it was noticed first, RFC 3339.
    pub first: String,
    /// When it was noticed last, RFC 3339.
    pub last: String,
    /// How often.
    pub count: u64,
}

/// Kinds of alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlertKind {
    /// Something else than the daemon changed a file of the repository.
    ForeignChange,
    /// The repository's folder is not watched.
    NotWatched,
    /// Damage was mended from parity.
    DamageMended,
    /// There is damage that each read rebuilds from parity, and that was not mended.
    DamageMendable,
    /// Stored data is lost: nothing could rebuild it.
    DataLost,
    /// The trusted time and the machine's clock contradict each other.
    Clock,
    /// A key slot was added, changed or removed.
    KeySlot,
    /// A lock authority was made.
    LockAuthority,
    /// A lock was lifted before its time.
    LockLifted,
    /// A wrong code for the lock authority.
    WrongCode,
}

/// How grave an alert is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing is lost; something will be if nobody sees to it.
    Warning,
    /// Something is lost, or may be.
    #[default]
    Problem,
}

impl AlertKind {
    /// How grave it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::DamageMended
            | Self::DamageMendable
            | Self::KeySlot
            | Self::LockAuthority
            | Self::LockLifted => Severity::Warning,
            Self::ForeignChange
            | Self::NotWatched
            | Self::DataLost
            | Self::Clock
            | Self::WrongCode => Severity::Problem,
        }
    }
}

/// What to tell, before it has a number and a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What kind of thing it is.
    pub kind: AlertKind,
    /// What it is about.
    pub subject: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub mend: String,
}

impl Alerts {
    /// Loads what was kept.
    ///
    /// # Errors
    /// If it cannot be read. A file that is damaged is an alert less, not a daemon less: it is logged and begun anew.
    pub fn load(state: &Arc<StateFolder>) -> Result<Self, StateError> {
        let kept = match state.read(Path::new(FILE), LIMIT_BYTES)? {
            None => Kept::default(),
            Some(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::error!(%error, "alerts.json is damaged; earlier alerts are lost");
                Kept::default()
            }),
        };
        Ok(Self {
            state: Arc::clone(state),
            kept: Mutex::new(kept),
        })
    }

    /// Tells a person. What was told before and was not dismissed is counted. Says whether something is new.
    pub fn raise(&self, news: Vec<News>) -> bool {
        if news.is_empty() {
            return false;
        }
        let now = SystemClock.now().to_string();
        let mut kept = self.kept.lock();
        let before = kept.next;
        for news in news {
            kept.take(news, &now);
        }
        self.store(&kept);
        kept.next > before
    }

    /// How many alerts there are of each severity.
    pub(crate) fn samples(&self) -> Vec<(&'static str, u64)> {
        let count = |severity| {
            let kept = self.kept.lock();
            let alerts = kept.alerts.iter();
            alerts.filter(|alert| alert.severity == severity).count() as u64
        };
        vec![
            ("holdfast_alerts_warnings", count(Severity::Warning)),
            ("holdfast_alerts_problems", count(Severity::Problem)),
        ]
    }

    /// All alerts, the oldest first.
    pub fn list(&self) -> Vec<Alert> {
        self.kept.lock().alerts.clone()
    }

    /// Drops an alert; says whether there was one.
    pub fn dismiss(&self, id: u64) -> bool {
        let mut kept = self.kept.lock();
        let before = kept.alerts.len();
        kept.alerts.retain(|alert| alert.id != id);
        let found = kept.alerts.len() < before;
        self.store(&kept);
        found
    }

    /// Drops all alerts.
    pub fn dismiss_all(&self) {
        let mut kept = self.kept.lock();
        kept.alerts.clear();
        self.store(&kept);
    }

    /// An alert that cannot be stored, on a full disk for instance, is there until the daemon ends.
    fn store(&self, kept: &Kept) {
        let text = serde_json::to_vec_pretty(kept).expect("alerts are plain text");
        if let Err(error) = self.state.replace(Path::new(FILE), &text) {
            tracing::warn!(
                error = chain(&error),
                "cannot keep alerts for the next start"
            );
        }
    }
}

impl Kept {
    fn take(&mut self, news: News, now: &str) {
        let same = |alert: &&mut Alert| {
            (alert.kind, &alert.subject, &alert.message)
                == (news.kind, &news.subject, &news.message)
        };
        if let Some(alert) = self.alerts.iter_mut().find(same) {
            alert.last = now.to_owned();
            alert.count += 1;
            return;
        }
        if self.alerts.len() >= KEPT_MAX {
            self.alerts.remove(0);
        }
        self.alerts.push(Alert {
            id: self.next,
            kind: news.kind,
            severity: news.kind.severity(),
            subject: news.subject,
            message: news.message,
            mend: news.mend,
            first: now.to_owned(),
            last: now.to_owned(),
            count: 1,
        });
        self.next += 1;
    }
}

const FILE: &str = "alerts.json";
const LIMIT_BYTES: u64 = 4 << 20;
const KEPT_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn news(subject: &str) -> News {
        News {
            kind: AlertKind::ForeignChange,
            subject: subject.to_owned(),
            message: format!("{subject} was removed"),
            mend: "look".to_owned(),
        }
    }

    #[test]
    fn alerts_are_counted_kept_and_dismissed() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(StateFolder::open(folder.path()).unwrap());
        let alerts = Alerts::load(&state).unwrap();
        alerts.raise(vec![news("a"), news("b")]);
        alerts.raise(vec![news("a")]);
        drop(alerts);
        let alerts = Alerts::load(&state).unwrap();
        let found: Vec<_> = alerts
            .list()
            .into_iter()
            .map(|alert| (alert.id, alert.subject, alert.count))
            .collect();
        assert_eq!(found, [(0, "a".to_owned(), 2), (1, "b".to_owned(), 1)]);
        assert!(alerts.dismiss(0) && !alerts.dismiss(0));
        alerts.raise(vec![news("a")]);
        assert_eq!(alerts.list()[1].id, 2, "numbers are not given twice");
        alerts.dismiss_all();
        assert!(alerts.list().is_empty());
        std::fs::write(folder.path().join("alerts.json"), "nonsense").unwrap();
        assert!(Alerts::load(&state).unwrap().list().is_empty());
    }

    #[test]
    fn their_number_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(StateFolder::open(folder.path()).unwrap());
        let alerts = Alerts::load(&state).unwrap();
        alerts.raise(
            (0..KEPT_MAX + 5)
                .map(|number| news(&number.to_string()))
                .collect(),
        );
        let kept = alerts.list();
        assert_eq!((kept.len(), kept[0].id), (KEPT_MAX, 5));
    }
}
