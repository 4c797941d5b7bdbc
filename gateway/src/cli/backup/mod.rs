//! `holdfast backup`.

mod plan;

use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::api::{
    BackupBegun, BackupView, BaseChoice, BeginBody, HandOverBody, ImageBody, PointView, RangeBody,
};
use crate::framing::Encoder;
use crate::sources::image::{ChangedExtents, ImageFormat, ImageSource, Piece, SourceError};
use crate::sources::left_out::{LeaveOut, LeftOut};

use self::plan::Plan;
use super::client::{Client, Refused};
use super::output::{Output, size, tell};
use super::progress::{Progress, rate};

#[derive(Debug, clap::Subcommand)]
pub(super) enum BackupVerb {
    /// Back up disk images as one restore point
    Image(ImageArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// The workload: letters, digits, `.`, `_` and `-`
    pub(super) workload: String,
    /// Images (raw, qcow2, VMDK, VHD, VHDX) or block devices, in the same order at each backup
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// The form of the images [default: what each shows; block devices, .raw and .img are raw]
    #[arg(long, value_enum)]
    pub(super) format: Option<ImageFormat>,
    /// What changed since the newest point: lines `OFFSET LENGTH` or JSON; once for each FILE, in order
    #[arg(long, value_name = "FILE")]
    pub(super) changed_extents: Vec<PathBuf>,
    /// With --changed-extents: refuse unless this is the newest point's number
    #[arg(long, value_name = "SEQUENCE", requires = "changed_extents")]
    pub(super) since: Option<u64>,
    /// Leave out what the machine does not need back; without a value everything of the kind. The images must not change
    /// meanwhile
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',', num_args = 0.., require_equals = true)]
    pub(super) leave_out: Option<Vec<LeaveOut>>,
}

/// A backup that became a restore point.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    #[serde(flatten)]
    pub(super) point: PointView,
    pub(super) seconds: f64,
    /// What was left out of each disk, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) left_out: Vec<LeftOut>,
}

/// One disk to be sent.
struct Disk {
    source: ImageSource,
    /// What to read; none: everything.
    changed: Option<ChangedExtents>,
    /// What not to read.
    left_out: Option<LeftOut>,
}

pub(super) fn run(verb: &BackupVerb, client: &Client, output: &Output) -> Result<()> {
    let BackupVerb::Image(arguments) = verb;
    let done = image(arguments, client)?;
    output.result(&done, describe)
}

/// Backs images up.
pub(super) fn image(arguments: &ImageArgs, client: &Client) -> Result<Done> {
    let mut disks = open(arguments)?;
    if let Some(wanted) = &arguments.leave_out {
        let wanted = match wanted.is_empty() {
            true => LeaveOut::all(),
            false => wanted.iter().copied().collect(),
        };
        disks = plan::leave_out(disks, &wanted)?;
    }
    let images: Vec<ImageBody> = disks
        .iter()
        .enumerate()
        .map(|(number, disk)| ImageBody {
            name: format!("disk-{number}"),
            size_bytes: disk.source.size_bytes(),
        })
        .collect();
    let files: Vec<_> = arguments
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let mut body = BeginBody {
        workload: arguments.workload.clone(),
        images,
        base: BaseChoice::Newest,
        since: arguments.since,
        configuration: json!({ "source": "image", "files": files }),
    };
    match send(client, &body, &mut disks) {
        Err(error)
            if error
                .downcast_ref::<Refused>()
                .is_some_and(Refused::is_damage) =>
        {
            tell(format!(
                "the newest restore point is damaged, and no backup goes over it ({error}); all of the disks is read"
            ));
            body.base = BaseChoice::Nothing;
            body.since = None;
            for disk in &mut disks {
                disk.changed = None;
            }
            send(client, &body, &mut disks)
        }
        sent => sent,
    }
}

