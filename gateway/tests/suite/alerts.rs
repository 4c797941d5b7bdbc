//! What somebody else does to the repository reaches a person.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Daemon, content};

/// Waits for an alert of a kind about something.
pub(crate) fn alert(daemon: &Daemon, kind: &str, subject: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let alerts = daemon.call("GET", "/v1/alerts", "").body;
        let found = alerts
            .as_array()
            .unwrap()
            .iter()
            .find(|alert| alert["kind"] == kind && alert["subject"] == subject)
            .cloned();
        if let Some(alert) = found {
            return alert;
        }
        assert!(
            Instant::now() < deadline,
            "no alert about {subject}: {alerts}"
        );
        std::thread::yield_now();
    }
}

fn metric(daemon: &Daemon) -> String {
    let mut stream =
        std::os::unix::net::UnixStream::connect(&daemon.gateway().addresses().control_socket)
            .unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    text.lines()
        .find(|line| line.starts_with("holdfast_repository_foreign_changes_total "))
        .unwrap()
        .to_owned()
}

#[test]
fn a_file_that_another_process_removes_is_an_alert_until_it_is_dismissed() {
    let mut daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    daemon.back_up("web01", &content(2));
    daemon.json(&["recover", "start", "web01@2", "--name", "lab"]);
    daemon.json(&["recover", "seal", "lab"]);
    daemon.json(&["point", "expire", "web01@2"]);
    daemon.restart();
    assert_eq!(daemon.json(&["alert", "list"]), serde_json::json!([]));
    assert_eq!(
        metric(&daemon),
        "holdfast_repository_foreign_changes_total 0"
    );

    let stray = daemon.path("repository/points/stray");
    let shell = format!("echo text > '{}'", stray.display());
    let status = std::process::Command::new("sh")
        .args(["-c", &shell])
        .status();
    assert!(status.unwrap().success());
    let found = alert(&daemon, "foreign-change", "points/stray");
    assert_eq!(found["severity"], "problem");
    assert!(found["mend"].as_str().unwrap().contains("holdfast verify"));
    assert_ne!(
        metric(&daemon),
        "holdfast_repository_foreign_changes_total 0"
    );

    std::fs::remove_file(&stray).unwrap();
    daemon.restart();
    let kept = daemon.json(&["alert", "list"]);
    assert!(
        !kept.as_array().unwrap().is_empty(),
        "it survives a restart"
    );
    let stats = daemon.json(&["stats"]);
    assert_eq!(stats["alerts"], kept.as_array().unwrap().len());
    let doctor = daemon.call("GET", "/v1/doctor", "").body;
    let finding = doctor
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["check"] == "alerts")
        .unwrap();
    assert_eq!(finding["level"], "problem");
    daemon.json(&["alert", "dismiss", "--all"]);
    assert_eq!(daemon.json(&["alert", "list"]), serde_json::json!([]));
    let none = daemon.cli(&["alert", "dismiss", "7"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no alert 7"));
}
