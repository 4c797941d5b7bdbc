//! `holdfast stats`.

use anyhow::Result;

use crate::api::StatisticsView;

use super::client::Client;
use super::output::{Output, size};

/// What of the packs is needed, unless the account of space is being made.
fn used(found: &StatisticsView) -> String {
    found.space.as_ref().map_or_else(String::new, |space| {
        format!(
            "needed      {}; {} are dead, {} of these wait for removal\n",
            size(space.alive_bytes),
            size(space.dead_bytes),
            size(space.condemned_bytes)
        )
    })
}

pub(super) fn run(client: &Client, output: &Output) -> Result<()> {
    let found: StatisticsView = client.get("/v1/stats")?;
    output.result(&found, |found| {
        format!(
            "repository  {}{}\nholds       {} points of {} workloads, {} overlays\ndisks       {} as if each point was whole\nstored      {} in {} packs ({} times less)\n{}free        {} of {}{}",
            found.repository,
            if found.encrypted { ", encrypted" } else { "" },
            found.points,
            found.workloads,
            found.overlays,
            size(found.logical_bytes),
            size(found.stored_bytes),
            found.packs,
            found.ratio,
            used(found),
            size(found.free_bytes),
            size(found.total_bytes),
            alerts(found.alerts),
        )
    })
}

fn alerts(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!("\nalerts      {count}; see `holdfast alert list`"),
    }
}