/// One try at a backup, from its beginning to the commit.
fn send(client: &Client, body: &BeginBody, disks: &mut [Disk]) -> Result<Done> {
    let begun: BackupBegun = client.post("/v1/backups", body)?;
    let backup = begun.backup.to_string();
    let mut progress = Progress::start("backup", 0);
    let sent = send_all(client, &begun, disks, &mut progress);
    let committed = sent.and_then(|()| {
        client.post::<PointView>(&format!("/v1/backups/{backup}/commit"), &json!(null))
    });
    let time = progress.finish();
    match committed {
        Ok(point) => Ok(Done {
            point,
            seconds: (time.as_secs_f64() * 1000.0).round() / 1000.0,
            left_out: disks
                .iter()
                .filter_map(|disk| disk.left_out.clone())
                .collect(),
        }),
        Err(error) => {
            // It may be gone already; if not, the daemon drops it when it was silent for a while.
            drop(client.delete(&format!("/v1/backups/{backup}")));
            Err(error)
        }
    }
}

fn open(arguments: &ImageArgs) -> Result<Vec<Disk>> {
    let lists = &arguments.changed_extents;
    if !lists.is_empty() && lists.len() != arguments.files.len() {
        bail!(
            "{} files but {} lists of changed extents; give one --changed-extents for each file, in the same order",
            arguments.files.len(),
            lists.len()
        );
    }
    let mut disks = Vec::with_capacity(arguments.files.len());
    for (number, file) in arguments.files.iter().enumerate() {
        let source = ImageSource::open(file, arguments.format)?;
        let changed = lists
            .get(number)
            .map(|list| ChangedExtents::load(list, source.size_bytes()))
            .transpose()?;
        disks.push(Disk {
            source,
            changed,
            left_out: None,
        });
    }
    Ok(disks)
}

fn send_all(
    client: &Client,
    begun: &BackupBegun,
    disks: &mut [Disk],
    progress: &mut Progress,
) -> Result<()> {
    for (number, disk) in disks.iter_mut().enumerate() {
        let size_bytes = disk.source.size_bytes();
        let name = format!("disk-{number}");
        let mut below = begun.parent_images.iter();
        let same = below.any(|image| image.name == name && image.size_bytes == size_bytes);
        if disk.changed.is_some() && !same {
            tell(format!(
                "disk {number} has no point below of its size: all of it is read"
            ));
            disk.changed = None;
        }
        let path = format!("/v1/backups/{}/images/{number}", begun.backup);
        let plan = Plan::new(client, &path, disk, same)?;
        match disk.source.file().and_then(|file| client.hand_over(file)) {
            Some(handed) => {
                let handed = handed?;
                let body = HandOverBody {
                    descriptor: handed.id,
                    ranges: plan.read.as_ref().map(|ranges| bodies(ranges)),
                    excluded: bodies(&plan.excluded),
                };
                wait(client, begun, number, progress, || {
                    client.post::<()>(&format!("{path}/file"), &body)
                })?;
            }
            None => {
                let source = &mut disk.source;
                stream(client, &format!("{path}/extents"), source, &plan, progress)?;
            }
        }
        disk.source.check_unchanged()?;
    }
    Ok(())
}

/// Runs `call` and shows how far the daemon is meanwhile.
fn wait(
    client: &Client,
    begun: &BackupBegun,
    number: usize,
    progress: &mut Progress,
    call: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (tell_end, end) = sync_channel::<()>(1);
        let ended = &ended;
        let calling = scope.spawn(move || {
            let result = call();
            ended.store(true, Ordering::Release);
            drop(tell_end);
            result
        });
        while !ended.load(Ordering::Acquire) {
            if end.recv_timeout(POLL_PAUSE).is_ok() || ended.load(Ordering::Acquire) {
                break;
            }
            if let Ok(view) = client.get::<BackupView>(&format!("/v1/backups/{}", begun.backup))
                && let Some(image) = view.images.get(number)
            {
                progress.at(image.progress_bytes, image.size_bytes);
            }
        }
        calling.join().expect("a call does not panic")
    })
}

