//! The worker, as its caller has it.

mod connection;
mod disks;
mod finding;
mod launch;
mod ranges;
mod supervision;
mod tree;
mod unneeded;
mod verdicts;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use export::{BlockExport, ExportError, FileExport, FileId};
use parking_lot::Mutex;

use crate::appliance::{Appliance, Fallback};
use crate::lane::{Frame, LaneFault};
use crate::reader::{Assembly, GuestVolume, Refusal, Used, VolumeDescription};
use crate::wire::{
    ALL_ASSEMBLED, ALL_DISKS, ASSEMBLED_FROM, Ask, Body, DISKS_MAX, Fields, Kind, Layers,
    Malformed, NO_VOLUME, Put, Request, Wire,
};

use connection::Connection;
use finding::Finding;
use launch::LocalProcess;
use ranges::WorkerRanges;
use supervision::Supervision;
use tree::WorkerTree;
use verdicts::{Subject, Verdicts};

pub(crate) use connection::converse;
pub(crate) use disks::Disks;
pub(crate) use launch::{Launch, Started, send_descriptors};
pub(crate) use tree::{check_list, check_read};

/// How a worker is run.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The program that reads.
    pub program: PathBuf,
    /// What it is given to know what it is for.
    pub arguments: Vec<OsString>,
    /// Longest time of its own that it may take for one request; what it waits for disks does not count.
    pub patience: Duration,
    /// Most memory that it may take.
    pub memory_bytes: u64,
    /// Requests that it answers at once.
    pub lanes: u8,
    /// Reads what there is no reader for; nobody does without it.
    pub appliance: Option<Appliance>,
}

/// A process that reads the disks of one guest. It ends when this and everything that came from it is dropped.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    supervision: Supervision,
    verdicts: Mutex<Verdicts>,
    patience: Duration,
    /// Lengths of the disks.
    sizes: Vec<u64>,
    volumes: Finding<Vec<VolumeDescription>>,
    assembled: Finding<Put>,
    fallback: Option<Fallback>,
}

/// A volume that a worker found.
struct WorkerVolume {
    worker: Arc<Inner>,
    number: u32,
    description: VolumeDescription,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: vec!["guest-worker".into()],
            patience: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            lanes: 8,
            appliance: None,
        }
    }
}

impl Worker {
    /// Starts a process for the `disks` of one guest.
    ///
    /// # Errors
    /// If it does not start, with what it said.
    pub fn start(
        disks: Vec<Arc<dyn BlockExport>>,
        options: WorkerOptions,
    ) -> Result<Self, Refusal> {
        if disks.len() > DISKS_MAX || options.lanes == 0 || options.lanes > LANES_MAX {
            let most = format!("a worker has at most {DISKS_MAX} disks and {LANES_MAX} lanes");
            return Err(Refusal::new(most, ExportError::NotSupported));
        }
        let patience = options.patience;
        let fallback = Fallback::new(options.appliance.clone(), disks.clone());
        let launcher = Box::new(LocalProcess(options));
        Self::start_with(launcher, disks, patience, None, Some(fallback))
    }

    /// Starts something else that speaks as a worker does. It is ended when nobody has asked anything for as long as
    /// `idle`, and started again when somebody does.
    pub(crate) fn start_by(
        launcher: Box<dyn Launch>,
        disks: Vec<Arc<dyn BlockExport>>,
        patience: Duration,
        idle: Option<Duration>,
    ) -> Result<Self, Refusal> {
        Self::start_with(launcher, disks, patience, idle, None)
    }

    fn start_with(
        launcher: Box<dyn Launch>,
        disks: Vec<Arc<dyn BlockExport>>,
        patience: Duration,
        idle: Option<Duration>,
        fallback: Option<Fallback>,
    ) -> Result<Self, Refusal> {
        let sizes = disks.iter().map(|disk| disk.properties().size_bytes);
        let sizes = sizes.collect();
        let disks = Arc::new(Disks::new(disks));
        let worker = Inner {
            supervision: Supervision::start(launcher, disks, patience, idle)?,
            verdicts: Mutex::default(),
            patience,
            sizes,
            volumes: Finding::default(),
            assembled: Finding::default(),
            fallback,
        };
        let missing = worker.supervision.connection()?.missing();
        if !missing.is_empty() {
            tracing::warn!(
                %missing,
                "this machine lacks layers of confinement for the process that reads guests' disks; it goes on with the others"
            );
        }
        Ok(Self(Arc::new(worker)))
    }

