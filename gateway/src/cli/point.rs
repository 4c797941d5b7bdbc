//! `holdfast point`.

use anyhow::Result;
use serde_json::json;

use crate::api::PointView;

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
    /// Drop a restore point; others that share its data stay whole
    Expire {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
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
        PointVerb::Expire { point } => {
            let found: PointView = client.get(&format!("/v1/points/{}", segment(point)))?;
            client.delete(&format!("/v1/points/{}", segment(&found.point)))?;
            output.result(&json!({ "expired": found.point }), |_| {
                format!("Expired {}.", found.point)
            })
        }
    }
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
    format!(
        "{}: {}, made {} UTC, over {parent}\n{table}",
        point.point,
        point.kind,
        time(&point.created)
    )
}
