//! Damage to the repository of a daemon: mended, or told of.

use std::fs;
use std::path::{Path, PathBuf};

use crate::alerts::alert;
use crate::support::Daemon;

/// Files below `packs`, parity or packs.
fn files(daemon: &Daemon, parity: bool) -> Vec<PathBuf> {
    let packs = daemon.config().repository.path.join("packs");
    let mut found = Vec::new();
    for folder in fs::read_dir(packs).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.to_string_lossy().ends_with(".parity") == parity {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A disk that does not compress.
fn noise() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(word)
        .take(3 << 17)
        .flatten()
        .collect()
}

fn largest(files: Vec<PathBuf>) -> PathBuf {
    let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
    files.into_iter().max_by_key(length).unwrap()
}

/// How alerts name a file of the repository.
fn within(daemon: &Daemon, file: &Path) -> String {
    let within = file.strip_prefix(&daemon.config().repository.path);
    within.unwrap().display().to_string()
}

fn overwrite(path: &Path, offset: usize, length: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset..offset + length].fill(0xEE);
    fs::write(path, bytes).unwrap();
}

#[test]
fn small_damage_is_read_past_and_mended_and_large_damage_named() {
    let mut daemon = Daemon::start();
    let content = noise();
    daemon.back_up("web01", &content);
    // Packs are sealed when the daemon stops, and get parity once it runs again.
    daemon.restart();
    let report = daemon.json(&["verify", "--repair"]);
    assert_eq!(report["sound"], true, "{report}");
    assert_eq!(files(&daemon, true).len(), files(&daemon, false).len());
    let pack = largest(files(&daemon, false));
    let sound = fs::read(&pack).unwrap();

    overwrite(&pack, 9000, 30_000);
    let out = daemon.path("out");
    daemon.json(&["restore", "image", "web01@1", "--to", out.to_str().unwrap()]);
    assert!(fs::read(&out).unwrap() == content);
    let report = daemon.json(&["verify", "--repair", "--rate", "1GiB/s"]);
    assert_eq!(report["sound"], true, "{report}");
    assert!(fs::read(&pack).unwrap() == sound, "the pack is as it was");
    let mended = alert(&daemon, "damage-mended", &within(&daemon, &pack));
    assert_eq!(mended["severity"], "warning");

    let text = daemon.gateway().core().metrics.text();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(value("holdfast_repair_pages_mended_total ") > 0, "{text}");
    assert!(value("holdfast_verify_read_bytes_total ") > 0);
    let stats = daemon.json(&["stats"]);
    assert_eq!(stats["proofs"]["never"], 0, "{stats}");
    let point = daemon.json(&["point", "show", "web01@1"]);
    assert!(point["proven"].is_string(), "{point}");

    let length = fs::metadata(&pack).unwrap().len();
    overwrite(&pack, 8192, usize::try_from(length).unwrap() / 2);
    let output = daemon.cli(&["verify", "--repair"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("point web01@1  part disk-0  offset"),
        "{text}"
    );
    let last = daemon.cli(&["verify", "--last"]);
    assert_eq!(last.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&last.stdout).contains("point web01@1"));
    let lost = alert(&daemon, "data-lost", "web01/disk-0");
    assert_eq!(lost["severity"], "problem");
    let message = lost["message"].as_str().unwrap();
    assert!(message.contains("in web01@1"), "{message}");

    // The same bytes come again.
    daemon.back_up("web01", &content);
    daemon.json(&[
        "restore",
        "image",
        "web01@1",
        "--to",
        out.to_str().unwrap(),
        "--overwrite",
    ]);
    assert!(fs::read(&out).unwrap() == content);
    let report = daemon.json(&["verify"]);
    assert_eq!(report["sound"], true, "{report}");
    assert!(report["report"]["replaced_records"].as_u64().unwrap() > 0);
}

