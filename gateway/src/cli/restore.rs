//! `holdfast restore`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::FallocateFlags;
use serde::Serialize;

use crate::api::{PointView, RecoveryBody, RestoreBody, RestoredView};
use crate::framing::{Decoder, Frame};
use crate::recovery::{Protocol, SessionView};
use crate::sources::image::ImageFormat;

use super::client::{Client, Place, segment};
use super::output::{Output, size};
use super::point_name;
use super::progress::{Progress, rate};

#[derive(Debug, clap::Subcommand)]
pub(super) enum RestoreVerb {
    /// Copy a disk to a file or block device
    Image(ImageArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// WORKLOAD@SEQUENCE or WORKLOAD@latest
    #[arg(value_parser = point_name)]
    pub(super) point: String,
    /// The disk's number
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) disk: usize,
    /// A new file, or a block device whose content is replaced
    #[arg(long, value_name = "FILE|DEVICE")]
    pub(super) to: PathBuf,
    /// The form of the file
    #[arg(long, value_enum, default_value_t = ImageFormat::Raw)]
    pub(super) format: ImageFormat,
    /// Replace a file that is there
    #[arg(long)]
    pub(super) overwrite: bool,
}

/// A disk that was restored.
#[derive(Debug, Serialize)]
pub(super) struct Restored {
    point: String,
    disk: usize,
    to: PathBuf,
    format: &'static str,
    size_bytes: u64,
    pub(super) seconds: f64,
}

pub(super) fn run(verb: &RestoreVerb, client: &Client, output: &Output) -> Result<()> {
    let RestoreVerb::Image(arguments) = verb;
    let restored = image(arguments, client)?;
    output.result(&restored, |restored| {
        format!(
            "Restored disk {} of {} to {} ({}, {}) in {:.2} s ({}/s)",
            restored.disk,
            restored.point,
            restored.to.display(),
            restored.format,
            size(restored.size_bytes),
            restored.seconds,
            rate(
                restored.size_bytes,
                std::time::Duration::from_secs_f64(restored.seconds)
            ),
        )
    })
}

/// Restores one disk.
pub(super) fn image(arguments: &ImageArgs, client: &Client) -> Result<Restored> {
    let point: PointView = client.get(&format!("/v1/points/{}", segment(&arguments.point)))?;
    let count = point.disks.len();
    let disk = point.disks.get(arguments.disk);
    let disk = disk.ok_or_else(|| {
        anyhow!(
            "restore point {} has no disk {}: it has {count}, numbered from 0",
            point.point,
            arguments.disk
        )
    })?;
    let mut progress = Progress::start("restore", disk.size_bytes);
    let target = Target::open(&arguments.to, arguments.overwrite)?;
    let restored = match arguments.format {
        ImageFormat::Raw => raw(
            client,
            &point.point,
            disk.disk,
            disk.size_bytes,
            &target,
            &mut progress,
        ),
        format => convert(client, &point.point, disk.disk, &target, format),
    };
    let time = progress.finish();
    if let Err(error) = restored {
        target.discard();
        return Err(error);
    }
    Ok(Restored {
        point: point.point.clone(),
        disk: disk.disk,
        to: arguments.to.clone(),
        format: arguments.format.name(),
        size_bytes: disk.size_bytes,
        seconds: (time.as_secs_f64() * 1000.0).round() / 1000.0,
    })
}

/// Where a disk is restored to.
pub(super) struct Target {
    path: PathBuf,
    file: File,
    is_device: bool,
}

