//! libiscsi's test suite against a recovery session: an overlay over a restore point, through the whole daemon.

use support::{Daemon, Told, need, scratch, sparse_disk};
use tempfile::TempDir;

/// A session over a disk of 64 MiB that is all zeroes, and its URLs, one for each portal.
struct Session {
    urls: Vec<String>,
    daemon: Daemon,
    _folder: TempDir,
}

impl Session {
    /// With `lines` in the table `[iscsi]`. `None` without the suite.
    fn start(lines: &str) -> Option<Self> {
        need("iscsi-test-cu")?;
        let folder = scratch();
        let daemon = Daemon::start_with_two_portals(folder.path(), lines);
        let disk = folder.path().join("disk.raw");
        sparse_disk(&disk, 64 << 20, 0, 0);
        daemon.back_up("suite", &disk);
        let view = daemon.cli([
            "recover",
            "start",
            "suite@1",
            "--protocol",
            "iscsi",
            "--name",
            "lab",
        ]);
        let urls = view
            .pointer("/disks/0/urls/iscsi")
            .unwrap()
            .as_array()
            .unwrap();
        let urls: Vec<String> = urls
            .iter()
            .map(|url| url.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(urls.len(), 2);
        Some(Self {
            urls,
            daemon,
            _folder: folder,
        })
    }

    fn end(self) {
        self.daemon.cli(["recover", "discard", "lab"]);
    }
}

fn family(name: &str, lines: &str, may_fail: &[&str]) {
    let Some(session) = Session::start(lines) else {
        return;
    };
    Told::of(name, &session.urls[..1]).check(may_fail);
    session.end();
}

#[test]
fn an_overlay_passes_the_family_iscsi() {
    family("iSCSI", "", &[]);
}

#[test]
fn an_overlay_passes_the_family_scsi_in_blocks_of_512() {
    family("SCSI", "physical_block_bytes = 512", &[]);
}

#[test]
fn an_overlay_passes_the_family_linux() {
    family("LINUX", "physical_block_bytes = 512", &[]);
}

/// Of physical blocks of 4096 one test has another idea than the standard.
#[test]
fn an_overlay_passes_the_family_linux_with_long_physical_blocks() {
    family("LINUX", "", &["LINUX.GetLBAStatus.UnmapSingle"]);
}

/// The suite sends 512 bytes for a block, whatever its size.
#[test]
fn an_overlay_passes_the_family_scsi_in_blocks_of_4096() {
    let may_fail = [
        "AccessEA",
        "AccessWE",
        "AccessEARO",
        "AccessWERO",
        "AccessEAAR",
        "AccessWEAR",
    ]
    .map(|name| format!("SCSI.ProutReserve.{name}"));
    let may_fail: Vec<&str> = may_fail.iter().map(String::as_str).collect();
    family("SCSI", "block_bytes = 4096", &may_fail);
}

#[test]
fn an_overlay_passes_the_tests_with_two_paths() {
    let Some(session) = Session::start("physical_block_bytes = 512") else {
        return;
    };
    Told::with_two_paths(&session.urls).check(&[]);
    session.end();
}
