//! `holdfast demo`: the main job on an empty machine, shown step by step.

mod compare;
mod console;
mod guest;
mod report;
mod stage;

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::api::{PointView, RecoveryBody, SealView, StatisticsView};
use crate::recovery::{Protocol, SessionView};

use super::backup::{self, ImageArgs};
use super::client::{Client, segment};
use super::output::{Output, size};
use super::verify;

use compare::Comparison;
use guest::Guest;
use report::Report;
use stage::Stage;

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Boot both restore points in QEMU, over NBD and over NFS
    #[arg(long)]
    boot: bool,
    /// Keep the repository at the end
    #[arg(long)]
    keep: bool,
    /// Where the temporary repository is made [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(arguments: &DemoArgs, output: &Output) -> Result<()> {
    let mut report = Report::new(output);
    let guest = report.step("take a guest disk", || Guest::find(arguments.boot))?;
    let stage = report.step("make a repository and start a daemon", || {
        Stage::start(arguments.directory.as_deref(), arguments.boot)
    })?;
    let played = play(arguments, &guest, &stage, &mut report);
    let kept = report.step("stop the daemon", || stage.stop(arguments.keep))?;
    played?;
    report.finish(kept.0)
}

fn play(arguments: &DemoArgs, guest: &Guest, stage: &Stage, report: &mut Report<'_>) -> Result<()> {
    let client = stage.client();
    let first = report.step("back the disk up", || back_up(client, guest, 0))?;
    let second = report.step("back it up again after a change", || {
        back_up(client, guest, 1)
    })?;
    let points = [first.point, second.point];
    for (number, point) in points.iter().enumerate() {
        for protocol in [Protocol::Nbd, Protocol::Nfs] {
            let what = format!("read {point} over {} and compare", name(protocol));
            report.step(&what, || read_back(stage, guest, number, point, protocol))?;
        }
    }
    if arguments.boot {
        for protocol in Protocol::OWN {
            for (number, point) in points.iter().enumerate() {
                let what = format!("boot {point} over {} and write in it", name(protocol));
                report.step(&what, || boot(client, guest, number, point, protocol))?;
            }
        }
    }
    report.step("get one file out of the first point", || {
        look_inside(client, &points[0])
    })?;
    report.step("back it up without what nobody needs back", || {
        back_up_used(client, guest)
    })?;
    report.step("write to the newest point and seal that", || {
        write_and_seal(client, &points[1])
    })?;
    for (number, point) in points.iter().enumerate() {
        let what = format!("compare {point} again: a recovery session never changes it");
        report.step(&what, || {
            read_back(stage, guest, number, point, Protocol::Nbd)
        })?;
    }
    report.step("verify the repository", || verified(client))?;
    report.step("look at the space", || space(client))?;
    Ok(())
}

/// A step that has something to show.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for String {
    fn shown(&self) -> String {
        self.clone()
    }
}

impl Shown for PointView {
    fn shown(&self) -> String {
        format!(
            "{}: {} disk, {} sent, {} stored",
            self.point,
            size(self.size_bytes),
            size(self.sent_bytes),
            size(self.stored_bytes)
        )
    }
}

fn back_up(client: &Client, guest: &Guest, number: usize) -> Result<PointView> {
    Ok(backup::image(&arguments(WORKLOAD, guest, number), client)?.point)
}

fn arguments(workload: &str, guest: &Guest, number: usize) -> ImageArgs {
    ImageArgs {
        workload: workload.to_owned(),
        files: vec![guest.disk(number)],
        format: None,
        changed_extents: Vec::new(),
        since: None,
        leave_out: None,
    }
}

fn read_back(
    stage: &Stage,
    guest: &Guest,
    number: usize,
    point: &str,
    protocol: Protocol,
) -> Result<String> {
    let asked = Instant::now();
    let session = Session::start(stage.client(), point, protocol, Access::ReadOnly)?;
    let comparison = Comparison::run(
        &session.view,
        protocol,
        stage.addresses(),
        &guest.disk(number),
    );
    session.discard()?;
    let comparison = comparison?;
    let opened = comparison.first_byte.duration_since(asked);
    Ok(format!(
        "{} equal, first byte after {:.1} ms",
        size(comparison.bytes),
        opened.as_secs_f64() * 1000.0
    ))
}

