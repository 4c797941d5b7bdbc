//! In and out, and what is refused.

use std::time::Duration;

use ingest::{About, Client, ClientError, Code, ServerConfig, StreamKind};

use crate::rig::{Rig, noise};

fn about() -> About {
    About {
        source: Some("test".to_owned()),
        database: Some("orders".to_owned()),
        kind: StreamKind::Log,
        from: Some("100".to_owned()),
        to: Some("200".to_owned()),
        ..About::default()
    }
}

pub(crate) fn put(client: &mut Client, name: &str, content: &[u8], piece: usize) {
    client.begin(name, &about()).unwrap();
    for bytes in content.chunks(piece) {
        client.write(bytes).unwrap();
    }
    let entry = client.commit().unwrap();
    assert_eq!(
        (entry.name.as_str(), entry.size_bytes),
        (name, content.len() as u64)
    );
    assert_eq!(entry.about, about());
}

pub(crate) fn get(client: &mut Client, name: &str, offset: u64, piece: usize) -> Vec<u8> {
    client.open(name, offset).unwrap();
    let mut content = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        let read = client.read(&mut buffer).unwrap();
        content.extend_from_slice(&buffer[..read]);
        if read < piece {
            break;
        }
    }
    client.finish().unwrap();
    content
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Code {
    result.unwrap_err().code().expect("the daemon refused")
}

#[test]
fn streams_come_in_and_go_out_whole_over_tls_and_unix_sockets() {
    let rig = Rig::new();
    let unix = Client::connect(rig.unix_settings()).unwrap();
    for (mut client, kind) in [(rig.client(), "tls"), (unix, "unix")] {
        assert_eq!(
            (client.workload(), client.daemon()),
            ("orders", "of the test")
        );
        for (length, piece) in [
            (0, 1),
            (1, 1),
            (100_000, 7_777),
            (256 << 10, 256 << 10),
            ((256 << 10) + 1, 16_384),
            (20_000_000, 262_144),
        ] {
            let name = format!("{kind}/{length}");
            let content = noise(length as u64, length);
            put(&mut client, &name, &content, piece);
            assert!(rig.content(&name).unwrap() == content, "{name}");
            assert!(get(&mut client, &name, 0, piece) == content, "{name}");
            let half = length as u64 / 2;
            assert!(
                get(&mut client, &name, half, 99_999) == content[length / 2..],
                "{name}"
            );
        }
        client.close();
    }
}

#[test]
fn a_stream_is_there_for_all_when_it_is_committed_and_for_nobody_before() {
    let rig = Rig::new();
    let (mut writer, mut reader) = (rig.client(), rig.client());
    writer.begin("piece", &about()).unwrap();
    writer.write(&noise(1, 1_000_000)).unwrap();
    assert_eq!(writer.written(), Some(1_000_000));
    assert_eq!(reader.describe(&["piece"]).unwrap(), [None]);
    assert_eq!(code(reader.open("piece", 0)), Code::NotFound);
    assert_eq!(code(reader.begin("piece", &about())), Code::Exists);
    writer.commit().unwrap();
    assert!(reader.describe(&["piece"]).unwrap()[0].is_some());
    assert_eq!(code(reader.begin("piece", &about())), Code::Exists);
    assert_eq!(get(&mut reader, "piece", 0, 4096), noise(1, 1_000_000));
}

#[test]
fn what_is_aborted_left_or_lost_leaves_nothing() {
    let rig = Rig::with(ServerConfig {
        resume: Duration::ZERO,
        ..ServerConfig::default()
    });
    let mut client = rig.client();
    client.begin("aborted", &about()).unwrap();
    client.write(&noise(1, 3_000_000)).unwrap();
    client.abort().unwrap();
    put(&mut client, "aborted", b"again", 5);
    client.begin("left", &about()).unwrap();
    client.write(&noise(1, 3_000_000)).unwrap();
    client.close();
    let mut client = rig.client();
    client.begin("lost", &about()).unwrap();
    client.write(&noise(1, 3_000_000)).unwrap();
    drop(client);
    let began = std::time::Instant::now();
    while rig.store.0.lock().unwrap().dropped < 3 {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody drops it");
        std::thread::sleep(Duration::from_millis(10));
    }
    let kept = rig.store.0.lock().unwrap();
    assert_eq!(kept.streams.keys().collect::<Vec<_>>(), ["aborted"]);
    assert!(kept.begun.is_empty());
}

