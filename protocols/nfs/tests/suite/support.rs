//! A server in this process on a free port, trees that can be made slow, and raw connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use export::{
    Attributes, BlockingPool, Caller, CreateMode, Created, DirectoryEntry, Durability, ExportError,
    FileExport, FileId, FileRead, MemoryTree, SetAttributes, Statistics, Written,
};
use nfs::client::{Client, ClientError, Identity};
use nfs::{
    Export, ExportOptions, HandleKey, Limits, Portmap, Server, ServerConfig, Squash,
    StaticDirectory,
};

pub(crate) const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    gids: Vec::new(),
};

/// A server and all that it needs.
pub(crate) struct TestServer {
    pub(crate) directory: Arc<StaticDirectory>,
    pub(crate) server: Option<Server>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl TestServer {
    pub(crate) fn with(tree: Arc<dyn FileExport>) -> Self {
        Self::configured(tree, plain_options(), Limits::default())
    }

    pub(crate) fn configured(
        tree: Arc<dyn FileExport>,
        options: ExportOptions,
        limits: Limits,
    ) -> Self {
        let directory = Arc::new(StaticDirectory::new());
        directory.insert(Export {
            id: 1,
            path: "/".to_owned(),
            tree,
            options,
        });
        Self::of(directory, loopback_config(limits))
    }

    pub(crate) fn of(directory: Arc<StaticDirectory>, config: ServerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let pool = Arc::new(BlockingPool::start(2, 64).unwrap());
        let exports = Arc::clone(&directory);
        let server = runtime
            .block_on(Server::start(config, exports, pool))
            .unwrap();
        Self {
            directory,
            server: Some(server),
            runtime,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().nfs_address()
    }

    pub(crate) fn client(&self) -> Client {
        self.client_as(&Identity::root())
    }

    pub(crate) fn client_as(&self, identity: &Identity) -> Client {
        self.mount(identity).unwrap()
    }

    pub(crate) fn try_client(&self) -> Result<(), ClientError> {
        self.mount(&Identity::root())?.null()
    }

    fn mount(&self, identity: &Identity) -> Result<Client, ClientError> {
        Client::mount(self.address(), self.address(), "/", identity)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    pub(crate) fn sample(&self, name: &str) -> u64 {
        let metrics = self.server.as_ref().unwrap().metrics();
        metrics
            .samples()
            .find(|(known, _)| *known == name)
            .unwrap()
            .1
    }

    /// Waits until a counter is what it must become; the test's own time limit ends a wait in vain.
    pub(crate) fn wait_for(&self, name: &str, wanted: impl Fn(u64) -> bool) {
        while !wanted(self.sample(name)) {
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }
}

pub(crate) fn loopback_config(limits: Limits) -> ServerConfig {
    ServerConfig {
        nfs: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        mount: None,
        portmap: Portmap::None,
        key: HandleKey::new([9; 32]),
        limits,
    }
}

pub(crate) fn plain_options() -> ExportOptions {
    ExportOptions {
        squash: Squash::None,
        ..ExportOptions::default()
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// A tree with the file `/file` that holds `content`.
pub(crate) fn tree_with_file(content: &[u8]) -> Arc<MemoryTree> {
    let tree = Arc::new(MemoryTree::new());
    let attributes = SetAttributes::default();
    let made = tree
        .create(
            &ROOT,
            tree.root(),
            b"file",
            CreateMode::Guarded,
            &attributes,
        )
        .unwrap();
    let data = [Bytes::copy_from_slice(content)];
    tree.write(made.file, 0, &data, Durability::Unstable)
        .unwrap();
    tree
}

/// Bytes of a call: words, then opaques, then words, by hand, so that the tests do not trust the encoder under test.
#[derive(Default, Clone)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    pub(crate) fn call(xid: u32, program: u32, version: u32, procedure: u32) -> Self {
        Self::default()
            .words(&[xid, 0, 2, program, version, procedure])
            .sys(0, 0)
    }

    pub(crate) fn nfs(xid: u32, procedure: u32) -> Self {
        Self::call(xid, 100_003, 3, procedure)
    }

    pub(crate) fn words(mut self, words: &[u32]) -> Self {
        for word in words {
            self.0.extend(word.to_be_bytes());
        }
        self
    }

    pub(crate) fn long(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn opaque(mut self, bytes: &[u8]) -> Self {
        self = self.words(&[u32::try_from(bytes.len()).unwrap()]);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn sys(self, uid: u32, gid: u32) -> Self {
        self.words(&[1, 20, 0, 0, uid, gid, 0, 0, 0])
    }

    pub(crate) fn record(&self) -> Vec<u8> {
        let mark = u32::try_from(self.0.len()).unwrap() | 0x8000_0000;
        [&mark.to_be_bytes()[..], &self.0].concat()
    }
}

/// One whole reply record, or `None` at the end of the stream.
pub(crate) fn reply(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut mark = [0; 4];
    if let Err(error) = stream.read_exact(&mut mark) {
        let ended = [
            ErrorKind::UnexpectedEof,
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
        ];
        assert!(
            ended.contains(&error.kind()),
            "the server neither answers nor hangs up: {error}"
        );
        return None;
    }
    let mut record = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
    stream.read_exact(&mut record).unwrap();
    Some(record)
}

pub(crate) fn exchange(stream: &mut TcpStream, call: &Raw) -> Option<Vec<u8>> {
    stream.write_all(&call.record()).ok()?;
    reply(stream)
}

pub(crate) fn word(record: &[u8], number: usize) -> u32 {
    u32::from_be_bytes(record[number * 4..number * 4 + 4].try_into().unwrap())
}

/// A tree whose reads and creations wait for a disk: each takes a token from the gate.
pub(crate) struct SlowTree {
    pub(crate) inner: Arc<MemoryTree>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) creations: AtomicU32,
}

/// Lets calls through one by one.
#[derive(Default)]
pub(crate) struct Gate {
    state: std::sync::Mutex<(u32, u32)>,
    moved: std::sync::Condvar,
}

impl Gate {
    /// Lets `count` calls through.
    pub(crate) fn open(&self, count: u32) {
        self.state.lock().unwrap().0 += count;
        self.moved.notify_all();
    }

    /// Waits until `count` calls stand before the gate.
    pub(crate) fn wait_for_arrivals(&self, count: u32) {
        let state = self.state.lock().unwrap();
        drop(
            self.moved
                .wait_while(state, |state| state.1 < count)
                .unwrap(),
        );
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.moved.notify_all();
        let mut state = self.moved.wait_while(state, |state| state.0 == 0).unwrap();
        state.0 -= 1;
        state.1 -= 1;
    }
}

impl SlowTree {
    pub(crate) fn new(inner: Arc<MemoryTree>) -> Self {
        Self {
            inner,
            gate: Arc::new(Gate::default()),
            creations: AtomicU32::new(0),
        }
    }
}

impl FileExport for SlowTree {
    fn root(&self) -> FileId {
        self.inner.root()
    }
    fn statistics(&self) -> Result<Statistics, ExportError> {
        self.inner.statistics()
    }
    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        self.inner.attributes(file)
    }
    fn set_attributes(
        &self,
        caller: &Caller,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        self.inner.set_attributes(caller, file, change)
    }
    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        self.inner.lookup(directory, name)
    }
    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        self.gate.pass();
        self.inner.read(file, offset, length)
    }
    fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        self.inner.write(file, offset, data, durability)
    }
    fn commit(&self, file: FileId) -> Result<Attributes, ExportError> {
        self.inner.commit(file)
    }
    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        self.inner.list(directory, cookie, limit)
    }
    fn create(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        self.creations.fetch_add(1, Ordering::SeqCst);
        self.gate.pass();
        self.inner.create(caller, directory, name, mode, attributes)
    }
}
