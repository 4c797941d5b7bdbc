//! `holdfast point`.

use anyhow::Result;
use serde_json::json;

use crate::api::{
    CodeBody, ExpiredView, LockBody, LockModeChoice, LockedView, PointView, SpaceBody, SpaceView,
    UnexpireBody,
};

use super::client::{Client, segment};
use super::output::{Output, Table, size, time};
use super::point_name;

#[derive(Debug, clap::Subcommand)]
pub(super) enum PointVerb {
    /// List restore points
    List {
        /// Only those of this workload
        workload: Option<String>,
    },
    /// Show a restore point
    Show {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
    },
    /// Keep a restore point until the star is taken off
    Star {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
    },
    /// Take the star off a restore point
    Unstar {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
    },
    /// Lock a restore point until a time, or make its lock longer
    Lock {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
        /// Like 2027-12-31 or 2027-12-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        until: String,
        /// Who may lift the lock before its time
        #[arg(long, value_enum, default_value_t)]
        mode: LockModeChoice,
    },
    /// Lift a lock in governance mode before its time
    Unlock {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
        /// A one-time code of the lock authority
        #[arg(long)]
        code: String,
    },
    /// Drop restore points; others that share their data stay whole
    Expire {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name, required = true)]
        points: Vec<String>,
        /// Only say exactly what that would free
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring an expired restore point back, until a collection has given its space back
    Unexpire {
        /// WORKLOAD@SEQUENCE; without it, list those that can be brought back
        #[arg(value_parser = point_name)]
        point: Option<String>,
    },
}

pub(super) fn run(verb: &PointVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        PointVerb::List { workload } => {
            let path = match workload {
                Some(workload) => format!("/v1/points?workload={}", segment(workload)),
                None => "/v1/points".to_owned(),
            };
            let points: Vec<PointView> = client.get(&path)?;
            let none = "There is no restore point yet; make one with `holdfast backup image WORKLOAD FILE`.";
            output.list(&points, none, table)
        }
        PointVerb::Show { point } => {
            let point: PointView = client.get(&format!("/v1/points/{}", segment(point)))?;
            output.result(&point, describe)
        }
        PointVerb::Star { point } => {
            let point: PointView = client.put(&path(point, "/star"), &json!({}))?;
            output.result(&point, |point| format!("{} is starred.", point.point))
        }
        PointVerb::Unstar { point } => {
            let point: PointView = client.delete_from(&path(point, "/star"))?;
            output.result(&point, |point| format!("{} has no star.", point.point))
        }
        PointVerb::Lock { point, until, mode } => {
            let body = LockBody {
                until: until.clone(),
                mode: *mode,
            };
            let locked: LockedView = client.put(&path(point, "/lock"), &body)?;
            output.result(&locked, describe_lock)
        }
        PointVerb::Unlock { point, code } => {
            let body = CodeBody {
                code: Some(code.clone()),
            };
            let point: PointView = client.post(&path(point, "/unlock"), &body)?;
            output.result(&point, describe)
        }
        PointVerb::Expire {
            points,
            dry_run: true,
        } => {
            let body = SpaceBody {
                points: points.clone(),
            };
            let space: SpaceView = client.post("/v1/space", &body)?;
            output.result(&space, |space| {
                format!(
                    "Expiring {} would free {} ({} chunks and map nodes).",
                    space.points.join(", "),
                    size(space.freed_bytes),
                    space.freed_records
                )
            })
        }
        PointVerb::Expire { points, .. } => expire(points, client, output),
        PointVerb::Unexpire { point: None } => list_expired(client, output),
        PointVerb::Unexpire { point: Some(point) } => {
            let body = UnexpireBody {
                point: point.clone(),
            };
            let point: PointView = client.post("/v1/unexpire", &body)?;
            output.result(&point, |point| format!("{} is there again.", point.point))
        }
    }
}

fn list_expired(client: &Client, output: &Output) -> Result<()> {
    let expired: Vec<ExpiredView> = client.get("/v1/expired")?;
    output.list(
        &expired,
        "No expired point is left to bring back.",
        |expired| {
            let mut table = Table::new(&["POINT", "MADE (UTC)", "CAN COME BACK"]);
            for point in expired {
                let can = match point.can_be_brought_back {
                    true => "yes",
                    false => "no",
                };
                table.row([point.point.clone(), time(&point.created), can.to_owned()]);
            }
            table
        },
    )
}

