//! `holdfast stats`.

use anyhow::Result;

use crate::api::{ProofsView, StatisticsView};

use super::client::Client;
use super::output::{Output, size, time};

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
            "repository  {}{}\nholds       {} points of {} workloads, {} overlays\ndisks       {} as if each point was whole\nstored      {} in {} packs ({} times less)\n{}free        {} of {}\nproven      {}{}",
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
            proven(&found.proofs),
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

/// When packs were last proven, and what is wrong.
fn proven(proofs: &ProofsView) -> String {
    let mut text = match &proofs.oldest {
        Some(oldest) => format!("every pack since {} UTC", time(oldest)),
        None => "no pack yet".to_owned(),
    };
    if proofs.never > 0 && proofs.oldest.is_some() {
        text.push_str(&format!(", but for {} never yet", proofs.never));
    }
    if proofs.lost_records > 0 {
        text.push_str(&format!(
            "\nLOST        {} records; see `holdfast verify --last`",
            proofs.lost_records
        ));
    }
    text
}
