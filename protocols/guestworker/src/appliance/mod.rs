//! A small machine whose kernel reads what there is no reader for.
//!
//! QEMU runs the kernel that Debian's package brings, with first files made here: modules of that package and this very
//! program, which answers as a worker does. Each volume is a disk of the machine; what its kernel writes as it replays a
//! journal goes to an overlay that is gone with the machine. Before a process becomes QEMU it gives up its rights
//! (`confined`). `docs/protocols/guestworker.md` says what and why.

mod confined;
mod disks;
mod found;
mod initramfs;
mod kernel;
mod kinds;
mod machine;
mod prepared;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use export::{BlockExport, ExportError, FileExport};
use parking_lot::Mutex;

use crate::client::Worker;
use crate::reader::{GuestVolume, Refusal, VolumeDescription};

use machine::{Accelerator, Machine, MachineVolume};
use prepared::Prepared;

pub use confined::{MachineLimits, become_machine};
pub use found::{ApplianceError, Found};
pub(crate) use kinds::Kind;
pub(crate) use machine::{CONTROL, PORTS};

/// How machines are run.
#[derive(Debug, Clone)]
pub struct ApplianceOptions {
    /// The program that starts QEMU, and that answers in the machine.
    pub program: PathBuf,
    /// What it is given to start QEMU.
    pub start_arguments: Vec<OsString>,
    /// What it is given in the machine: words without spaces.
    pub agent_arguments: Vec<String>,
    /// Longest time for one request; a machine that is emulated has six times that.
    pub patience: Duration,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// A machine is ended after so long without a request.
    pub idle: Duration,
}

impl Default for ApplianceOptions {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            start_arguments: vec!["guest-machine".into()],
            agent_arguments: vec!["guest-agent".to_owned()],
            patience: Duration::from_secs(10),
            memory_bytes: 256 << 20,
            idle: Duration::from_secs(600),
        }
    }
}

/// Starts machines, each for the volumes of one guest.
#[derive(Clone)]
pub struct Appliance(Arc<Inner>);

struct Inner {
    options: ApplianceOptions,
    /// Kernel and first files, for as long as a machine needs them.
    prepared: Mutex<Weak<Prepared>>,
    kvm_fails: AtomicBool,
}

impl Appliance {
    /// Nothing is started yet, nor looked for.
    pub fn new(options: ApplianceOptions) -> Self {
        Self(Arc::new(Inner {
            options,
            prepared: Mutex::default(),
            kvm_fails: AtomicBool::new(false),
        }))
    }

    /// Whether there is a machine.
    pub fn is_used(&self) -> bool {
        self.0
            .prepared
            .try_lock()
            .is_none_or(|prepared| prepared.strong_count() > 0)
    }

    fn start(
        &self,
        disks: Vec<Arc<dyn BlockExport>>,
        volumes: Vec<MachineVolume>,
    ) -> Result<Worker, Refusal> {
        let options = &self.0.options;
        let prepared = self.prepare().map_err(|error| refusal(&error))?;
        let start = |accelerator| {
            let machine = Machine {
                options: options.clone(),
                prepared: Arc::clone(&prepared),
                volumes: volumes.clone(),
                accelerator,
            };
            let patience = options.patience * accelerator.slowness();
            Worker::start_by(
                Box::new(machine),
                disks.clone(),
                patience,
                Some(options.idle),
            )
        };
        let has_kvm = prepared.found.has_kvm() && !self.0.kvm_fails.load(Ordering::Relaxed);
        if has_kvm {
            match start(Accelerator::Kvm) {
                Ok(worker) => return Ok(worker),
                Err(error) => tracing::warn!(
                    %error,
                    "no machine starts with KVM here: they are emulated from now on, which is many times slower"
                ),
            }
            self.0.kvm_fails.store(true, Ordering::Relaxed);
        }
        start(Accelerator::Emulation).map_err(|refused| refusal(&refused))
    }

    fn prepare(&self) -> io::Result<Arc<Prepared>> {
        let mut known = self.0.prepared.lock();
        if let Some(prepared) = known.upgrade() {
            return Ok(prepared);
        }
        let found = Found::look().map_err(io::Error::other)?;
        let prepared = Arc::new(Prepared::make(found, &self.0.options.program)?);
        *known = Arc::downgrade(&prepared);
        Ok(prepared)
    }
}

impl fmt::Debug for Appliance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Appliance").field(&self.0.options).finish()
    }
}

/// What of a guest's volumes a machine reads, which is started when the first is looked into.
pub(crate) struct Fallback {
    appliance: Option<Appliance>,
    disks: Vec<Arc<dyn BlockExport>>,
    started: Mutex<Option<Result<Started, Refusal>>>,
}

/// A machine, and which of the guest's volumes its disks are.
struct Started {
    numbers: Vec<u32>,
    volumes: Vec<Box<dyn GuestVolume>>,
}

impl Fallback {
    pub(crate) fn new(appliance: Option<Appliance>, disks: Vec<Arc<dyn BlockExport>>) -> Self {
        Self {
            appliance,
            disks,
            started: Mutex::default(),
        }
    }

    /// The files of a volume that no reader knows, which `refused` tells.
    pub(crate) fn files(
        &self,
        number: u32,
        all: &[VolumeDescription],
        refused: Refusal,
    ) -> Result<Arc<dyn FileExport>, Refusal> {
        let wanted = usize::try_from(number).ok().and_then(|at| all.get(at));
        if wanted.and_then(Kind::of).is_none() {
            return Err(refused);
        }
        let Some(appliance) = &self.appliance else {
            return Err(because(
                &refused,
                "the small machine that could is switched off",
            ));
        };
        let mut started = self.started.lock();
        let started = started.get_or_insert_with(|| self.start(appliance, all));
        let opened = match started {
            Ok(started) => started.files(number),
            Err(refusal) => Err(refusal.clone()),
        };
        opened.map_err(|refusal| because(&refused, &refusal.to_string()))
    }

    fn start(&self, appliance: &Appliance, all: &[VolumeDescription]) -> Result<Started, Refusal> {
        let volumes: Vec<(u32, MachineVolume)> = (0..)
            .zip(all)
            .filter_map(|(number, volume)| Some((number, MachineVolume::of(volume)?)))
            .take(machine::VOLUMES_MAX)
            .collect();
        let (numbers, volumes) = volumes.into_iter().unzip();
        let worker = appliance.start(self.disks.clone(), volumes)?;
        let volumes = worker.volumes()?;
        Ok(Started { numbers, volumes })
    }
}

impl Started {
    fn files(&self, number: u32) -> Result<Arc<dyn FileExport>, Refusal> {
        let at = self.numbers.iter().position(|volume| *volume == number);
        let volume = at.and_then(|at| self.volumes.get(at));
        let many = || {
            let most = format!(
                "the small machine has the first {} volumes only",
                machine::VOLUMES_MAX
            );
            Refusal::new(most, ExportError::NotSupported)
        };
        volume.ok_or_else(many)?.files()
    }
}

/// What the readers say, and what the machine does.
fn because(refused: &Refusal, why: &str) -> Refusal {
    Refusal::new(format!("{refused}; {why}"), refused.cause().clone())
}

/// What is missing now will be missing in a moment.
fn refusal(why: &dyn fmt::Display) -> Refusal {
    let text = format!("the small machine that could does not start: {why}");
    Refusal::new(text, ExportError::NotSupported)
}