fn boot(
    client: &Client,
    guest: &Guest,
    number: usize,
    point: &str,
    protocol: Protocol,
) -> Result<String> {
    let session = Session::start(client, point, protocol, Access::ReadWrite)?;
    let booted = match protocol {
        Protocol::Nbd => session.url(|urls| urls.nbd.clone()),
        Protocol::Nfs => session.url(|urls| urls.nfs.clone()),
        Protocol::Iscsi => session.url(|urls| urls.iscsi.first().cloned()),
        Protocol::Tcmu => session.url(|urls| urls.tcmu.clone()),
        Protocol::Smb => session.url(|urls| urls.smb.clone()),
    }
    .and_then(|url| guest.boot(number, &url));
    session.discard()?;
    Ok(format!(
        "login prompt after {:.1} s, wrote a file, switched off",
        booted?.as_secs_f64()
    ))
}

/// Looks for the file that says what the guest is, and reads it, with no restore.
fn look_inside(client: &Client, point: &str) -> Result<String> {
    let files = format!("/v1/points/{}/files", segment(point));
    let found: Value = client.get(&format!("{files}/search?name=os-release&limit=10"))?;
    let found = found.get("files").and_then(Value::as_array);
    let text = |file: &Value, field: &str| file.get(field)?.as_str().map(str::to_owned);
    let mut files_found = found.into_iter().flatten();
    let file = files_found.find(|file| text(file, "kind").as_deref() == Some("file"));
    let Some(path) = file.and_then(|file| text(file, "path")) else {
        return Ok("skipped: nothing on this disk can be read".to_owned());
    };
    let mut text = String::new();
    let content = format!("{files}/content?path={}", segment(&path));
    client.get_stream(&content)?.read_to_string(&mut text)?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.unwrap_or("something else").trim_matches('"');
    Ok(format!("{path} says: {name}"))
}

/// The same disk as a workload of its own, without free blocks and the like.
fn back_up_used(client: &Client, guest: &Guest) -> Result<String> {
    let arguments = ImageArgs {
        leave_out: Some(Vec::new()),
        ..arguments("guest-used", guest, 1)
    };
    let done = backup::image(&arguments, client)?;
    let left_out: u64 = done.left_out.iter().map(|left_out| left_out.bytes).sum();
    Ok(format!(
        "{} left out, {}",
        size(left_out),
        done.point.shown()
    ))
}

/// Writes through NBD and makes what was written the next point.
fn write_and_seal(client: &Client, point: &str) -> Result<PointView> {
    let session = Session::start(client, point, Protocol::Nbd, Access::ReadWrite)?;
    compare::write_something(&session.view)?;
    let path = format!("/v1/recoveries/{}/seal", segment(&session.view.session));
    let sealed: SealView = client.post(&path, &json!(null))?;
    Ok(sealed.point)
}

fn verified(client: &Client) -> Result<String> {
    let job = verify::check_everything(client)?;
    anyhow::ensure!(
        job.sound == Some(true),
        "the repository is damaged: {:?}",
        job.report
    );
    Ok(format!("{} are sound", size(job.done_bytes)))
}

fn space(client: &Client) -> Result<String> {
    let found: StatisticsView = client.get("/v1/stats")?;
    Ok(format!(
        "{} points of {} take {}",
        found.points,
        size(found.logical_bytes),
        size(found.stored_bytes)
    ))
}

/// A recovery session of one step.
struct Session<'a> {
    client: &'a Client,
    view: SessionView,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

impl<'a> Session<'a> {
    fn start(client: &'a Client, point: &str, protocol: Protocol, access: Access) -> Result<Self> {
        let body = RecoveryBody {
            point: point.to_owned(),
            read_only: access == Access::ReadOnly,
            protocols: vec![protocol],
            ..RecoveryBody::default()
        };
        Ok(Self {
            client,
            view: client.post("/v1/recoveries", &body)?,
        })
    }

    fn url(&self, choose: impl FnOnce(&crate::recovery::Urls) -> Option<String>) -> Result<String> {
        let disk = self.view.disks.first().context("the session has no disk")?;
        choose(&disk.urls).context("the session has no address for this protocol")
    }

    fn discard(&self) -> Result<()> {
        self.client
            .delete(&format!("/v1/recoveries/{}", segment(&self.view.session)))
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Nbd => "NBD",
        Protocol::Nfs => "NFS",
        Protocol::Iscsi => "iSCSI",
        Protocol::Tcmu => "the kernel's target",
        Protocol::Smb => "SMB",
    }
}

const WORKLOAD: &str = "guest";
