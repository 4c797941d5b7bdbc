//! What a person must know: kept until somebody dismisses it, through restarts too.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::clock::{Clock as _, SystemClock};
use repo::{ForeignChange, Repository, Watch};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Config;
use crate::exports::chain;
use crate::state::{StateError, StateFolder};
use crate::telemetry::Metrics;

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

    /// Tells a person. What was told before and was not dismissed is counted.
    pub fn raise(&self, news: Vec<News>) {
        let now = SystemClock.now().to_string();
        let mut kept = self.kept.lock();
        for news in news {
            kept.take(news, &now);
        }
        self.store(&kept);
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

/// Tells of every change of the repository's files by somebody else, for as long as the value lives. Where the system
/// refuses to watch, that is told.
pub(crate) fn watch(
    config: &Config,
    repository: &Repository,
    alerts: &Arc<Alerts>,
    metrics: &Arc<Metrics>,
) -> Option<Watch> {
    if !config.repository.watch {
        return None;
    }
    let (told, counted) = (Arc::clone(alerts), Arc::clone(metrics));
    let watch = repository.watch(move |changes| {
        counted
            .repository_foreign_changes
            .inc_by(changes.len() as u64);
        tell(&changes);
        told.raise(changes.iter().take(KEPT_MAX).map(news).collect());
    });
    match watch {
        Ok(watch) => watch,
        Err(error) => {
            let message = chain(&error);
            tracing::error!(error = message, "the repository's folder is not watched");
            alerts.raise(vec![News {
                kind: AlertKind::NotWatched,
                subject: repository.root().display().to_string(),
                message,
                mend: "raise fs.inotify.max_user_watches and max_user_instances, and restart the daemon"
                    .to_owned(),
            }]);
            None
        }
    }
}

fn tell(changes: &[ForeignChange]) {
    for change in changes.iter().take(LOGGED_MAX) {
        tracing::error!(
            file = %change.path.display(),
            what = %change.kind,
            "somebody else changed the repository; run `holdfast verify`"
        );
    }
    if changes.len() > LOGGED_MAX {
        let more = changes.len() - LOGGED_MAX;
        tracing::error!(more, "somebody else changed more files of the repository");
    }
}

fn news(change: &ForeignChange) -> News {
    News {
        kind: AlertKind::ForeignChange,
        subject: change.path.display().to_string(),
        message: format!(
            "{} {} by something else than the daemon",
            change.path.display(),
            match change.kind {
                repo::ForeignKind::Added => "was added",
                repo::ForeignKind::Removed => "was removed",
                repo::ForeignKind::Replaced => "was replaced",
                repo::ForeignKind::Truncated => "was made shorter",
                repo::ForeignKind::Changed => "was written to",
            }
        ),
        mend: "find out what did it, and run `holdfast verify` to learn what is hurt".to_owned(),
    }
}

const FILE: &str = "alerts.json";
const LIMIT_BYTES: u64 = 4 << 20;
const KEPT_MAX: usize = 1000;
/// Lines of one report in the log.
const LOGGED_MAX: usize = 20;

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
