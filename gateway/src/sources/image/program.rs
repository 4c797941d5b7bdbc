//! Foreign formats through `qemu-nbd`, read with our NBD client.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use nbd::client::{Address, Client, ConnectOptions};
use serde::Deserialize;

use super::{ImageFormat, PIECE_BYTES, Piece, SourceError};

/// A running `qemu-nbd` that serves one image read-only on a private socket. Dropping it ends the program.
#[derive(Debug)]
pub struct NbdProgram {
    client: Option<Client>,
    child: Child,
    size_bytes: u64,
    _folder: tempfile::TempDir,
}

#[derive(Debug, Deserialize)]
struct Information {
    format: String,
    #[serde(rename = "full-backing-filename")]
    full_backing: Option<PathBuf>,
    #[serde(rename = "backing-filename")]
    backing: Option<PathBuf>,
    #[serde(rename = "format-specific")]
    specific: Option<Specific>,
}

/// What only some formats have: files beside the one that was named.
#[derive(Debug, Deserialize)]
struct Specific {
    #[serde(default)]
    data: Parts,
}

#[derive(Debug, Default, Deserialize)]
struct Parts {
    /// A VMDK's.
    #[serde(default)]
    extents: Vec<Part>,
    /// A qcow2's.
    #[serde(rename = "data-file")]
    data_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Part {
    filename: Option<PathBuf>,
}

impl Information {
    /// All other files that the image is read from.
    fn others(self) -> impl Iterator<Item = PathBuf> {
        let parts = self
            .specific
            .map(|specific| specific.data)
            .unwrap_or_default();
        let extents = parts.extents.into_iter().filter_map(|part| part.filename);
        let backing = self.full_backing.or(self.backing);
        backing.into_iter().chain(parts.data_file).chain(extents)
    }
}

/// The format of an image that begins like none of the raw ones.
///
/// A guest can write anything into its raw disk, so its bytes alone must not decide: block devices and files called
/// `.raw` or `.img` are raw, and a fixed VHD, which has its header at the end only, must be called `.vhd`. A file that is
/// called like another format and holds nothing of one is refused: it is cut, or something else altogether.
pub(super) fn detect(path: &Path, file: &File) -> Result<ImageFormat, SourceError> {
    let extension = path
        .extension()
        .map(|extension| extension.to_ascii_lowercase());
    let extension = extension
        .as_ref()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file || matches!(extension, "raw" | "img") {
        return Ok(ImageFormat::Raw);
    }
    if extension == "vhd" && ends_like_vhd(file) {
        return Ok(ImageFormat::Vhd);
    }
    let as_raw = || match extension {
        "qcow2" | "vmdk" | "vhd" | "vpc" | "vhdx" => Err(SourceError::NotAsNamed {
            path: path.to_owned(),
            extension: extension.to_owned(),
        }),
        _ => Ok(ImageFormat::Raw),
    };
    if !looks_foreign(file) {
        return as_raw();
    }
    let format = information(path)?
        .first()
        .map(|information| information.format.clone())
        .unwrap_or_default();
    match format.as_str() {
        "raw" => as_raw(),
        "qcow2" => Ok(ImageFormat::Qcow2),
        "vmdk" => Ok(ImageFormat::Vmdk),
        "vpc" => Ok(ImageFormat::Vhd),
        "vhdx" => Ok(ImageFormat::Vhdx),
        _ => {
            let what = format!("of the format `{format}`, which is not supported");
            Err(SourceError::NotAnImage {
                path: path.to_owned(),
                what,
            })
        }
    }
}

/// Refuses an image that stands on files outside of its own folder: its header could otherwise make whoever backs it
/// up read any file of the machine into the repository.
pub(super) fn check_backing(path: &Path) -> Result<(), SourceError> {
    let failed = |source| SourceError::Io {
        action: "look at",
        path: path.to_owned(),
        source,
    };
    let home = path
        .canonicalize()
        .map_err(failed)?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    // The program that reads the image takes its names as from here; what is relative may mean the image's own folder.
    let inside = |name: &Path| {
        let here = name.canonicalize().ok();
        let beside = home.join(name).canonicalize().ok();
        (here.is_some() || beside.is_some())
            && here
                .into_iter()
                .chain(beside)
                .all(|found| found.starts_with(&home))
    };
    for backing in information(path)?.into_iter().flat_map(Information::others) {
        if !inside(&backing) {
            return Err(SourceError::Backing {
                path: path.to_owned(),
                backing,
            });
        }
    }
    Ok(())
}

impl NbdProgram {
    /// Starts to serve an image, and waits until it can be read.
    ///
    /// # Errors
    /// If the program is missing or refuses the image.
    pub fn start(path: &Path, format: ImageFormat) -> Result<Self, SourceError> {
        let failed = |detail: String| SourceError::Program {
            path: path.to_owned(),
            format: format.qemu_name().to_owned(),
            detail,
        };
        let folder = tempfile::tempdir()
            .map_err(|error| failed(format!("cannot make a private folder: {error}")))?;
        let socket = folder.path().join("image.sock");
        let mut child = Command::new("qemu-nbd")
            .args([
                "--read-only",
                "--persistent",
                "--shared=4",
                "--cache=none",
                "--aio=threads",
                "--format",
                format.qemu_name(),
            ])
            .arg("--socket")
            .arg(&socket)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(missing("qemu-nbd", &error)))?;
        match connect(&mut child, &socket) {
            Ok(client) => {
                let size_bytes = client.export().size_bytes;
                Ok(Self {
                    client: Some(client),
                    child,
                    size_bytes,
                    _folder: folder,
                })
            }
            Err(detail) => {
                end(&mut child);
                Err(failed(detail))
            }
        }
    }

