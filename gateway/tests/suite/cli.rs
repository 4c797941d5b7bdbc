use crate::support::{Daemon, closed_pipe, command, content, ends_quietly};

/// What a command prints on either stream, with its exit status.
fn shown(arguments: &[&str]) -> String {
    let output = command()
        .args(arguments)
        .env("XDG_RUNTIME_DIR", "/nonexistent")
        .output()
        .unwrap();
    format!(
        "exit {}\n{}{}",
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn help_texts() {
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help_serve", &["serve", "--help"]),
        ("help_init", &["init", "--help"]),
        ("help_key_add", &["key", "add", "--help"]),
        ("help_backup_image", &["backup", "image", "--help"]),
        ("help_recover_start", &["recover", "start", "--help"]),
        ("help_share", &["share", "--help"]),
        ("help_restore_image", &["restore", "image", "--help"]),
        ("help_demo", &["demo", "--help"]),
        ("help_token_add", &["token", "add", "--help"]),
        ("help_stream_put", &["stream", "put", "--help"]),
    ] {
        insta::assert_snapshot!(name, shown(arguments));
    }
}

#[test]
fn misuse_ends_with_two_and_says_what_to_do() {
    for (name, arguments) in [
        ("misuse_nothing", &[][..]),
        ("misuse_point", &["point", "show", "web01"]),
        ("misuse_verb", &["recover", "begin"]),
        ("misuse_files", &["backup", "image", "web01"]),
        (
            "misuse_format",
            &["restore", "image", "w@1", "--to", "x", "--format", "iso"],
        ),
    ] {
        insta::assert_snapshot!(name, shown(arguments));
    }
}

#[test]
fn failures_end_with_one_and_one_sentence() {
    for (name, arguments) in [
        ("failure_server", &["--server", "http://x", "stats"][..]),
        (
            "failure_token",
            &["--server", "https://backup.invalid:8700", "stats"],
        ),
        ("failure_state", &["--state", "/nonexistent", "stats"]),
        (
            "failure_config",
            &["serve", "--config", "/nonexistent/holdfast.toml"],
        ),
        ("failure_init", &["init", "/dev/null"]),
        (
            "failure_init_key",
            &["init", "/nonexistent/x", "--key-file", "y"],
        ),
        (
            "failure_init_no_terminal",
            &["init", "/nonexistent/x", "--encrypt"],
        ),
    ] {
        insta::assert_snapshot!(name, shown(arguments));
    }
}

#[test]
fn nobody_who_reads_the_results_is_no_fault() {
    for shell in ["bash", "zsh"] {
        let mut script = command();
        script.args(["completion", shell]);
        ends_quietly(script);
    }
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(1));
    for arguments in [
        &["point", "list"][..],
        &["stats"],
        &["doctor"],
        &["recover", "list"],
        &["--json", "workload", "list"],
    ] {
        ends_quietly(daemon.command(arguments));
    }
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut stats = daemon.command(&["stats"]);
    let output = stats.stdout(full.unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn nobody_who_reads_the_complaint_is_no_fault_either() {
    let mut failing = command();
    failing.args(["--state", "/nonexistent", "stats"]);
    let status = failing.stderr(closed_pipe()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn completion_is_made_for_a_shell() {
    assert!(shown(&["completion", "bash"]).contains("_holdfast"));
}
