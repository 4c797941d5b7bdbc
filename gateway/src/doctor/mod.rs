//! Checks of the machine and the configuration, with what to mend.

mod smb;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use guestworker::{Found, Worker};
use repo::Repository;
use repo::disk::Protection;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::alerts::Severity;
use crate::config::{ByteSize, Config, Portmapper, RepositoryConfig};
use crate::exports::chain;
use crate::secrets::KeySource;
use crate::state::{Addresses, PORTMAPPER_PORT};

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub level: Level,
    /// What was seen.
    pub found: String,
    /// What to do; empty if all is well.
    pub mend: String,
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Good,
    /// Something works worse than it could, or not at all for some.
    Warning,
    /// Something does not work.
    Problem,
}

impl Finding {
    fn good(check: &str, found: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            level: Level::Good,
            found: found.into(),
            mend: String::new(),
        }
    }

    fn warning(check: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            level: Level::Warning,
            found: found.into(),
            mend: mend.into(),
        }
    }

    fn problem(check: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            level: Level::Problem,
            found: found.into(),
            mend: mend.into(),
        }
    }
}

/// Checks from inside a running daemon.
pub fn examine_running(core: &Core) -> Vec<Finding> {
    let mut findings = machine(&core.config);
    findings.push(connects("NBD port", core.addresses.nbd));
    findings.push(connects("NFS port", core.addresses.nfs));
    for portal in &core.addresses.iscsi {
        findings.push(connects("iSCSI port", *portal));
    }
    findings.push(smb::running(core));
    findings.push(rpcbind(&core.config, core.addresses.nfs));
    let damaged = core.repository.damaged_manifests();
    findings.push(if damaged.is_empty() {
        Finding::good(
            "restore points",
            format!("{} are readable", core.repository.points(None).len()),
        )
    } else {
        Finding::problem(
            "restore points",
            damaged.join("; "),
            "run `holdfast verify`, and restore the named files from a copy",
        )
    });
    findings.push(verification(core));
    findings.push(overlays(core));
    findings.push(alerts(core));
    findings.push(trusted_time(core));
    findings.push(locks(core));
    findings
}

fn alerts(core: &Core) -> Finding {
    let check = "alerts";
    let alerts = core.alerts.list();
    let Some(latest) = alerts.last() else {
        let found = match core.config.repository.watch {
            true => "none; the repository's folder is watched",
            false => "none; the repository's folder is not watched (repository.watch)",
        };
        return Finding::good(check, found);
    };
    let found = format!("{}; the latest: {}", alerts.len(), latest.message);
    let mend = format!(
        "{}; `holdfast alert list` shows all, `holdfast alert dismiss` drops those that were seen to",
        latest.mend
    );
    match alerts.iter().map(|alert| alert.severity).max() {
        Some(Severity::Warning) => Finding::warning(check, found, mend),
        _ => Finding::problem(check, found, mend),
    }
}

/// What the last verification found.
fn verification(core: &Core) -> Finding {
    let check = "verification";
    match core.jobs.last_result() {
        Ok(Some(last)) if !last.sound => Finding::problem(
            check,
            format!("the one that ended at {} found damage", last.ended),
            "see `holdfast verify --last`, and run `holdfast verify --repair`",
        ),
        Ok(Some(last)) => Finding::good(check, format!("{}: sound at {}", last.scope, last.ended)),
        Ok(None) => Finding::good(check, "none has come to its end yet"),
        Err(error) => Finding::problem(check, error.to_string(), "see to the state folder"),
    }
}

/// Checks of a machine on which no daemon runs.
pub fn examine_stopped(config: &Config) -> Vec<Finding> {
    let mut findings = machine(config);
    findings.push(key(&config.repository));
    findings.push(free_port("HTTP port", config.api.listen));
    findings.push(free_port("NBD port", config.nbd.listen));
    findings.push(free_port("NFS port", config.nfs.listen));
    for portal in &config.iscsi.listen {
        findings.push(free_port("iSCSI port", *portal));
    }
    findings.extend(smb::stopped(&config.smb));
    findings.push(rpcbind(config, config.nfs.listen));
    findings
}

fn machine(config: &Config) -> Vec<Finding> {
    vec![
        repository(&config.repository.path),
        state(config),
        space(&config.repository.path),
        direct_io(&config.repository.path),
        clock(),
        descriptors(config),
        program(
            "qemu-nbd",
            "--version",
            "back up qcow2, VMDK, VHD and VHDX",
            "install the package qemu-utils",
        ),
        program(
            "qemu-img",
            "--version",
            "restore to formats other than raw",
            "install the package qemu-utils",
        ),
        program(
            "qemu-system-x86_64",
            "--version",
            "run `holdfast demo --boot`",
            "install the package qemu-system-x86",
        ),
        kernel_target(),
        guest_worker(config),
        small_machine(config),
        Finding::good(
            "index",
            "RocksDB, linked from the system's library; it is rebuilt from the packs if it is lost",
        ),
    ]
}

