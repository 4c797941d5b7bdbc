//! What to type so that a fabric of the kernel's target shows a session's disks.
//!
//! targetcli makes targets of all fabrics. It makes LUNs only for backstores whose handler is on the system bus, so that
//! step is done where targetcli does it too, in configfs; afterwards it shows and saves them like its own.

use std::path::Path;

use super::addresses::AttachCommand;
use super::record::SessionRecord;

/// Commands for every fabric. `disks` are numbers and the paths of backstores.
pub(super) fn commands(
    record: &SessionRecord,
    target: &str,
    disks: &[(usize, String)],
) -> Vec<AttachCommand> {
    // Of a company identifier that Linux uses for this, and the session's number.
    let name = format!("naa.5001405{:09x}", record.number & 0xf_ffff_ffff);
    let command = |what: &str, before: String, group: String, after: String| AttachCommand {
        system: "lio".to_owned(),
        what: what.to_owned(),
        command: format!("{before}; {}{after}", luns(&group, disks)),
    };
    vec![
        command(
            "all disks as SCSI disks of the daemon's machine",
            format!("modprobe tcm_loop; targetcli /loopback create {name}"),
            format!("loopback/{name}/tpgt_1"),
            String::new(),
        ),
        command(
            "all disks over Fibre Channel; PORT is the adapter's WWPN as 21:00:00:24:ff:00:00:01, HOST the initiator's, and both without colons after naa.",
            "targetcli /qla2xxx create naa.PORT".to_owned(),
            "qla2xxx/PORT/tpgt_1".to_owned(),
            "; targetcli /qla2xxx/naa.PORT/acls create naa.HOST".to_owned(),
        ),
        command(
            "all disks over SRP; PORT is the adapter's GID",
            "targetcli /srpt create ib.PORT".to_owned(),
            "srpt/0xPORT/tpgt_1".to_owned(),
            "; targetcli /srpt/ib.PORT/acls create ib.HOST".to_owned(),
        ),
        command(
            "all disks over the kernel's iSCSI; for iSER, enable_iser on the portal",
            format!("targetcli /iscsi create {target}.lio"),
            format!("iscsi/{target}.lio/tpgt_1"),
            format!("; targetcli /iscsi/{target}.lio/tpg1/acls create HOST"),
        ),
        command(
            "all disks in a guest of this machine; QEMU takes -device vhost-scsi-pci,wwpn=",
            format!("targetcli /vhost create {name}"),
            format!("vhost/{name}/tpgt_1"),
            String::new(),
        ),
    ]
}

/// A LUN for each disk in the target port group at `group`.
fn luns(group: &str, disks: &[(usize, String)]) -> String {
    let lines = disks.iter().map(|(number, path)| {
        let lun = Path::new(CONFIGFS)
            .join(group)
            .join(format!("lun/lun_{number}"));
        let lun = lun.display();
        format!("mkdir {lun} && ln -s {path} {lun}/holdfast")
    });
    lines.collect::<Vec<_>>().join("; ")
}

const CONFIGFS: &str = "/sys/kernel/config/target";

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn every_disk_is_a_lun_of_its_number_in_each_fabric() {
        let disks = [
            (0, "/core/a-disk-0".to_owned()),
            (3, "/core/a-disk-3".to_owned()),
        ];
        let commands = commands(&record(), "iqn.2026-01.holdfast:a", &disks);
        assert_eq!(commands.len(), 5);
        for AttachCommand { command, .. } in &commands {
            assert!(
                command.contains("/tpgt_1/lun/lun_0 && ln -s /core/a-disk-0 "),
                "{command}"
            );
            assert!(command.contains("/tpgt_1/lun/lun_3/holdfast"), "{command}");
        }
        assert!(
            commands[0]
                .command
                .contains("/loopback create naa.5001405000000002;")
        );
    }
}