/// Reads here and sends over HTTP.
fn stream(
    client: &Client,
    path: &str,
    source: &mut ImageSource,
    plan: &Plan,
    progress: &mut Progress,
) -> Result<()> {
    let steps = plan.steps();
    let total: u64 = steps.iter().map(|(range, _)| range.end - range.start).sum();
    std::thread::scope(|scope| {
        let (sender, pieces) = sync_channel::<Vec<u8>>(8);
        let reading = scope.spawn(move || {
            encode(source, &steps, &sender, &mut |done| {
                progress.at(done, total)
            })
        });
        let mut reader = PieceReader {
            pieces,
            current: io::Cursor::default(),
            failed: false,
        };
        let sent = client.put_stream(path, &mut reader);
        drop(reader);
        match reading.join().expect("reading does not panic") {
            Ok(()) => sent,
            // The daemon went away or refused: its word counts.
            Err(SourceError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
                sent.and_then(|()| bail!("the daemon stopped reading; see its log"))
            }
            Err(error) => Err(error).context("nothing was backed up"),
        }
    })
}

fn encode(
    source: &mut ImageSource,
    steps: &[(Range<u64>, bool)],
    sender: &SyncSender<Vec<u8>>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), SourceError> {
    let path = source.path().to_owned();
    let mut encoder = Encoder::default();
    let mut head = Vec::new();
    let mut done = 0;
    Encoder::start(&mut head);
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    for (range, is_read) in steps {
        if !is_read {
            let length = range.end - range.start;
            done += length;
            encoder.excluded(range.start, length, &mut head);
            continue;
        }
        source.read(range.clone(), &mut |offset, piece| {
            match piece {
                Piece::Zero(length) => {
                    done += length;
                    encoder.zero(offset, length, &mut head);
                }
                Piece::Data(data) => {
                    done += data.len() as u64;
                    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
                    encoder.data(offset, length, &mut head);
                    head.extend_from_slice(&data);
                }
            }
            progress(done);
            if head.len() >= SEND_BYTES {
                sender.send(std::mem::take(&mut head)).map_err(|_| gone())?;
            }
            Ok(())
        })?;
    }
    encoder.end(&mut head);
    // No end record is sent if reading failed, so the daemon knows that the body was cut.
    sender.send(head).map_err(|_| SourceError::Io {
        action: "send",
        path,
        source: gone(),
    })
}

/// The pieces as a body.
struct PieceReader {
    pieces: Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
    failed: bool,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.failed {
                return Ok(count);
            }
            match self.pieces.recv() {
                Ok(piece) => self.current = io::Cursor::new(piece),
                Err(_) => self.failed = true,
            }
        }
    }
}

fn bodies(ranges: &[Range<u64>]) -> Vec<RangeBody> {
    let body = |range: &Range<u64>| RangeBody {
        offset: range.start,
        length: range.end - range.start,
    };
    ranges.iter().map(body).collect()
}

fn describe(done: &Done) -> String {
    let point = &done.point;
    let time = Duration::from_secs_f64(done.seconds);
    let mut text = format!(
        "Backed up {}: {}, {} in {} disks, {} sent, {} stored, {:.2} s ({}/s of disk)",
        point.point,
        point.kind,
        size(point.size_bytes),
        point.disks.len(),
        size(point.sent_bytes),
        size(point.stored_bytes),
        done.seconds,
        rate(point.size_bytes, time),
    );
    for (number, left_out) in done.left_out.iter().enumerate() {
        let by = left_out
            .by
            .iter()
            .map(|(what, bytes)| format!("{what} {}", size(*bytes)));
        let by: Vec<_> = by.collect();
        text.push_str(&format!(
            "\nLeft out of disk {number}: {}",
            size(left_out.bytes)
        ));
        if !by.is_empty() {
            text.push_str(&format!(" ({})", by.join(", ")));
        }
        for whole in &left_out.whole {
            text.push_str(&format!(
                "\n  {} is kept whole: {}",
                whole.volume, whole.reason
            ));
        }
    }
    text
}

const POLL_PAUSE: Duration = Duration::from_millis(250);
const SEND_BYTES: usize = 1 << 20;
