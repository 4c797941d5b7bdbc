//! Expiring, bringing back, rules, and collecting, as a person does it.

use serde_json::json;

use crate::support::{Daemon, content};

/// Noise that no other disk has.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..1 << 17).flat_map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    });
    words.collect()
}

#[test]
fn what_was_said_to_be_free_is_free_and_until_then_a_point_comes_back() {
    let daemon = Daemon::start();
    daemon.back_up("web01", &noise(1));
    daemon.back_up("web01", &noise(2));
    daemon.back_up("web01", &noise(2));
    let alone = |point: &str| daemon.json(&["point", "show", point])["exclusive_bytes"].clone();
    let only = alone("web01@1").as_u64().unwrap();
    assert!(only > 1 << 20, "{only}");
    assert_eq!(alone("web01@2"), json!(0), "the third point needs the same");
    let asked = daemon.json(&["point", "expire", "--dry-run", "web01@1", "web01@2"]);
    assert_eq!(asked["freed_bytes"], json!(only));
    assert_eq!(daemon.json(&["point", "list"]).as_array().unwrap().len(), 3);

    daemon.json(&["point", "expire", "web01@1", "web01@2"]);
    let expired = daemon.json(&["point", "unexpire"]);
    assert_eq!(expired[0]["point"], json!("web01@1"));
    daemon.json(&["point", "unexpire", "web01@2"]);
    assert_eq!(daemon.json(&["point", "list"]).as_array().unwrap().len(), 2);

    let done = daemon.json(&["collect", "--now", "--wait"]);
    assert_eq!(done["state"], json!("done"), "{done}");
    assert_eq!(done["report"]["points"], json!(1));
    assert_eq!(done["report"]["dead_bytes"], json!(only));
    assert!(done["report"]["removed_bytes"].as_u64().unwrap() > only);
    let late = daemon.cli(&["point", "unexpire", "web01@1"]);
    assert!(
        String::from_utf8_lossy(&late.stderr).contains("no restore point web01@1"),
        "{late:?}"
    );
    let stats = daemon.json(&["stats"]);
    assert!(stats["stored_bytes"].as_u64().unwrap() < 2 << 20, "{stats}");
    assert_eq!(stats["space"]["condemned_packs"], json!(0));
    let audit = daemon.json(&["collect", "--audit", "--wait"]);
    assert_eq!(audit["sound"], json!(true), "{audit}");

    let file = daemon.path("back.raw");
    daemon.json(&[
        "restore",
        "image",
        "web01@3",
        "--to",
        file.to_str().unwrap(),
    ]);
    assert!(std::fs::read(&file).unwrap() == noise(2));
    let metrics = daemon.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(metrics.status, 200);
}

#[test]
fn rules_expire_what_they_do_not_keep_but_never_what_is_in_use() {
    let mut daemon = Daemon::start();
    for seed in 1..=5 {
        daemon.back_up("web01", &content(seed));
    }
    let nothing = daemon.json(&["retention", "apply", "web01"]);
    assert!(
        nothing["points"]
            .as_array()
            .unwrap()
            .iter()
            .all(|point| point["kept_by"][0] == json!("norule")),
        "{nothing}"
    );
    daemon.json(&["retention", "set", "web01", "--keep-last", "2"]);
    daemon.json(&[
        "retention",
        "set",
        "--default",
        "--keep-daily",
        "7",
        "--keep-yearly",
        "3650d",
    ]);
    daemon.restart();
    let rules = daemon.json(&["retention", "show"]);
    assert_eq!(rules["workloads"][0]["rules"]["last"], json!(2));
    assert_eq!(rules["default"]["yearly"], json!({"days": 3650}));
    daemon.json(&[
        "recover",
        "start",
        "web01@2",
        "--name",
        "lab",
        "--protocol",
        "nbd",
    ]);
    let asked = daemon.json(&["retention", "apply", "web01", "--dry-run"]);
    assert!(asked["freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(daemon.json(&["point", "list"]).as_array().unwrap().len(), 5);
    let applied = daemon.json(&["retention", "apply", "web01"]);
    let refused = &applied["points"][3];
    assert_eq!(refused["point"], json!("web01@2"));
    assert!(refused["refused"].as_str().unwrap().contains("session lab"));
    let left: Vec<_> = daemon
        .json(&["point", "list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["point"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(left, ["web01@2", "web01@4", "web01@5"]);
    daemon.json(&["retention", "set", "web01", "--clear"]);
    assert_eq!(daemon.json(&["retention", "show"])["workloads"], json!([]));
}
