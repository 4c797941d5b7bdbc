//! `holdfast collect`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::api::{CollectBody, CollectView};
use crate::jobs::{CollectMode, JobState};

use super::client::Client;
use super::output::{Output, size};

#[derive(Debug, clap::Args)]
pub(super) struct CollectArgs {
    /// Wait for the end and say what was freed
    #[arg(long)]
    wait: bool,
    /// Remove what is dead at once, without the time of grace
    #[arg(long, conflicts_with = "audit")]
    now: bool,
    /// Free nothing: compare the account of space with the maps of all points
    #[arg(long)]
    audit: bool,
    /// Stop the one under way; the next one takes its work up
    #[arg(long, conflicts_with_all = ["wait", "now", "audit"])]
    stop: bool,
}

pub(super) fn run(arguments: &CollectArgs, client: &Client, output: &Output) -> Result<ExitCode> {
    if arguments.stop {
        client.delete("/v1/collect")?;
        let view: CollectView = client.get("/v1/collect")?;
        output.result(&view, describe)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mode = match (arguments.audit, arguments.now) {
        (true, _) => CollectMode::Audit,
        (_, true) => CollectMode::Now,
        _ => CollectMode::Collect,
    };
    let mut view: CollectView = client.post("/v1/collect", &CollectBody { mode })?;
    let mut pause = Duration::from_millis(10);
    while arguments.wait && view.state == JobState::Running {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
        view = client.get("/v1/collect")?;
    }
    if view.state == JobState::Failed {
        bail!(
            "the collection could not go on: {}",
            view.error.as_deref().unwrap_or("see the daemon's log")
        );
    }
    output.result(&view, describe)?;
    Ok(match view.sound {
        Some(false) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn describe(view: &CollectView) -> String {
    let number = |name: &str| {
        let value = view.report.as_ref().and_then(|report| report.get(name));
        value.and_then(serde_json::Value::as_u64).unwrap_or(0)
    };
    match (view.state, view.mode) {
        (JobState::Running, _) => format!(
            "A collection is under way ({}, {} of {}); add --wait to see its end.",
            view.phase.as_deref().unwrap_or("beginning"),
            view.done,
            view.total
        ),
        (JobState::Stopped, _) => {
            "The collection was stopped; the next one takes its work up.".to_owned()
        }
        (_, CollectMode::Audit) => format!(
            "Followed {} references of {} points: {} are missing in the account{}.",
            number("references"),
            number("points"),
            number("uncounted_total"),
            match view.sound {
                Some(true) => ", so all is well",
                _ => ", which is made again; see the daemon's log",
            }
        ),
        _ => format!(
            "Gave back {} expired points: {} became dead.\nRemoved {} packs: {} are free.\nCopied {} out of {} packs. {} packs wait for the end of their grace: {}.",
            number("points"),
            size(number("dead_bytes")),
            number("removed_packs"),
            size(number("removed_bytes")),
            size(number("copied_bytes")),
            number("compacted_packs"),
            number("waiting_packs"),
            size(number("waiting_bytes")),
        ),
    }
}
