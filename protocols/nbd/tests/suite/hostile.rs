//! Peers that mean harm: any bytes, half-open and reset connections, readers that do not read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use export::{Durability, MemoryDisk};
use nbd::client::Client;
use nbd::wire::{
    Command, CommandFlags, Dialect, GoRequest, MetaContextRequest, OptionHeader, OptionType,
    Request,
};
use nbd::{Limits, fuzz};
use proptest::prelude::*;

use crate::support::{Fixture, Habit, filled, options};

/// Messages that are almost right, with some bytes changed.
fn almost(messages: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (
        any::<u8>(),
        prop::collection::vec(messages, 1..12),
        changes,
        prop::option::of(any::<prop::sample::Index>()),
    )
        .prop_map(|(control, messages, changes, cut)| {
            let mut bytes = vec![control];
            bytes.extend(messages.concat());
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()) + 1);
            }
            bytes
        })
}

fn option_message() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec!["", "disk", "none"]);
    let query = prop::sample::select(vec![
        "base:",
        "base:allocation",
        "qemu:",
        "qemu:allocation-depth",
        "x",
    ]);
    (
        0..13_u32,
        name,
        prop::collection::vec(query, 0..4),
        any::<bool>(),
    )
        .prop_map(|(number, name, queries, empty)| {
            let option = OptionType::from(number);
            let mut data = Vec::new();
            match option {
                _ if empty => {}
                OptionType::Info | OptionType::Go => {
                    GoRequest {
                        name: name.to_owned(),
                        wants: vec![1.into(), 3.into()],
                    }
                    .encode(&mut data);
                }
                OptionType::ListMetaContext | OptionType::SetMetaContext => {
                    let queries = queries.into_iter().map(str::to_owned).collect();
                    MetaContextRequest {
                        name: name.to_owned(),
                        queries,
                    }
                    .encode(&mut data);
                }
                _ => data.extend_from_slice(name.as_bytes()),
            }
            let mut message = Vec::new();
            OptionHeader {
                option,
                length: data.len() as u32,
            }
            .encode(&mut message);
            message.extend(data);
            message
        })
}

fn request_message(dialect: Dialect) -> impl Strategy<Value = Vec<u8>> {
    let edge = prop::sample::select(vec![
        0_u64,
        511,
        512,
        4096,
        65536,
        8 << 20,
        (8 << 20) - 512,
        32 << 20,
    ]);
    (0..9_u16, 0..64_u16, edge.clone(), edge).prop_map(move |(command, flags, offset, length)| {
        let command = Command::from(command);
        let request = Request {
            flags: CommandFlags(flags),
            command,
            cookie: 1,
            offset,
            length,
        };
        let mut bytes = Vec::new();
        request.encode(dialect, &mut bytes);
        let payload = request.payload_length(dialect).min(100_000);
        bytes.resize(bytes.len() + payload as usize, 0xaa);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_leave_a_handshake_standing(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz::fuzz_handshake(&data);
    }

    #[test]
    fn almost_right_options_leave_a_handshake_standing(mut data in almost(option_message())) {
        // The control byte, then the client flags, then the options.
        data.splice(1..1, [0, 0, 0, 3]);
        fuzz::fuzz_handshake(&data);
    }

    #[test]
    fn any_bytes_leave_a_transmission_standing(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz::fuzz_transmission(&data);
    }

    #[test]
    fn almost_right_requests_leave_a_transmission_standing(mut data in almost(request_message(Dialect::Structured))) {
        data[0] %= 2;
        fuzz::fuzz_transmission(&data);
    }

    #[test]
    fn almost_right_extended_requests_leave_a_transmission_standing(
        mut data in almost(request_message(Dialect::Extended)),
    ) {
        data[0] = 2;
        fuzz::fuzz_transmission(&data);
    }
}

#[test]
fn a_goodbye_with_a_payload_of_any_length_takes_no_memory() {
    for length in [1, 1 << 20, 1 << 54, u64::MAX] {
        let mut data = vec![2];
        Request {
            flags: CommandFlags(CommandFlags::PAYLOAD_LEN),
            command: Command::Disc,
            cookie: 7,
            offset: 0,
            length,
        }
        .encode(Dialect::Extended, &mut data);
        fuzz::fuzz_transmission(&data);
    }
}

/// Closes without a goodbye, so that the other side sees a reset.
fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

#[test]
fn thousands_of_reset_connections_do_no_harm() {
    let fixture = Fixture::memory(1 << 20);
    for round in 0..3000 {
        let mut stream = TcpStream::connect(fixture.tcp()).unwrap();
        match round % 4 {
            0 => {}
            1 => stream.write_all(b"\0\0\0\x03IHAVE").unwrap(),
            2 => stream.write_all(&[0xff; 64]).unwrap(),
            _ => stream.read_exact(&mut [0; 18]).unwrap(),
        }
        if round % 2 == 0 {
            reset(&stream);
        }
    }
    let mut client = Client::connect(&fixture.tcp_address(), "disk", &options()).unwrap();
    client.write_at(0, &[1; 512], Durability::Unstable).unwrap();
    client.disconnect().unwrap();
}

#[test]
fn half_open_handshakes_end_and_make_room() {
    let limits = Limits {
        connections_per_peer: 50,
        handshake_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(1 << 20)), limits);
    let mut idle: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(fixture.tcp()).unwrap();
            stream.read_exact(&mut [0; 18]).unwrap();
            stream.write_all(b"\0\0\0\x03IHAVEOPT").unwrap();
            stream
        })
        .collect();
    // The next one is over the limit and is closed before a greeting.
    let mut refused = TcpStream::connect(fixture.tcp()).unwrap();
    assert_eq!(refused.read(&mut [0; 18]).unwrap(), 0, "closed at once");
    // Unix sockets do not count as that peer.
    fixture.client().disconnect().unwrap();
    for stream in &mut idle {
        assert_eq!(
            stream.read(&mut [0; 1]).unwrap(),
            0,
            "closed by the timeout"
        );
    }
    let client = loop {
        // The slot comes back a moment after the socket is closed.
        match Client::connect(&fixture.tcp_address(), "disk", &options()) {
            Ok(client) => break client,
            Err(_) => std::thread::yield_now(),
        }
    };
    client.disconnect().unwrap();
}

