//! Encrypted repositories, from their making to the change of a passphrase.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use export::Durability;
use serde_json::json;

use crate::support::{Daemon, command, content, json_of, open_nbd, read_nbd, url};

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_repository_is_made_with_a_passphrase_and_a_recovery_key() {
    let folder = tempfile::tempdir().unwrap();
    let [root, words, recovery] =
        ["repository", "words", "recovery"].map(|name| folder.path().join(name));
    std::fs::write(&words, "correct horse\n").unwrap();
    let made = json_of(&run(&[
        "--json",
        "init",
        text(&root),
        "--encrypt",
        "--passphrase-file",
        text(&words),
        &format!("--recovery-key={}", recovery.display()),
    ]));
    assert_eq!(made["encrypted"], json!(true));
    assert_eq!(made["key_slots"], json!(["passphrase", "recovery"]));
    assert_eq!(made["recovery_key_file"], json!(recovery));
    let mode = std::fs::metadata(&recovery).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let serve = |with: &[&str]| {
        let mut arguments = vec!["serve", "--any-ports", "--repository", text(&root)];
        arguments.extend(with);
        refused(&run(&arguments))
    };
    let error = serve(&[]);
    assert!(
        error.contains("is encrypted: give its passphrase or key"),
        "{error}"
    );
    std::fs::write(&words, "wrong horse\n").unwrap();
    let error = serve(&["--passphrase-file", text(&words)]);
    assert!(error.contains("no key slot fits it"), "{error}");
    let error = serve(&["--key-file", text(&words)]);
    assert!(error.contains("this is no key"), "{error}");
    let error = serve(&["--key-command", "exit 4"]);
    assert!(error.contains("exit status: 4"), "{error}");

    let examined = run(&["doctor", "--repository", text(&root)]);
    let found = String::from_utf8_lossy(&examined.stdout).into_owned();
    assert!(found.contains("no key is configured"), "{found}");
    assert!(
        found.contains("lies in the encrypted repository"),
        "{found}"
    );

    let list = |with: &[&str]| {
        let mut arguments = vec!["--json", "key", "list", "--offline", text(&root)];
        arguments.extend(with);
        run(&arguments)
    };
    let slots = json_of(&list(&[
        "--key-command",
        &format!("cat {}", recovery.display()),
    ]));
    assert_eq!(slots[1]["slot"], json!("recovery"));
    assert_eq!(slots[1]["kind"], json!("key"));
    let error = refused(&list(&[]));
    assert!(error.contains("no terminal"), "{error}");
    let opened = command()
        .args(["key", "list", "--offline", text(&root)])
        .env("HOLDFAST_PASSPHRASE", "correct horse")
        .output()
        .unwrap();
    assert!(opened.status.success(), "{opened:?}");
}

#[test]
fn a_key_is_asked_for_only_where_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("plain");
    let key = folder.path().join("key");
    assert!(run(&["init", text(&root)]).status.success());
    let error = refused(&run(&["key", "list", "--offline", text(&root)]));
    assert!(error.contains("is not encrypted"), "{error}");
    std::fs::write(&key, [7; 32]).unwrap();
    let serve = [
        "serve",
        "--any-ports",
        "--repository",
        text(&root),
        "--key-file",
        text(&key),
    ];
    let error = refused(&run(&serve));
    assert!(
        error.contains("is not encrypted, but a passphrase or key was given"),
        "{error}"
    );
}

#[test]
fn a_daemon_on_an_encrypted_repository_backs_up_and_restores() {
    let mut daemon = Daemon::start_encrypted();
    let disk = content(3);
    daemon.back_up("web01", &disk);
    daemon.restart();
    let target = daemon.path("restored.raw");
    daemon.json(&["restore", "image", "web01@1", "--to", text(&target)]);
    assert!(std::fs::read(&target).unwrap() == disk);
    assert_eq!(daemon.json(&["verify"])["sound"], json!(true));
    // Nothing but the key's owner can read it.
    let mode = std::fs::metadata(daemon.path("key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_session_of_an_encrypted_repository_writes_nothing_in_clear() {
    let mut daemon = Daemon::start_encrypted();
    let marker = b"what the guest must not find in clear".repeat(2000);
    let mut disk = content(5);
    disk[..marker.len()].copy_from_slice(&marker);
    daemon.back_up("payroll", &disk);
    let session = daemon.json(&["recover", "start", "payroll@1", "--name", "lab"]);
    open_nbd(url(&session, "nbd"))
        .write_at(1 << 20, &marker[..65_536], Durability::Stable)
        .unwrap();
    disk[1 << 20..][..65_536].copy_from_slice(&marker[..65_536]);
    daemon.restart();
    let session = daemon.json(&["recover", "show", "lab"]);
    assert!(read_nbd(url(&session, "nbd")) == disk);
    let in_clear = |words: &[u8]| {
        let mut found = Vec::new();
        for folder in ["packs", "points", "overlays", "index", "keys"] {
            let folder = daemon.path("repository").join(folder);
            search(&folder, words, &mut found);
        }
        found
    };
    for words in [&marker[..20], b"payroll"] {
        assert_eq!(in_clear(words), Vec::<PathBuf>::new());
    }
    // What would be found is found: the magic of packs and journals.
    assert!(!in_clear(b"HFPACK").is_empty());
    let sealed = daemon.json(&["recover", "seal", "lab"]);
    assert_eq!(sealed["point"]["point"], json!("payroll@2"));
    let target = daemon.path("sealed.raw");
    daemon.json(&["restore", "image", "payroll@2", "--to", text(&target)]);
    assert!(std::fs::read(&target).unwrap() == disk);
}

/// Adds the files below `folder` that hold `words`, in their name or content.
fn search(folder: &Path, words: &[u8], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path, words, found);
            continue;
        }
        let mut content = std::fs::read(&path).unwrap();
        content.extend(path.file_name().unwrap().as_encoded_bytes());
        if content.windows(words.len()).any(|some| some == words) {
            found.push(path);
        }
    }
}

