//! Streams of databases, through the daemon and its command line.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use ingest::{About, Client, Code, Place, Settings, StreamKind};
use serde_json::Value;

use crate::support::{Daemon, command};

/// Bytes that do not compress and hardly repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn connect(daemon: &Daemon, workload: &str) -> Client {
    let socket = daemon.gateway().addresses().ingest_socket.clone();
    let mut settings = Settings::new(Place::Unix(socket), "a test");
    settings.workload = Some(workload.to_owned());
    Client::connect(settings).unwrap()
}

fn put(client: &mut Client, name: &str, content: &[u8]) {
    let about = About {
        kind: StreamKind::Full,
        database: Some("orders".to_owned()),
        ..About::default()
    };
    client.begin(name, &about).unwrap();
    client.write(content).unwrap();
    client.commit().unwrap();
}

fn get(client: &mut Client, name: &str, offset: u64) -> Vec<u8> {
    let size = client.open(name, offset).unwrap().size_bytes;
    let mut content = vec![0; usize::try_from(size).unwrap() + 1];
    let read = client.read(&mut content).unwrap();
    client.finish().unwrap();
    content.truncate(read);
    content
}

fn run(daemon: &Daemon, words: &[&str], input: Option<&[u8]>) -> Output {
    let mut started: Command = command();
    let mut child = started
        .arg("stream")
        .args(words)
        .arg("--state")
        .arg(daemon.state())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that fails at once does not read.
    drop(stdin.write_all(input.unwrap_or_default()));
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn streams_outlive_the_daemon_and_are_points_like_any_other() {
    let mut daemon = Daemon::start();
    let content = noise(1, 3_000_000);
    let mut client = connect(&daemon, "orders-db");
    put(&mut client, "full/1", &content);
    let mut changed = content.clone();
    changed[1_000_000..1_000_500].fill(7);
    put(&mut client, "full/2", &changed);
    let second = client.describe(&["full/2"]).unwrap().remove(0).unwrap();
    assert!(
        second.stored_bytes < 600_000,
        "what is equal is kept once: {second:?}"
    );
    client.close();
    daemon.restart();
    let mut client = connect(&daemon, "orders-db");
    assert!(get(&mut client, "full/1", 0) == content);
    for offset in [0, 1, 65_536, 1_999_999, 3_000_000] {
        let expected = &changed[usize::try_from(offset).unwrap()..];
        assert!(get(&mut client, "full/2", offset) == expected, "{offset}");
    }
    assert_eq!(
        client.open("full/2", 3_000_001).unwrap_err().code(),
        Some(Code::Invalid)
    );
    let points = daemon.call("GET", "/v1/points?workload=orders-db", "");
    assert_eq!(points.status, 200);
    assert_eq!(
        points.body.as_array().map(Vec::len),
        Some(2),
        "{:?}",
        points.body
    );
    // Expired by the other way, it is gone by this one.
    assert_eq!(
        daemon.call("DELETE", "/v1/points/orders-db@1", "").status,
        204
    );
    assert_eq!(client.describe(&["full/1"]).unwrap(), [None]);
    assert_eq!(
        client.open("full/1", 0).unwrap_err().code(),
        Some(Code::NotFound)
    );
    put(&mut client, "full/1", b"another");
    assert_eq!(get(&mut client, "full/1", 0), b"another");
}

#[test]
fn what_is_kept_by_a_star_is_not_removed_and_neither_is_anything_beside_it() {
    let daemon = Daemon::start();
    let mut client = connect(&daemon, "db");
    for name in ["one", "two", "three"] {
        put(&mut client, name, name.as_bytes());
    }
    assert_eq!(daemon.call("PUT", "/v1/points/db@2/star", "").status, 200);
    let refused = client.remove(&["one", "two"]).unwrap_err();
    assert_eq!(refused.code(), Some(Code::Kept), "{refused}");
    assert!(client.describe(&["one"]).unwrap()[0].is_some());
    assert_eq!(
        client.remove(&["one", "none", "three"]).unwrap(),
        [true, false, true]
    );
    assert_eq!(client.list("", None, 10).unwrap().entries.len(), 1);
}

#[test]
fn tokens_reach_as_far_as_they_say() {
    let daemon = Daemon::start_with(|config| {
        config.ingest.listen = vec!["127.0.0.1:0".parse().unwrap()];
    });
    let add = |body: &str| {
        let made = daemon.call("POST", "/v1/tokens", body);
        assert!(made.status < 300, "{:?}", made.body);
        made.body["token"].as_str().unwrap().to_owned()
    };
    let streams = add(r#"{"name":"rman","role":"streams","workload":"db"}"#);
    let writer = add(r#"{"name":"writer","role":"backup","workload":"db"}"#);
    let addresses = daemon.gateway().addresses();
    let fingerprint: holdfast::state::Fingerprint = addresses.fingerprint.parse().unwrap();
    let connect = |token: &str, workload: Option<&str>| {
        let place = Place::Tcp {
            address: addresses.ingest.unwrap().to_string(),
            fingerprint: fingerprint.bytes(),
        };
        let mut settings = Settings::new(place, "a test");
        settings.token = Some(token.to_owned());
        settings.workload = workload.map(str::to_owned);
        Client::connect(settings)
    };
    let mut client = connect(&streams, None).unwrap();
    assert_eq!(client.workload(), "db");
    put(&mut client, "piece", b"content");
    assert_eq!(get(&mut client, "piece", 0), b"content");
    let other = connect(&streams, Some("other")).unwrap_err();
    assert_eq!(other.code(), Some(Code::Unauthorized), "{other}");
    let mut client = connect(&writer, None).unwrap();
    put(&mut client, "other piece", b"content");
    assert_eq!(client.list("", None, 9).unwrap().entries.len(), 2);
    for refused in [
        client.open("piece", 0).map(drop),
        client.remove(&["piece"]).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code(), Some(Code::Unauthorized));
    }
    let admin = daemon.token();
    assert_eq!(
        connect(&admin, None).unwrap_err().code(),
        Some(Code::Invalid)
    );
    assert_eq!(
        get(&mut connect(&admin, Some("db")).unwrap(), "piece", 0),
        b"content"
    );
    assert_eq!(
        connect("guessed", Some("db")).unwrap_err().code(),
        Some(Code::Unauthorized)
    );
    // The role is for nothing else.
    assert_eq!(daemon.remote_call(&streams, "GET", "/v1/points"), 403);
}

#[test]
fn the_command_line_brings_shows_gets_and_deletes() {
    let daemon = Daemon::start();
    let content = noise(3, 1_234_567);
    let words = [
        "put",
        "db",
        "dump 1",
        "--kind",
        "log",
        "--database",
        "shop",
        "--from",
        "10",
        "--to",
        "20",
        "--json",
    ];
    let kept = json(&run(&daemon, &words, Some(&content)));
    assert_eq!(
        (&kept["size_bytes"], &kept["point"]),
        (&1_234_567.into(), &"db@1".into())
    );
    let again = run(&daemon, &["put", "db", "dump 1"], Some(b"other"));
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && error.contains("already"),
        "{error}"
    );
    let listed = json(&run(&daemon, &["list", "db", "--json"], None));
    assert_eq!(listed[0]["about"]["kind"], "log");
    let shown = run(&daemon, &["show", "db", "dump 1"], None);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        text.contains("database shop") && text.contains("from 10"),
        "{text}"
    );
    let got = run(&daemon, &["get", "db", "dump 1"], None);
    assert!(got.status.success() && got.stdout == content);
    let target = daemon.path("dump");
    let to = target.to_str().unwrap();
    let got = run(
        &daemon,
        &["get", "db", "dump 1", "--to", to, "--offset", "1000000"],
        None,
    );
    assert!(got.status.success(), "{got:?}");
    assert!(std::fs::read(&target).unwrap() == content[1_000_000..]);
    let missing = run(&daemon, &["delete", "db", "dump 1", "dump 2"], None);
    let error = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        error.contains("dump 2") && error.contains("nothing was removed"),
        "{error}"
    );
    assert!(
        run(&daemon, &["delete", "db", "dump 1"], None)
            .status
            .success()
    );
    let listed = json(&run(&daemon, &["list", "db", "--json"], None));
    assert_eq!(listed, Value::Array(Vec::new()));
}

