//! The configuration in one file, and back.

use holdfast::config::{ByteSize, Config, NbdTls};
use serde_json::{Value, json};

use crate::support::{Daemon, command, content, json_of};

/// What an import says of `subject`.
fn action<'a>(steps: &'a Value, subject: &str) -> &'a str {
    steps
        .as_array()
        .unwrap()
        .iter()
        .find(|step| step["subject"] == subject)
        .unwrap_or_else(|| panic!("no {subject} in {steps}"))["action"]
        .as_str()
        .unwrap()
}

/// Gives a daemon sessions and tokens; gives the secret of the token `probe`.
fn tell(daemon: &Daemon) -> String {
    daemon.back_up("web01", &content(1));
    let start = ["recover", "start", "web01@1", "--name"];
    daemon.json(&[&start[..], &["lab", "--allow", "10.0.0.0/8"]].concat());
    daemon.json(&[&start[..], &["look", "--read-only"]].concat());
    daemon.json(&["recover", "stop", "lab"]);
    daemon.json(&[
        "token",
        "add",
        "client",
        "--role",
        "backup",
        "--expires-in",
        "90d",
    ]);
    daemon.json(&["retention", "set", "--default", "--keep-last", "9"]);
    daemon.json(&["retention", "set", "web01", "--keep-daily", "7"]);
    daemon.json(&["token", "add", "gone", "--expires-in", "1ms"]);
    let made = daemon.json(&["token", "add", "probe", "--role", "read-only"]);
    made["token"].as_str().unwrap().to_owned()
}

#[test]
fn a_fresh_daemon_takes_over_what_another_one_was_told() {
    let mut daemon = Daemon::start();
    let secret = tell(&daemon);
    let file = daemon.path("export.json");
    let file = file.to_str().unwrap();
    let exported = daemon.json(&["config", "export", file]);
    let text = std::fs::read_to_string(file).unwrap();
    assert!(!text.contains("hf_") && !text.contains("hash"), "{text}");
    let again = daemon.cli(&["config", "export", file]);
    assert_eq!(again.status.code(), Some(1), "a file that is there is kept");

    // A daemon on the same repository that knows nothing of the first.
    daemon.stop();
    std::fs::remove_dir_all(daemon.state()).unwrap();
    daemon.run(&daemon.config());
    let tokens = daemon.json(&["token", "list"]);
    let planned = daemon.json(&["config", "import", file, "--dry-run"]);
    for (subject, expected) in [
        ("token probe", "add"),
        ("token client", "add"),
        ("token gone", "same"),
        ("token operator", "same"),
        ("session lab", "add"),
        ("session look", "add"),
        ("rules for all workloads", "add"),
        ("rules for web01", "add"),
    ] {
        assert_eq!(action(&planned, subject), expected, "{subject}");
    }
    assert_eq!(daemon.json(&["recover", "list"]), json!([]), "a dry run");
    assert_eq!(daemon.json(&["token", "list"]), tokens);
    let done = daemon.json(&["config", "import", file]);
    assert_eq!(actions(&planned), actions(&done), "it did what it said");
    let steps = done.as_array().unwrap();
    let probe = steps.iter().find(|step| step["subject"] == "token probe");
    let made = probe.unwrap()["token"].as_str().unwrap();
    assert!(made.starts_with("hf_") && made != secret, "a new secret");
    check_same(&daemon, exported);
}

/// The daemon has what `exported` says, but for a token that had ended; taking over its own export does nothing.
fn check_same(daemon: &Daemon, mut exported: Value) {
    let file = daemon.path("second.json");
    let file = file.to_str().unwrap();
    let mut second = daemon.json(&["config", "export", file]);
    let tokens = exported["tokens"].as_array_mut().unwrap();
    tokens.retain(|token| token["name"] != "gone");
    for document in [&mut exported, &mut second] {
        document["exported"] = Value::Null;
    }
    assert_eq!(second, exported);
    let steps = daemon.json(&["config", "import", file]);
    let steps = steps.as_array().unwrap();
    assert!(
        steps.iter().all(|step| step["action"] == "same"),
        "{steps:?}"
    );
}

#[test]
fn settings_are_printed_for_a_daemon_to_read_and_compared_with_its_own() {
    let mut daemon = Daemon::start_with(|config| {
        config.backup.at_once = 3;
        config.repository.node_cache = ByteSize::mebibytes(32);
    });
    let file = daemon.path("export.json");
    let file = file.to_str().unwrap();
    daemon.json(&["config", "export", file]);
    let printed = command()
        .args(["config", "settings", file])
        .output()
        .unwrap();
    let settings = Config::parse(std::str::from_utf8(&printed.stdout).unwrap()).unwrap();
    assert_eq!(
        (settings.backup.at_once, settings.repository.node_cache),
        (3, ByteSize::mebibytes(32))
    );
    daemon.stop();
    let mut other = daemon.config();
    other.nbd.tls = NbdTls::Allow;
    daemon.run(&other);
    let steps = daemon.json(&["config", "import", file]);
    for subject in [
        "setting backup.at_once",
        "setting nbd.tls",
        "setting repository.node_cache",
    ] {
        assert_eq!(action(&steps, subject), "differs", "{subject}");
    }
}

/// What is done about which thing.
fn actions(steps: &Value) -> Vec<(Value, Value)> {
    let steps = steps.as_array().unwrap().iter();
    steps
        .map(|step| (step["subject"].clone(), step["action"].clone()))
        .collect()
}

#[test]
fn what_cannot_be_taken_over_is_named_and_does_not_keep_the_rest_from_it() {
    let mut daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    let name = daemon.path("export.json");
    let file = name.to_str().unwrap();
    let mut document = daemon.json(&["config", "export", file]);
    document["sessions"] = json!([
        { "name": "lost", "point": "db@7", "mode": "read-write", "disks": [0], "protocols": ["nbd"], "allow": [], "served": true },
        { "name": "lab", "point": "web01@1", "mode": "read-write", "disks": [0], "protocols": ["nbd"], "allow": [], "served": true },
    ]);
    std::fs::write(&name, document.to_string()).unwrap();
    let output = daemon.cli(&["--json", "config", "import", file]);
    assert_eq!(output.status.code(), Some(1));
    let steps: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(action(&steps, "session lost"), "failed");
    assert_eq!(action(&steps, "session lab"), "add");
    daemon.restart();
    let sessions = daemon.json(&["recover", "list"]);
    assert_eq!(sessions[0]["session"], "lab");

    document["version"] = json!(9);
    std::fs::write(&name, document.to_string()).unwrap();
    let output = daemon.cli(&["config", "import", file]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("version 9"));
    std::fs::write(&name, "{}").unwrap();
    let output = daemon.cli(&["config", "import", file]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no exported configuration"));
    json_of(&daemon.cli(&["--json", "recover", "list"]));
}
