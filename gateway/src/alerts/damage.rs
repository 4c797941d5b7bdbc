//! Alerts about damage that was found: by a verification, or by a read.

use std::collections::BTreeMap;
use std::sync::Arc;

use repo::{CareReport, Damage, PointName, Repair, VerifyOptions, VerifyReport, VerifyScope};

use super::{AlertKind, News};
use crate::Core;
use crate::exports::chain;

/// Where something is lost: a disk or stream of a workload.
type Part = (String, String);

/// What a verification has to tell a person.
pub(crate) fn found_by_verification(report: &VerifyReport) -> Vec<News> {
    let mut news: Vec<_> = report.mended.iter().map(|what| mended(what)).collect();
    news.extend(report.mendable.iter().map(|what| mendable(what)));
    let (of_points, others): (Vec<_>, Vec<_>) = report
        .damaged
        .iter()
        .partition(|damage| damage.point.is_some());
    news.extend(lost_files(others.iter().map(|damage| damage.what.as_str())));
    news.extend(lost_parts(&of_points));
    news.truncate(TOLD_MAX);
    news
}

/// Has a person told of damage that a read met, for as long as the daemon lives. If something is lost, a look through
/// the maps says which restore points suffer.
pub(crate) fn found_by_care(core: &Arc<Core>) -> impl Fn(CareReport) + Send + use<> {
    // The repository keeps this, and must not keep the daemon.
    let core = Arc::downgrade(core);
    move |found| {
        let Some(core) = core.upgrade() else { return };
        let mut news: Vec<_> = found.mended.iter().map(|what| mended(what)).collect();
        news.extend(found.mendable.iter().map(|what| mendable(what)));
        core.alerts.raise(news);
        let lost = lost_files(found.lost.iter().map(String::as_str));
        if !core.alerts.raise(lost) {
            return;
        }
        let options = VerifyOptions {
            scope: VerifyScope::Lost,
            rate: None,
            repair: Repair::No,
        };
        if let Err(error) = core.jobs.verify(options) {
            tracing::warn!(
                error = chain(&error),
                "cannot look up which restore points suffer; run `holdfast verify`"
            );
        }
    }
}

fn mended(what: &str) -> News {
    News {
        kind: AlertKind::DamageMended,
        subject: subject(what),
        message: format!("mended {what}; nothing is lost"),
        mend: "look after the disk: one that loses pages loses more, and soon".to_owned(),
    }
}

fn mendable(what: &str) -> News {
    News {
        kind: AlertKind::DamageMendable,
        subject: subject(what),
        message: format!("damaged: {what}; reads rebuild it, nothing is lost"),
        mend: "run `holdfast verify --repair`, and look after the disk".to_owned(),
    }
}

/// Losses of files, as sentences that begin with the file: one alert for each file.
fn lost_files<'a>(sentences: impl Iterator<Item = &'a str>) -> Vec<News> {
    let mut files: BTreeMap<String, (&str, u64)> = BTreeMap::new();
    for what in sentences {
        files
            .entry(subject(what))
            .and_modify(|(_, more)| *more += 1)
            .or_insert((what, 0));
    }
    let lost = files.into_iter().map(|(subject, (first, more))| News {
        kind: AlertKind::DataLost,
        subject,
        message: match more {
            0 => format!("lost: {first}"),
            more => format!("lost: {first}, and {more} more"),
        },
        mend: "`holdfast verify --last` names the restore points that suffer".to_owned(),
    });
    lost.collect()
}

/// Losses of restore points: one alert for each disk or stream of a workload.
fn lost_parts(damaged: &[&Damage]) -> Vec<News> {
    let mut parts: BTreeMap<Part, BTreeMap<(u64, u64), Vec<&PointName>>> = BTreeMap::new();
    for damage in damaged {
        let Some(point) = &damage.point else { continue };
        let part = damage.part.clone().unwrap_or_default();
        let extent = (damage.offset.unwrap_or(0), damage.length.unwrap_or(0));
        parts
            .entry((point.workload.to_string(), part))
            .or_default()
            .entry(extent)
            .or_default()
            .push(point);
    }
    let lost = parts.into_iter().map(|((workload, part), extents)| News {
        kind: AlertKind::DataLost,
        subject: format!("{workload}/{part}"),
        message: format!("lost on {part} of {workload}: {}", describe(&extents)),
        mend: "a full backup of the workload heals what is still the same there; else restore from another copy"
            .to_owned(),
    });
    lost.collect()
}

fn describe(extents: &BTreeMap<(u64, u64), Vec<&PointName>>) -> String {
    let mut texts: Vec<_> = extents
        .iter()
        .take(EXTENTS_MAX)
        .map(|((offset, length), points)| {
            format!("{length} bytes at byte {offset} in {}", name_points(points))
        })
        .collect();
    if extents.len() > EXTENTS_MAX {
        let more = extents.len() - EXTENTS_MAX;
        texts.push(format!("and {more} more, see `holdfast verify --last`"));
    }
    texts.join("; ")
}

fn name_points(points: &[&PointName]) -> String {
    match points {
        [] => String::new(),
        [point] => point.to_string(),
        [first, .., last] => format!("{} points from {first} to {last}", points.len()),
    }
}

/// The file that a sentence begins with.
fn subject(what: &str) -> String {
    let (file, _) = what.split_once(": ").unwrap_or((what, ""));
    file.to_owned()
}

/// Alerts of one verification.
const TOLD_MAX: usize = 100;

/// Extents that an alert names.
const EXTENTS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::Severity;

    fn damage(point: &str, offset: u64) -> Damage {
        Damage {
            what: "record is hurt".to_owned(),
            point: Some(point.parse().unwrap()),
            part: Some("disk-0".to_owned()),
            offset: Some(offset),
            length: Some(65_536),
        }
    }

    fn of_pack(detail: &str) -> Damage {
        Damage {
            what: format!("packs/01/a: {detail}"),
            point: None,
            part: None,
            offset: None,
            length: None,
        }
    }

    #[test]
    fn what_is_lost_is_named_once_for_each_disk_and_what_was_mended_is_no_loss() {
        let report = VerifyReport {
            mended: vec!["packs/02/b: 3 damaged pages".to_owned()],
            damaged: vec![
                of_pack("the record at byte 4096 is not there or hurt"),
                of_pack("the record at byte 8192 is not there or hurt"),
                damage("web@1", 0),
                damage("web@1", 131_072),
                damage("web@2", 0),
                damage("web@3", 0),
                damage("db@9", 7),
            ],
            ..VerifyReport::default()
        };
        let news = found_by_verification(&report);
        let told: Vec<_> = news
            .iter()
            .map(|news| {
                (
                    news.kind.severity(),
                    news.subject.as_str(),
                    news.message.as_str(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    Severity::Warning,
                    "packs/02/b",
                    "mended packs/02/b: 3 damaged pages; nothing is lost"
                ),
                (
                    Severity::Problem,
                    "packs/01/a",
                    "lost: packs/01/a: the record at byte 4096 is not there or hurt, and 1 more"
                ),
                (
                    Severity::Problem,
                    "db/disk-0",
                    "lost on disk-0 of db: 65536 bytes at byte 7 in db@9"
                ),
                (
                    Severity::Problem,
                    "web/disk-0",
                    "lost on disk-0 of web: 65536 bytes at byte 0 in 3 points from web@1 to web@3; \
                     65536 bytes at byte 131072 in web@1"
                ),
            ]
        );
    }
}
