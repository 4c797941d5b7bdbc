//! `holdfast verify`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::api::{JobBody, JobView};
use crate::config::ByteSize;
use crate::jobs::{JobState, VerifyResult};

use super::client::Client;
use super::output::{Output, size, time};
use super::point_name;
use super::progress::Progress;

#[derive(Debug, Default, clap::Args)]
pub(super) struct VerifyArgs {
    /// WORKLOAD@SEQUENCE or WORKLOAD@latest [default: everything]
    #[arg(value_parser = point_name)]
    point: Option<String>,
    /// Only one pack in N, those proven longest ago
    #[arg(long, value_name = "1/N", value_parser = sample, conflicts_with = "point")]
    sample: Option<u64>,
    /// Only COUNT packs, those proven longest ago
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["point", "sample"])]
    packs: Option<u64>,
    /// Read no faster than this, such as 100MiB/s
    #[arg(long, value_parser = rate)]
    rate: Option<u64>,
    /// Mend what is damaged from parity, and make parity that is missing
    #[arg(long)]
    repair: bool,
    /// Show what the last verification found, and read nothing
    #[arg(long, conflicts_with_all = ["point", "sample", "packs", "rate", "repair"])]
    last: bool,
}

pub(super) fn run(arguments: &VerifyArgs, client: &Client, output: &Output) -> Result<ExitCode> {
    let sound = if arguments.last {
        let result: VerifyResult = client.get("/v1/verify")?;
        output.result(&result, |result| {
            let read = number(&result.report, "read_bytes");
            let found = describe(&result.scope, result.sound, read, &result.report);
            format!("At {} UTC: {found}", time(&result.ended))
        })?;
        result.sound
    } else {
        let job = check(client, arguments)?;
        let report = job.report.clone().unwrap_or_default();
        output.result(&job, |job| {
            describe(&job.scope, job.sound == Some(true), job.done_bytes, &report)
        })?;
        job.sound == Some(true)
    };
    Ok(match sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Verifies everything and waits for the end.
pub(super) fn check_everything(client: &Client) -> Result<JobView> {
    check(client, &VerifyArgs::default())
}

fn check(client: &Client, arguments: &VerifyArgs) -> Result<JobView> {
    let body = JobBody::Verify {
        point: arguments.point.clone(),
        packs: arguments.packs,
        one_in: arguments.sample,
        rate_bytes: arguments.rate,
        repair: arguments.repair,
    };
    let mut job: JobView = client.post("/v1/jobs", &body)?;
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

/// What was found, for a person.
fn describe(scope: &str, sound: bool, read_bytes: u64, report: &Value) -> String {
    let mut text = match sound {
        true => format!(
            "{scope}: sound, {} were read and compared.",
            size(read_bytes)
        ),
        false => format!(
            "{scope}: damaged, {} were read and compared.",
            size(read_bytes)
        ),
    };
    let mut list = |heading: &str, name: &str| {
        let found = report.get(name).and_then(Value::as_array);
        for (count, what) in found.into_iter().flatten().enumerate() {
            if count == 0 {
                text.push_str(&format!("\n{heading}"));
            }
            text.push_str(&format!("\n  {}", sentence(what)));
        }
    };
    list("Mended from parity:", "mended");
    list(
        "Damaged, and can be mended (run `holdfast verify --repair`):",
        "mendable",
    );
    list(
        "Lost (the next full backup that brings the same bytes heals it; else restore it from another copy):",
        "damaged",
    );
    if report.get("more_damage") == Some(&Value::Bool(true)) {
        text.push_str("\n  and more");
    }
    let replaced = number(report, "replaced_records");
    if replaced > 0 {
        text.push_str(&format!(
            "\n{replaced} hurt records were stored again by later backups and are read from there."
        ));
    }
    text
}

/// A damage, or a sentence as it is.
fn sentence(found: &Value) -> String {
    let field = |name: &str| {
        let value = found.get(name).filter(|value| !value.is_null())?;
        Some(
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned),
        )
    };
    let mut text = field("what").unwrap_or_else(|| found.as_str().unwrap_or_default().to_owned());
    for name in ["point", "part", "offset", "length"] {
        if let Some(value) = field(name) {
            text.push_str(&format!("  {name} {value}"));
        }
    }
    text
}

fn number(report: &Value, name: &str) -> u64 {
    report.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// `1/30` means one pack in thirty.
fn sample(text: &str) -> Result<u64, String> {
    text.strip_prefix("1/")
        .and_then(|parts| parts.parse().ok())
        .filter(|parts| *parts > 0)
        .ok_or_else(|| "write 1/N, such as 1/30".to_owned())
}

/// A size for each second.
fn rate(text: &str) -> Result<u64, String> {
    let size: ByteSize = text
        .strip_suffix("/s")
        .unwrap_or(text)
        .parse()
        .map_err(|error| format!("{error}, such as 100MiB/s"))?;
    Ok(size.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_rates_are_read() {
        assert_eq!(sample("1/30"), Ok(30));
        assert_eq!(rate("100MiB/s"), Ok(100 << 20));
        assert_eq!(rate("2GiB"), Ok(2 << 30));
        for text in ["30", "1/0", "2/30", "1/x"] {
            assert!(sample(text).is_err(), "{text}");
        }
        assert!(rate("fast").is_err());
    }

    #[test]
    fn lost_stretches_are_named() {
        let report = serde_json::json!({
            "mended": ["packs/01/00000001.00000001: 2 damaged pages"],
            "mendable": [],
            "damaged": [{"what": "record is hurt", "point": "web@1", "part": "disk-0", "offset": 65536, "length": 65536}],
            "replaced_records": 3,
        });
        let text = describe("everything", false, 1 << 20, &report);
        for part in [
            "damaged, 1.0 MiB",
            "2 damaged pages",
            "point web@1  part disk-0  offset 65536",
            "3 hurt records",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("can be mended"), "{text}");
    }
}
