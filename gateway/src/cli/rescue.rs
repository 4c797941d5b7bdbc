//! `holdfast rescue`: gets data out of a repository that may be hurt, with no daemon, index or configuration.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use repo::clock::{Clock as _, SystemClock};
use repo::{OverlayRecord, Point, PointName, Rescue, RescueProgress, RescueReport, RescueTarget};
use serde::Serialize;
use uuid::Uuid;

use super::keyless;
use super::output::{Output, Table, size, tell, time};
use super::point_name;
use super::progress::Progress;
use super::restore::Target;
use super::secret::SecretArgs;

#[derive(Debug, clap::Args)]
pub(super) struct RescueArgs {
    /// The repository's folder; nothing is written to it
    repository: PathBuf,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(subcommand)]
    verb: RescueVerb,
}

#[derive(Debug, clap::Subcommand)]
enum RescueVerb {
    /// List restore points, overlays of recovery sessions, and what is hurt
    List,
    /// Show disks and streams of a restore point
    Show {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
    },
    /// Copy all that is left of a disk to a file or block device
    Restore {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
        /// The disk's number
        #[arg(long, default_value_t = 0, value_name = "N")]
        disk: usize,
        /// A new file, or a block device whose content is replaced
        #[arg(long, value_name = "FILE|DEVICE")]
        to: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        overwrite: bool,
    },
    /// Copy all that is left of a stream to a file
    RestoreStream {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
        /// The stream's name
        #[arg(long, value_name = "NAME")]
        stream: String,
        /// A new file
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        overwrite: bool,
    },
    /// Copy all that is left of a recovery session's disk to a file or block device
    RestoreOverlay {
        /// The overlay, as `list` names it
        overlay: Uuid,
        /// A new file, or a block device whose content is replaced
        #[arg(long, value_name = "FILE|DEVICE")]
        to: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        overwrite: bool,
    },
    /// Read everything, and name what is missing
    Verify {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest [default: every point]
        #[arg(value_parser = point_name)]
        point: Option<String>,
        /// Of an encrypted repository, prove what needs no key, and say what that leaves open
        #[arg(long, conflicts_with = "point")]
        without_key: bool,
    },
}