fn repository(path: &Path) -> Finding {
    let check = "repository";
    if path.join(SUPERBLOCK).is_file() {
        return Finding::good(check, format!("{} is a repository", path.display()));
    }
    Finding::problem(
        check,
        format!("{} is no repository", path.display()),
        format!("run `holdfast init {}`", path.display()),
    )
}

/// How well the process is confined that reads guests' filesystems.
fn guest_worker(config: &Config) -> Finding {
    let check = "guests' filesystems";
    let missing = Worker::start(Vec::new(), config.files.worker());
    match missing.and_then(|worker| worker.missing()) {
        Ok(missing) if missing.is_empty() => Finding::good(
            check,
            "read by a process of its own, with every layer of confinement",
        ),
        Ok(missing) => Finding::warning(
            check,
            format!("read by a process of its own, without these layers of confinement: {missing}"),
            "let this user make user namespaces (a container's own list of system calls may refuse them), and run a kernel with Landlock; limits and the list of system calls hold in any case",
        ),
        Err(refusal) => Finding::problem(
            check,
            refusal.to_string(),
            "`holdfast files` and `holdfast mount` need it; /proc has to be mounted",
        ),
    }
}

/// What reads guests' filesystems for which there is no reader.
fn small_machine(config: &Config) -> Finding {
    let check = "other guests' filesystems";
    if !config.files.machine {
        return Finding::good(
            check,
            "not read: the small machine is off ([files] machine)",
        );
    }
    match Found::look() {
        Ok(found) if found.has_kvm() => Finding::good(
            check,
            format!(
                "F2FS, JFS, UDF and others are read by a small machine with {}",
                found.kernel().display()
            ),
        ),
        Ok(found) => Finding::good(
            check,
            format!(
                "F2FS, JFS, UDF and others are read by a small machine with {}; without KVM it is emulated and takes some seconds to start (a processor that can, and this user in the group kvm)",
                found.kernel().display()
            ),
        ),
        Err(missing) => Finding::warning(
            check,
            format!("F2FS, JFS, UDF and others are not read: {missing}"),
            "install the packages qemu-system-x86 and linux-image-amd64, or set `machine = false` under [files]",
        ),
    }
}

/// The state folder has names, and files of hypervisors, in clear.
fn state(config: &Config) -> Finding {
    let check = "state folder";
    let path = config.state_path();
    let inside = path.starts_with(&config.repository.path);
    if inside && Repository::is_encrypted_at(&config.repository.path).unwrap_or(false) {
        return Finding::warning(
            check,
            "it is not encrypted, and lies in the encrypted repository's folder",
            "set `path` under [state] to a folder on an encrypted file system; see docs/operations/keys.md",
        );
    }
    Finding::good(check, path.display().to_string())
}

fn key(config: &RepositoryConfig) -> Finding {
    let check = "key";
    let encrypted = Repository::is_encrypted_at(&config.path).unwrap_or(false);
    match (encrypted, KeySource::configured(config)) {
        (false, Ok(None)) => Finding::good(check, "the repository is not encrypted"),
        (true, Ok(Some(source))) => match source.read() {
            Ok(_) => Finding::good(check, format!("it is found: {}", source.describe())),
            Err(error) => Finding::problem(
                check,
                chain(&error),
                "mend that place, or name another; see docs/operations/keys.md",
            ),
        },
        (true, Ok(None)) => Finding::problem(
            check,
            "the repository is encrypted, and no key is configured",
            "give --passphrase-file, --key-file or --key-command, or the same in the configuration",
        ),
        (false, Ok(Some(source))) => Finding::problem(
            check,
            format!(
                "the repository is not encrypted, but a key is given: {}",
                source.describe()
            ),
            "leave it out, or check that this is the right repository",
        ),
        (_, Err(error)) => Finding::problem(check, error.to_string(), "keep one of them"),
    }
}

