//! Starts the process and hands it its sockets.

use std::io::{self, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use export::BlockProperties;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::lane::{Lane, LaneFault};
use crate::reader::Refusal;
use crate::wire::{Body, Fields, Hello, Kind, Settings};

use super::connection::{Connection, Launched};
use super::disks::Disks;
use super::supervision::{ending, next_line, not_started};
use super::{OUT_OF_TURN, WorkerOptions};

/// Starts what reads the disks of a guest.
pub(crate) trait Launch: Send + 'static {
    /// Starts it. It is not confined yet, or has not booted: it says over its control socket when it is ready.
    fn launch(&self, disks: &Arc<Disks>) -> io::Result<Started>;

    /// Longest wait for its word.
    fn patience(&self) -> Duration;
}

/// What was started.
pub(crate) struct Started {
    /// The process, whose standard error is a pipe that ends with it.
    pub(crate) child: Child,
    /// Says *hello*.
    pub(crate) control: UnixStream,
    /// Answer requests.
    pub(crate) lanes: Vec<UnixStream>,
    /// What it needs for as long as it lives.
    pub(crate) held: Box<dyn Send + Sync>,
}

/// A worker of this machine.
pub(super) struct LocalProcess(pub(super) WorkerOptions);

/// Starts a process and waits until it is ready.
pub(super) fn launch(
    number: u64,
    launcher: &dyn Launch,
    disks: &Arc<Disks>,
    patience: Duration,
) -> Result<(Connection, Child), Refusal> {
    let started = launcher.launch(disks);
    let Started {
        mut child,
        control,
        lanes,
        held,
    } = started.map_err(|error| not_started(&error.to_string()))?;
    let connected = greet(&control, launcher.patience()).and_then(|hello| {
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let kill = move || {
            // The socket is closed together with this, which also tells a worker to end.
            let _control = (control.as_fd(), &held);
            pidfd_send_signal(&process, Signal::KILL).ok();
        };
        let launched = Launched {
            process: child.id(),
            missing: hello.missing,
            lanes,
            kill: Box::new(kill),
        };
        Connection::new(number, launched, Arc::clone(disks), patience)
    });
    match connected {
        Ok(connection) => Ok((connection, child)),
        Err(error) => {
            drop(child.kill());
            let said = child
                .stderr
                .take()
                .and_then(|stderr| next_line(&mut BufReader::new(stderr)));
            let how = ending(&mut child);
            Err(not_started(&said.unwrap_or(format!("{error} ({how})"))))
        }
    }
}

/// Waits for the word that it is ready.
fn greet(control: &UnixStream, patience: Duration) -> io::Result<Hello> {
    control.set_read_timeout(Some(patience))?;
    let mut lane = Lane::new(control);
    let mut talk = || -> Result<Hello, LaneFault> {
        let frame = lane.receive(&mut || false)?;
        match frame.kind {
            Kind::Hello => Ok(Fields::only(frame.body)?),
            _ => Err(OUT_OF_TURN.into()),
        }
    };
    talk().map_err(io::Error::other)
}

impl Launch for LocalProcess {
    fn launch(&self, disks: &Arc<Disks>) -> io::Result<Started> {
        let Self(options) = self;
        let (control, theirs) = UnixStream::pair()?;
        let child = Command::new(&options.program)
            .arg0("holdfast")
            .args(&options.arguments)
            .env_clear()
            .current_dir("/")
            // What a terminal sends to whoever started this is not for it.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut started = Started {
            child,
            control,
            lanes: Vec::new(),
            held: Box::new(()),
        };
        // If it has ended already, waiting for its word tells so, with what it said.
        drop(self.tell(&mut started, &disks.properties()));
        Ok(started)
    }

    fn patience(&self) -> Duration {
        START_PATIENCE
    }
}

impl LocalProcess {
    /// Hands over the sockets, and says how it is to run.
    fn tell(&self, started: &mut Started, disks: &[BlockProperties]) -> Result<(), LaneFault> {
        let Self(options) = self;
        let mut theirs = Vec::new();
        for _ in 0..options.lanes {
            let (own, other) = UnixStream::pair().map_err(LaneFault::Io)?;
            started.lanes.push(own);
            theirs.push(other);
        }
        let control = &started.control;
        let timeout = Some(START_PATIENCE);
        control.set_write_timeout(timeout).map_err(LaneFault::Io)?;
        let theirs: Vec<BorrowedFd<'_>> = theirs.iter().map(|socket| socket.as_fd()).collect();
        send_descriptors(control, &theirs).map_err(LaneFault::Io)?;
        let settings = Body::of(Settings {
            lanes: options.lanes,
            memory_bytes: options.memory_bytes,
            disks: disks.to_vec(),
        });
        Lane::new(control).send(Kind::Settings, &settings, &mut || false)
    }
}

pub(crate) fn send_descriptors(
    control: &UnixStream,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many at once"));
    }
    let mark = [IoSlice::new(&[1])];
    sendmsg(control, &mark, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Longest wait for a process that starts.
const START_PATIENCE: Duration = Duration::from_secs(10);