#[test]
fn a_full_storage_is_told_and_the_session_goes_on() {
    let rig = Rig::new();
    rig.store.0.lock().unwrap().room = Some(1_000_000);
    let mut client = rig.client();
    client.begin("large", &about()).unwrap();
    let content = noise(1, 40_000_000);
    let refused = content
        .chunks(262_144)
        .try_for_each(|bytes| client.write(bytes));
    assert_eq!(code(refused), Code::StorageFull);
    assert!(matches!(client.commit(), Err(ClientError::Misused(_))));
    // One that is told so only when it ends.
    client.begin("small", &about()).unwrap();
    client.write(&content[..1_100_000]).unwrap();
    assert_eq!(code(client.commit()), Code::StorageFull);
    rig.store.0.lock().unwrap().room = None;
    put(&mut client, "large", &content, 262_144);
    assert_eq!(rig.store.0.lock().unwrap().streams.len(), 1);
}

#[test]
fn streams_are_listed_by_name_and_removed() {
    let rig = Rig::new();
    let mut client = rig.client();
    let names: Vec<_> = (0..130).map(|number| format!("log {number:03}")).collect();
    for name in &names {
        put(&mut client, name, name.as_bytes(), 64);
    }
    put(&mut client, "other", b"1", 1);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let listed = client.list("log ", after.as_deref(), 40).unwrap();
        assert!(listed.entries.len() <= 40);
        found.extend(listed.entries.into_iter().map(|entry| entry.name));
        if !listed.more {
            break;
        }
        after = found.last().cloned();
    }
    assert_eq!(found, names);
    let asked: Vec<&str> = names.iter().map(String::as_str).chain(["none"]).collect();
    let described = client.describe(&asked).unwrap();
    let known = described
        .iter()
        .map(|entry| entry.as_ref().map(|entry| entry.name.as_str()));
    assert!(known.eq(names.iter().map(|name| Some(name.as_str())).chain([None])));
    assert_eq!(client.describe(&[]).unwrap(), []);
    let removed = client.remove(&asked).unwrap();
    assert_eq!((removed.len(), removed[130]), (131, false));
    assert!(removed[..130].iter().all(|removed| *removed));
    assert_eq!(client.list("", None, 9).unwrap().entries.len(), 1);
}

#[test]
fn reading_may_end_early_and_misuse_is_told() {
    let rig = Rig::new();
    let mut client = rig.client();
    let content = noise(5, 30_000_000);
    put(&mut client, "one", &content, 1 << 20);
    for read in [0, 1, 5_000_000] {
        client.open("one", 0).unwrap();
        let mut buffer = vec![0; read];
        assert_eq!(client.read(&mut buffer).unwrap(), read);
        assert!(buffer == content[..read]);
        assert!(matches!(
            client.begin("two", &about()),
            Err(ClientError::Misused(_))
        ));
        assert!(matches!(
            client.list("", None, 1),
            Err(ClientError::Misused(_))
        ));
        client.finish().unwrap();
    }
    assert!(matches!(
        client.read(&mut [0]),
        Err(ClientError::Misused(_))
    ));
    assert!(matches!(client.write(b"x"), Err(ClientError::Misused(_))));
    assert!(matches!(client.finish(), Err(ClientError::Misused(_))));
    assert_eq!(
        get(&mut client, "one", 29_999_999, 10),
        content[29_999_999..]
    );
    for name in ["", &"n".repeat(512), "zero\0"] {
        assert_eq!(
            code(client.begin(name, &about())),
            Code::Invalid,
            "{name:?}"
        );
    }
    put(&mut client, &"n".repeat(511), b"long", 9);
    let mut long = about();
    long.set = Some("s".repeat(20_000));
    assert_eq!(code(client.begin("long", &long)), Code::Invalid);
}

#[test]
fn only_the_right_token_and_the_right_certificate_are_let_in() {
    let rig = Rig::new();
    let mut settings = rig.settings(rig.address());
    settings.token = Some("guessed".to_owned());
    let refused = Client::connect(settings.clone()).unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unauthorized));
    settings.token = None;
    assert!(Client::connect(settings).is_err());
    let other = Rig::new();
    let settings = other.settings(rig.address());
    let untrusted = Client::connect(settings).unwrap_err();
    assert!(
        matches!(untrusted, ClientError::Untrusted { .. }),
        "{untrusted:?}"
    );
    let mut settings = rig.settings("127.0.0.1:1".parse().unwrap());
    settings.connect = Duration::from_secs(1);
    let away = Client::connect(settings).unwrap_err();
    assert!(matches!(away, ClientError::Connect { .. }), "{away:?}");
}

#[test]
fn many_sessions_do_not_mix() {
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for number in 0..16_u64 {
            let rig = &rig;
            scope.spawn(move || {
                let mut client = rig.client();
                for round in 0..4 {
                    let name = format!("{number}/{round}");
                    let length = 50_000 * usize::try_from(number * 7 % 40 + round).unwrap();
                    let content = noise(number * 100 + round, length);
                    put(&mut client, &name, &content, 65_536);
                    assert!(get(&mut client, &name, 0, 65_536) == content);
                }
            });
        }
    });
    assert_eq!(rig.store.0.lock().unwrap().streams.len(), 64);
}
