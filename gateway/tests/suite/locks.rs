//! Stars, locks and their lifting, as clients see them.

use serde_json::json;

use crate::alerts::alert;
use crate::support::{Daemon, content};

/// The code of a secret at this moment, made as an authenticator app makes it.
fn code(secret: &str) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits: String = secret
        .chars()
        .map(|letter| format!("{:05b}", alphabet.find(letter).unwrap()))
        .collect();
    let key: Vec<u8> = bits
        .as_bytes()
        .chunks_exact(8)
        .map(|bits| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap())
        .collect();
    use repo::clock::{Clock as _, SystemClock};
    let step = SystemClock.now().0 / 1_000_000_000 / 30;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let tag = ring::hmac::sign(&key, &step.to_be_bytes());
    let offset = usize::from(tag.as_ref()[19] & 15);
    let word = u32::from_be_bytes(tag.as_ref()[offset..offset + 4].try_into().unwrap());
    format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
}

#[test]
fn a_starred_point_is_not_expired() {
    let daemon = Daemon::start();
    daemon.back_up("web", &content(1));
    let point = daemon.json(&["point", "star", "web@latest"]);
    assert_eq!(point["starred"], true);
    let refused = daemon.cli(&["point", "expire", "web@1"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("holdfast point unstar"), "{text}");
    daemon.json(&["point", "unstar", "web@1"]);
    daemon.json(&["point", "expire", "web@1"]);
}

#[test]
fn a_governance_lock_is_lifted_with_a_code_of_the_authority_only() {
    let mut daemon = Daemon::start();
    daemon.back_up("web", &content(1));
    daemon.back_up("web", &content(2));
    let lock = |point: &str| daemon.json(&["point", "lock", point, "--until", "2099-12-31"]);
    let locked = lock("web@1");
    let shown = &locked["point"]["locks"][0];
    assert_eq!(
        shown,
        &json!({ "mode": "governance", "until": "2099-12-31T00:00:00Z" })
    );
    assert_eq!(daemon.call("DELETE", "/v1/points/web@1", "").status, 409);
    let shorter = r#"{"until": "2098-12-31"}"#;
    let answer = daemon.call("PUT", "/v1/points/web@1/lock", shorter);
    assert_eq!(answer.status, 409);
    let refused = daemon.cli(&["point", "lock", "web@1", "--until", "2098-12-31"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("never shorter"));
    let unlock = |point: &str, code: &str| {
        let refused = daemon.cli(&["point", "unlock", point, "--code", code]);
        (
            refused.status.success(),
            String::from_utf8_lossy(&refused.stderr).into_owned(),
        )
    };
    let (_, text) = unlock("web@1", "123456");
    assert!(text.contains("holdfast lock-authority init"), "{text}");

    let made = daemon.json(&["lock-authority", "init"]);
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(made["address"].as_str().unwrap().contains(&secret));
    assert!(!daemon.cli(&["lock-authority", "init"]).status.success());
    // One person alone makes an authority and lifts nothing with it.
    let (_, text) = unlock("web@1", &code(&secret));
    assert!(
        text.contains("made after restore point web@1 was locked"),
        "{text}"
    );

    lock("web@2");
    assert!(!unlock("web@2", "nonsense").0);
    alert(&daemon, "wrong-code", "lock authority");
    alert(&daemon, "lock-authority", "lock authority");
    daemon.restart();
    assert_eq!(daemon.call("DELETE", "/v1/points/web@2", "").status, 409);
    let point = daemon.json(&["point", "unlock", "web@2", "--code", &code(&secret)]);
    assert_eq!(point["locks"], json!([]));
    alert(&daemon, "lock-lifted", "web@2");
    let metrics = daemon.gateway().core().metrics.text();
    for line in [
        "holdfast_points_locked 1",
        "holdfast_locks_lifted_total 1",
        "holdfast_lock_codes_wrong_total 0",
        "holdfast_trusted_time_ahead_seconds 0",
    ] {
        let found = metrics.lines().any(|found| found == line);
        assert!(found, "{line}: {metrics}");
    }
    daemon.json(&["point", "expire", "web@2"]);
    assert_eq!(daemon.call("DELETE", "/v1/points/web@1", "").status, 409);
}

#[test]
fn who_guesses_codes_waits_longer_and_longer() {
    let mut daemon = Daemon::start();
    daemon.json(&["lock-authority", "init"]);
    let guess = |daemon: &Daemon| {
        daemon
            .call("POST", "/v1/lock-authority", r#"{"code": "nonsense"}"#)
            .status
    };
    for _ in 0..5 {
        assert_eq!(guess(&daemon), 403);
    }
    assert_eq!(guess(&daemon), 429);
    let metrics = daemon.gateway().core().metrics.text();
    for line in [
        "holdfast_lock_codes_wrong_total 5",
        "holdfast_lock_codes_refused_total 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    daemon.restart();
    assert_eq!(guess(&daemon), 429, "a restart does not help");
    assert_eq!(alert(&daemon, "wrong-code", "lock authority")["count"], 7);
}

#[test]
fn a_forged_clock_file_unlocks_nothing_and_is_told() {
    let mut daemon = Daemon::start();
    let config = daemon.config();
    daemon.back_up("web", &content(1));
    let mode = ["--mode", "compliance"];
    let lock = ["point", "lock", "web@1", "--until", "2098-01-01"];
    daemon.json(&[&lock[..], &mode[..]].concat());
    daemon.stop();
    // The year 2099, with the checksum that belongs to it.
    let body = r#"{"trusted_unix_nanoseconds": 4086000000000000000, "credited_unix_nanoseconds": 0,
        "boot": "00000000-0000-0000-0000-000000000001", "uptime_nanoseconds": 0}"#;
    let head = "holdfast clock 1";
    let hash = blake3::hash(format!("{head}\n{body}").as_bytes()).to_hex();
    std::fs::write(
        daemon.path("repository/clock"),
        format!("{head} {hash}\n{body}"),
    )
    .unwrap();
    daemon.run(&config);
    assert_eq!(daemon.call("DELETE", "/v1/points/web@1", "").status, 409);
    let changed = alert(&daemon, "foreign-change", "clock");
    let message = changed["message"].as_str().unwrap();
    assert!(message.ends_with("while no daemon ran"), "{message}");
    let told = alert(&daemon, "clock", "clock");
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("2099-06-2"), "{message}");
    daemon.stop();
    daemon.run(&config);
    assert_eq!(daemon.call("DELETE", "/v1/points/web@1", "").status, 409);
}

#[test]
fn an_admin_alone_does_not_make_locked_points_unreadable_to_their_owner() {
    let daemon = Daemon::start_encrypted();
    daemon.back_up("web", &content(1));
    let words = daemon.path("words");
    std::fs::write(&words, "evil words\n").unwrap();
    let new = ["--new-passphrase-file", words.to_str().unwrap()];
    let mode = ["--mode", "compliance"];
    let lock = ["point", "lock", "web@1", "--until", "2099-12-31"];
    daemon.json(&[&lock[..], &mode[..]].concat());
    daemon.json(&[&["key", "add", "evil"], &new[..]].concat());
    alert(&daemon, "key-slot", "keys/evil");
    let refused = |arguments: &[&str]| {
        let output = daemon.cli(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let key = daemon.path("key");
    let change = [
        "key",
        "change-passphrase",
        "key",
        "--key-file",
        key.to_str().unwrap(),
    ];
    for arguments in [
        &["key", "remove", "key"][..],
        &[&change[..], &new[..]].concat(),
    ] {
        let text = refused(arguments);
        assert!(
            text.contains("one-time code of the lock authority"),
            "{text}"
        );
    }
    let secret = daemon.json(&["lock-authority", "init"])["secret"].clone();
    let code = code(secret.as_str().unwrap());
    let text = refused(&["key", "remove", "key", "--code", &code]);
    assert!(text.contains("older than the lock authority"), "{text}");
    let slots = daemon.json(&["key", "list"]);
    assert_eq!(slots.as_array().unwrap().len(), 2);
}

#[test]
fn with_a_code_a_key_slot_goes_while_a_lock_holds() {
    let daemon = Daemon::start_encrypted();
    daemon.back_up("web", &content(1));
    let secret = daemon.json(&["lock-authority", "init"])["secret"].clone();
    daemon.json(&["point", "lock", "web@1", "--until", "2099-12-31"]);
    daemon.json(&["key", "add", "second", "--recovery-key"]);
    let code = code(secret.as_str().unwrap());
    let removed = daemon.json(&["key", "remove", "second", "--code", &code]);
    assert_eq!(removed, json!({ "removed": "second" }));
}

#[test]
fn a_compliance_lock_is_lifted_by_nobody() {
    let daemon = Daemon::start();
    daemon.back_up("web", &content(1));
    let mode = ["--mode", "compliance"];
    let lock = ["point", "lock", "web@1", "--until", "2099-12-31T00:00:00Z"];
    daemon.json(&[&lock[..], &mode[..]].concat());
    let secret = daemon.json(&["lock-authority", "init"])["secret"].clone();
    let code = code(secret.as_str().unwrap());
    let refused = daemon.cli(&["point", "unlock", "web@1", "--code", &code]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("nobody can lift it"), "{text}");
    let past = daemon.cli(&["point", "lock", "web@1", "--until", "1999-12-31"]);
    assert!(String::from_utf8_lossy(&past.stderr).contains("has passed"));
    let findings = daemon.json(&["doctor"]);
    let findings = findings.as_array().unwrap();
    for check in ["locks", "trusted time"] {
        assert!(findings.iter().any(|finding| finding["check"] == check));
    }
}
