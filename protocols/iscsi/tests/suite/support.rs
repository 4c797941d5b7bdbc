//! A running server, and disks that wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockingPool, Durability, ExportError, Extent, MemoryDisk,
    Segments, ZeroMode,
};
use iscsi::session::Timing;
use iscsi::{
    AccessRule, Authentication, InitiatorPattern, Limits, Metrics, Portal, Server, ServerConfig,
    StaticDirectory,
};
use parking_lot::{Condvar, Mutex};
use scsi::{LunMask, Target, TargetIdentity, TargetPort, UnitOptions};
use tokio::runtime::Runtime;

use crate::initiator::Initiator;

/// The target that every fixture has.
pub(crate) const TARGET: &str = "iqn.2026-01.test:disk";

/// A server with two portals on the loopback, and a runtime of its own.
pub(crate) struct Fixture {
    pub(crate) server: Option<Server>,
    pub(crate) directory: Arc<StaticDirectory>,
    pub(crate) target: Arc<Target>,
    pub(crate) runtime: Runtime,
    addresses: Vec<SocketAddr>,
}

impl Fixture {
    /// Serves a disk of 64 MiB as unit 1 to everybody.
    pub(crate) fn memory() -> Self {
        Self::serve(Arc::new(MemoryDisk::new(64 << 20)))
    }

    pub(crate) fn serve(export: Arc<dyn BlockExport>) -> Self {
        Self::with_limits(export, Limits::default())
    }

    pub(crate) fn with_limits(export: Arc<dyn BlockExport>, limits: Limits) -> Self {
        let fixture = Self::empty(limits, BlockingPool::start(4, 64).unwrap());
        fixture
            .target
            .attach(1, export, UnitOptions::default())
            .unwrap();
        fixture.allow("*", LunMask::All, Authentication::None);
        fixture
    }

    /// A server whose one target has no units and that nobody may use yet.
    pub(crate) fn empty(limits: Limits, pool: BlockingPool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let directory = Arc::new(StaticDirectory::new());
        let portal = |group| Portal::new("127.0.0.1:0".parse().unwrap(), group);
        let entered = runtime.enter();
        let config = ServerConfig {
            limits,
            ..ServerConfig::default()
        };
        let server = Server::start(
            config,
            vec![portal(1), portal(2)],
            Arc::clone(&directory) as Arc<_>,
            Arc::new(pool),
            Metrics::unregistered(),
        )
        .unwrap();
        drop(entered);
        let addresses = server.addresses().to_vec();
        Self {
            server: Some(server),
            directory,
            target: new_target(TARGET),
            runtime,
            addresses,
        }
    }

    /// Shows the target to those whose names match.
    pub(crate) fn allow(&self, initiators: &str, luns: LunMask, authentication: Authentication) {
        let rule = AccessRule {
            initiators: InitiatorPattern::new(initiators),
            luns,
            authentication,
        };
        self.directory
            .add(Arc::clone(&self.target), "for tests", vec![rule]);
    }

    pub(crate) fn portal(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub(crate) fn second_portal(&self) -> SocketAddr {
        self.addresses[1]
    }

    /// A session whose first unit attention is taken.
    pub(crate) fn session(&self, keys: &[(&str, &str)]) -> Initiator {
        Initiator::session(self.portal(), TARGET, keys).settle()
    }

    /// Another initiator's session.
    pub(crate) fn session_of(&self, name: &str) -> Initiator {
        let mut initiator = Initiator::connect(self.portal());
        initiator.name = name.to_owned();
        assert_eq!(initiator.log_in(TARGET, &[]).0, 0);
        initiator.settle()
    }

    /// Waits until there are `wanted` sessions.
    pub(crate) fn await_sessions(&self, wanted: usize) {
        let server = self.server.as_ref().unwrap();
        await_true("the sessions end", || server.sessions_of(TARGET) == wanted);
    }
}

pub(crate) fn new_target(name: &str) -> Arc<Target> {
    let port = |relative_id: u16| TargetPort {
        relative_id,
        name: format!("{name},t,{relative_id:#06x}"),
    };
    Target::new(TargetIdentity {
        name: name.to_owned(),
        ports: vec![port(1), port(2)],
    })
}

/// Waits for something that another thread does.
pub(crate) fn await_true(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 30 seconds");
}

/// Limits with which nobody waits long.
pub(crate) fn impatient() -> Limits {
    let timing = Timing {
        ping_after: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(200),
        stall_timeout: Duration::from_millis(400),
    };
    Limits {
        login_timeout: Duration::from_millis(400),
        timing,
        ..Limits::default()
    }
}

/// A disk in RAM that answers nothing quickly, and holds every call back until its gate is opened.
pub(crate) struct Gated {
    pub(crate) disk: MemoryDisk,
    pub(crate) gate: Arc<Gate>,
}

#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_open: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.state.lock().is_open = true;
        self.changed.notify_all();
    }

    /// Waits until so many calls are held back.
    pub(crate) fn await_waiting(&self, wanted: usize) {
        await_true("calls wait at the gate", || {
            self.state.lock().waiting == wanted
        });
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.waiting += 1;
        while !state.is_open {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
    }
}

/// A disk behind a gate that is closed.
pub(crate) fn gated() -> (Arc<Gated>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let disk = Gated {
        disk: MemoryDisk::new(64 << 20),
        gate: Arc::clone(&gate),
    };
    (Arc::new(disk), gate)
}

impl BlockExport for Gated {
    fn properties(&self) -> BlockProperties {
        self.disk.properties()
    }
    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        self.gate.pass();
        self.disk.read(offset, length)
    }
    fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.gate.pass();
        self.disk.write(offset, data, durability)
    }
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.gate.pass();
        self.disk.write_zeroes(offset, length, mode, durability)
    }
    fn discard(&self, offset: u64, length: u64, durability: Durability) -> Result<(), ExportError> {
        self.gate.pass();
        self.disk.discard(offset, length, durability)
    }
    fn flush(&self) -> Result<(), ExportError> {
        self.gate.pass();
        self.disk.flush()
    }
    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.disk.extents(offset, length, limit)
    }
}

/// Whether another's program is there. On a laptop a test does without; under `CI` it must not.
pub(crate) fn need(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{program} is missing, and CI is set"
    );
    found
}
