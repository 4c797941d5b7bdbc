//! `holdfast doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::config::Config;
use crate::doctor::{Finding, Level, examine_stopped};

use super::client::{Client, ClientArgs, Place};
use super::output::{Output, Table};

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Check a repository on which no daemon runs
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
    /// Check with this configuration, while no daemon runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(
    arguments: &DoctorArgs,
    daemon: &ClientArgs,
    output: &Output,
) -> Result<ExitCode> {
    let findings: Vec<Finding> = if arguments.repository.is_some() || arguments.config.is_some() {
        let mut config = match &arguments.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some(repository) = &arguments.repository {
            config.repository.path.clone_from(repository);
        }
        config.check()?;
        examine_stopped(&config)
    } else {
        Client::new(Place::find(daemon)?).get("/v1/doctor")?
    };
    output.result(&findings, |findings| table(findings).to_string())?;
    let bad = findings
        .iter()
        .any(|finding| finding.level == Level::Problem);
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&["", "CHECK", "FOUND"]);
    for finding in findings {
        let mark = match finding.level {
            Level::Good => "ok",
            Level::Warning => "warn",
            Level::Problem => "BAD",
        };
        table.row([
            mark.to_owned(),
            finding.check.clone(),
            finding.found.clone(),
        ]);
        if !finding.mend.is_empty() {
            table.row([String::new(), String::new(), format!("-> {}", finding.mend)]);
        }
    }
    table
}
