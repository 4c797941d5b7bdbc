//! Recovery sessions as iSCSI targets, with other projects' initiators.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Daemon, content, need};

/// The URL of a session's first disk through its first portal.
fn url(session: &Value) -> &str {
    session["disks"][0]["urls"]["iscsi"][0]
        .as_str()
        .unwrap_or_else(|| panic!("no iSCSI in {session}"))
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All bytes of a disk.
fn read(daemon: &Daemon, url: &str) -> Vec<u8> {
    let out = daemon.path("read-back");
    let out_text = out.to_str().unwrap();
    text(&run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", url, out_text],
    ));
    std::fs::read(out).unwrap()
}

fn have_initiators() -> bool {
    need("qemu-img") && need("qemu-io") && need("iscsi-inq") && need("iscsi-ls")
}

#[test]
fn a_session_is_a_target_and_stays_the_same_one() {
    if !have_initiators() {
        return;
    }
    let mut daemon = Daemon::start();
    let original = content(3);
    daemon.back_up("web01", &original);
    let session = daemon.json(&["recover", "start", "web01@1", "--name", "lab"]);
    assert_eq!(session["target"], "iqn.2026-01.holdfast:lab");
    assert!(read(&daemon, url(&session)) == original);
    let write = ["-f", "raw", "-c", "write -P 9 64k 128k", "-c", "flush"];
    text(&run("qemu-io", &[&write[..], &[url(&session)]].concat()));
    let identity =
        |session: &Value| text(&run("iscsi-inq", &["-e", "1", "-c", "131", url(session)]));
    let before = identity(&session);
    daemon.restart();
    let after = daemon.json(&["recover", "show", "lab"]);
    assert_eq!(identity(&after), before, "initiators know the disk by this");
    let mut expected = original.clone();
    expected[64 << 10..192 << 10].fill(9);
    assert!(read(&daemon, url(&after)) == expected);
    let other = daemon.json(&["recover", "start", "web01@1", "--name", "other"]);
    assert_ne!(
        identity(&other),
        before,
        "two disks are never taken for one"
    );
    assert!(
        read(&daemon, url(&other)) == original,
        "the point is unchanged"
    );
    daemon.json(&["recover", "discard", "lab"]);
    assert!(!run("iscsi-inq", &[url(&after)]).status.success());
}

#[test]
fn a_read_only_session_refuses_writes() {
    if !have_initiators() {
        return;
    }
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(3));
    let session = daemon.json(&["recover", "start", "web01@1", "--read-only"]);
    let write = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", url(&session)]);
    let told = format!("{write:?}");
    assert!(
        !write.status.success() || told.contains("read-only") || told.contains("failed"),
        "{told}"
    );
    assert!(read(&daemon, url(&session)) == content(3));
}

#[test]
fn only_named_initiators_see_a_session() {
    if !have_initiators() {
        return;
    }
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    let session = daemon.json(&[
        "recover",
        "start",
        "web01@1",
        "--name",
        "Lab_1",
        "--initiator",
        "iqn.2026-01.test:host*",
    ]);
    let url = url(&session);
    let target = session["target"].as_str().unwrap();
    assert!(
        target.starts_with("iqn.2026-01.holdfast:lab-1:"),
        "{target}"
    );
    let portal = url.split('/').nth(2).unwrap();
    let list = |initiator| {
        text(&run(
            "iscsi-ls",
            &["-i", initiator, &format!("iscsi://{portal}")],
        ))
    };
    assert!(list("iqn.2026-01.test:host7").contains(target));
    assert!(!list("iqn.2026-01.other:host7").contains(target));
    let inquire = |initiator| run("iscsi-inq", &["-i", initiator, url]).status.success();
    assert!(inquire("iqn.2026-01.test:host7"));
    assert!(!inquire("iqn.2026-01.other:host7"));
}

#[test]
fn chap_keeps_out_who_does_not_know_the_secret() {
    if !have_initiators() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("chap");
    std::fs::write(&secret, "a-secret-of-ours\n").unwrap();
    let daemon = Daemon::start_with(|config| {
        config.iscsi.chap_user = Some("backup".to_owned());
        config.iscsi.chap_secret_file = Some(secret.clone());
    });
    daemon.back_up("web01", &content(1));
    let session = daemon.json(&["recover", "start", "web01@1"]);
    let place = url(&session).strip_prefix("iscsi://").unwrap();
    let inquire = |account: &str| {
        let url = format!("iscsi://{account}{place}");
        run("iscsi-inq", &[&url]).status.success()
    };
    assert!(!inquire(""));
    assert!(!inquire("backup%another-secret@"));
    assert!(!inquire("root%a-secret-of-ours@"));
    assert!(inquire("backup%a-secret-of-ours@"));
}

#[test]
fn a_daemon_without_portals_says_that_it_has_none() {
    let daemon = Daemon::start_with(|config| config.iscsi.listen.clear());
    daemon.back_up("web01", &content(1));
    let session = daemon.json(&["recover", "start", "web01@1"]);
    assert!(session["target"].is_null());
    assert!(session["disks"][0]["urls"]["iscsi"].is_null());
    let refused = daemon.cli(&["recover", "start", "web01@1", "--protocol", "iscsi"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("`listen` under [iscsi]"), "{told}");
}

#[test]
fn a_secret_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("chap");
    std::fs::write(&secret, "short").unwrap();
    let mut daemon = Daemon::start();
    let mut config = daemon.config();
    daemon.stop();
    config.iscsi.chap_user = Some("backup".to_owned());
    config.iscsi.chap_secret_file = Some(secret);
    let told = daemon.try_start(&config).unwrap_err().to_string();
    assert!(
        told.contains("/chap: ") && told.contains("12 to 255"),
        "{told}"
    );
    daemon.run(&daemon.config());
}
