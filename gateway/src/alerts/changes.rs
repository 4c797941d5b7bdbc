//! Alerts about changes that something else made to the repository's files.

use std::sync::Arc;

use repo::{ForeignChange, Noticed, Repository, Watch};

use super::{AlertKind, Alerts, KEPT_MAX, News};
use crate::config::Config;
use crate::exports::chain;
use crate::telemetry::Metrics;

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
            when = when(change.noticed),
            "somebody else changed the repository; run `holdfast verify`"
        );
    }
    if changes.len() > LOGGED_MAX {
        let more = changes.len() - LOGGED_MAX;
        tracing::error!(more, "somebody else changed more files of the repository");
    }
}

fn news(change: &ForeignChange) -> News {
    let file = change.path.display();
    let what = match change.kind {
        repo::ForeignKind::Added => "was added",
        repo::ForeignKind::Removed => "was removed",
        repo::ForeignKind::Replaced => "was replaced",
        repo::ForeignKind::Truncated => "was made shorter",
        repo::ForeignKind::Changed => "was written to",
    };
    News {
        kind: AlertKind::ForeignChange,
        subject: file.to_string(),
        message: format!(
            "{file} {what} by something else than the daemon{}",
            when(change.noticed)
        ),
        mend: match change.path.starts_with("keys") && change.noticed == Noticed::AtStart {
            true => {
                "dismiss this if you ran `holdfast key` with --offline; else find out what did it"
            }
            false => "find out what did it, and run `holdfast verify` to learn what is hurt",
        }
        .to_owned(),
    }
}

fn when(noticed: Noticed) -> &'static str {
    match noticed {
        Noticed::AtOnce => "",
        Noticed::AtStart => " while no daemon ran",
    }
}

/// Lines of one report in the log.
const LOGGED_MAX: usize = 20;