/// Both ends of every connection are in this process, and laptops allow 1,024 descriptors until asked for more.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[test]
fn thousands_of_half_open_connections_hold_little_and_make_room() {
    const COUNT: usize = 2000;
    allow_descriptors();
    let limits = Limits {
        connections: COUNT + 1,
        connections_per_peer: COUNT,
        handshake_timeout: Duration::from_secs(20),
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(1 << 20)), limits);
    let before = resident_mib();
    let mut idle: Vec<TcpStream> = (0..COUNT)
        .map(|round| {
            let mut stream = TcpStream::connect(fixture.tcp()).unwrap();
            // Some say nothing, some stop in the middle of their flags, of an option, and before the next.
            let said: &[u8] = match round % 4 {
                0 => b"",
                1 => b"\0\0",
                2 => b"\0\0\0\x03IHAVEOPT\0\0",
                _ => b"\0\0\0\x03IHAVEOPT\0\0\0\x03\0\0\0\0",
            };
            stream.write_all(said).unwrap();
            stream
        })
        .collect();
    // All of them are served: the last one has its greeting.
    let last = idle.last_mut().unwrap();
    last.read_exact(&mut [0; 18]).unwrap();
    let held = resident_mib().saturating_sub(before);
    assert!(held < 128, "{COUNT} connections hold {held} MiB");
    let mut client = fixture.client();
    client.write_at(0, &[1; 512], Durability::Stable).unwrap();
    for stream in &mut idle {
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
    }
    client.write_at(0, &[2; 512], Durability::Stable).unwrap();
    let client = loop {
        // The slot comes back a moment after the socket is closed.
        match Client::connect(&fixture.tcp_address(), "disk", &options()) {
            Ok(client) => break client,
            Err(_) => std::thread::yield_now(),
        }
    };
    client.disconnect().unwrap();
}

