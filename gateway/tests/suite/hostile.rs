use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::support::{Answer, Daemon, content};

#[track_caller]
fn check(daemon: &Daemon, method: &str, path: &str, body: &str, status: u16, words: &str) {
    let answer = daemon.call(method, path, body);
    assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    assert!(
        answer.detail().contains(words),
        "{method} {path}: {answer:?}"
    );
    assert_eq!(answer.body["status"], status);
    assert!(
        answer.body["type"]
            .as_str()
            .is_some_and(|kind| kind.starts_with("urn:holdfast:")),
        "{answer:?}"
    );
}

/// A request, the status it gets, and words of the sentence.
type Case = (&'static str, &'static str, &'static str, u16, &'static str);

const ABOUT_POINTS: [Case; 9] = [
    ("GET", "/v1/nothing", "", 404, "openapi.json"),
    ("PATCH", "/v1/points", "", 405, "does not take PATCH"),
    (
        "GET",
        "/v1/points?workload=none",
        "",
        404,
        "no workload none",
    ),
    ("GET", "/v1/points?workload=../..", "", 400, "valid"),
    ("GET", "/v1/points/web01@9", "", 404, "point list"),
    ("GET", "/v1/points/web01", "", 400, "WORKLOAD@SEQUENCE"),
    (
        "GET",
        "/v1/points/web01@1/images/7/extents",
        "",
        404,
        "no disk 7",
    ),
    (
        "GET",
        "/v1/points/web01@1/images/x/extents",
        "",
        400,
        "count from 0",
    ),
    ("DELETE", "/v1/recoveries/none", "", 404, "recover list"),
];

const BODIES: [Case; 10] = [
    ("POST", "/v1/backups", "{", 400, "not the JSON"),
    (
        "POST",
        "/v1/backups",
        r#"{"workload":"w","images":[]}"#,
        400,
        "at least one disk",
    ),
    (
        "POST",
        "/v1/backups",
        r#"{"workload":"w","images":[],"extra":1}"#,
        400,
        "extra",
    ),
    (
        "POST",
        "/v1/backups",
        r#"{"workload":"../x","images":[]}"#,
        400,
        "valid",
    ),
    ("GET", "/v1/backups/1", "", 400, "not an id"),
    (
        "GET",
        "/v1/jobs/6c0f0a52-7c5e-4b0c-8a53-1d2f3a4b5c6d",
        "",
        404,
        "no job",
    ),
    (
        "POST",
        "/v1/jobs",
        r#"{"kind":"mine"}"#,
        400,
        "not the JSON",
    ),
    (
        "POST",
        "/v1/recoveries",
        r#"{"point":"web01@1","name":"../x"}"#,
        400,
        "session name",
    ),
    (
        "POST",
        "/v1/recoveries",
        r#"{"point":"web01@1","allow":["here"]}"#,
        400,
        "`here`",
    ),
    (
        "POST",
        "/v1/recoveries",
        r#"{"point":"web01@1","disks":[4]}"#,
        404,
        "no disk 4",
    ),
];

#[test]
fn nonsense_gets_a_problem_that_says_what_to_do() {
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    for (method, path, body, status, words) in ABOUT_POINTS.into_iter().chain(BODIES) {
        check(&daemon, method, path, body, status, words);
    }
}

#[test]
fn long_bodies_are_refused_and_the_daemon_goes_on() {
    let daemon = Daemon::start();
    let long = format!("{{\"workload\":\"{}\"}}", "x".repeat(9 << 20));
    check(&daemon, "POST", "/v1/backups", &long, 413, "body_limit");
    for bytes in [
        &b"\0\0\0\0"[..],
        b"GET",
        b"GET / HTTP/9.9\r\n\r\n",
        b"HOLDFAST-HAND-OVER\n",
        &[0xff; 4096],
    ] {
        let mut stream = UnixStream::connect(&daemon.gateway().addresses().control_socket).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        assert_ne!(Answer::parse(&answer).status, 200);
    }
    assert_eq!(daemon.call("GET", "/v1/points", "").body, json!([]));
}

#[test]
fn a_descriptor_that_was_not_handed_over_is_refused() {
    let daemon = Daemon::start();
    let body = json!({ "workload": "w", "images": [{ "name": "disk-0", "size_bytes": 4096 }] });
    let begun = daemon.call("POST", "/v1/backups", &body.to_string());
    let path = format!(
        "/v1/backups/{}/images/0/file",
        begun.body["backup"].as_str().unwrap()
    );
    let unknown = json!({ "descriptor": "6c0f0a52-7c5e-4b0c-8a53-1d2f3a4b5c6d" }).to_string();
    check(&daemon, "POST", &path, &unknown, 404, "handed over");
}

#[test]
fn images_that_are_none_are_refused_by_the_command_line() {
    let daemon = Daemon::start();
    let refused = |content: &[u8], words: &str| {
        let file = daemon.path("bad");
        std::fs::write(&file, content).unwrap();
        let output = daemon.cli(&["backup", "image", "w", file.to_str().unwrap()]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains(words) && error.trim().lines().count() == 1,
            "{error}"
        );
    };
    refused(b"", "is empty");
    refused(&[1; 1000], "no multiple of 512");
    refused(&[&b"PK\x03\x04"[..], &[0; 508]].concat(), "zip archive");
    let bad = daemon.cli(&["point", "show", "web01"]);
    assert_eq!(bad.status.code(), Some(2));
    assert_eq!(daemon.json(&["workload", "list"]), json!([]));
}