    /// Capacity of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn read(
        &mut self,
        range: Range<u64>,
        take: &mut dyn FnMut(u64, Piece) -> io::Result<()>,
    ) -> io::Result<()> {
        let client = self.client.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut at = range.start;
        while at < range.end {
            let length = range.end - at;
            for (length, zero) in extents(client, at, length)? {
                let end = at + length;
                if zero {
                    take(at, Piece::Zero(length))?;
                    at = end;
                }
                while at < end {
                    let length = PIECE_BYTES.min(end - at);
                    let mut buffer = BytesMut::zeroed(usize::try_from(length).unwrap_or_default());
                    client.read_at(at, &mut buffer).map_err(io::Error::other)?;
                    let zero = buffer.iter().all(|&byte| byte == 0);
                    take(
                        at,
                        if zero {
                            Piece::Zero(length)
                        } else {
                            Piece::Data(buffer.freeze())
                        },
                    )?;
                    at += length;
                }
            }
        }
        Ok(())
    }
}

impl Drop for NbdProgram {
    fn drop(&mut self) {
        self.client = None;
        end(&mut self.child);
    }
}

/// Waits until the program serves, or says why it does not.
fn connect(child: &mut Child, socket: &Path) -> Result<Client, String> {
    let deadline = Instant::now() + START_LIMIT;
    let address = Address::Unix(socket.to_owned());
    let options = ConnectOptions {
        contexts: vec![ALLOCATION.to_owned()],
        timeout: Some(ANSWER_LIMIT),
        ..ConnectOptions::default()
    };
    loop {
        if let Ok(client) = Client::connect(&address, "", &options) {
            return Ok(client);
        }
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                return Err("qemu-nbd did not serve it in time; is its storage alive?".to_owned());
            }
            Ok(Some(_)) => {
                let mut text = String::new();
                if let Some(stderr) = &mut child.stderr {
                    drop(io::Read::read_to_string(stderr, &mut text));
                }
                let line = text
                    .lines()
                    .next()
                    .unwrap_or("it ended without a word")
                    .to_owned();
                return Err(format!(
                    "{line}; check it with `qemu-img check`, and that nothing else has it open"
                ));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The next stretches from `at` on, at most `length` bytes: how long, and whether they are known to be zeroes.
fn extents(client: &mut Client, at: u64, length: u64) -> io::Result<Vec<(u64, bool)>> {
    let asked = length.min(STATUS_BYTES_MAX);
    let status = client.block_status(at, asked).map_err(io::Error::other)?;
    let Some((_, extents)) = status.into_iter().find(|(name, _)| name == ALLOCATION) else {
        return Ok(vec![(asked, false)]);
    };
    let mut known = 0;
    let mut all = Vec::with_capacity(extents.len());
    for (length, flags) in extents {
        let length = length.min(asked - known);
        if length > 0 {
            all.push((length, flags & STATE_ZERO != 0));
            known += length;
        }
    }
    if all.is_empty() {
        all.push((asked, false));
    }
    Ok(all)
}

fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// What `qemu-img` knows of the image and all that it stands on.
fn information(path: &Path) -> Result<Vec<Information>, SourceError> {
    let failed = |detail: String| SourceError::Program {
        path: path.to_owned(),
        format: "a disk image".to_owned(),
        detail,
    };
    let output = Command::new("qemu-img")
        .args(["info", "--output=json", "--backing-chain", "--force-share"])
        .arg(path)
        .output()
        .map_err(|error| failed(missing("qemu-img", &error)))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!(
            "{}; check the image",
            text.lines().next().unwrap_or("qemu-img failed")
        )));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("qemu-img told something strange: {error}")))
}

fn missing(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is missing; install the package qemu-utils"),
        _ => format!("cannot run {program}: {error}"),
    }
}

/// Whether the file begins like one of the foreign formats.
fn looks_foreign(file: &File) -> bool {
    let mut start = [0; 80];
    let read = file.read_at(&mut start, 0).unwrap_or(0);
    let start = start.get(..read).unwrap_or_default();
    let begins = [
        &b"QFI\xfb"[..],
        b"KDMV",
        b"COWD",
        b"vhdxfile",
        b"conectix",
        b"# Disk DescriptorFile",
    ];
    let vdi = start.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe]);
    vdi || begins.iter().any(|magic| start.starts_with(magic))
}

/// Fixed VHD images have their header at the end only.
fn ends_like_vhd(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    let mut end = [0; 8];
    metadata.len() >= 1024
        && file.read_exact_at(&mut end, metadata.len() - 512).is_ok()
        && &end == b"conectix"
}

/// The context that tells data from zeroes, and its flag for zeroes (NBD protocol, "base:allocation").
const ALLOCATION: &str = "base:allocation";
const STATE_ZERO: u64 = 2;
/// A request for the state of a range says its length in 32 bits.
const STATUS_BYTES_MAX: u64 = 1 << 31;
const START_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
