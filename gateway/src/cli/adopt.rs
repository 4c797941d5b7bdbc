//! `holdfast adopt`: takes over a repository whose folder was copied from another machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use repo::{AdoptReport, OpenOptions, Repository};

use super::output::{Output, size, tell};
use super::secret::SecretArgs;

#[derive(Debug, clap::Args)]
pub(super) struct AdoptArgs {
    /// The repository's folder
    directory: PathBuf,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(super) fn run(arguments: &AdoptArgs, output: &Output) -> Result<ExitCode> {
    let options = OpenOptions {
        secret: arguments.secret.given()?,
        ..OpenOptions::default()
    };
    let told = Mutex::new(Instant::now());
    let progress = move |done: u64, all: u64| {
        let mut told = told.lock();
        if told.elapsed() >= PAUSE {
            *told = Instant::now();
            tell(format!("adopt: {done} of {all} packs"));
        }
    };
    // Everything is taken as it is: the daemon has nothing to compare it with.
    drop(std::fs::remove_dir_all(
        arguments.directory.join("daemon/watched"),
    ));
    let report = Repository::adopt(&arguments.directory, &options, Arc::new(progress))?;
    let directory = arguments
        .directory
        .canonicalize()
        .context("cannot look at the repository")?;
    output.result(&report, |report| {
        format!(
            "{}\nRun the daemon: holdfast serve --repository {}",
            describe(report),
            directory.display()
        )
    })?;
    Ok(match report.is_sound() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn describe(report: &AdoptReport) -> String {
    let mut text = format!(
        "Adopted repository {}: {} restore points of {} workloads, {} packs ({}), {} records indexed, {} overlays.",
        report.repository,
        report.points,
        report.workloads,
        report.packs,
        size(report.pack_bytes),
        report.records,
        report.overlays
    );
    if report.packs_recovered > 0 {
        text.push_str(&format!(
            "\n{} packs had no sound table and were scanned.",
            report.packs_recovered
        ));
    }
    for complaint in &report.complaints {
        text.push_str(&format!("\nHurt: {complaint}"));
    }
    text.push_str(match report.is_sound() {
        true => "\nNothing hurt was found; `holdfast verify` reads everything.",
        false => "\nThe rest can be used; `holdfast verify` looks closer.",
    });
    text
}

/// Between two lines about how far it is.
const PAUSE: Duration = Duration::from_secs(3);
