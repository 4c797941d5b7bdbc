//! A daemon is killed in the middle of collections, again and again; what was kept is whole in the end.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::Daemon;

/// Disks of this many bytes; each shares a part with the one before.
const BYTES: usize = 24 << 20;

/// Kills, each a little later in a collection.
const KILLS: u64 = 8;

#[test]
fn a_daemon_that_is_killed_while_it_collects_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path());
    let disk = folder.path().join("disk.raw");
    let mut kept: Vec<(String, u64)> = Vec::new();
    for round in 0..KILLS {
        let mut points = Vec::new();
        for number in 0..3 {
            let seed = round * 3 + number;
            fs::write(&disk, content(seed)).unwrap();
            points.push((daemon.back_up("web01", &disk), seed));
        }
        // The newest of a round stays, the others go.
        kept.extend(points.pop());
        for (point, _) in &points {
            daemon.cli(["point", "expire", point.as_str()]);
        }
        let mut collecting = start_collection(&daemon);
        thread::sleep(Duration::from_millis(round * 12));
        daemon.kill();
        drop(collecting.wait());
        daemon.serve();
    }
    // Whatever was cut off is taken up.
    let done = daemon.cli(["collect", "--now", "--wait"]);
    assert_eq!(done["state"], json!("done"), "{done}");
    let audit = daemon.cli(["collect", "--audit", "--wait"]);
    assert_eq!(audit["sound"], json!(true), "{audit}");
    let back = folder.path().join("back.raw");
    for (point, seed) in &kept {
        drop(fs::remove_file(&back));
        daemon.cli([
            "restore",
            "image",
            point.as_str(),
            "--to",
            back.to_str().unwrap(),
        ]);
        assert!(
            fs::read(&back).unwrap() == content(*seed),
            "{point} differs"
        );
    }
    let stats = daemon.cli(["stats"]);
    let (stored, needed) = (
        stats["stored_bytes"].as_u64().unwrap(),
        stats["space"]["alive_bytes"].as_u64().unwrap(),
    );
    assert!(stored < needed * 2 + (8 << 20), "{stats}");
    daemon.kill();
}

/// The client that asks for a collection; the daemon may be gone before it is answered.
fn start_collection(daemon: &Daemon) -> std::process::Child {
    let mut command: Command = daemon.command();
    command
        .args(["collect", "--now", "--wait"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program that was built runs")
}

/// Half of it is like no other disk, half as in the one before or after.
fn content(seed: u64) -> Vec<u8> {
    let mut content = noise(seed * 2, BYTES / 2);
    content.extend(noise(seed / 2 * 2 + 1, BYTES / 2));
    content
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
