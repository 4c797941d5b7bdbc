//! The process that reads: what it does, and what it may not do.
//!
//! It runs in two steps, each in a fresh image of the program. The first leaves the namespaces of its parent and starts
//! the second, which thereby lives in all of the new ones. The second takes its sockets, gives up everything else, and
//! answers requests until its parent is gone.

mod disks;
mod filter;
pub(crate) mod limits;
mod namespaces;
mod serve;

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};

use export::BlockExport;

use crate::Reader;
use crate::lane::{Lane, LaneFault};
use crate::wire::{Body, Hello, Kind, Layers, Malformed};

use disks::ParentDisk;
pub(crate) use namespaces::enter_and_start_again;
pub(crate) use serve::{Served, serve};

/// Why the process that reads cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Something that every machine has was refused.
    #[error("cannot {attempt}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// The list of allowed system calls cannot be put into force.
    #[error("cannot limit the system calls of this process")]
    Filter(#[source] seccompiler::Error),
    /// It was not started by a caller of this crate.
    #[error("this process is started by others of this program only: {0}")]
    Alone(&'static str),
}

/// Does the work of this process, which has to be fresh: one thread, nothing opened. It ends with its parent.
///
/// `inner` is what the second step was given by the first; nothing for the first.
///
/// # Errors
/// If it cannot be confined, or was started by somebody else.
pub fn run(inner: Option<u32>, reader: impl Reader) -> Result<ExitCode, WorkerError> {
    limits::die_with_parent()?;
    match inner {
        None => enter_and_start_again(),
        Some(missing) => {
            read_for_parent(Layers::from_bits(missing), reader)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn read_for_parent(mut missing: Layers, reader: impl Reader) -> Result<(), WorkerError> {
    let (mut control, settings, sockets) = serve::take_settings()?;
    limits::no_new_privileges()?;
    limits::landlock(&mut missing);
    limits::limit(settings.memory_bytes, sockets.len())?;
    let disks = (0..).zip(&settings.disks);
    let disks = disks.map(|(number, properties)| {
        Arc::new(ParentDisk::new(number, *properties)) as Arc<dyn BlockExport>
    });
    let served = Arc::new(Served::new(reader, disks.collect()));
    let ready = Arc::new(Barrier::new(sockets.len() + 1));
    for socket in sockets {
        let (served, ready) = (Arc::clone(&served), Arc::clone(&ready));
        start_thread(socket, served, ready)?;
    }
    // Threads make calls as they start that they make never again. From here on nothing is opened and none is started.
    ready.wait();
    filter::apply()?;
    ready.wait();
    let hello = Body::of(Hello { missing });
    let told = control.send(Kind::Hello, &hello, &mut || true);
    match told.and_then(|()| control.receive(&mut || true)) {
        Err(LaneFault::Closed) => Ok(()),
        Err(LaneFault::Io(source)) => Err(system("wait for the end of the parent", source)),
        _ => Err(WorkerError::Alone("its parent spoke out of turn")),
    }
}

fn start_thread(
    socket: UnixStream,
    served: Arc<Served>,
    ready: Arc<Barrier>,
) -> Result<(), WorkerError> {
    let work = move || {
        ready.wait();
        ready.wait();
        serve(Lane::new(Box::new(socket)), &served);
    };
    let started = std::thread::Builder::new()
        .name("lane".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(work);
    started
        .map(drop)
        .map_err(|source| system("start a thread", source))
}

pub(crate) fn system(attempt: &'static str, source: impl Into<io::Error>) -> WorkerError {
    WorkerError::System {
        attempt,
        source: source.into(),
    }
}

impl From<Malformed> for WorkerError {
    fn from(malformed: Malformed) -> Self {
        Self::Alone(malformed.0)
    }
}

/// Readers do not recurse on what a disk says.
const STACK_BYTES: usize = 1 << 20;
