//! Clients that do not keep to the protocol.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ingest::ServerConfig;
use proptest::prelude::*;

use crate::memory_store::TOKEN;
use crate::rig::{Rig, noise};
use crate::streams::put;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..], &[kind, 0, 0, 0], payload].concat()
}

fn hello() -> Vec<u8> {
    let document = format!(r#"{{"token":"{TOKEN}","client":"a raw one"}}"#);
    [&b"HFINGST1"[..], &frame(1, document.as_bytes())].concat()
}

/// Sends bytes, and gives all that comes back until the server closes.
fn talk(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(rig.socket()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.write_all(bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // One that was closed with bytes unread is reset.
    drop(socket.read_to_end(&mut answer));
    answer
}

#[test]
fn whatever_clients_send_the_server_goes_on() {
    let rig = Rig::new();
    let piece = [&0_u64.to_le_bytes()[..], b"content"].concat();
    let ending = [7_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    let broken: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"HFINGST1".to_vec(),
        [&b"HFINGST1"[..], &frame(2, b"{}")].concat(),
        [&b"HFINGST1"[..], &frame(1, b"no document")].concat(),
        [&b"HFINGST1"[..], &[0xFF; 64]].concat(),
        [hello(), frame(3, &piece)].concat(),
        [hello(), frame(4, &ending)].concat(),
        [hello(), frame(128, b"{}")].concat(),
        [hello(), frame(2, br#"{"name":"a"}"#), frame(3, &[1; 9])].concat(),
        [hello(), frame(2, br#"{"name":"a"}"#), frame(3, b"short")].concat(),
        [
            hello(),
            frame(2, br#"{"name":"a"}"#),
            frame(2, br#"{"name":"b"}"#),
        ]
        .concat(),
        [
            hello(),
            frame(2, br#"{"name":"a"}"#),
            frame(3, &piece),
            frame(4, &ending),
        ]
        .concat(),
        [
            hello(),
            frame(10, format!(r#"{{"names":{:?}}}"#, vec!["n"; 49]).as_bytes()),
        ]
        .concat(),
    ];
    for bytes in broken {
        talk(&rig, &bytes);
    }
    for seed in 0..200 {
        let mut bytes = [hello(), frame(2, br#"{"name":"a"}"#), frame(3, &piece)].concat();
        let at = usize::try_from(seed * 37 % bytes.len() as u64).unwrap();
        bytes[at] ^= noise(seed, 1)[0] | 1;
        talk(&rig, &bytes);
    }
    let mut client = rig.client();
    put(&mut client, "sound", b"content", 3);
    assert_eq!(rig.store.0.lock().unwrap().streams.len(), 1);
}

#[test]
fn clients_that_do_not_say_who_they_are_are_cut_off() {
    let rig = Rig::with(ServerConfig {
        connections: 4,
        handshake: Duration::from_millis(600),
        ..ServerConfig::default()
    });
    // One that is silent, one that begins TLS and no more, and one that sends a byte now and then.
    let silent = UnixStream::connect(rig.socket()).unwrap();
    let half = TcpStream::connect(rig.address()).unwrap();
    let mut slow = UnixStream::connect(rig.socket()).unwrap();
    let began = std::time::Instant::now();
    let bytes = hello();
    let mut sent = bytes.iter().cycle();
    while slow.write_all(&[*sent.next().unwrap()]).is_ok() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is served for ever"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    for mut socket in [Box::new(silent) as Box<dyn Read>, Box::new(half)] {
        let mut rest = Vec::new();
        drop(socket.read_to_end(&mut rest));
    }
    let mut client = rig.client();
    put(&mut client, "sound", b"content", 3);
}

#[test]
fn sessions_that_wait_for_their_clients_are_counted() {
    let rig = Rig::with(ServerConfig {
        connections: 4,
        ..ServerConfig::default()
    });
    let mut refused = 0;
    for number in 0..20 {
        match ingest::Client::connect(rig.unix_settings()) {
            Ok(mut client) => {
                let begun = client.begin(&format!("left {number}"), &Default::default());
                refused += usize::from(begun.is_err());
                drop(client);
            }
            Err(_) => refused += 1,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let kept = rig.store.0.lock().unwrap();
    assert!(
        refused > 0 && kept.begun.len() <= 6,
        "{refused}: {:?}",
        kept.begun
    );
}

#[test]
fn connections_are_counted_and_silent_ones_do_not_hold_their_places() {
    let rig = Rig::with(ServerConfig {
        connections: 8,
        ..ServerConfig::default()
    });
    for _ in 0..300 {
        let socket = TcpStream::connect(rig.address()).unwrap();
        drop(socket);
    }
    let mut held: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(rig.socket()).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    held.clear();
    let began = std::time::Instant::now();
    loop {
        if let Ok(mut client) = ingest::Client::connect(rig.unix_settings()) {
            put(&mut client, "sound", b"content", 3);
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "no place is given back"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken_apart(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        ingest::fuzz::fuzz_frames(&bytes);
    }
}
