//! `holdfast point`.

use anyhow::Result;
use serde_json::json;

use crate::api::{ExpiredView, PointView, SpaceBody, SpaceView, UnexpireBody};

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
        PointVerb::Unexpire { point: None } => {
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
        PointVerb::Unexpire { point: Some(point) } => {
            let body = UnexpireBody {
                point: point.clone(),
            };
            let point: PointView = client.post("/v1/unexpire", &body)?;
            output.result(&point, |point| format!("{} is there again.", point.point))
        }
    }
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

fn table(points: &[PointView]) -> Table {
    let mut table = Table::new(&[
        "POINT",
        "MADE (UTC)",
        "KIND",
        ">DISKS",
        ">SIZE",
        ">SENT",
        ">STORED",
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
        ]);
    }
    table
}

/// A point in a few lines.
pub(super) fn describe(point: &PointView) -> String {
    let parent = point.parent.as_deref().unwrap_or("none");
    let mut table = Table::new(&[
        ">DISK", "NAME", ">SIZE", ">SENT", ">CHANGED", ">NEW", ">STORED",
    ]);
    for disk in &point.disks {
        table.row([
            disk.disk.to_string(),
            disk.name.clone(),
            size(disk.size_bytes),
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
        "{}: {}, made {} UTC, over {parent}{alone}{proven}\n{table}",
        point.point,
        point.kind,
        time(&point.created)
    )
}
