//! Requests, answered by a reader.

use std::collections::BTreeSet;
use std::io::{IoSliceMut, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use export::{BlockExport, ExportError, FileExport};
use guestfs::Membership;
use parking_lot::Mutex;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::disks::{take_lane, with_lane};
use super::{WorkerError, system};
use crate::lane::{Frame, Lane, LaneFault, Stream};
use crate::reader::{GuestVolume, Reader, Refusal, UnneededBytes, Used, VolumeDescription};
use crate::wire::{
    ASSEMBLED_FROM, Ask, Body, Fields, Found, Kind, Put, RANGES_MAX, Ranges, Request, Settings,
};

/// What all lanes read. Volumes and their files are opened when somebody asks.
pub(crate) struct Served {
    reader: Box<dyn Reader>,
    disks: Vec<Arc<dyn BlockExport>>,
    volumes: Mutex<Option<Arc<[Opened]>>>,
    assembled: Mutex<Option<Arc<Assembled>>>,
    unneeded: Mutex<Option<Unneeded>>,
}

/// What is not needed of each disk, as far as it was wanted.
struct Unneeded {
    wanted: BTreeSet<guestfs::Unneeded>,
    disks: Vec<UnneededBytes>,
}

struct Assembled {
    volumes: Vec<Opened>,
    memberships: Vec<Membership>,
}

struct Opened {
    volume: Box<dyn GuestVolume>,
    files: Mutex<Option<Arc<dyn FileExport>>>,
}

/// What goes back for one request.
enum Answer {
    Whole(Body),
    Parts(Used),
}

impl Served {
    pub(crate) fn new(reader: impl Reader, disks: Vec<Arc<dyn BlockExport>>) -> Self {
        Self {
            reader: Box::new(reader),
            disks,
            volumes: Mutex::default(),
            assembled: Mutex::default(),
            unneeded: Mutex::default(),
        }
    }

    fn volumes(&self) -> Result<Arc<[Opened]>, Refusal> {
        let mut volumes = self.volumes.lock();
        if let Some(volumes) = &*volumes {
            return Ok(Arc::clone(volumes));
        }
        let found = self.reader.open(&self.disks)?;
        let found: Arc<[Opened]> = found.into_iter().map(Opened::new).collect();
        *volumes = Some(Arc::clone(&found));
        Ok(found)
    }

    fn assembled(&self) -> Result<Arc<Assembled>, Refusal> {
        let mut assembled = self.assembled.lock();
        if let Some(assembled) = &*assembled {
            return Ok(Arc::clone(assembled));
        }
        let found = self.reader.assemble(&self.disks)?;
        let found = Arc::new(Assembled {
            volumes: found.volumes.into_iter().map(Opened::new).collect(),
            memberships: found.memberships,
        });
        *assembled = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Disks are looked at together, and told one by one.
    fn unneeded(
        &self,
        disk: u32,
        wanted: BTreeSet<guestfs::Unneeded>,
    ) -> Result<UnneededBytes, Refusal> {
        let mut known = self.unneeded.lock();
        let disks = match &*known {
            Some(known) if known.wanted == wanted => &known.disks,
            _ => {
                let disks = self.reader.unneeded(&self.disks, &wanted)?;
                &known.insert(Unneeded { wanted, disks }).disks
            }
        };
        let found = usize::try_from(disk).ok().and_then(|disk| disks.get(disk));
        Ok(found.cloned().ok_or(ExportError::NotFound)?)
    }

    fn answer(&self, request: Request) -> Result<Answer, Refusal> {
        match request.ask {
            Ask::Volumes => return Ok(Answer::Whole(Body::of(descriptions(&self.volumes()?)))),
            Ask::Assembled => {
                let assembled = self.assembled()?;
                return Ok(Answer::Whole(Body::of(Put {
                    volumes: descriptions(&assembled.volumes),
                    memberships: assembled.memberships.clone(),
                })));
            }
            Ask::Unneeded { disk, wanted } => {
                return Ok(Answer::Whole(Body::of(self.unneeded(disk, wanted)?)));
            }
            _ => {}
        }
        match request.volume.checked_sub(ASSEMBLED_FROM) {
            None => answer_of(&self.volumes()?, request.volume, request.ask),
            Some(number) => answer_of(&self.assembled()?.volumes, number, request.ask),
        }
    }
}

fn descriptions(volumes: &[Opened]) -> Vec<VolumeDescription> {
    let all = volumes.iter();
    all.map(|opened| opened.volume.description().clone())
        .collect()
}

/// What one of `volumes` has to say.
fn answer_of(volumes: &[Opened], number: u32, wanted: Ask) -> Result<Answer, Refusal> {
    let volume = usize::try_from(number).ok();
    let opened = volume.and_then(|volume| volumes.get(volume));
    let opened = opened.ok_or(ExportError::Stale)?;
    if wanted == Ask::Allocated {
        return Ok(Answer::Parts(opened.volume.allocated()?));
    }
    let files = opened.files()?;
    Ok(Answer::Whole(ask(&*files, wanted)?))
}

impl Opened {
    fn new(volume: Box<dyn GuestVolume>) -> Self {
        Self {
            volume,
            files: Mutex::default(),
        }
    }

    fn files(&self) -> Result<Arc<dyn FileExport>, Refusal> {
        let mut files = self.files.lock();
        if let Some(files) = &*files {
            return Ok(Arc::clone(files));
        }
        let opened = self.volume.files()?;
        *files = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

fn ask(files: &dyn FileExport, ask: Ask) -> Result<Body, ExportError> {
    Ok(match ask {
        Ask::Open => Body::of(files.root()),
        Ask::Statistics => Body::of(files.statistics()?),
        Ask::Attributes(file) => Body::of(files.attributes(file)?),
        Ask::Lookup(directory, name) => {
            let file = files.lookup(directory, &name)?;
            let attributes = files.attributes(file).ok();
            Body::of(Found { file, attributes })
        }
        Ask::Read {
            file,
            offset,
            length,
        } => Body::of(files.read(file, offset, length)?),
        Ask::List {
            directory,
            cookie,
            limit,
        } => {
            let limit = usize::try_from(limit).unwrap_or(0);
            Body::of(files.list(directory, cookie, limit)?)
        }
        Ask::Symlink(file) => Body::of(files.read_symlink(file)?),
        Ask::ExtendedAttributes(file) => Body::of(files.extended_attributes(file)?),
        Ask::Particulars(file) => Body::of(files.particulars(file)?),
        Ask::Volumes | Ask::Assembled | Ask::Allocated | Ask::Unneeded { .. } => {
            return Err(ExportError::Invalid);
        }
    })
}

/// Answers what comes over `lane` until the parent is gone.
pub(crate) fn serve(lane: Lane<Stream>, served: &Served) {
    take_lane(lane);
    while serve_one(served).is_ok() {}
}

fn serve_one(served: &Served) -> Result<(), LaneFault> {
    let Frame { kind, body } = with_lane(|lane| lane.receive(&mut || true))?;
    if kind != Kind::Request {
        return Err(LaneFault::Closed);
    }
    match served.answer(Fields::only(body)?) {
        Ok(Answer::Whole(body)) => send(Kind::Done, &body).or_else(|fault| match fault {
            LaneFault::Malformed(_) => send_refusal(too_large()),
            other => Err(other),
        }),
        Ok(Answer::Parts(ranges)) => send_parts(ranges),
        Err(refusal) => send_refusal(refusal),
    }
}

/// One part after the other, each when it is asked for.
fn send_parts(mut ranges: Used) -> Result<(), LaneFault> {
    loop {
        let part: Result<Vec<_>, Refusal> = ranges.by_ref().take(RANGES_MAX).collect();
        match part {
            Err(refusal) => return send_refusal(refusal),
            Ok(part) if part.len() < RANGES_MAX => {
                return send(Kind::Done, &Body::of(Ranges(part)));
            }
            Ok(part) => send(Kind::Part, &Body::of(Ranges(part)))?,
        }
        let next = with_lane(|lane| lane.receive(&mut || true))?;
        match next.kind {
            Kind::Next => {}
            Kind::Stop => return send(Kind::Done, &Body::default()),
            _ => return Err(LaneFault::Closed),
        }
    }
}

fn send(kind: Kind, body: &Body) -> Result<(), LaneFault> {
    with_lane(|lane| lane.send(kind, body, &mut || true))
}

fn send_refusal(refusal: Refusal) -> Result<(), LaneFault> {
    send(Kind::Failed, &Body::of(refusal))
}

fn too_large() -> Refusal {
    ExportError::Corrupt {
        detail: "more of it than can be shown".into(),
    }
    .into()
}

/// The socket to the parent, which is standard input, what it says first, and the sockets that come with it.
pub(super) fn take_settings() -> Result<(Lane<UnixStream>, Settings, Vec<UnixStream>), WorkerError>
{
    let control: OwnedFd = stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| system("take standard input", source))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut mark = [0];
    let mut room = [IoSliceMut::new(&mut mark)];
    let taken = recvmsg(&control, &mut room, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|_| WorkerError::Alone("standard input is no socket of its parent"))?;
    if taken.bytes != 1 {
        return Err(WorkerError::Alone("its parent is gone"));
    }
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights.map(UnixStream::from));
        }
    }
    let mut control = Lane::new(UnixStream::from(control));
    let frame = control.receive(&mut || true);
    let frame = frame.map_err(|_| WorkerError::Alone("its parent said nothing"))?;
    let settings: Settings = Fields::only(frame.body)?;
    if frame.kind != Kind::Settings || sockets.len() != usize::from(settings.lanes) {
        return Err(WorkerError::Alone("its parent said something else"));
    }
    Ok((control, settings, sockets))
}