#[test]
fn key_slots_are_managed_through_the_daemon() {
    let mut daemon = Daemon::start_encrypted();
    let [old, new] = ["old", "new"].map(|name| daemon.path(name));
    std::fs::write(&old, "old words\n").unwrap();
    std::fs::write(&new, "new words\n").unwrap();
    let added = daemon.json(&[
        "key",
        "add",
        "passphrase",
        "--new-passphrase-file",
        text(&old),
    ]);
    assert_eq!(added["kind"], json!("passphrase"));
    let again = daemon.cli(&[
        "key",
        "add",
        "passphrase",
        "--new-passphrase-file",
        text(&old),
    ]);
    assert!(refused(&again).contains("already"));
    let recovery = daemon.json(&["key", "add", "recovery", "--recovery-key"]);
    let printed = recovery["recovery_key"].as_str().unwrap();
    assert!(printed.starts_with("HFKEY1-"), "{printed}");
    let change = |from: &Path, to: &Path| {
        daemon.cli(&[
            "key",
            "change-passphrase",
            "--passphrase-file",
            text(from),
            "--new-passphrase-file",
            text(to),
        ])
    };
    assert!(refused(&change(&new, &old)).contains("does not open key slot passphrase"));
    assert!(change(&old, &new).status.success());
    assert!(refused(&change(&old, &new)).contains("does not open"));
    assert_eq!(daemon.json(&["stats"])["encrypted"], json!(true));
    check_metrics(&daemon);
    let slots = daemon.json(&["key", "list"]);
    let names: Vec<_> = slots
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| &slot["slot"])
        .collect();
    assert_eq!(names, ["key", "passphrase", "recovery"]);

    let root = daemon.path("repository");
    let offline = |arguments: &[&str]| {
        let mut all = vec!["key", "--offline", text(&root)];
        all.extend(arguments);
        run(&all)
    };
    let busy = offline(&["list", "--passphrase-file", text(&new)]);
    assert!(refused(&busy).contains("in use"));
    daemon.stop();
    for slot in ["key", "recovery"] {
        let removed = offline(&["remove", slot, "--passphrase-file", text(&new)]);
        assert!(removed.status.success(), "{removed:?}");
    }
    let last = offline(&["remove", "passphrase", "--passphrase-file", text(&new)]);
    assert!(refused(&last).contains("last key slot"));
    let wrong = offline(&["list", "--key-file", text(&daemon.path("key"))]);
    assert!(refused(&wrong).contains("no key slot fits it"));
}

fn check_metrics(daemon: &Daemon) {
    let metrics = daemon.gateway().core().metrics.text();
    for line in [
        "holdfast_repository_encrypted 1",
        "holdfast_key_slots_changes_total 3",
        "holdfast_key_slots_refused_total 2",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
}

#[test]
fn the_interface_says_what_is_wrong_with_a_slot() {
    let plain = Daemon::start();
    assert_eq!(plain.call("GET", "/v1/keys", "").body, json!([]));
    assert_eq!(plain.call("DELETE", "/v1/keys/x", "").status, 409);
    let daemon = Daemon::start_encrypted();
    for (method, path, body, status, word) in [
        (
            "POST",
            "/v1/keys",
            r#"{"slot": "../x", "secret": "a"}"#,
            400,
            "name of a key slot",
        ),
        (
            "POST",
            "/v1/keys",
            r#"{"slot": "x", "secret": ""}"#,
            400,
            "1 to 1024 bytes",
        ),
        (
            "POST",
            "/v1/keys",
            r#"{"slot": "x", "secret": "HFKEY1-0"}"#,
            400,
            "no key",
        ),
        (
            "PUT",
            "/v1/keys/x",
            r#"{"old_secret": "a", "secret": "b"}"#,
            404,
            "key list",
        ),
        (
            "PUT",
            "/v1/keys/key",
            r#"{"old_secret": "a", "secret": "b"}"#,
            403,
            "does not open",
        ),
        ("DELETE", "/v1/keys/x", "", 404, "no key slot x"),
        ("DELETE", "/v1/keys/key", "", 400, "last key slot"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = daemon.send(request.as_bytes());
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        assert!(answer.detail().contains(word), "{answer:?}");
    }
}