    /// The volumes of the disks. Looks for them the first time.
    ///
    /// # Errors
    /// If nothing can be said of the disks, or looking at them ended the process.
    pub fn volumes(&self) -> Result<Vec<Box<dyn GuestVolume>>, Refusal> {
        let found = self.0.found(&self.0.volumes, VOLUMES)?;
        Ok(self.shown(0, &found))
    }

    /// What is put together from the disks. Looks for it the first time. Whether that works says nothing of [`Self::volumes`].
    ///
    /// # Errors
    /// If nothing can be said of it, or looking for it ended the process.
    pub fn assemble(&self) -> Result<Assembly, Refusal> {
        let found = self.0.found(&self.0.assembled, ASSEMBLED)?;
        Ok(Assembly {
            volumes: self.shown(ASSEMBLED_FROM, &found.volumes),
            memberships: found.memberships.clone(),
        })
    }

    fn shown(&self, first: u32, found: &[VolumeDescription]) -> Vec<Box<dyn GuestVolume>> {
        let volume = |(number, description): (u32, &VolumeDescription)| {
            Box::new(WorkerVolume {
                worker: Arc::clone(&self.0),
                number,
                description: description.clone(),
            }) as Box<dyn GuestVolume>
        };
        (first..).zip(found).map(volume).collect()
    }

    /// Layers of confinement that this machine does not have.
    ///
    /// # Errors
    /// If the process does not start.
    pub fn missing(&self) -> Result<Layers, Refusal> {
        Ok(self.0.supervision.connection()?.missing())
    }

    /// The process that reads, as the system numbers it; another one after it was started again.
    ///
    /// # Errors
    /// If the process does not start.
    pub fn process(&self) -> Result<u32, Refusal> {
        Ok(self.0.supervision.connection()?.process())
    }
}

/// Why there is no answer.
enum Outcome {
    /// The process is of no use any more.
    Fault(LaneFault),
    /// It says why.
    Refused(Refusal),
}

impl Inner {
    /// Asks for something, of a process that may have to be started for that. An answer has to pass `check`.
    fn call<T: Wire>(
        &self,
        volume: u32,
        ask: Ask,
        check: impl Fn(&T) -> Result<(), Malformed>,
    ) -> Result<T, Refusal> {
        let request = Request { volume, ask };
        self.retry(Subject::of(&request), |connection| {
            self.check_volume(volume, connection)?;
            take(connection.ask(request.clone())?, &check)
        })
    }

    /// Does something with a process, and again with another one if the first ended for a reason that lies elsewhere.
    fn retry<T>(
        &self,
        subject: Subject,
        mut attempt: impl FnMut(&Arc<Connection>) -> Result<T, Outcome>,
    ) -> Result<T, Refusal> {
        loop {
            self.verdicts.lock().check(subject)?;
            let connection = self.supervision.connection()?;
            match attempt(&connection) {
                Ok(found) => return Ok(found),
                Err(Outcome::Refused(refusal)) => return Err(refusal),
                // It was ended because nobody asked: another one is started.
                Err(Outcome::Fault(_)) if connection.is_at_rest() => {}
                Err(Outcome::Fault(fault)) => drop(self.condemn(&connection, subject, &fault)),
            }
        }
    }

    /// Ends a process that failed, remembers what it was about, and says why.
    fn condemn(&self, connection: &Connection, subject: Subject, fault: &LaneFault) -> String {
        connection.end(fault);
        let ended = self.supervision.how_it_ended(connection);
        let what = self.describe(subject);
        let why = match fault {
            LaneFault::TookTooLong => {
                format!("{what} took longer than {:?}", self.patience)
            }
            LaneFault::Malformed(nonsense) => format!("{what} was answered with {nonsense}"),
            LaneFault::Closed | LaneFault::Io(_) => {
                format!("{what} ended the process that reads ({ended})")
            }
        };
        let mut verdicts = self.verdicts.lock();
        if verdicts.judge(subject, connection, fault, why.clone()) {
            tracing::warn!(
                why,
                "the process that reads a guest's disks is started again"
            );
        }
        why
    }

    /// What was found before, or is found now.
    fn found<T: Wire + PartialEq>(
        &self,
        finding: &Finding<T>,
        request: Request,
    ) -> Result<Arc<T>, Refusal> {
        match finding.known() {
            Some(found) => Ok(found),
            None => self.retry(Subject::of(&request), |connection| {
                finding.find(connection, request.clone())
            }),
        }
    }

