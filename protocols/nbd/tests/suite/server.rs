//! Listening, coming and going of exports, backpressure, shutdown.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use export::{BlockingPool, Durability, MemoryDisk};
use nbd::client::{Address, Client, ClientError};
use nbd::wire::ReplyType;
use nbd::{
    BoundAddress, Endpoint, Limits, Metrics, Server, ServerConfig, StartError, StaticDirectory, Tls,
};
use parking_lot::{Condvar, Mutex};

use crate::support::{Fixture, Habit, options};

/// A door that calls of a disk wait at.
#[derive(Default)]
struct Door {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Door {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            self.changed.wait(&mut state);
        }
    }

    fn wait_for(&self, count: usize) {
        let mut state = self.state.lock();
        while state.1 < count {
            self.changed.wait(&mut state);
        }
    }

    fn open(&self) {
        self.state.lock().0 = true;
        self.changed.notify_all();
    }
}

/// A disk whose reads wait at a door.
fn gated(size_bytes: u64) -> (Arc<Door>, Arc<Habit>) {
    let door = Arc::new(Door::default());
    let gate = Arc::clone(&door);
    let habit = Habit::slow(size_bytes, move |call| {
        if call == "read" {
            gate.pass();
        }
        Ok(())
    });
    (door, Arc::new(habit))
}

#[test]
fn requests_in_flight_are_answered_at_shutdown() {
    let (door, export) = gated(1 << 20);
    let mut fixture = Fixture::serve(export);
    let mut client = fixture.client();
    let address = fixture.unix_address();
    let reader = std::thread::spawn(move || {
        let answer = client.read_at(0, &mut [0; 4096]);
        (answer, client.flush())
    });
    door.wait_for(1);
    let done = fixture.shutdown(Duration::from_secs(30));
    while Client::list(&address, &options()).is_ok() {}
    door.open();
    let (answer, later) = reader.join().unwrap();
    answer.unwrap();
    assert!(matches!(later, Err(ClientError::Socket(_))), "{later:?}");
    assert!(fixture.runtime.block_on(done).unwrap(), "all were done");
    assert!(!fixture.socket().exists(), "the socket file is removed");
}

#[test]
fn connections_that_do_not_end_are_cut_after_the_grace() {
    let (door, export) = gated(1 << 20);
    let mut fixture = Fixture::serve(export);
    let mut client = fixture.client();
    let reader = std::thread::spawn(move || client.read_at(0, &mut [0; 4096]));
    door.wait_for(1);
    let done = fixture.shutdown(Duration::from_millis(50));
    assert!(!fixture.runtime.block_on(done).unwrap(), "one was not done");
    assert!(matches!(
        reader.join().unwrap(),
        Err(ClientError::Socket(_))
    ));
    door.open();
}

#[test]
fn a_removed_export_closes_its_connections_and_no_others() {
    let fixture = Fixture::memory(1 << 20);
    fixture
        .directory
        .add("other", "", Arc::new(MemoryDisk::new(1 << 20)));
    let mut leaving = fixture.client();
    let mut staying = Client::connect(&fixture.unix_address(), "other", &options()).unwrap();
    leaving.read_at(0, &mut [0; 512]).unwrap();
    assert!(fixture.directory.remove("disk"));
    while leaving.read_at(0, &mut [0; 512]).is_ok() {}
    staying.write_at(0, &[1; 512], Durability::Stable).unwrap();
    match Client::connect(&fixture.unix_address(), "disk", &options()) {
        Err(ClientError::Refused {
            reply: ReplyType::ErrUnknown,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    fixture
        .directory
        .add("disk", "again", Arc::new(MemoryDisk::new(512)));
    assert_eq!(fixture.client().export().size_bytes, 512);
}

#[test]
fn a_full_pool_slows_peers_down_and_loses_nothing() {
    let (door, export) = gated(1 << 20);
    let pool = BlockingPool::start(1, 1).unwrap();
    let fixture = Fixture::with_config(export, ServerConfig::default(), pool);
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let mut client = fixture.client();
            std::thread::spawn(move || {
                for offset in (0..64 * 4096).step_by(4096) {
                    client.read_at(offset, &mut [1; 4096]).unwrap();
                }
            })
        })
        .collect();
    door.wait_for(1);
    door.open();
    for reader in readers {
        reader.join().unwrap();
    }
}

#[test]
fn a_slow_request_does_not_delay_a_quick_one_on_the_same_connection() {
    use std::io::{Read, Write};
    let (door, export) = gated(1 << 20);
    let fixture = Fixture::serve(export);
    let mut stream = std::os::unix::net::UnixStream::connect(fixture.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
        .write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04disk")
        .unwrap();
    stream.read_exact(&mut [0; 28]).unwrap();
    let mut requests = Vec::new();
    use nbd::wire::{Command, CommandFlags, Dialect, Request};
    for (cookie, command, length) in [(1, Command::Read, 512), (2, Command::Flush, 0)] {
        let flags = CommandFlags::default();
        Request {
            flags,
            command,
            cookie,
            offset: 0,
            length,
        }
        .encode(Dialect::Simple, &mut requests);
    }
    stream.write_all(&requests).unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[15], 2, "the flush is answered first");
    door.open();
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[15], 1);
}

