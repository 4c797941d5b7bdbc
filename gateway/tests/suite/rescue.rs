//! A repository without its daemon: adopted elsewhere, or read as far as it goes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Daemon, command, content, json_of};

/// A copy of the repository of a daemon that was not stopped in order, without its index.
fn copy(daemon: &Daemon, to: &Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(daemon.path("repository"))
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
    fs::remove_dir_all(to.join("index")).unwrap();
    for name in ["control.sock", "nbd.sock", "addresses.json"] {
        fs::remove_file(to.join("daemon").join(name)).unwrap();
    }
}

fn rescue(repository: &Path, arguments: &[&str]) -> Output {
    command()
        .args(["--json", "rescue"])
        .arg(repository)
        .args(arguments)
        .output()
        .unwrap()
}

/// What a command prints that ends with 1 because something is missing.
fn incomplete(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_copied_folder_is_adopted_and_served() {
    let daemon = Daemon::start();
    daemon.back_up("web", &content(1));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("copied");
    copy(&daemon, &root);
    let adopt = || command().arg("--json").arg("adopt").arg(&root).output();
    let report = json_of(&adopt().unwrap());
    assert_eq!(
        (&report["points"], &report["packs"]),
        (&1.into(), &2.into())
    );
    let config = holdfast::config::Config::for_repository(&root).with_any_ports();
    let gateway = daemon
        .runtime
        .block_on(holdfast::Gateway::start(config))
        .unwrap();
    assert_eq!(gateway.core().repository.points(None).len(), 1);
    let in_use = adopt().unwrap();
    assert!(String::from_utf8_lossy(&in_use.stderr).contains("in use"));
    daemon.runtime.block_on(gateway.stop());
}

#[test]
fn disks_are_rescued_beside_a_running_daemon() {
    let daemon = Daemon::start();
    daemon.back_up("web", &content(1));
    daemon.back_up("web", &content(2));
    let repository = daemon.path("repository");
    let list = json_of(&rescue(&repository, &["list"]));
    assert_eq!(list["points"].as_array().unwrap().len(), 2);
    let to = daemon.path("rescued.raw");
    let arguments = ["restore", "web@latest", "--to", to.to_str().unwrap()];
    let told = json_of(&rescue(&repository, &arguments));
    assert_eq!(told["whole"], true);
    assert!(fs::read(&to).unwrap() == content(2));
    let again = rescue(&repository, &arguments);
    assert!(String::from_utf8_lossy(&again.stderr).contains("--overwrite"));
    assert_eq!(json_of(&rescue(&repository, &["verify"]))["sound"], true);
    let nothing = rescue(&repository, &["show", "db@latest"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert_eq!(rescue(&repository, &["show", "db"]).status.code(), Some(2));
}

#[test]
fn what_is_missing_is_named_and_the_rest_is_written() {
    let mut daemon = Daemon::start();
    daemon.back_up("web", &content(1));
    daemon.stop();
    let root = daemon.path("repository");
    let pack = root.join("packs/01/00000001.00000001");
    let mut bytes = fs::read(&pack).unwrap();
    bytes[4096 + 300] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let to = daemon.path("rescued.raw");
    let arguments = ["restore", "web@1", "--to", to.to_str().unwrap()];
    let told = incomplete(&rescue(&root, &arguments));
    let missing = &told["missing"][0];
    assert_eq!(
        (&missing["length"], &told["whole"]),
        (&65_536.into(), &false.into())
    );
    let start = usize::try_from(missing["offset"].as_u64().unwrap()).unwrap();
    let (found, expected) = (fs::read(&to).unwrap(), content(1));
    assert!(found[..start] == expected[..start]);
    assert!(found[start + 65_536..] == expected[start + 65_536..]);
    assert!(found[start..start + 65_536].iter().all(|byte| *byte == 0));
    assert_eq!(incomplete(&rescue(&root, &["verify"]))["sound"], false);
    fs::remove_file(root.join("superblock")).unwrap();
    let list = incomplete(&rescue(&root, &["list"]));
    assert_eq!(list["points"].as_array().unwrap().len(), 1);
}
