//! Whether shares can be served.

use std::net::SocketAddr;
use std::path::Path;

use ::smb::{Phase, Programs};

use crate::Core;
use crate::config::SmbConfig;

use super::{Finding, free_port};

/// Of a daemon that runs.
pub(super) fn running(core: &Core) -> Finding {
    let Some(server) = core.sessions.shares().server() else {
        return installed(&core.config.smb);
    };
    let health = server.health();
    let found = format!(
        "smbd {} at {}, {} shares, started again {} times",
        match health.phase {
            Phase::Running => "answers",
            Phase::Starting => "starts",
            Phase::Waiting => "ended by itself and is started again",
            Phase::Stopped => "has stopped",
        },
        server.settings().reachable(),
        health.shares,
        health.restarts
    );
    match (health.phase, health.last_end) {
        (Phase::Running, None) => Finding::good(CHECK, found),
        (Phase::Running, Some(end)) => Finding::warning(
            CHECK,
            format!("{found}; it ended last: {end}"),
            "look at log/log.smbd in the folder of [smb]",
        ),
        (_, end) => Finding::problem(
            CHECK,
            format!("{found}; it ended last: {}", end.unwrap_or_default()),
            "look at log/log.smbd in the folder of [smb]",
        ),
    }
}

/// Of a machine on which no daemon runs.
pub(super) fn stopped(config: &SmbConfig) -> Vec<Finding> {
    let mut findings = vec![installed(config)];
    for ip in &config.listen {
        findings.push(free_port("SMB port", SocketAddr::new(*ip, config.port)));
    }
    findings
}

/// Whether there is what it takes. Who does not want shares needs none of it.
fn installed(config: &SmbConfig) -> Finding {
    let missing = |reason: String, mend: &str| match config.listen.is_empty() {
        true => Finding::good(CHECK, format!("for Windows and Hyper-V only: {reason}")),
        false => Finding::problem(CHECK, reason, mend),
    };
    let installed = match Programs::find().and_then(|programs| programs.installed()) {
        Ok(installed) => installed,
        Err(error) => {
            return missing(
                error.to_string(),
                "install the packages samba and samba-vfs-modules",
            );
        }
    };
    let version = &installed.version;
    if !rustix::process::geteuid().is_root() {
        return missing(
            "the daemon is not root".to_owned(),
            "run it as root, as docs/operations/smb.md shows",
        );
    }
    if !Path::new("/dev/fuse").exists() {
        return missing(
            "/dev/fuse is not there".to_owned(),
            "load the module with `modprobe fuse`; in a container, pass the device in",
        );
    }
    if !installed.is_new_enough() {
        return missing(
            format!("Samba {version} is too old"),
            "install Samba 4.17 or later",
        );
    }
    if !installed.has_earlier_versions {
        return missing(
            format!(
                "Samba {version} cannot show earlier versions, for which `holdfast share` is refused to clients"
            ),
            "install the package samba-vfs-modules",
        );
    }
    match config.listen.is_empty() {
        true => Finding::good(
            CHECK,
            format!("off; Samba {version} is there, set `listen` under [smb] to use it"),
        ),
        false => Finding::good(CHECK, format!("Samba {version} is there")),
    }
}

const CHECK: &str = "SMB";