/// A connection that sends bytes of its own making.
fn raw_connection(fixture: &Fixture) -> UnixStream {
    let mut stream = UnixStream::connect(fixture.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    let mut hello = 3_u32.to_be_bytes().to_vec();
    OptionHeader {
        option: OptionType::ExportName,
        length: 4,
    }
    .encode(&mut hello);
    hello.extend_from_slice(b"disk");
    stream.write_all(&hello).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    stream
}

#[test]
fn a_peer_that_does_not_read_holds_little_and_delays_nobody() {
    const READS: usize = 64;
    let export = Arc::new(Habit::quick(filled(&vec![9; 4 << 20])));
    let limits = Limits {
        in_flight_bytes: 4 << 20,
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::clone(&export) as _, limits);
    let mut lazy = raw_connection(&fixture);
    let mut requests = Vec::new();
    for cookie in 0..READS as u64 {
        let flags = CommandFlags::default();
        Request {
            flags,
            command: Command::Read,
            cookie,
            offset: 0,
            length: 1 << 20,
        }
        .encode(Dialect::Simple, &mut requests);
    }
    lazy.write_all(&requests).unwrap();
    let mut other = fixture.client();
    for _ in 0..200 {
        other.write_at(0, &[9; 4096], Durability::Unstable).unwrap();
        other.flush().unwrap();
    }
    let done = export.quick_reads.load(Ordering::SeqCst);
    assert!(
        done <= 6,
        "{done} reads of 1 MiB were done for a peer that may hold 4 MiB"
    );
    for cookie in 0..READS as u64 {
        let mut reply = vec![0; 16 + (1 << 20)];
        lazy.read_exact(&mut reply).unwrap();
        assert!(reply[8..16] == cookie.to_be_bytes() && reply[16..].iter().all(|&byte| byte == 9));
    }
}

#[test]
fn a_payload_that_never_comes_holds_nothing_up() {
    let fixture = Fixture::memory(64 << 20);
    let mut stuck: Vec<UnixStream> = (0..20).map(|_| raw_connection(&fixture)).collect();
    for stream in &mut stuck {
        let mut bytes = Vec::new();
        let flags = CommandFlags::default();
        Request {
            flags,
            command: Command::Write,
            cookie: 1,
            offset: 0,
            length: 32 << 20,
        }
        .encode(Dialect::Simple, &mut bytes);
        bytes.extend_from_slice(&[1; 1000]);
        stream.write_all(&bytes).unwrap();
    }
    let mut client = fixture.client();
    client.write_at(0, &[2; 4096], Durability::Stable).unwrap();
    drop(stuck);
    let mut seen = [0; 4096];
    client.read_at(0, &mut seen).unwrap();
    assert_eq!(seen, [2; 4096], "half a write is no write");
}

/// All of a long write but its end.
fn half_a_write() -> (Vec<u8>, Vec<u8>) {
    let mut bytes = Vec::new();
    Request {
        flags: CommandFlags::default(),
        command: Command::Write,
        cookie: 1,
        offset: 0,
        length: LONGEST as u64,
    }
    .encode(Dialect::Simple, &mut bytes);
    bytes.resize(bytes.len() + LONGEST - 4096, 1);
    (bytes, vec![1; 4096])
}

const LONGEST: usize = 32 << 20;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

#[test]
fn half_sent_payloads_of_many_peers_share_one_memory() {
    let (half, _) = half_a_write();
    let limits = Limits {
        memory_bytes: 64 << 20,
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(64 << 20)), limits);
    let before = resident_mib();
    let stuck: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = raw_connection(&fixture);
            let wait = Duration::from_millis(100);
            stream.set_write_timeout(Some(wait)).unwrap();
            // Where there is no memory for it, the server does not read.
            drop(stream.write_all(&half));
            stream
        })
        .collect();
    let held = resident_mib().saturating_sub(before);
    assert!(held > 48, "two were received: {held} MiB");
    assert!(held < 112, "forty peers hold {held} MiB");
    // Small requests go on.
    let mut client = fixture.client();
    for length in [4096, 65_536] {
        client
            .write_at(0, &vec![2; length], Durability::Stable)
            .unwrap();
        let mut seen = vec![0; length];
        client.read_at(0, &mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == 2));
    }
    drop(stuck);
    // What is given up goes to those that wait.
    client
        .write_at(0, &vec![3; 1 << 20], Durability::Stable)
        .unwrap();
}

