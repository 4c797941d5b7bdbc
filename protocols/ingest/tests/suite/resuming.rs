//! Connections break; whoever writes or reads does not notice.

use std::time::Duration;

use ingest::{Client, Code, ServerConfig};

use crate::rig::{Line, Rig, noise};
use crate::streams::{get, put};

#[test]
fn a_stream_goes_on_where_the_daemon_has_it() {
    let rig = Rig::new();
    // In the middle of frames, in the handshake of TLS, and again and again.
    for (cut_after, cuts) in [(3_000_000, 1), (700_001, 6), (262_200, 9), (200, 3)] {
        let line = Line::new(rig.address(), cut_after, cuts);
        let mut settings = rig.settings(line.address);
        settings.resume = Duration::from_secs(60);
        let mut client = match Client::connect(settings.clone()) {
            Ok(client) => client,
            // The first connection is not tried again by itself.
            Err(_) => {
                while line.cuts_left() > 0 {
                    drop(Client::connect(settings.clone()));
                }
                Client::connect(settings).unwrap()
            }
        };
        let content = noise(cut_after as u64, 9_000_000);
        let name = format!("cut after {cut_after}");
        put(&mut client, &name, &content, 100_000);
        assert!(rig.content(&name).unwrap() == content);
        assert_eq!(line.cuts_left(), 0, "it was cut");
    }
}

#[test]
fn reading_goes_on_too() {
    let rig = Rig::new();
    let content = noise(1, 24_000_000);
    put(&mut rig.client(), "one", &content, 1 << 20);
    let line = Line::new(rig.address(), usize::MAX, 0);
    let mut client = Client::connect(rig.settings(line.address)).unwrap();
    client.open("one", 0).unwrap();
    let mut read = Vec::new();
    let mut buffer = vec![0; 1_000_000];
    loop {
        let count = client.read(&mut buffer).unwrap();
        read.extend_from_slice(&buffer[..count]);
        if count < buffer.len() {
            break;
        }
        if read.len() % 5_000_000 == 0 {
            line.cut();
        }
    }
    client.finish().unwrap();
    assert!(read == content);
    line.cut();
    assert_eq!(client.describe(&["one"]).unwrap().len(), 1);
    line.cut();
    put(&mut client, "two", b"written", 3);
}

/// The daemon commits, and its answer does not arrive.
#[test]
fn an_answer_that_is_lost_is_asked_for_again() {
    let rig = Rig::new();
    rig.store.0.lock().unwrap().commit_takes = Duration::from_millis(300);
    let line = Line::new(rig.address(), usize::MAX, 0);
    let mut client = Client::connect(rig.settings(line.address)).unwrap();
    for round in 0..3 {
        let content = noise(round, 1_000_000);
        let name = format!("piece {round}");
        client.begin(&name, &Default::default()).unwrap();
        client.write(&content).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                line.set_deaf(true);
                let began = std::time::Instant::now();
                while rig.content(&name).is_none() {
                    assert!(began.elapsed() < Duration::from_secs(20));
                    std::thread::sleep(Duration::from_millis(5));
                }
                line.set_deaf(false);
                line.cut();
            });
            std::thread::sleep(Duration::from_millis(50));
            let entry = client.commit().unwrap();
            assert_eq!(entry.size_bytes, 1_000_000);
        });
        assert!(rig.content(&name).unwrap() == content);
    }
    assert_eq!(rig.store.0.lock().unwrap().dropped, 0);
}

#[test]
fn a_daemon_that_was_started_again_says_that_the_stream_is_gone() {
    let first = Rig::new();
    let line = Line::new(first.address(), usize::MAX, 0);
    let mut settings = first.settings(line.address);
    settings.resume = Duration::from_secs(5);
    let mut client = Client::connect(settings).unwrap();
    client.begin("piece", &Default::default()).unwrap();
    client.write(&noise(1, 2_000_000)).unwrap();
    // Another process would know as little of the session as this one does after that.
    first.store.0.lock().unwrap().commit_takes = Duration::ZERO;
    let mut other = first.client();
    drop(other.list("", None, 1));
    let mut first = first;
    assert!(first.server.stop(Duration::from_secs(10)));
    line.cut();
    let lost = client.commit().unwrap_err();
    assert!(
        lost.is_of_connection() || lost.code() == Some(Code::SessionLost),
        "{lost}"
    );
    assert!(first.content("piece").is_none());
    assert_eq!(first.store.0.lock().unwrap().begun, Vec::<String>::new());
}

/// Sessions that nobody comes back to are dropped, and no earlier.
#[test]
fn a_session_waits_for_its_client_for_as_long_as_was_said() {
    let rig = Rig::with(ServerConfig {
        resume: Duration::from_secs(2),
        ..ServerConfig::default()
    });
    let line = Line::new(rig.address(), usize::MAX, 0);
    let mut client = Client::connect(rig.settings(line.address)).unwrap();
    client.begin("piece", &Default::default()).unwrap();
    client.write(&noise(1, 600_000)).unwrap();
    line.cut();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(rig.store.0.lock().unwrap().dropped, 0);
    client.write(&noise(2, 600_000)).unwrap();
    assert_eq!(client.commit().unwrap().size_bytes, 1_200_000);
    let mut other = Client::connect(rig.settings(line.address)).unwrap();
    other.begin("other", &Default::default()).unwrap();
    other.write(&noise(1, 600_000)).unwrap();
    line.cut();
    let began = std::time::Instant::now();
    while rig.store.0.lock().unwrap().dropped == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody drops it");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(get(&mut client, "piece", 0, 9999).len() == 1_200_000);
}
