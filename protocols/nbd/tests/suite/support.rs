//! A running server, disks with habits, and other people's programs.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, BlockingPool, Durability, ExportError, Extent, MemoryDisk,
    Segments, ZeroMode,
};
use nbd::client::{Address, Client, ConnectOptions};
use nbd::{
    BoundAddress, Endpoint, ExportDirectory, Limits, Metrics, Server, ServerConfig,
    StaticDirectory, Tls,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A server on a TCP port of the loopback and on a unix socket, with a runtime of its own.
pub(crate) struct Fixture {
    pub(crate) server: Option<Server>,
    pub(crate) directory: Arc<StaticDirectory>,
    pub(crate) folder: TempDir,
    pub(crate) runtime: Runtime,
    addresses: Vec<BoundAddress>,
}

impl Fixture {
    /// Serves one disk of `size_bytes` as `disk`.
    pub(crate) fn memory(size_bytes: u64) -> Self {
        Self::serve(Arc::new(MemoryDisk::new(size_bytes)))
    }

    /// Serves `export` as `disk`.
    pub(crate) fn serve(export: Arc<dyn BlockExport>) -> Self {
        Self::with_limits(export, Limits::default())
    }

    pub(crate) fn with_limits(export: Arc<dyn BlockExport>, limits: Limits) -> Self {
        Self::with_config(
            export,
            ServerConfig {
                tls: Tls::Off,
                limits,
            },
            BlockingPool::start(2, 64).unwrap(),
        )
    }

    pub(crate) fn with_config(
        export: Arc<dyn BlockExport>,
        config: ServerConfig,
        pool: BlockingPool,
    ) -> Self {
        let directory = Arc::new(StaticDirectory::new());
        directory.add("disk", "a disk for tests", export);
        Self::start(
            Arc::clone(&directory) as Arc<dyn ExportDirectory>,
            directory,
            config,
            pool,
        )
    }

    pub(crate) fn start(
        shown: Arc<dyn ExportDirectory>,
        directory: Arc<StaticDirectory>,
        config: ServerConfig,
        pool: BlockingPool,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let endpoints = vec![
            Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
            Endpoint::Unix {
                path: folder.path().join("nbd.sock"),
                mode: 0o600,
            },
        ];
        let entered = runtime.enter();
        let server = Server::start(
            config,
            endpoints,
            shown,
            Arc::new(pool),
            Metrics::unregistered(),
        )
        .unwrap();
        drop(entered);
        let addresses = server.addresses().to_vec();
        Self {
            server: Some(server),
            directory,
            folder,
            runtime,
            addresses,
        }
    }

    pub(crate) fn tcp(&self) -> std::net::SocketAddr {
        match &self.addresses[0] {
            BoundAddress::Tcp(address) => *address,
            BoundAddress::Unix(_) => unreachable!("the first endpoint is TCP"),
        }
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("nbd.sock")
    }

    pub(crate) fn tcp_uri(&self) -> String {
        self.addresses[0].uri("disk")
    }

    pub(crate) fn unix_uri(&self) -> String {
        self.addresses[1].uri("disk")
    }

    pub(crate) fn tcp_address(&self) -> Address {
        Address::Tcp(self.tcp().to_string())
    }

    pub(crate) fn unix_address(&self) -> Address {
        Address::Unix(self.socket())
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.unix_address(), "disk", &options()).unwrap()
    }

    /// Starts the shutdown and gives what will be its answer.
    pub(crate) fn shutdown(&mut self, grace: Duration) -> tokio::task::JoinHandle<bool> {
        let server = self.server.take().unwrap();
        self.runtime.spawn(server.shutdown(grace))
    }

    /// Puts a file of `content` into the folder.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// No test waits longer than this for an answer.
pub(crate) fn options() -> ConnectOptions {
    ConnectOptions {
        timeout: Some(Duration::from_secs(30)),
        ..ConnectOptions::default()
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
    if !found {
        eprintln!("skipped: {program} is missing");
    }
    found
}

/// Runs another's program, which must succeed within a minute, and gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let (code, out, err) = run_any(program, arguments);
    assert_eq!(
        code,
        Some(0),
        "{program} {arguments:?} failed:\n{out}\n{err}"
    );
    out
}

/// Runs another's program, which must fail, and gives what it printed.
pub(crate) fn run_failing(program: &str, arguments: &[&str]) -> String {
    let (code, out, err) = run_any(program, arguments);
    assert!(
        matches!(code, Some(1..124)),
        "{program} {arguments:?} ended with {code:?}:\n{out}\n{err}"
    );
    out + &err
}

fn run_any(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    // nbdsh runs on the system's python, which has libnbd's module.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", "60", program])
        .args(arguments)
        .env("PATH", path);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Bytes with long stretches of zeroes, from a seed.
pub(crate) fn sparse(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; length];
    for part in bytes.chunks_mut(64 * 1024) {
        if random.below(3) > 0 {
            let start = random.below(part.len() as u64 / 2) as usize;
            part[start..].fill_with(|| random.below(256) as u8);
        }
    }
    bytes
}

/// A disk in RAM that holds `content`.
pub(crate) fn filled(content: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(content.len() as u64);
    for (index, part) in content.chunks(64 * 1024).enumerate() {
        if part.iter().any(|&byte| byte != 0) {
            disk.write(
                index as u64 * 65536,
                &[Bytes::copy_from_slice(part)],
                Durability::Unstable,
            )
            .unwrap();
        }
    }
    disk
}

/// Numbers from a seed (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a [`Habit`] does at each call.
pub(crate) type Before = Box<dyn Fn(&'static str) -> Result<(), ExportError> + Send + Sync>;

/// A disk in RAM that calls a function first, answers nothing quickly if told so, and shows a change map.
pub(crate) struct Habit {
    pub(crate) disk: MemoryDisk,
    pub(crate) before: Before,
    pub(crate) quick: bool,
    pub(crate) quick_reads: AtomicUsize,
}

impl Habit {
    pub(crate) fn slow(
        size_bytes: u64,
        before: impl Fn(&'static str) -> Result<(), ExportError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            disk: MemoryDisk::new(size_bytes),
            before: Box::new(before),
            quick: false,
            quick_reads: AtomicUsize::new(0),
        }
    }

    pub(crate) fn quick(disk: MemoryDisk) -> Self {
        Self {
            disk,
            before: Box::new(|_| Ok(())),
            quick: true,
            quick_reads: AtomicUsize::new(0),
        }
    }
}

impl BlockExport for Habit {
    fn properties(&self) -> BlockProperties {
        self.disk.properties()
    }
    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        (self.before)("read")?;
        self.disk.read(offset, length)
    }
    fn read_cached(&self, offset: u64, length: u32) -> Option<Result<Segments, ExportError>> {
        self.quick.then(|| {
            self.quick_reads.fetch_add(1, Ordering::SeqCst);
            self.disk.read(offset, length)
        })
    }
    fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<(), ExportError> {
        let stable = durability == Durability::Stable;
        (self.before)(if stable { "stable write" } else { "write" })?;
        self.disk.write(offset, data, durability)
    }
    fn try_write(&self, offset: u64, data: &[Bytes]) -> Option<Result<(), ExportError>> {
        self.quick
            .then(|| self.disk.write(offset, data, Durability::Unstable))
    }
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ExportError> {
        (self.before)(if mode == ZeroMode::KeepAllocated {
            "zeroes kept"
        } else {
            "zeroes"
        })?;
        self.disk.write_zeroes(offset, length, mode, durability)
    }
    fn discard(&self, offset: u64, length: u64, durability: Durability) -> Result<(), ExportError> {
        (self.before)("discard")?;
        self.disk.discard(offset, length, durability)
    }
    fn flush(&self) -> Result<(), ExportError> {
        (self.before)("flush")
    }
    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        (self.before)("extents")?;
        self.disk.extents(offset, length, limit)
    }
    /// One map: the first MiB has changed.
    fn change_maps(&self) -> Vec<String> {
        vec!["since".to_owned()]
    }
    fn changes(
        &self,
        map: &str,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<(u64, bool)>, ExportError> {
        if map != "since" {
            return Err(ExportError::NotSupported);
        }
        let changed = CHANGED_BYTES.saturating_sub(offset).min(length);
        let parts = [(changed, true), (length - changed, false)];
        Ok(parts
            .into_iter()
            .filter(|part| part.0 > 0)
            .take(limit)
            .collect())
    }
    fn prefetch(&self, _: u64, _: u64) {
        drop((self.before)("prefetch"));
    }
}

pub(crate) const CHANGED_BYTES: u64 = 1 << 20;
