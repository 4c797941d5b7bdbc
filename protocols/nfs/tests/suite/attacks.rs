//! Peers that lie about lengths, leave at once, or come in thousands.

use std::io::Write;
use std::net::TcpStream;

use nfs::Limits;

use crate::support::{
    Raw, TestServer, connect, exchange, plain_options, reply, tree_with_file, word,
};

fn server() -> TestServer {
    TestServer::with(tree_with_file(b"content"))
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Both ends of every connection are in this process, and laptops allow 1,024 descriptors until asked for more.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
}

fn still_serves(server: &TestServer) {
    server.client().null().unwrap();
}

#[test]
fn three_thousand_resets_do_no_harm() {
    let server = server();
    allow_descriptors();
    for _ in 0..3000 {
        let stream = TcpStream::connect(server.address()).unwrap();
        // Zero linger: the close is a reset.
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        drop(stream);
    }
    // Until it has met the resets, one peer has more connections than it may have, and the next is refused.
    while server.try_client().is_err() {
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
    server.wait_for("holdfast_nfs_connections", |open| open <= 1);
    still_serves(&server);
}

#[test]
fn record_marks_that_lie_cost_nothing() {
    let server = server();
    let before = resident_kib();
    let mut streams = Vec::new();
    for mark in [0x9fff_ffff_u32, 0xffff_ffff, 0x1fff_ffff, 0x8010_1001] {
        let mut stream = server.connect();
        stream.write_all(&mark.to_be_bytes()).unwrap();
        assert_eq!(reply(&mut stream), None, "{mark:#x}");
    }
    // The longest record that is allowed, promised by many and sent by none.
    for _ in 0..100 {
        let mut stream = server.connect();
        stream.write_all(&0x8010_1000_u32.to_be_bytes()).unwrap();
        streams.push(stream);
    }
    still_serves(&server);
    assert!(
        resident_kib() < before + 64 * 1024,
        "{before} -> {} KiB",
        resident_kib()
    );
}

#[test]
fn fragments_are_put_together_and_endless_ones_refused() {
    let server = server();
    let mut stream = server.connect();
    let call = Raw::nfs(7, 0).0;
    for (number, part) in call.chunks(9).enumerate() {
        let last = (number + 1) * 9 >= call.len();
        let mark = u32::try_from(part.len()).unwrap() | if last { 0x8000_0000 } else { 0 };
        stream.write_all(&mark.to_be_bytes()).unwrap();
        stream.write_all(part).unwrap();
    }
    assert_eq!(word(&reply(&mut stream).unwrap(), 0), 7);
    let mut empty = server.connect();
    empty.write_all(&[0; 4]).unwrap();
    assert_eq!(reply(&mut empty), None);
    let mut endless = server.connect();
    let sent = (0..1000)
        .take_while(|_| endless.write_all(&[0, 0, 0, 1, 9]).is_ok())
        .count();
    assert!(sent <= 1000);
    assert_eq!(reply(&mut endless), None);
    still_serves(&server);
}

#[test]
fn lengths_inside_a_record_that_lie_are_refused() {
    let server = server();
    let head = || Raw::default().words(&[1, 0, 2, 100_003, 3, 0]);
    let hostile = [
        head().words(&[1, 0x4000_0000]),
        head().words(&[1, 404]),
        head().words(&[1, 0xffff_ffff, 0, 0]),
        head().words(&[0, 0, 0, 0x4000_0000]),
        Raw::default().words(&[1, 1, 0, 0, 0, 0]),
        Raw::default().words(&[1]),
        Raw::default(),
    ];
    for call in &hostile {
        assert_eq!(exchange(&mut server.connect(), call), None, "{:?}", call.0);
    }
    let groups = head().words(&[1, 20, 0, 0, 0, 0, 0x1000_0000, 0, 0]);
    let answer = exchange(&mut server.connect(), &groups).unwrap();
    assert_eq!(
        [2, 3, 4].map(|at| word(&answer, at)),
        [1, 1, 1],
        "bad credential"
    );
    assert_eq!(
        server.sample("holdfast_nfs_malformed_total"),
        hostile.len() as u64
    );
    still_serves(&server);
}

#[test]
fn a_huge_read_is_clamped_and_a_lying_write_refused() {
    let server = server();
    let file = server.client().find("file").unwrap().handle;
    let mut stream = server.connect();
    let read = Raw::nfs(1, 6)
        .opaque(file.as_bytes())
        .long(0)
        .words(&[u32::MAX]);
    let answer = exchange(&mut stream, &read).unwrap();
    assert_eq!(word(&answer, 6), 0);
    assert!(answer.ends_with(b"content\0"));
    let lie = |count| {
        Raw::nfs(2, 7)
            .opaque(file.as_bytes())
            .long(0)
            .words(&[count, 0])
            .opaque(b"abcd")
    };
    let answer = exchange(&mut stream, &lie(u32::MAX)).unwrap();
    assert_eq!(word(&answer, 6), 22);
    let answer = exchange(&mut stream, &lie(2)).unwrap();
    assert_eq!(
        word(&answer, 6),
        0,
        "of more bytes than the count, the count is written"
    );
    let answer = server.client().read(&file, 0, 100).unwrap();
    assert_eq!(answer.data, b"abntent");
    let cut = Raw::nfs(2, 7)
        .opaque(file.as_bytes())
        .long(0)
        .words(&[4, 0, 4]);
    assert_eq!(word(&exchange(&mut stream, &cut).unwrap(), 5), 4);
}

#[test]
fn thousands_of_connections_up_to_the_limits() {
    allow_descriptors();
    let limits = Limits {
        connections: 2000,
        connections_per_peer: 1500,
        ..Limits::default()
    };
    let server = TestServer::configured(tree_with_file(b"content"), plain_options(), limits);
    let mut streams: Vec<_> = (0..1500).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(&Raw::nfs(3, 0).record()).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(word(&reply(stream).unwrap(), 0), 3);
    }
    assert_eq!(
        exchange(&mut server.connect(), &Raw::nfs(3, 0)),
        None,
        "one too many of one peer"
    );
    assert!(server.sample("holdfast_nfs_turned_away_total") >= 1);
    drop(streams);
    server.wait_for("holdfast_nfs_connections", |open| open == 0);
    let mut other = connect(server.address());
    assert!(exchange(&mut other, &Raw::nfs(3, 0)).is_some());
}