#[test]
fn what_a_read_finds_lost_is_an_alert_that_names_who_suffers() {
    let mut daemon = Daemon::start();
    let content = noise();
    daemon.back_up("web01", &content);
    daemon.back_up("web01", &content);
    daemon.restart();
    daemon.json(&["verify", "--repair"]);
    let pack = largest(files(&daemon, false));
    let length = fs::metadata(&pack).unwrap().len();
    overwrite(&pack, 8192, usize::try_from(length).unwrap() / 2);

    let out = daemon.path("out");
    let restored = daemon.cli(&["restore", "image", "web01@2", "--to", out.to_str().unwrap()]);
    assert_eq!(restored.status.code(), Some(1));
    alert(&daemon, "data-lost", &within(&daemon, &pack));
    let lost = alert(&daemon, "data-lost", "web01/disk-0");
    assert_eq!(
        (&lost["severity"], &lost["count"]),
        (&"problem".into(), &1.into())
    );
    let message = lost["message"].as_str().unwrap();
    assert!(
        message.contains("2 points from web01@1 to web01@2"),
        "{message}"
    );
    let last = daemon.cli(&["verify", "--last"]);
    assert_eq!(last.status.code(), Some(1));
    let text = String::from_utf8_lossy(&last.stdout).into_owned();
    assert!(text.contains("point web01@2  part disk-0"), "{text}");
    assert!(
        daemon
            .gateway()
            .core()
            .metrics
            .text()
            .contains("holdfast_alerts_problems")
    );
    let dismissed = daemon.json(&["alert", "dismiss", &lost["id"].to_string()]);
    assert_eq!(dismissed["dismissed"], lost["id"]);
}

#[test]
fn a_backup_over_a_damaged_map_reads_the_whole_disk_and_heals_it() {
    let mut daemon = Daemon::start();
    let content = noise();
    daemon.back_up("web01", &content);
    daemon.restart();
    daemon.json(&["verify", "--repair"]);
    // The smaller pack has the nodes of the map.
    let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let nodes = files(&daemon, false)
        .into_iter()
        .min_by_key(length)
        .unwrap();
    for parity in files(&daemon, true) {
        fs::remove_file(parity).unwrap();
    }
    overwrite(&nodes, 4200, 2000);
    daemon.restart();

    let mut changed = content.clone();
    changed[..65_536].fill(7);
    let disk = daemon.path("disk.raw");
    fs::write(&disk, &changed).unwrap();
    let extents = daemon.path("extents");
    fs::write(&extents, "0 65536\n").unwrap();
    let (disk, extents) = (disk.to_str().unwrap(), extents.to_str().unwrap());
    let words = [
        "--json",
        "backup",
        "image",
        "web01",
        disk,
        "--changed-extents",
        extents,
        "--since",
        "1",
    ];
    let output = daemon.cli(&words);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("all of the disks is read"), "{told}");
    let done = crate::support::json_of(&output);
    assert_eq!(
        (&done["point"], &done["kind"]),
        (&"web01@2".into(), &"full".into())
    );
    let out = daemon.path("out");
    let out = out.to_str().unwrap();
    daemon.json(&["restore", "image", "web01@2", "--to", out]);
    assert!(fs::read(out).unwrap() == changed);

    // The map is stored again by a backup of the same bytes, for the point that lost it, too.
    fs::write(disk, &content).unwrap();
    daemon.json(&["backup", "image", "web01", disk]);
    daemon.json(&["restore", "image", "web01@1", "--to", out, "--overwrite"]);
    assert!(fs::read(out).unwrap() == content);
}

#[test]
fn samples_take_the_packs_proven_longest_ago() {
    let mut daemon = Daemon::start();
    daemon.back_up("web01", &noise());
    daemon.restart();
    let packs = files(&daemon, false).len() as u64;
    let report = daemon.json(&["verify", "--packs", "1"]);
    assert_eq!(report["report"]["packs"], 1);
    let report = daemon.json(&["verify", "--sample", "1/1"]);
    assert_eq!(report["report"]["packs"], packs);
    let misuse = daemon.cli(&["verify", "web01@1", "--sample", "1/2"]);
    assert_eq!(misuse.status.code(), Some(2));
    let refused = daemon.call(
        "POST",
        "/v1/jobs",
        r#"{"kind":"verify","packs":1,"one_in":2}"#,
    );
    assert_eq!(refused.status, 400, "{}", refused.detail());
}