fn space(path: &Path) -> Finding {
    let check = "space";
    let found = match rustix::fs::statvfs(path) {
        Ok(found) => found,
        Err(error) => {
            return Finding::problem(
                check,
                error.to_string(),
                "check that the folder is there and can be read",
            );
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let total = found.f_blocks.saturating_mul(found.f_frsize).max(1);
    let text = format!("{} of {} are free", ByteSize(free), ByteSize(total));
    let percent = free.saturating_mul(100) / total;
    match (percent, free) {
        (_, free) if free < 1 << 30 => Finding::problem(
            check,
            text,
            "free space or expire restore points: backups fail when the storage is full",
        ),
        (percent, _) if percent < 10 => {
            Finding::warning(check, text, "free space or expire restore points soon")
        }
        _ => Finding::good(check, text),
    }
}

fn direct_io(path: &Path) -> Finding {
    let check = "direct I/O";
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    match std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flag)
        .open(path.join(SUPERBLOCK))
    {
        Ok(_) => Finding::good(check, "the file system takes O_DIRECT"),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            Finding::warning(
                check,
                "the file system does not take O_DIRECT",
                "put the repository on ext4 or XFS: backups then run faster and leave the page cache alone",
            )
        }
        Err(error) => Finding::warning(
            check,
            format!("not known: {error}"),
            "check that the repository can be read",
        ),
    }
}

fn clock() -> Finding {
    use repo::clock::{Clock as _, SystemClock};
    let now = SystemClock.now();
    if now.0 < BUILT_AFTER {
        let mend = "set the clock, and keep it right with chrony or systemd-timesyncd: points are named and kept by it";
        return Finding::problem("clock", format!("it shows {now}, which is past"), mend);
    }
    Finding::good("clock", format!("it shows {now}"))
}

fn descriptors(config: &Config) -> Finding {
    let check = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    let wanted = (config.nbd.connections
        + config.nfs.connections
        + config.iscsi.connections
        + config.api.connections) as u64
        + 1024;
    let text = format!("{limit} are allowed, up to {wanted} may be needed");
    if limit >= wanted {
        return Finding::good(check, text);
    }
    Finding::warning(
        check,
        text,
        "raise the limit (LimitNOFILE= in the unit, or `ulimit -n`), or lower the limits of connections",
    )
}

fn program(name: &str, argument: &str, purpose: &str, mend: &str) -> Finding {
    match Command::new(name).arg(argument).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Finding::good(
                name,
                text.lines().next().unwrap_or("it is there").to_owned(),
            )
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::warning(
            name,
            format!("it is missing; it is needed to {purpose}"),
            mend,
        ),
        Err(error) => Finding::warning(name, error.to_string(), mend),
    }
}

/// Whether sessions can be served through the kernel's target. Who does not want that needs none of it.
fn kernel_target() -> Finding {
    let check = "kernel target";
    match tcmu::Kernel::system().check() {
        Ok(()) => Finding::good(
            check,
            "`recover start --protocol tcmu` can be used, for Fibre Channel, iSER, SRP and vhost",
        ),
        Err(error) => Finding::good(
            check,
            format!("for Fibre Channel, iSER, SRP or vhost only: {error}"),
        ),
    }
}

fn connects(check: &str, address: SocketAddr) -> Finding {
    let mut target = address;
    if target.ip().is_unspecified() {
        target.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    match TcpStream::connect_timeout(&target, Duration::from_secs(2)) {
        Ok(_) => Finding::good(check, format!("{address} answers")),
        Err(error) => Finding::problem(
            check,
            format!("{address} does not answer: {error}"),
            "look at the daemon's log",
        ),
    }
}

fn free_port(check: &str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::good(check, format!("{address} is free")),
        Err(error) => {
            let error = crate::StartError::listen(check, address, &error);
            Finding::problem(
                check,
                error.to_string(),
                "see there, or stop the daemon that runs already",
            )
        }
    }
}

fn rpcbind(config: &Config, nfs: SocketAddr) -> Finding {
    let check = "portmapper";
    let running = Path::new("/run/rpcbind.sock").exists();
    match config.nfs.portmapper {
        Portmapper::Off => Finding::warning(
            check,
            format!(
                "off, and NFS is on port {}; Linux can be told the port, ESXi and QEMU's own NFS driver cannot",
                nfs.port()
            ),
            "if you want these, set port 2049 and a portmapper on port 111 under [nfs] (docs/operations/recovery.md)",
        ),
        Portmapper::Register if running => Finding::good(check, "registered with rpcbind"),
        Portmapper::Register => Finding::problem(
            check,
            "rpcbind does not run",
            "install and start the package rpcbind",
        ),
        Portmapper::Listen(address) if address.port() != PORTMAPPER_PORT => Finding::warning(
            check,
            format!("our own on {address}, where no client looks"),
            "ESXi and QEMU's own NFS driver ask on port 111: set that under [nfs]",
        ),
        Portmapper::Listen(address) => Finding::good(check, format!("our own on {address}")),
    }
}

