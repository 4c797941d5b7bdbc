//! Sessions through the kernel's target, as far as that goes without one.

use crate::support::{Daemon, content};

#[test]
fn a_machine_without_the_kernels_target_is_told_what_to_do() {
    if tcmu::Kernel::system().check().is_ok() {
        // tests/it has the whole way, in a guest.
        return;
    }
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(3));
    let refused = daemon.cli(&["recover", "start", "web01@1", "--protocol", "tcmu"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    let says_what_to_do = ["modprobe target_core_user", "mount -t configfs", "as root"];
    assert!(
        says_what_to_do.iter().any(|words| told.contains(words)),
        "{told}"
    );
    let sessions = daemon.json(&["recover", "list"]);
    assert_eq!(sessions.as_array().map(Vec::len), Some(0), "{sessions}");
    let usual = daemon.json(&["recover", "start", "web01@1"]);
    assert_eq!(
        usual["protocols"],
        serde_json::json!(["nbd", "nfs", "iscsi"])
    );
    assert!(usual["disks"][0]["urls"]["tcmu"].is_null());
    let doctor = daemon.cli(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(found.contains("kernel target"), "{found}");
}