#[test]
fn a_stale_socket_file_is_replaced_and_others_are_not() {
    let fixture = Fixture::memory(1 << 20);
    let _entered = fixture.runtime.enter();
    let start = |path: std::path::PathBuf| {
        let endpoints = vec![Endpoint::Unix { path, mode: 0o660 }];
        let pool = Arc::new(BlockingPool::start(1, 1).unwrap());
        let directory = Arc::new(StaticDirectory::new());
        Server::start(
            ServerConfig::default(),
            endpoints,
            directory,
            pool,
            Metrics::unregistered(),
        )
    };
    assert!(
        matches!(start(fixture.socket()), Err(StartError::InUse(_))),
        "somebody listens"
    );
    let plain = fixture.file("plain", b"precious");
    assert!(
        matches!(start(plain.clone().into()), Err(StartError::NotSocket(_))),
        "not a socket"
    );
    assert_eq!(std::fs::read(&plain).unwrap(), b"precious");
    let stale = fixture.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let server = start(stale.clone()).unwrap();
    assert_eq!(
        std::fs::metadata(&stale).unwrap().permissions().mode() & 0o777,
        0o660
    );
    Client::list(&Address::Unix(stale.clone()), &options()).unwrap();
    assert!(
        fixture
            .runtime
            .block_on(server.shutdown(Duration::from_secs(5)))
    );
    assert!(!stale.exists());
}

#[test]
fn sockets_that_listen_already_are_served() {
    let fixture = Fixture::memory(1 << 20);
    let _entered = fixture.runtime.enter();
    let path = fixture.folder.path().join("passed.sock");
    let endpoints = vec![
        Endpoint::TcpListener(std::net::TcpListener::bind("127.0.0.1:0").unwrap()),
        Endpoint::UnixListener(std::os::unix::net::UnixListener::bind(&path).unwrap()),
        Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
    ];
    let directory = Arc::new(StaticDirectory::new());
    directory.add("a", "", Arc::new(MemoryDisk::new(512)));
    let pool = Arc::new(BlockingPool::start(1, 1).unwrap());
    let server = Server::start(
        ServerConfig::default(),
        endpoints,
        directory,
        pool,
        Metrics::unregistered(),
    )
    .unwrap();
    assert_eq!(server.addresses()[1], BoundAddress::Unix(path.clone()));
    for address in server.addresses() {
        let (address, name) = Address::parse_uri(&address.uri("a")).unwrap();
        assert_eq!(
            Client::info(&address, &name, &options())
                .unwrap()
                .size_bytes,
            512
        );
    }
    assert!(
        fixture
            .runtime
            .block_on(server.shutdown(Duration::from_secs(5)))
    );
    assert!(
        path.exists(),
        "the file of a passed socket is not ours to remove"
    );
}

#[test]
fn an_address_in_use_is_named() {
    let fixture = Fixture::memory(1 << 20);
    let _entered = fixture.runtime.enter();
    let pool = Arc::new(BlockingPool::start(1, 1).unwrap());
    let endpoints = vec![Endpoint::Tcp(fixture.tcp())];
    let directory = Arc::new(StaticDirectory::new());
    let error = Server::start(
        ServerConfig::default(),
        endpoints,
        directory,
        pool,
        Metrics::unregistered(),
    );
    let text = error.unwrap_err().to_string();
    assert_eq!(text, format!("cannot listen on {}", fixture.tcp()));
}

#[test]
fn counters_follow_what_happens() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let fixture = Fixture::memory(1 << 20);
    let _entered = fixture.runtime.enter();
    let path = fixture.folder.path().join("counted.sock");
    let directory = Arc::new(StaticDirectory::new());
    directory.add("a", "", Arc::new(MemoryDisk::new(1 << 20)));
    let endpoints = vec![Endpoint::Unix {
        path: path.clone(),
        mode: 0o600,
    }];
    let config = ServerConfig {
        tls: Tls::Off,
        limits: Limits {
            connections: 1,
            ..Limits::default()
        },
    };
    let server = Server::start(
        config,
        endpoints,
        directory,
        Arc::new(BlockingPool::start(1, 8).unwrap()),
        metrics,
    );
    let address = Address::Unix(path);
    let mut client = Client::connect(&address, "a", &options()).unwrap();
    assert!(
        Client::connect(&address, "a", &options()).is_err(),
        "one connection is allowed"
    );
    client
        .write_at(0, &[1; 4096], Durability::Unstable)
        .unwrap();
    client.read_at(0, &mut [0; 8192]).unwrap();
    client.flush().unwrap();
    client.read_at(1 << 30, &mut [0; 512]).unwrap_err();
    client.disconnect().unwrap();
    assert!(
        fixture
            .runtime
            .block_on(server.unwrap().shutdown(Duration::from_secs(5)))
    );
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "holdfast_nbd_connections_accepted_total 1",
        "holdfast_nbd_connections_refused_total 1",
        "holdfast_nbd_connections 0",
        "holdfast_nbd_requests_in_flight 0",
        "holdfast_nbd_requests_total{command=\"read\"} 2",
        "holdfast_nbd_requests_total{command=\"write\"} 1",
        "holdfast_nbd_requests_total{command=\"flush\"} 1",
        "holdfast_nbd_request_errors_total 1",
        "holdfast_nbd_read_bytes_total 8192",
        "holdfast_nbd_written_bytes_total 4096",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
