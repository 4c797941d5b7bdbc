//! `holdfast workload`.

use anyhow::Result;

use crate::api::WorkloadView;

use super::client::Client;
use super::output::{Output, Table, size, time};

#[derive(Debug, clap::Subcommand)]
pub(super) enum WorkloadVerb {
    /// List all workloads
    List,
}

pub(super) fn run(verb: &WorkloadVerb, client: &Client, output: &Output) -> Result<()> {
    let WorkloadVerb::List = verb;
    let workloads: Vec<WorkloadView> = client.get("/v1/workloads")?;
    let none = "There is no workload yet; make one with `holdfast backup image WORKLOAD FILE`.";
    output.list(&workloads, none, |workloads| {
        let mut table = Table::new(&[
            "WORKLOAD",
            ">POINTS",
            "LATEST",
            "MADE (UTC)",
            ">DISKS",
            ">SIZE",
            ">STORED",
        ]);
        for workload in workloads {
            table.row([
                workload.workload.clone(),
                workload.points.to_string(),
                workload.latest.clone(),
                time(&workload.latest_created),
                workload.disks.to_string(),
                size(workload.size_bytes),
                size(workload.stored_bytes),
            ]);
        }
        table
    })
}
