use std::time::Duration;

use holdfast::config::Span;
use holdfast::framing::Encoder;
use serde_json::json;

use crate::support::{Answer, Daemon, content, read_nbd, url};

#[test]
fn images_are_handed_over_and_read_back_from_every_point() {
    let daemon = Daemon::start();
    let contents = [content(1), content(2)];
    for (number, content) in contents.iter().enumerate() {
        let done = daemon.back_up("web01", content);
        assert_eq!(done["sequence"], number + 1);
    }
    for (number, content) in contents.iter().enumerate() {
        let point = format!("web01@{}", number + 1);
        let out = daemon.path(&format!("out-{number}"));
        daemon.json(&["restore", "image", &point, "--to", out.to_str().unwrap()]);
        assert!(std::fs::read(&out).unwrap() == *content, "{point}");
        let session = daemon.json(&["recover", "start", &point, "--read-only"]);
        assert!(read_nbd(url(&session, "nbd")) == *content);
        assert!(read_nbd(url(&session, "nbd_unix")) == *content);
    }
    assert_eq!(daemon.json(&["verify"])["sound"], true);
    assert_eq!(daemon.json(&["workload", "list"])[0]["points"], 2);
}

#[test]
fn only_changed_extents_are_read() {
    let daemon = Daemon::start();
    let mut disk = content(1);
    daemon.back_up("web01", &disk);
    // Two changes, of which the list names one: the other must not come in.
    disk[1 << 20..(1 << 20) + 1000].fill(77);
    let expected = disk.clone();
    disk[2 << 20..(2 << 20) + 1000].fill(88);
    let file = daemon.path("disk.raw");
    std::fs::write(&file, &disk).unwrap();
    let list = daemon.path("changed");
    std::fs::write(&list, format!("{} 1000\n", 1 << 20)).unwrap();
    let arguments = [
        "backup",
        "image",
        "web01",
        file.to_str().unwrap(),
        "--changed-extents",
        list.to_str().unwrap(),
    ];
    let mut with_since = arguments.to_vec();
    with_since.extend(["--since", "7"]);
    let refused = daemon.cli(&with_since);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("the newest restore point is web01@1"),
        "{refused:?}"
    );
    let done = daemon.json(&arguments);
    assert_eq!(done["kind"], "incremental");
    assert!(done["sent_bytes"].as_u64().unwrap() <= 128 << 10, "{done}");
    let out = daemon.path("out");
    daemon.json(&["restore", "image", "web01@2", "--to", out.to_str().unwrap()]);
    assert!(std::fs::read(&out).unwrap() == expected);
}

fn begin(daemon: &Daemon, size_bytes: u64) -> String {
    let body =
        json!({ "workload": "w", "images": [{ "name": "disk-0", "size_bytes": size_bytes }] });
    let begun = daemon.call("POST", "/v1/backups", &body.to_string());
    assert_eq!(begun.status, 201, "{begun:?}");
    begun.body["backup"].as_str().unwrap().to_owned()
}

fn put(daemon: &Daemon, backup: &str, body: &[u8], announced: usize) -> Answer {
    let head = format!(
        "PUT /v1/backups/{backup}/images/0/extents HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {announced}\r\n\r\n"
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    daemon.send(&request)
}

fn body() -> Vec<u8> {
    let mut body = Vec::new();
    let mut encoder = Encoder::default();
    Encoder::start(&mut body);
    encoder.data(512, 1024, &mut body);
    body.extend_from_slice(&[5; 1024]);
    encoder.zero(65536, 65536, &mut body);
    encoder.end(&mut body);
    body
}

#[test]
fn a_streamed_disk_is_committed_once() {
    let daemon = Daemon::start();
    let backup = begin(&daemon, 1 << 20);
    let early = daemon.call("POST", &format!("/v1/backups/{backup}/commit"), "");
    assert_eq!(early.status, 409, "{early:?}");
    let body = body();
    assert_eq!(put(&daemon, &backup, &body, body.len()).status, 204);
    assert_eq!(put(&daemon, &backup, &body, body.len()).status, 409);
    assert_eq!(
        daemon
            .call("POST", &format!("/v1/backups/{backup}/commit"), "")
            .status,
        201
    );
    assert_eq!(
        daemon
            .call("POST", &format!("/v1/backups/{backup}/commit"), "")
            .status,
        404
    );
    let session = daemon.json(&["recover", "start", "w@1"]);
    let seen = read_nbd(url(&session, "nbd"));
    assert!(
        seen[512..1536].iter().all(|&byte| byte == 5) && seen[1536..].iter().all(|&byte| byte == 0)
    );
}

#[test]
fn a_cut_or_bad_body_never_becomes_a_point() {
    let daemon = Daemon::start();
    let whole = body();
    let mut bad = whole.clone();
    bad[20] = 77;
    let mut outside = Vec::new();
    Encoder::start(&mut outside);
    let mut encoder = Encoder::default();
    encoder.zero(1 << 20, 512, &mut outside);
    encoder.end(&mut outside);
    for (what, body, announced) in [
        (
            "cut by the client",
            &whole[..whole.len() - 16],
            whole.len() - 16,
        ),
        ("cut inside a record", &whole[..600], 600),
        ("unknown record", &bad[..], bad.len()),
        ("outside the disk", &outside[..], outside.len()),
        ("empty", &[], 0),
    ] {
        let backup = begin(&daemon, 1 << 20);
        let answer = put(&daemon, &backup, body, announced);
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        assert!(
            answer.body["request_id"]
                .as_str()
                .is_some_and(|id| !id.is_empty()),
            "{what}: {answer:?}"
        );
        let committed = daemon.call("POST", &format!("/v1/backups/{backup}/commit"), "");
        assert_eq!(committed.status, 409, "{what}: {committed:?}");
        assert_eq!(
            daemon
                .call("DELETE", &format!("/v1/backups/{backup}"), "")
                .status,
            204
        );
    }
    assert_eq!(daemon.json(&["point", "list"]), json!([]));
}

#[test]
fn a_backup_whose_client_vanished_is_dropped() {
    let daemon =
        Daemon::start_with(|config| config.backup.idle_timeout = Span(Duration::from_millis(100)));
    begin(&daemon, 1 << 20);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while daemon.call("GET", "/v1/backups", "").body != json!([]) {
        assert!(
            std::time::Instant::now() < deadline,
            "the backup is still there"
        );
        std::thread::yield_now();
    }
}