#[test]
fn a_half_sent_payload_may_rest_until_others_wait_for_its_memory() {
    let (half, rest) = half_a_write();
    let standstill_timeout = Duration::from_millis(100);
    let limits = Limits {
        memory_bytes: LONGEST as u64,
        standstill_timeout,
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(64 << 20)), limits);
    let mut client = fixture.client();
    let mut stuck = raw_connection(&fixture);
    stuck.write_all(&half).unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed() < 5 * standstill_timeout {
        client.write_at(0, &[2; 4096], Durability::Stable).unwrap();
    }
    stuck.write_all(&rest).unwrap();
    stuck.read_exact(&mut [0; 16]).unwrap();
    stuck.write_all(&half).unwrap();
    client
        .write_at(0, &vec![3; 1 << 20], Durability::Stable)
        .unwrap();
    assert_eq!(stuck.read(&mut [0; 16]).unwrap_or(0), 0, "it was closed");
    let mut seen = vec![0; LONGEST];
    client.read_at(0, &mut seen).unwrap();
    let (first, others) = seen.split_at(1 << 20);
    assert!(first.iter().all(|&byte| byte == 3), "the write is there");
    assert!(others.iter().all(|&byte| byte == 1), "and the one before");
}

#[test]
fn replies_that_nobody_takes_are_given_up_when_others_wait_for_their_memory() {
    let limits = Limits {
        memory_bytes: LONGEST as u64,
        standstill_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let content = filled(&vec![9; 4 << 20]);
    let fixture = Fixture::with_limits(Arc::new(Habit::quick(content)), limits);
    let mut read = Vec::new();
    Request {
        flags: CommandFlags::default(),
        command: Command::Read,
        cookie: 1,
        offset: 0,
        length: 1 << 20,
    }
    .encode(Dialect::Simple, &mut read);
    // Each may have 16 MiB under way, so that three would have more than there is.
    let mut lazy: Vec<UnixStream> = (0..3).map(|_| raw_connection(&fixture)).collect();
    for stream in &mut lazy {
        stream.write_all(&read.repeat(64)).unwrap();
    }
    let mut client = fixture.client();
    let mut seen = vec![0; 1 << 20];
    client.read_at(0, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 9));
}

#[test]
fn short_reads_that_nobody_takes_pin_few_buffers() {
    let export = Arc::new(Habit::quick(filled(&vec![9; 4 << 20])));
    let limits = Limits {
        in_flight_bytes: 1 << 30,
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::clone(&export) as _, limits);
    let mut lazy = raw_connection(&fixture);
    lazy.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut reads = Vec::new();
    for cookie in 0..100_000 {
        let flags = CommandFlags::default();
        Request {
            flags,
            command: Command::Read,
            cookie,
            offset: 0,
            length: 512,
        }
        .encode(Dialect::Simple, &mut reads);
    }
    assert!(lazy.write_all(&reads).is_err(), "the server stops reading");
    let done = export.quick_reads.load(Ordering::SeqCst);
    assert!(done < 5000, "{done} reads were done");
}

/// Sends `message` for ever and reads nothing; gives how much the server took before it stopped reading.
fn flood(message: &[u8], limits: Limits) -> usize {
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(8 << 20)), limits);
    let mut stream = raw_connection(&fixture);
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let bytes = message.repeat(64 * 1024 / message.len());
    let mut taken = 0;
    while taken < FLOOD_MAX {
        match stream.write(&bytes) {
            // Half a message at the end of a write would shift all that follow.
            Ok(count) if count % message.len() == 0 => taken += count,
            Ok(count) => {
                let rest = message.len() - count % message.len();
                taken += count + rest;
                if stream.write_all(&message[message.len() - rest..]).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    fixture.client().flush().unwrap();
    taken
}

const FLOOD_MAX: usize = 32 << 20;

#[test]
fn a_flood_without_reading_is_stopped_by_not_reading() {
    let limits = Limits {
        in_flight_bytes: 256 << 10,
        ..Limits::default()
    };
    let message = |command, offset, length| {
        let mut bytes = Vec::new();
        let flags = CommandFlags::default();
        Request {
            flags,
            command,
            cookie: 1,
            offset,
            length,
        }
        .encode(Dialect::Simple, &mut bytes);
        bytes
    };
    for (what, bytes) in [
        ("reads beyond the end", message(Command::Read, 1 << 40, 512)),
        (
            "commands that do not exist",
            message(Command::Unknown(99), 0, 512),
        ),
        ("reads", message(Command::Read, 0, 128 << 10)),
        ("flushes", message(Command::Flush, 0, 0)),
    ] {
        let taken = flood(&bytes, limits);
        assert!(taken < 4 << 20, "{what}: the server took {taken} bytes");
    }
}