fn overlays(core: &Core) -> Finding {
    let check = "overlays";
    let known: Vec<_> = core
        .sessions
        .list()
        .iter()
        .flat_map(|record| record.disks.clone())
        .filter_map(|disk| disk.overlay)
        .collect();
    match core.repository.overlays() {
        Ok(all) => {
            let lost: Vec<_> = all
                .iter()
                .filter(|overlay| !known.contains(&overlay.id))
                .map(|overlay| overlay.id.to_string())
                .collect();
            if lost.is_empty() {
                return Finding::good(check, format!("{}, each in a recovery session", all.len()));
            }
            let mend = "bring their session folders back into the state folder's `sessions`, or remove the overlays' folders with the daemon stopped";
            Finding::warning(
                check,
                format!("these belong to no session: {}", lost.join(", ")),
                mend,
            )
        }
        Err(error) => Finding::problem(check, error.to_string(), "look at the daemon's log"),
    }
}

fn trusted_time(core: &Core) -> Finding {
    let check = "trusted time";
    let state = core.repository.clock_state();
    if state.is_suspicious() {
        return Finding::warning(
            check,
            format!(
                "it is {}, and the machine's clock shows {}",
                state.trusted, state.machine
            ),
            "if the clock is wrong, set it; if the machine was off, nothing: locks and retention are late until the trusted time has caught up",
        );
    }
    Finding::good(check, format!("{}, as the clock shows", state.trusted))
}

fn locks(core: &Core) -> Finding {
    let check = "locks";
    let points = core.repository.points(None);
    let locked = points
        .iter()
        .filter(|point| !core.repository.marks(&point.name).locks.is_empty())
        .count();
    let text = format!("{locked} restore points are locked");
    let (held, mend) = match core.repository.protection() {
        Ok(Protection::Done) => {
            return Finding::good(
                check,
                format!("{text}; the file system can hold files, too"),
            );
        }
        Ok(Protection::Unsupported) => (
            "the file system cannot hold files",
            "put the repository on ext4, XFS or btrfs, if locks are to hold against whoever may write to its folder",
        ),
        Ok(Protection::NotPermitted) => (
            "the daemon may not let the file system hold files",
            "run it as root, or give it the capability CAP_LINUX_IMMUTABLE",
        ),
        Err(error) => {
            return Finding::warning(
                check,
                format!("{text}; {error}"),
                "look at the daemon's log",
            );
        }
    };
    if locked == 0 {
        return Finding::good(check, format!("{text}; {held}"));
    }
    Finding::warning(
        check,
        format!("{text}; {held}: the repository alone refuses to drop them"),
        mend,
    )
}

/// Where the running daemon's findings come from instead, if one runs on this state folder.
pub fn running(state_path: &Path) -> Option<Addresses> {
    let addresses = Addresses::load(state_path).ok()??;
    std::os::unix::net::UnixStream::connect(&addresses.control_socket)
        .is_ok()
        .then_some(addresses)
}

/// What every repository has.
const SUPERBLOCK: &str = "superblock";
/// 2026-01-01: no clock of a machine that runs this can show less.
const BUILT_AFTER: u64 = 1_767_225_600_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portmapper_that_nobody_finds_is_not_praised() {
        let mut config = Config::default();
        for (portmapper, level) in [
            ("off", Level::Warning),
            ("127.0.0.1:1111", Level::Warning),
            ("127.0.0.1:111", Level::Good),
        ] {
            config.nfs.portmapper = portmapper.parse().unwrap();
            let finding = rpcbind(&config, config.nfs.listen);
            assert_eq!(finding.level, level, "{portmapper}: {finding:?}");
            assert_eq!(finding.mend.contains("[nfs]"), level == Level::Warning);
        }
    }

    #[test]
    fn a_machine_without_repository_is_told_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::for_repository(folder.path()).with_any_ports();
        config.nbd.listen = taken.local_addr().unwrap();
        let findings = examine_stopped(&config);
        let find = |check: &str| {
            findings
                .iter()
                .find(|finding| finding.check == check)
                .unwrap()
        };
        assert_eq!(find("repository").level, Level::Problem);
        assert!(find("repository").mend.starts_with("run `holdfast init"));
        assert_eq!(find("NBD port").level, Level::Problem);
        assert_eq!(find("HTTP port").level, Level::Good);
        assert!(
            findings
                .iter()
                .all(|finding| (finding.level == Level::Good) == finding.mend.is_empty())
        );
    }
}
