//! `holdfast verify`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::api::{JobBody, JobView};
use crate::jobs::JobState;

use super::client::Client;
use super::output::{Output, size};
use super::point_name;
use super::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// WORKLOAD@SEQUENCE or WORKLOAD@latest [default: everything]
    #[arg(value_parser = point_name)]
    point: Option<String>,
}

pub(super) fn run(arguments: &VerifyArgs, client: &Client, output: &Output) -> Result<ExitCode> {
    let job = check(client, arguments.point.clone())?;
    output.result(&job, describe)?;
    Ok(if job.sound == Some(true) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Verifies and waits for the end.
pub(super) fn check(client: &Client, point: Option<String>) -> Result<JobView> {
    let mut job: JobView = client.post("/v1/jobs", &JobBody::Verify { point })?;
    let mut progress = Progress::start("verify", job.total_bytes);
    let mut pause = Duration::from_millis(10);
    while job.state == JobState::Running {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
        job = client.get(&format!("/v1/jobs/{}", job.job))?;
        progress.at(job.done_bytes, job.total_bytes);
    }
    progress.finish();
    match (job.state, &job.error) {
        (JobState::Failed, error) => bail!(
            "verify could not go on: {}",
            error.as_deref().unwrap_or("see the daemon's log")
        ),
        (JobState::Stopped, _) => bail!("verify was stopped before its end; run it again"),
        _ => Ok(job),
    }
}

fn describe(job: &JobView) -> String {
    let what = job.point.as_deref().unwrap_or("the whole repository");
    if job.sound == Some(true) {
        return format!(
            "{what} is sound: {} were read and compared.",
            size(job.done_bytes)
        );
    }
    let damaged = job
        .report
        .as_ref()
        .and_then(|report| report.get("damaged"))
        .cloned()
        .unwrap_or_default();
    let mut text = format!(
        "{what} is damaged; restore what is hurt from another copy, or back it up again:\n"
    );
    for damage in damaged.as_array().into_iter().flatten() {
        let field = |name: &str| {
            damage
                .get(name)
                .filter(|value| !value.is_null())
                .map(ToString::to_string)
        };
        text.push_str(&format!("  {}", field("what").unwrap_or_default()));
        for name in ["point", "part", "offset", "length"] {
            if let Some(value) = field(name) {
                text.push_str(&format!("  {name} {value}"));
            }
        }
        text.push('\n');
    }
    text
}