impl Target {
    pub(super) fn open(path: &Path, overwrite: bool) -> Result<Self> {
        let is_device =
            std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if is_device {
            // Refused by the kernel while the device is mounted or otherwise in use.
            let exclusive = rustix::fs::OFlags::EXCL.bits();
            options.custom_flags(exclusive.cast_signed());
        } else {
            options.create(true).truncate(true).create_new(!overwrite);
        }
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => anyhow!(
                "{} is in use, perhaps mounted; nothing was written to it",
                path.display()
            ),
            io::ErrorKind::AlreadyExists => anyhow!(
                "{} is there already; give another name, or --overwrite",
                path.display()
            ),
            _ => anyhow!(
                "cannot make {}: {error}; check the path, its rights and the space",
                path.display()
            ),
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            is_device,
        })
    }

    /// Makes a range zero: a hole where that is possible.
    pub(super) fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 || !self.is_device {
            // A new file is one hole.
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, punch, offset, length).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; 1 << 20];
        let mut at = offset;
        while at < offset + length {
            let step = zeroes
                .len()
                .min(usize::try_from(offset + length - at).unwrap_or(usize::MAX));
            self.file
                .write_all_at(zeroes.get(..step).unwrap_or_default(), at)?;
            at += step as u64;
        }
        Ok(())
    }

    /// Gives a file its length; a device has one.
    pub(super) fn set_length(&self, length: u64) -> Result<()> {
        if self.is_device {
            return Ok(());
        }
        self.file
            .set_len(length)
            .context("cannot set the length of the file; is there space?")
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file
            .sync_all()
            .context("cannot make the restored disk durable")
    }

    /// Removes what was half made.
    fn discard(&self) {
        if !self.is_device {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn raw(
    client: &Client,
    point: &str,
    disk: usize,
    size_bytes: u64,
    target: &Target,
    progress: &mut Progress,
) -> Result<()> {
    let path = format!("/v1/points/{}/images/{disk}", segment(point));
    if !target.is_device
        && let Some(handed) = client.hand_over(&target.file)
    {
        let handed = handed?;
        let done: RestoredView = client.post(
            &format!("{path}/file"),
            &RestoreBody {
                descriptor: handed.id,
            },
        )?;
        if done.size_bytes != size_bytes {
            bail!(
                "the daemon restored {} instead of {size_bytes} bytes; try again",
                done.size_bytes
            );
        }
        return Ok(());
    }
    target.set_length(size_bytes)?;
    receive(
        client,
        &format!("{path}/extents"),
        size_bytes,
        target,
        progress,
    )?;
    target.sync()
}

/// Reads extents from the daemon; what lies between them is zero.
fn receive(
    client: &Client,
    path: &str,
    size_bytes: u64,
    target: &Target,
    progress: &mut Progress,
) -> Result<()> {
    let mut body = client.get_stream(path)?;
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    let failed = || format!("cannot write {}; is there space?", target.path.display());
    loop {
        let count = body
            .read(&mut buffer)
            .context("the daemon's answer was cut; see its log")?;
        if count == 0 {
            break;
        }
        decoder.push(buffer.get(..count).unwrap_or_default());
        while let Some(frame) = decoder.next_frame()? {
            if let Frame::Data { offset, data } = frame {
                target
                    .zero(at, offset.saturating_sub(at))
                    .with_context(failed)?;
                target
                    .file
                    .write_all_at(&data, offset)
                    .with_context(failed)?;
                at = offset + data.len() as u64;
                progress.at(at, size_bytes);
            }
        }
    }
    decoder.finish().context(
        "the daemon could not read the whole disk; run `holdfast verify` to learn what is hurt",
    )?;
    target
        .zero(at, size_bytes.saturating_sub(at))
        .with_context(failed)
}

/// Other formats are written by `qemu-img` from a read-only session over NBD.
fn convert(
    client: &Client,
    point: &str,
    disk: usize,
    target: &Target,
    format: ImageFormat,
) -> Result<()> {
    if target.is_device {
        bail!(
            "{} is a block device: it takes raw only; leave --format out",
            target.path.display()
        );
    }
    let body = RecoveryBody {
        point: point.to_owned(),
        disks: vec![disk],
        read_only: true,
        protocols: vec![Protocol::Nbd],
        ..RecoveryBody::default()
    };
    let session: SessionView = client.post("/v1/recoveries", &body)?;
    let urls = session
        .disks
        .first()
        .map(|disk| disk.urls.clone())
        .unwrap_or_default();
    let url = match client.place() {
        Place::Local { .. } => urls.nbd_unix,
        Place::Remote { .. } => urls.nbd,
    };
    let converted = match url {
        Some(url) => run_convert(&url, target, format),
        None if urls.nbds.is_some() => Err(anyhow!(
            "the daemon takes NBD under TLS only, and this command has no certificates for qemu-img; run it on the daemon's machine, or restore raw and convert that"
        )),
        None => Err(anyhow!(
            "the session {} is not served over NBD",
            session.session
        )),
    };
    client.delete(&format!("/v1/recoveries/{}", segment(&session.session)))?;
    converted
}

fn run_convert(url: &str, target: &Target, format: ImageFormat) -> Result<()> {
    let output = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", format.qemu_name(), url])
        .arg(&target.path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow!("qemu-img is missing, which writes formats other than raw; install the package qemu-utils"),
            _ => anyhow!("cannot run qemu-img: {error}"),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    bail!(
        "qemu-img could not write {}: {}",
        target.path.display(),
        text.lines().next().unwrap_or("it said nothing")
    )
}
