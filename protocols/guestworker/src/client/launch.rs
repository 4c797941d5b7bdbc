//! Starts the process and hands it its sockets.

use std::io::{BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::lane::{Lane, LaneFault};
use crate::reader::Refusal;
use crate::wire::{Body, Fields, Hello, Kind, Settings};

use super::connection::{Connection, Launched};
use super::disks::Disks;
use super::supervision::{ending, next_line, not_started};
use super::{OUT_OF_TURN, WorkerOptions};

/// Starts a process and waits until it is ready.
pub(super) fn launch(
    number: u64,
    disks: &Arc<Disks>,
    options: &WorkerOptions,
) -> Result<(Connection, Child), Refusal> {
    let (control, theirs) = UnixStream::pair().map_err(|error| not_started(&error.to_string()))?;
    let mut child = Command::new(&options.program)
        .arg0("holdfast")
        .args(&options.arguments)
        .env_clear()
        .current_dir("/")
        // What a terminal sends to whoever started this is not for it.
        .process_group(0)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(&error.to_string()))?;
    let connected = greet(&control, disks, options).and_then(|(hello, lanes)| {
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let kill = move || {
            // The socket is closed together with this, which also tells a worker to end.
            let _control = control.as_fd();
            pidfd_send_signal(&process, Signal::KILL).ok();
        };
        let launched = Launched {
            process: child.id(),
            missing: hello.missing,
            lanes,
            kill: Box::new(kill),
        };
        Connection::new(number, launched, Arc::clone(disks), options.patience)
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

/// Says how it is to run, and waits for its word that it does.
fn greet(
    control: &UnixStream,
    disks: &Disks,
    options: &WorkerOptions,
) -> std::io::Result<(Hello, Vec<UnixStream>)> {
    let mut lanes = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..options.lanes {
        let (own, other) = UnixStream::pair()?;
        lanes.push(own);
        theirs.push(other);
    }
    control.set_read_timeout(Some(START_PATIENCE))?;
    control.set_write_timeout(Some(START_PATIENCE))?;
    send_sockets(control, &theirs)?;
    drop(theirs);
    let settings = Body::of(Settings {
        lanes: options.lanes,
        memory_bytes: options.memory_bytes,
        disks: disks.properties(),
    });
    let mut lane = Lane::new(control);
    let mut talk = || -> Result<Hello, LaneFault> {
        lane.send(Kind::Settings, &settings, &mut || false)?;
        let frame = lane.receive(&mut || false)?;
        match frame.kind {
            Kind::Hello => Ok(Fields::only(frame.body)?),
            _ => Err(OUT_OF_TURN.into()),
        }
    };
    let hello = talk().map_err(std::io::Error::other)?;
    Ok((hello, lanes))
}

fn send_sockets(control: &UnixStream, sockets: &[UnixStream]) -> std::io::Result<()> {
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(std::io::Error::other("too many sockets"));
    }
    let mark = [IoSlice::new(&[1])];
    sendmsg(control, &mark, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Longest wait for a process that starts.
const START_PATIENCE: Duration = Duration::from_secs(10);
