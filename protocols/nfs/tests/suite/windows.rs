//! Many requests on one connection: nothing quick waits for something slow, and nothing grows without bound.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use nfs::{Limits, Window};

use crate::support::{
    Raw, SlowTree, TestServer, exchange, plain_options, reply, tree_with_file, word,
};

fn read(xid: u32, file: &[u8], offset: u64, count: u32) -> Raw {
    Raw::nfs(xid, 6).opaque(file).long(offset).words(&[count])
}

#[test]
fn a_slow_read_does_not_delay_a_getattr() {
    let tree = Arc::new(SlowTree::new(tree_with_file(b"content")));
    let server = TestServer::with(Arc::clone(&tree) as _);
    let file = server.client().find("file").unwrap().handle;
    let mut stream = server.connect();
    // More reads than the pool has threads: all of them stand before the disk, or wait to.
    for xid in 0..8 {
        stream
            .write_all(&read(xid, file.as_bytes(), 0, 7).record())
            .unwrap();
    }
    tree.gate.wait_for_arrivals(2);
    let getattr = Raw::nfs(100, 1).opaque(file.as_bytes());
    let answer = exchange(&mut stream, &getattr).unwrap();
    assert_eq!((word(&answer, 0), word(&answer, 6)), (100, 0));
    tree.gate.open(8);
    let mut answered: Vec<u32> = (0..8)
        .map(|_| word(&reply(&mut stream).unwrap(), 0))
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..8).collect::<Vec<_>>());
}

#[test]
fn a_full_window_stops_reading_and_loses_nothing() {
    let tree = Arc::new(SlowTree::new(tree_with_file(&[5; 3000])));
    let window = Window {
        requests: 4,
        bytes: 1 << 20,
    };
    let limits = Limits {
        window,
        ..Limits::default()
    };
    let server = TestServer::configured(Arc::clone(&tree) as _, plain_options(), limits);
    let file = server.client().find("file").unwrap().handle;
    let mut stream = server.connect();
    for xid in 0..50 {
        stream
            .write_all(&read(xid, file.as_bytes(), 0, 3000).record())
            .unwrap();
    }
    tree.gate.wait_for_arrivals(2);
    server.wait_for("holdfast_nfs_deferred_total", |count| count >= 4);
    let null = server.client().null();
    null.unwrap();
    assert_eq!(
        server.sample("holdfast_nfs_deferred_total"),
        4,
        "the window is the bound"
    );
    tree.gate.open(50);
    let mut answered: Vec<u32> = (0..50)
        .map(|_| word(&reply(&mut stream).unwrap(), 0))
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_pool_without_room_delays_but_does_not_refuse() {
    let tree = Arc::new(SlowTree::new(tree_with_file(b"content")));
    let server = TestServer::with(Arc::clone(&tree) as _);
    let file = server.client().find("file").unwrap().handle;
    // The pool of the test has 2 threads and room for 64 jobs.
    let mut stream = server.connect();
    for xid in 0..200 {
        stream
            .write_all(&read(xid, file.as_bytes(), 0, 7).record())
            .unwrap();
    }
    server.wait_for("holdfast_nfs_deferred_total", |count| count == 200);
    tree.gate.open(200);
    for _ in 0..200 {
        assert_eq!(word(&reply(&mut stream).unwrap(), 6), 0);
    }
}

#[test]
fn a_peer_that_does_not_read_is_bounded_and_dropped() {
    let window = Window {
        requests: 16,
        bytes: 2 << 20,
    };
    let unread_answers = Duration::from_millis(500);
    let limits = Limits {
        window,
        unread_answers,
        ..Limits::default()
    };
    let server = TestServer::configured(tree_with_file(&vec![3; 1 << 20]), plain_options(), limits);
    let file = server.client().find("file").unwrap().handle;
    let mut stream = server.connect();
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let call = read(1, file.as_bytes(), 0, 1 << 20).record();
    let mut asked = 0_u64;
    for _ in 0..10_000 {
        if stream.write_all(&call).is_err() {
            break;
        }
        asked += 1;
    }
    server.wait_for("holdfast_nfs_timed_out_total", |count| count == 1);
    // What was read ahead for it is what the sockets and the window hold, not what it asked for.
    let prepared = server.sample("holdfast_nfs_read_bytes_total");
    assert!(
        prepared < 64 << 20,
        "{prepared} bytes prepared for {asked} requests"
    );
    assert!(asked > 500, "the peer asked for far more: {asked}");
}

#[test]
fn an_unfinished_record_is_waited_for_only_so_long() {
    let limits = Limits {
        unfinished_record: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = TestServer::configured(tree_with_file(b"content"), plain_options(), limits);
    let mut silent = server.connect();
    let mut half = server.connect();
    exchange(&mut half, &Raw::nfs(1, 0)).unwrap();
    let mut idle = server.connect();
    exchange(&mut idle, &Raw::nfs(1, 0)).unwrap();
    half.write_all(&[0x80, 0, 0]).unwrap();
    assert_eq!(reply(&mut half), None);
    assert_eq!(reply(&mut silent), None);
    assert_eq!(server.sample("holdfast_nfs_timed_out_total"), 2);
    assert!(
        exchange(&mut idle, &Raw::nfs(2, 0)).is_some(),
        "an idle client stays"
    );
}