fn expire(points: &[String], client: &Client, output: &Output) -> Result<()> {
    let mut names = Vec::new();
    for point in points {
        let found: PointView = client.get(&format!("/v1/points/{}", segment(point)))?;
        names.push(found.point);
    }
    for name in &names {
        client.delete(&format!("/v1/points/{}", segment(name)))?;
    }
    output.result(&json!({ "expired": names }), |_| {
        format!(
            "Expired {}. `holdfast point unexpire` brings back what no collection has met yet.",
            names.join(", ")
        )
    })
}

fn path(point: &str, what: &str) -> String {
    format!("/v1/points/{}{what}", segment(point))
}

/// What a lock holds, and what does not hold it.
fn describe_lock(locked: &LockedView) -> String {
    let files = match locked.files.as_str() {
        "done" => "The file system holds its files, too.",
        "not-permitted" => {
            "The file system does not hold its files: that takes root or CAP_LINUX_IMMUTABLE for the daemon."
        }
        _ => "The file system cannot hold its files: the repository alone refuses to drop them.",
    };
    let open = match locked.packs_open {
        0 => String::new(),
        count => format!(
            " A backup is being written to {count} of them, which the file system holds when they are sealed."
        ),
    };
    format!(
        "{}It needs {} packs.{open} {files}",
        marks(&locked.point),
        locked.packs
    )
}

/// The marks of a point, a line each.
fn marks(point: &PointView) -> String {
    let mut text = String::new();
    if point.starred {
        text.push_str(&format!("{} is starred.\n", point.point));
    }
    for lock in &point.locks {
        let rule = match lock.mode {
            LockModeChoice::Governance => "governance: lifted with a one-time code only",
            LockModeChoice::Compliance => "compliance: nobody can lift it",
        };
        text.push_str(&format!(
            "{} is locked until {} UTC ({rule}).\n",
            point.point,
            time(&lock.until)
        ));
    }
    if let Some(detail) = &point.damaged_mark {
        text.push_str(&format!(
            "{} counts as locked for ever: {detail}.\n",
            point.point
        ));
    }
    text
}

fn table(points: &[PointView]) -> Table {
    let mut table = Table::new(&[
        "POINT",
        "MADE (UTC)",
        "KIND",
        ">DISKS",
        ">SIZE",
        ">SENT",
        ">STORED",
        "KEPT",
    ]);
    for point in points {
        table.row([
            point.point.clone(),
            time(&point.created),
            point.kind.clone(),
            point.disks.len().to_string(),
            size(point.size_bytes),
            size(point.sent_bytes),
            size(point.stored_bytes),
            kept(point),
        ]);
    }
    table
}

/// What keeps a point, in a word or two.
fn kept(point: &PointView) -> String {
    let star = point.starred.then(|| "star".to_owned());
    let lock = point.locks.iter().map(|lock| lock.until.as_str()).max();
    let lock = lock.map(|until| format!("lock {}", until.get(..10).unwrap_or(until)));
    let lost = point.damaged_mark.as_ref().map(|_| "lock ?".to_owned());
    [star, lock, lost]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

/// A point in a few lines.
pub(super) fn describe(point: &PointView) -> String {
    let parent = point.parent.as_deref().unwrap_or("none");
    let mut table = Table::new(&[
        ">DISK",
        "NAME",
        ">SIZE",
        ">LEFT OUT",
        ">SENT",
        ">CHANGED",
        ">NEW",
        ">STORED",
    ]);
    for disk in &point.disks {
        table.row([
            disk.disk.to_string(),
            disk.name.clone(),
            size(disk.size_bytes),
            size(disk.excluded_bytes),
            size(disk.sent_bytes),
            size(disk.changed_bytes),
            size(disk.new_bytes),
            size(disk.stored_bytes),
        ]);
    }
    let alone = match point.exclusive_bytes {
        Some(bytes) => format!(", holds {} that no other point needs", size(bytes)),
        None => String::new(),
    };
    let proven = match &point.proven {
        Some(proven) => format!(", proven {} UTC", time(proven)),
        None => String::new(),
    };
    format!(
        "{}: {}, made {} UTC, over {parent}{alone}{proven}\n{}{table}",
        point.point,
        point.kind,
        time(&point.created),
        marks(point)
    )
}