/// A repository as far as it can be read.
#[derive(Debug, Serialize)]
struct ListView {
    repository: String,
    encrypted: bool,
    packs: u64,
    pack_bytes: u64,
    points: Vec<PointLine>,
    overlays: Vec<OverlayLine>,
    /// What is hurt.
    complaints: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PointLine {
    point: String,
    created: String,
    starred: bool,
    locked: bool,
    disks: Vec<PartLine>,
    streams: Vec<PartLine>,
}

/// The disk of a recovery session that was neither sealed nor discarded.
#[derive(Debug, Serialize)]
struct OverlayLine {
    overlay: Uuid,
    point: String,
    disk: usize,
    created: String,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct PartLine {
    name: String,
    size_bytes: u64,
}

/// A disk or stream that was read.
#[derive(Debug, Serialize)]
struct PartView {
    point: String,
    part: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<PathBuf>,
    whole: bool,
    #[serde(flatten)]
    report: RescueReport,
}

/// All that was read.
#[derive(Debug, Serialize)]
struct VerifyView {
    sound: bool,
    parts: Vec<PartView>,
    complaints: Vec<String>,
}

pub(super) fn run(arguments: &RescueArgs, output: &Output) -> Result<ExitCode> {
    if let RescueVerb::Verify {
        without_key: true, ..
    } = &arguments.verb
    {
        return keyless::run(&arguments.repository, output);
    }
    let secret = arguments.secret.given()?;
    let rescue = Rescue::open(&arguments.repository, secret.as_ref())?;
    for complaint in rescue.complaints() {
        tell(format!("holdfast: {complaint}"));
    }
    match &arguments.verb {
        RescueVerb::List => {
            output.result(&list(&rescue), describe_list)?;
            Ok(exit(rescue.complaints().is_empty()))
        }
        RescueVerb::Show { point } => {
            let point = line(&rescue, find(&rescue, point)?);
            output.result(&point, describe_point)?;
            Ok(ExitCode::SUCCESS)
        }
        RescueVerb::Restore {
            point,
            disk,
            to,
            overwrite,
        } => {
            let point = find(&rescue, point)?;
            let view = restore(&rescue, point, *disk, to, *overwrite)?;
            output.result(&view, describe_part)?;
            Ok(exit(view.whole))
        }
        RescueVerb::RestoreStream {
            point,
            stream,
            to,
            overwrite,
        } => {
            let point = find(&rescue, point)?;
            let view = restore_stream(&rescue, point, stream, to, *overwrite)?;
            output.result(&view, describe_part)?;
            Ok(exit(view.whole))
        }
        RescueVerb::RestoreOverlay {
            overlay,
            to,
            overwrite,
        } => {
            let overlay = find_overlay(&rescue, *overlay)?;
            let view = restore_overlay(&rescue, overlay, to, *overwrite)?;
            output.result(&view, describe_part)?;
            Ok(exit(view.whole))
        }
        RescueVerb::Verify { point, .. } => {
            let view = verify(&rescue, point.as_deref())?;
            output.result(&view, describe_verify)?;
            Ok(exit(view.sound))
        }
    }
}

fn exit(whole: bool) -> ExitCode {
    match whole {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn find<'a>(rescue: &'a Rescue, text: &str) -> Result<&'a Point> {
    let Some(workload) = text.strip_suffix("@latest") else {
        let name: PointName = text.parse()?;
        return Ok(rescue.point(&name)?);
    };
    let mut points = rescue.points().iter();
    let newest = points.rfind(|point| point.name.workload.as_str() == workload);
    let newest = newest.with_context(|| {
        format!("there is no point of workload {workload} whose manifest is sound")
    })?;
    Ok(newest)
}

fn find_overlay(rescue: &Rescue, id: Uuid) -> Result<&OverlayRecord> {
    let mut overlays = rescue.overlays().iter();
    overlays
        .find(|overlay| overlay.id == id)
        .with_context(|| format!("there is no overlay {id} that can be read"))
}

fn list(rescue: &Rescue) -> ListView {
    let (packs, pack_bytes) = rescue.packs();
    ListView {
        repository: rescue.uuid().to_string(),
        encrypted: rescue.is_encrypted(),
        packs,
        pack_bytes,
        points: rescue
            .points()
            .iter()
            .map(|point| line(rescue, point))
            .collect(),
        overlays: rescue
            .overlays()
            .iter()
            .map(|overlay| OverlayLine {
                overlay: overlay.id,
                point: overlay.point.to_string(),
                disk: overlay.disk,
                created: overlay.created.to_string(),
                size_bytes: overlay.size_bytes,
            })
            .collect(),
        complaints: rescue.complaints(),
    }
}

fn line(rescue: &Rescue, point: &Point) -> PointLine {
    let marks = rescue.marks(&point.name, SystemClock.now());
    let disks = point.images.iter().map(|image| PartLine {
        name: image.name.clone(),
        size_bytes: image.size_bytes,
    });
    let streams = point.streams.iter().map(|stream| PartLine {
        name: stream.name.clone(),
        size_bytes: stream.size_bytes,
    });
    PointLine {
        point: point.name.to_string(),
        created: point.created.to_string(),
        starred: marks.starred,
        locked: !marks.locks.is_empty() || marks.damaged.is_some(),
        disks: disks.collect(),
        streams: streams.collect(),
    }
}

fn describe_list(view: &ListView) -> String {
    let mut table = Table::new(&["POINT", "MADE (UTC)", ">DISKS", ">STREAMS", ">SIZE"]);
    for point in &view.points {
        let parts = point.disks.iter().chain(&point.streams);
        let bytes = parts.fold(0_u64, |sum, part| sum.saturating_add(part.size_bytes));
        table.row([
            point.point.clone(),
            time(&point.created),
            point.disks.len().to_string(),
            point.streams.len().to_string(),
            size(bytes),
        ]);
    }
    let mut sessions = String::new();
    if !view.overlays.is_empty() {
        let mut table = Table::new(&["OVERLAY", "OVER", ">DISK", "MADE (UTC)", ">SIZE"]);
        for overlay in &view.overlays {
            table.row([
                overlay.overlay.to_string(),
                overlay.point.clone(),
                overlay.disk.to_string(),
                time(&overlay.created),
                size(overlay.size_bytes),
            ]);
        }
        sessions = format!("\nDisks of recovery sessions:\n{table}");
    }
    let hurt = match view.complaints.len() {
        0 => String::new(),
        count => format!("; {count} things are hurt, see above"),
    };
    format!(
        "Repository {}: {} packs, {}{hurt}\n{table}{sessions}",
        view.repository,
        view.packs,
        size(view.pack_bytes)
    )
}

fn describe_point(point: &PointLine) -> String {
    let mut table = Table::new(&[">DISK", "STREAM OR DISK", ">SIZE"]);
    for (number, disk) in point.disks.iter().enumerate() {
        table.row([number.to_string(), disk.name.clone(), size(disk.size_bytes)]);
    }
    for stream in &point.streams {
        table.row([String::new(), stream.name.clone(), size(stream.size_bytes)]);
    }
    format!(
        "{}, made {} UTC\n{table}",
        point.point,
        time(&point.created)
    )
}

fn restore(
    rescue: &Rescue,
    point: &Point,
    disk: usize,
    to: &Path,
    overwrite: bool,
) -> Result<PartView> {
    let record = point.images.get(disk).with_context(|| {
        format!(
            "restore point {} has no disk {disk}: it has {}, numbered from 0",
            point.name,
            point.images.len()
        )
    })?;
    let report = copy_disk(to, overwrite, record.size_bytes, |target, progress| {
        rescue.restore_disk(point, disk, target, progress)
    })?;
    Ok(part(&point.name, &record.name, Some(to.to_owned()), report))
}

fn restore_overlay(
    rescue: &Rescue,
    overlay: &OverlayRecord,
    to: &Path,
    overwrite: bool,
) -> Result<PartView> {
    let report = copy_disk(to, overwrite, overlay.size_bytes, |target, progress| {
        rescue.restore_overlay(overlay.id, target, progress)
    })?;
    let name = overlay_name(overlay);
    Ok(part(&overlay.point, &name, Some(to.to_owned()), report))
}

fn overlay_name(overlay: &OverlayRecord) -> String {
    format!("overlay {} over disk {}", overlay.id, overlay.disk)
}

/// Copies what `restore` gives; zeroes stand wherever it gives nothing.
fn copy_disk(
    to: &Path,
    overwrite: bool,
    size_bytes: u64,
    restore: impl FnOnce(
        &mut RescueTarget<'_>,
        &mut RescueProgress<'_>,
    ) -> Result<RescueReport, repo::RepoError>,
) -> Result<RescueReport> {
    let target = Target::open(to, overwrite)?;
    target.set_length(size_bytes)?;
    let mut progress = Progress::start("rescue", size_bytes);
    let mut at = 0;
    let report = restore(
        &mut |offset, bytes| {
            target.zero(at, offset.saturating_sub(at))?;
            at = offset + bytes.len() as u64;
            target.write(offset, bytes)
        },
        &mut |done| {
            progress.at(done, size_bytes);
            ControlFlow::Continue(())
        },
    )?;
    target.zero(at, size_bytes.saturating_sub(at))?;
    target.sync()?;
    progress.finish();
    Ok(report)
}

fn restore_stream(
    rescue: &Rescue,
    point: &Point,
    name: &str,
    to: &Path,
    overwrite: bool,
) -> Result<PartView> {
    let record = point.streams.iter().find(|stream| stream.name == name);
    let record =
        record.with_context(|| format!("restore point {} has no stream {name}", point.name))?;
    let target = Target::open(to, overwrite)?;
    target.set_length(record.size_bytes)?;
    let mut progress = Progress::start("rescue", record.size_bytes);
    let report = rescue.restore_stream(
        point,
        name,
        &mut |offset, bytes| target.write(offset, bytes),
        &mut |done| {
            progress.at(done, record.size_bytes);
            ControlFlow::Continue(())
        },
    )?;
    target.sync()?;
    progress.finish();
    Ok(part(&point.name, name, Some(to.to_owned()), report))
}

fn verify(rescue: &Rescue, point: Option<&str>) -> Result<VerifyView> {
    let points: Vec<&Point> = match point {
        Some(text) => vec![find(rescue, text)?],
        None => rescue.points().iter().map(|point| &**point).collect(),
    };
    let sizes = points.iter().map(|point| {
        let disks = point.images.iter().map(|image| image.size_bytes);
        let streams = point.streams.iter().map(|stream| stream.size_bytes);
        disks.chain(streams).fold(0_u64, u64::saturating_add)
    });
    // Without a point to look at, everything is.
    let overlays = match point {
        Some(_) => &[],
        None => rescue.overlays(),
    };
    let sizes = sizes.chain(overlays.iter().map(|overlay| overlay.size_bytes));
    let total = sizes.fold(0_u64, u64::saturating_add);
    let mut progress = Progress::start("rescue verify", total);
    let mut before = 0_u64;
    let mut parts = Vec::new();
    for point in points {
        for (number, image) in point.images.iter().enumerate() {
            let mut step = |done: u64| {
                progress.at(before.saturating_add(done), total);
                ControlFlow::Continue(())
            };
            let report = rescue.restore_disk(point, number, &mut |_, _| Ok(()), &mut step)?;
            before = before.saturating_add(image.size_bytes);
            parts.push(part(&point.name, &image.name, None, report));
        }
        for stream in &point.streams {
            let mut step = |done: u64| {
                progress.at(before.saturating_add(done), total);
                ControlFlow::Continue(())
            };
            let report =
                rescue.restore_stream(point, &stream.name, &mut |_, _| Ok(()), &mut step)?;
            before = before.saturating_add(stream.size_bytes);
            parts.push(part(&point.name, &stream.name, None, report));
        }
    }
    let mut broken = Vec::new();
    for overlay in overlays {
        let mut step = |done: u64| {
            progress.at(before.saturating_add(done), total);
            ControlFlow::Continue(())
        };
        match rescue.restore_overlay(overlay.id, &mut |_, _| Ok(()), &mut step) {
            Ok(report) => parts.push(part(&overlay.point, &overlay_name(overlay), None, report)),
            Err(error) => broken.push(format!("{}: {error}", overlay_name(overlay))),
        }
        before = before.saturating_add(overlay.size_bytes);
    }
    progress.finish();
    let mut complaints = rescue.complaints();
    complaints.extend(broken);
    Ok(VerifyView {
        sound: complaints.is_empty() && parts.iter().all(|part| part.whole),
        parts,
        complaints,
    })
}

fn part(point: &PointName, name: &str, to: Option<PathBuf>, report: RescueReport) -> PartView {
    PartView {
        point: point.to_string(),
        part: name.to_owned(),
        to,
        whole: report.is_whole(),
        report,
    }
}

fn describe_part(view: &PartView) -> String {
    let to = view
        .to
        .as_ref()
        .map_or(String::new(), |path| format!(" to {}", path.display()));
    let what = format!("{} of {}", view.part, view.point);
    let read = size(view.report.data_bytes);
    if view.whole {
        return format!(
            "{what}{to}: whole, {read} of data in {}",
            size(view.report.size_bytes)
        );
    }
    let mut text = format!(
        "{what}{to}: INCOMPLETE, {read} of data are right, {} are missing and zeroes stand there:\n",
        size(view.report.missing_bytes)
    );
    for extent in &view.report.missing {
        text.push_str(&format!(
            "  offset {} length {}: {}\n",
            extent.offset, extent.length, extent.why
        ));
    }
    if view.report.more_missing {
        text.push_str("  and more\n");
    }
    text
}

fn describe_verify(view: &VerifyView) -> String {
    let mut text: String = view
        .parts
        .iter()
        .map(|part| format!("{}\n", describe_part(part).trim_end()))
        .collect();
    for complaint in &view.complaints {
        text.push_str(&format!("hurt: {complaint}\n"));
    }
    text.push_str(match view.sound {
        true => "Everything is whole.",
        false => "Not everything is whole.",
    });
    text
}
