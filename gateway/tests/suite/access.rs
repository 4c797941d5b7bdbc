use crate::support::{Daemon, content, json_of, need};

#[test]
fn the_network_needs_a_token_and_the_right_certificate() {
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    let listed = json_of(&daemon.remote_cli(&["--json", "point", "list"]));
    assert_eq!(listed[0]["point"], "web01@1");
    let addresses = daemon.gateway().addresses().clone();
    let refused = |token: &str, fingerprint: &str| {
        let file = daemon.path("some-token");
        std::fs::write(&file, token).unwrap();
        let mut command = daemon.plain_command();
        command
            .arg("--server")
            .arg(format!("https://{}", addresses.api))
            .arg("--token-file")
            .arg(&file);
        let output = command
            .args(["--fingerprint", fingerprint, "point", "list"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let wrong = refused("hf_0000", &addresses.fingerprint);
    assert!(
        wrong.contains("the token is wrong or was revoked"),
        "{wrong}"
    );
    let other = refused(&daemon.token(), &"00".repeat(32));
    assert!(other.contains("fingerprint"), "{other}");
}

#[test]
fn strangers_on_the_network_do_not_keep_the_operator_out() {
    let daemon = Daemon::start_with(|config| config.api.connections = 1);
    // It never begins its handshake, and holds the only place meanwhile.
    let stranger = std::net::TcpStream::connect(daemon.gateway().addresses().api).unwrap();
    for _ in 0..3 {
        assert_eq!(daemon.call("GET", "/v1/workloads", "").status, 200);
    }
    drop(stranger);
}

#[test]
fn thousands_of_half_open_connections_do_not_keep_anybody_out_for_long() {
    use holdfast::config::Span;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::io::Write as _;

    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let daemon = Daemon::start_with(|config| config.api.read_timeout = Span::seconds(3));
    let address = daemon.gateway().addresses().api;
    // Half say nothing, half begin a record of TLS. A thousand have a place, the others wait for one.
    let strangers: Vec<_> = (0..1500)
        .map(|round| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            if round % 2 == 0 {
                stream.write_all(b"\x16\x03\x01").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(daemon.call("GET", "/v1/workloads", "").status, 200);
    // It gets its turn when those before it have had their time.
    json_of(&daemon.remote_cli(&["--json", "workload", "list"]));
    drop(strangers);
}

#[test]
fn tokens_are_made_used_within_their_role_and_revoked() {
    let mut daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    let made = daemon.json(&["token", "add", "probe", "--role", "read-only"]);
    let probe = made["token"].as_str().unwrap().to_owned();
    let client = daemon.json(&["token", "add", "client", "--role", "backup"]);
    let client = client["token"].as_str().unwrap().to_owned();
    let brief = daemon.json(&["token", "add", "brief", "--expires-in", "1ms"]);
    assert_eq!(brief["role"], "admin");
    let brief = brief["token"].as_str().unwrap().to_owned();
    let mode = std::fs::metadata(daemon.state().join("tokens.json")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o077, 0);
    daemon.restart();
    let with = |token: &str, arguments: &[&str]| {
        let addresses = daemon.gateway().addresses();
        let mut command = daemon.plain_command();
        command
            .arg("--server")
            .arg(format!("https://{}", addresses.api));
        command.args(["--fingerprint", &addresses.fingerprint, "--token", token]);
        command.args(arguments).output().unwrap()
    };
    let refused = |token: &str, arguments: &[&str], sentence: &str| {
        let output = with(token, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains(sentence), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    let disk = daemon.path("disk.raw");
    let backup = ["backup", "image", "web01", disk.to_str().unwrap()];
    let out = daemon.path("out.raw");
    let restore = ["restore", "image", "web01@1", "--to", out.to_str().unwrap()];
    assert!(with(&probe, &["point", "list"]).status.success());
    refused(&probe, &backup, "use one with the role backup");
    refused(&probe, &restore, "use one with the role admin");
    refused(&probe, &["token", "list"], "use one with the role admin");
    assert!(with(&client, &backup).status.success());
    refused(&client, &restore, "use one with the role admin");
    refused(&client, &["recover", "start", "web01@1"], "the role admin");
    refused(&brief, &["point", "list"], "the token brief expired at ");
    let listed = daemon.json(&["token", "list"]);
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["brief", "client", "operator", "probe"]);
    assert!(!listed.to_string().contains("hf_"), "{listed}");
    daemon.json(&["token", "revoke", "probe"]);
    refused(
        &probe,
        &["point", "list"],
        "the token is wrong or was revoked",
    );
    let again = daemon.cli(&["token", "revoke", "probe"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is no token probe"));
}

/// A token for backups of `web01` alone.
fn token_for_web(daemon: &Daemon) -> String {
    let words = "token add agent --role backup --workload web01";
    let made = daemon.json(&words.split(' ').collect::<Vec<_>>());
    assert_eq!(made["workload"], "web01");
    made["token"].as_str().unwrap().to_owned()
}

/// The command line on another machine, with a token.
fn with_token(daemon: &Daemon, token: &str, arguments: &[&str]) -> std::process::Output {
    let addresses = daemon.gateway().addresses();
    let server = format!("https://{}", addresses.api);
    let mut command = daemon.plain_command();
    command.args(["--server", &server, "--token", token]);
    command.args(["--fingerprint", &addresses.fingerprint]);
    command.args(arguments).output().unwrap()
}

#[test]
fn a_token_for_one_workload_backs_that_up_and_sees_nothing() {
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    daemon.back_up("db01", &content(2));
    let misuse = daemon.cli(&["token", "add", "agent", "--workload", "web01"]);
    let error = String::from_utf8_lossy(&misuse.stderr).into_owned();
    assert!(error.contains("has the role backup"), "{error}");
    let token = token_for_web(&daemon);
    let (disk, extents, out) = ["disk.raw", "extents", "out.raw"]
        .map(|name| daemon.path(name).display().to_string())
        .into();
    std::fs::write(&extents, "0 65536\n").unwrap();
    let whole = format!("backup image web01 {disk}");
    let changed = format!("{whole} --changed-extents {extents}");
    for words in [&whole, &changed] {
        let words: Vec<_> = words.split(' ').collect();
        let done = with_token(&daemon, &token, &words);
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{error}");
    }
    let points = daemon.json(&["point", "list", "web01"]);
    assert_eq!(points.as_array().unwrap().len(), 3);
    assert_eq!(daemon.json(&["token", "list"])[0]["workload"], "web01");

    for words in [
        &format!("backup image db01 {disk}"),
        &format!("backup image web02 {disk}"),
        &format!("restore image web01@1 --to {out}"),
        &format!("config export {out}"),
        "point list",
        "point show web01@1",
        "point expire web01@1",
        "workload list",
        "stats",
        "token list",
        "token add more",
        "recover start web01@1",
    ] {
        let refused = with_token(&daemon, &token, &words.split(' ').collect::<Vec<_>>());
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{words}: {error}");
        assert!(error.contains("backups of web01 alone"), "{words}: {error}");
        assert!(refused.stdout.is_empty(), "{words}");
    }
}

#[test]
fn another_workloads_backup_is_no_more_to_it_than_none() {
    if !need("curl") {
        return;
    }
    let daemon = Daemon::start();
    let token = token_for_web(&daemon);
    let begin = r#"{"workload": "db01", "images": [{"name": "disk-0", "size_bytes": 65536}]}"#;
    let begun = daemon.call("POST", "/v1/backups", begin).body;
    let other = begun["backup"].as_str().unwrap();
    let none = "6c0f0a52-7c5e-4b0c-8a53-1d2f3a4b5c6d";
    let answers = [other, none].map(|backup| {
        let paths = ["", "/commit", "/images/0/extents", "/images/0/file"];
        let methods = ["GET", "POST", "PUT", "POST"];
        let asked = paths.into_iter().zip(methods).chain([("", "DELETE")]);
        let asked = asked.map(|(path, method)| {
            let path = format!("/v1/backups/{backup}{path}");
            daemon.remote_call(&token, method, &path)
        });
        asked.collect::<Vec<_>>()
    });
    assert_eq!(answers[0], answers[1]);
    assert!(
        answers[0].iter().all(|status| *status == 403),
        "{answers:?}"
    );
    assert_eq!(daemon.remote_call(&token, "GET", "/v1/backups"), 403);
    let still = daemon.call("GET", &format!("/v1/backups/{other}"), "");
    assert_eq!(still.status, 200);
}

#[test]
fn health_and_metrics_say_little_and_need_nothing() {
    let daemon = Daemon::start();
    assert_eq!(daemon.call("GET", "/v1/health", "").body["status"], "ok");
    let metrics = daemon.call("GET", "/metrics", "");
    assert_eq!(metrics.status, 200);
}

#[test]
fn a_backup_over_the_network_is_streamed_and_restored() {
    let daemon = Daemon::start();
    let disk = daemon.path("disk.raw");
    std::fs::write(&disk, content(3)).unwrap();
    let done = json_of(&daemon.remote_cli(&[
        "--json",
        "backup",
        "image",
        "web01",
        disk.to_str().unwrap(),
    ]));
    assert_eq!(done["point"], "web01@1");
    let changed = content(4);
    std::fs::write(&disk, &changed).unwrap();
    let done = json_of(&daemon.remote_cli(&[
        "--json",
        "backup",
        "image",
        "web01",
        disk.to_str().unwrap(),
    ]));
    assert_eq!(
        (&done["point"], &done["kind"]),
        (&"web01@2".into(), &"incremental".into())
    );
    let out = daemon.path("out.raw");
    json_of(&daemon.remote_cli(&[
        "--json",
        "restore",
        "image",
        "web01@latest",
        "--to",
        out.to_str().unwrap(),
    ]));
    assert!(std::fs::read(&out).unwrap() == changed);
    let again = daemon.remote_cli(&[
        "restore",
        "image",
        "web01@latest",
        "--to",
        out.to_str().unwrap(),
    ]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("--overwrite"));
    assert!(
        std::fs::read(&out).unwrap() == changed,
        "a file that was there is not touched"
    );
}

#[test]
fn a_stream_that_is_refused_at_once_gets_the_reason_and_not_a_broken_pipe() {
    let daemon = Daemon::start();
    let mut put = format!(
        "PUT /v1/backups/6c0f0a52-7c5e-4b0c-8a53-1d2f3a4b5c6d/images/0/extents HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        64 << 20
    )
    .into_bytes();
    put.resize(put.len() + (64 << 20), 0);
    assert_eq!(daemon.send(&put).status, 404);
}