    /// A number of a volume means the same to a new process as it did to the one before.
    fn check_volume(&self, number: u32, connection: &Arc<Connection>) -> Result<(), Outcome> {
        match number < ASSEMBLED_FROM {
            true => self.volumes.check(connection, VOLUMES),
            false => self.assembled.check(connection, ASSEMBLED),
        }
    }

    /// What no reader knows goes another way, if there is one.
    fn fall_back(&self, number: u32, refusal: Refusal) -> Result<Arc<dyn FileExport>, Refusal> {
        match (&self.fallback, self.volumes.known()) {
            // What is put together is no stretch of a disk, which is all that it can be given.
            (Some(fallback), Some(volumes))
                if matches!(refusal.cause(), ExportError::NotSupported)
                    && number < ASSEMBLED_FROM =>
            {
                fallback.files(number, &volumes, refusal)
            }
            _ => Err(refusal),
        }
    }

    fn describe(&self, subject: Subject) -> String {
        let Some(number) = subject.volume else {
            return "finding the volumes".to_owned();
        };
        if number == ALL_ASSEMBLED {
            return "putting arrays and logical volumes together".to_owned();
        }
        if number == ALL_DISKS {
            return "finding what nobody needs back".to_owned();
        }
        let name_in = |volumes: &[VolumeDescription], number: u32| {
            let volume = volumes.get(usize::try_from(number).ok()?)?;
            Some(volume.name.clone())
        };
        let name = match number.checked_sub(ASSEMBLED_FROM) {
            None => self
                .volumes
                .known()
                .and_then(|found| name_in(&found, number)),
            Some(number) => {
                let known = self.assembled.known();
                known.and_then(|found| name_in(&found.volumes, number))
            }
        };
        let name = name.unwrap_or_else(|| format!("volume {number}"));
        match subject.file {
            None => format!("opening {name}"),
            Some(FileId(file)) => format!("object {file} of {name}"),
        }
    }
}

/// The answer in a frame.
fn take<T: Wire>(frame: Frame, check: impl Fn(&T) -> Result<(), Malformed>) -> Result<T, Outcome> {
    match frame.kind {
        Kind::Done => {
            let answer = Fields::only(frame.body)?;
            check(&answer)?;
            Ok(answer)
        }
        Kind::Failed => Err(Outcome::Refused(Fields::only(frame.body)?)),
        _ => Err(OUT_OF_TURN.into()),
    }
}

impl From<LaneFault> for Outcome {
    fn from(fault: LaneFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Malformed> for Outcome {
    fn from(malformed: Malformed) -> Self {
        Self::Fault(malformed.into())
    }
}

impl GuestVolume for WorkerVolume {
    fn description(&self) -> &VolumeDescription {
        &self.description
    }

    fn files(&self) -> Result<Arc<dyn FileExport>, Refusal> {
        match self.worker.call(self.number, Ask::Open, |_| Ok(())) {
            Ok(root) => {
                let worker = Arc::clone(&self.worker);
                Ok(Arc::new(WorkerTree::new(worker, self.number, root)))
            }
            Err(refusal) => self.worker.fall_back(self.number, refusal),
        }
    }

    fn allocated(&self) -> Result<Used, Refusal> {
        let request = Request {
            volume: self.number,
            ask: Ask::Allocated,
        };
        let subject = Subject::of(&request);
        let conversation = self.worker.retry(subject, |connection| {
            self.worker.check_volume(self.number, connection)?;
            let mut conversation = connection.begin()?;
            conversation.send(Kind::Request, &Body::of(request.clone()))?;
            Ok(conversation)
        })?;
        Ok(Box::new(WorkerRanges::new(
            Arc::clone(&self.worker),
            subject,
            conversation,
            self.description.length_bytes,
        )))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.supervision.stop();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("patience", &self.0.patience)
            .finish_non_exhaustive()
    }
}

/// Asks for the volumes on the disks.
const VOLUMES: Request = Request {
    volume: NO_VOLUME,
    ask: Ask::Volumes,
};

/// Asks for those that are put together from them.
const ASSEMBLED: Request = Request {
    volume: ALL_ASSEMBLED,
    ask: Ask::Assembled,
};

const OUT_OF_TURN: Malformed = Malformed("an answer to something else");

/// As many sockets go over in one message.
const LANES_MAX: u8 = 64;
