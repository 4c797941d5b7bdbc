//! Stars, locks and their lifting, as clients see them.

use serde_json::json;

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
    let locked = daemon.json(&["point", "lock", "web@1", "--until", "2099-12-31"]);
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
    let unlock = |code: &str| daemon.cli(&["point", "unlock", "web@1", "--code", code]);
    let text = unlock("123456").stderr;
    assert!(String::from_utf8_lossy(&text).contains("holdfast lock-authority init"));

    let made = daemon.json(&["lock-authority", "init"]);
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(made["address"].as_str().unwrap().contains(&secret));
    assert!(!daemon.cli(&["lock-authority", "init"]).status.success());
    assert!(!unlock("nonsense").status.success());
    daemon.restart();
    assert_eq!(daemon.call("DELETE", "/v1/points/web@1", "").status, 409);
    let point = daemon.json(&["point", "unlock", "web@1", "--code", &code(&secret)]);
    assert_eq!(point["locks"], json!([]));
    daemon.json(&["point", "expire", "web@1"]);
}

#[test]
fn a_compliance_lock_is_lifted_by_nobody() {
    let daemon = Daemon::start_with(|config| config.repository.protect_files = false);
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