#[test]
fn another_machine_is_told_where_streams_go() {
    let daemon = Daemon::start_with(|config| {
        config.ingest.listen = vec!["127.0.0.1:0".parse().unwrap()];
    });
    let file = daemon.path("dump");
    std::fs::write(&file, b"content").unwrap();
    let put = daemon.remote_cli(&["stream", "put", "db", "one", file.to_str().unwrap()]);
    assert!(put.status.success(), "{put:?}");
    let got = daemon.remote_cli(&["stream", "get", "db", "one"]);
    assert_eq!(got.stdout, b"content", "{got:?}");
    let silent = Daemon::start();
    let refused = silent.remote_cli(&["stream", "list", "db"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("[ingest] listen"), "{error}");
}

#[test]
fn an_input_that_ends_with_its_program_is_kept_and_one_that_fails_is_not() {
    let daemon = Daemon::start();
    let folder = daemon.path("");
    let failed = run(
        &daemon,
        &["put", "db", "a folder", folder.to_str().unwrap()],
        None,
    );
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        !failed.status.success() && error.contains("nothing was kept"),
        "{error}"
    );
    assert!(run(&daemon, &["put", "db", "empty"], None).status.success());
    let listed = json(&run(&daemon, &["list", "db", "--json"], None));
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    let mut client = connect(&daemon, "db");
    assert_eq!(get(&mut client, "empty", 0), b"");
}
