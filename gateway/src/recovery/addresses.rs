//! How to reach a session: URLs, and commands that attach its disks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::NbdTls;
use crate::exports::DiskFormat;
use crate::state::Addresses;

use super::fabrics;
use super::record::{Protocol, SessionMode, SessionRecord, SessionState};
use super::targets::target_name;

/// A session as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// The session's name.
    pub session: String,
    /// The restore point, `WORKLOAD@SEQUENCE`.
    pub point: String,
    /// Whether it can be written.
    pub mode: SessionMode,
    /// What is going on.
    pub state: SessionState,
    /// When it was started, RFC 3339.
    pub created: String,
    /// How it is served.
    pub protocols: Vec<Protocol>,
    /// Who may come.
    pub allow: Vec<String>,
    /// Its disks.
    pub disks: Vec<DiskView>,
    /// The folder of all its disks over NFS.
    pub folder_url: Option<String>,
    /// The name of its iSCSI target.
    #[serde(default)]
    pub target: Option<String>,
    /// How to attach it.
    pub attach: Vec<AttachCommand>,
}

/// A disk of a session as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DiskView {
    /// Its number.
    pub disk: usize,
    /// Its name in the restore point.
    pub name: String,
    /// Capacity.
    pub size_bytes: u64,
    /// Where it is served; empty unless the session is active.
    pub urls: Urls,
    /// Where it is served as a file of another format than raw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<FormatView>,
}

/// A disk as a file of some format. It is the same disk: what is written to it is written to all.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FormatView {
    /// The format.
    pub format: DiskFormat,
    /// Over NFS version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<String>,
    /// The file's bytes over NBD and TCP without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd: Option<String>,
    /// The file's bytes over NBD through the unix socket on the daemon's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_unix: Option<String>,
}

/// Addresses of one disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Urls {
    /// NBD over TCP without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbd: Option<String>,
    /// NBD over TCP and TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbds: Option<String>,
    /// NBD over the unix socket on the daemon's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbd_unix: Option<String>,
    /// NFS version 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs: Option<String>,
    /// iSCSI, through each portal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iscsi: Vec<String>,
    /// The folder of its backstore in the kernel's target; the last part is the backstore's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcmu: Option<String>,
}

/// A command for one kind of machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AttachCommand {
    /// Which machine: `linux`, `libvirt`, `esxi` or `windows`; `lio` is the daemon's own, for fabrics of its kernel.
    pub system: String,
    /// What it does.
    pub what: String,
    /// The command, or what goes into a document.
    pub command: String,
}

impl SessionView {
    /// The view of `record` on a daemon that listens at `addresses`, and whose kernel has `backstores` of its disks.
    pub fn new(
        record: &SessionRecord,
        addresses: &Addresses,
        backstores: &[(usize, PathBuf)],
    ) -> Self {
        let served = record.state == SessionState::Active;
        let nbd = served && record.protocols.contains(&Protocol::Nbd);
        let nfs = served && record.protocols.contains(&Protocol::Nfs);
        let target = (served && record.protocols.contains(&Protocol::Iscsi))
            .then(|| target_name(&addresses.iscsi_name, record))
            .filter(|_| !addresses.iscsi.is_empty());
        let nfs_address = reachable(addresses.nfs);
        let disks: Vec<DiskView> = record
            .disks
            .iter()
            .map(|disk| {
                let mut urls = Urls::default();
                if nbd {
                    urls.add_nbd(record, disk.number, addresses);
                }
                let folder = nfs.then(|| nfs_url(nfs_address, &record.name));
                if let Some(folder) = &folder
                    && record.formats.contains(&DiskFormat::Raw)
                {
                    let name = DiskFormat::Raw.file_name(disk.number);
                    urls.nfs = Some(format!("{folder}/{name}"));
                }
                let others = record.formats.iter().filter(|format| !format.is_raw());
                let formats = others
                    .filter(|_| served)
                    .map(|format| {
                        let nbd = nbd.then_some(addresses);
                        FormatView::new(record, (disk.number, *format), folder.as_deref(), nbd)
                    })
                    .collect();
                if let Some(target) = &target {
                    urls.iscsi = iscsi_urls(target, disk.number, &addresses.iscsi);
                }
                let backstore = backstores.iter().find(|(number, _)| *number == disk.number);
                urls.tcmu = backstore.map(|(_, path)| path.display().to_string());
                DiskView {
                    disk: disk.number,
                    name: disk.name.clone(),
                    size_bytes: disk.size_bytes,
                    urls,
                    formats,
                }
            })
            .collect();
        let mut attach = Vec::new();
        for disk in disks.iter().filter(|_| nbd) {
            attach.extend(nbd_commands(record, disk, addresses));
        }
        if nfs {
            attach.extend(nfs_commands(record, nfs_address));
        }
        if let Some(target) = &target {
            attach.extend(iscsi_commands(target, record, &disks, &addresses.iscsi));
        }
        if !backstores.is_empty() {
            attach.extend(lio_commands(record, &disks, addresses));
        }
        Self {
            session: record.name.clone(),
            point: record.point.clone(),
            mode: record.mode,
            state: record.state,
            created: repo::clock::UnixNanoseconds(record.created).to_string(),
            protocols: record.protocols.clone(),
            allow: record.allow.texts(),
            disks,
            target,
            folder_url: nfs.then(|| nfs_url(nfs_address, &record.name)),
            attach,
        }
    }
}

impl Urls {
    fn add_nbd(&mut self, record: &SessionRecord, disk: usize, addresses: &Addresses) {
        let place = format!("{}/{}/disk-{disk}", reachable(addresses.nbd), record.name);
        let (plain, tls) = match addresses.nbd_tls {
            NbdTls::Off => (true, false),
            NbdTls::Allow => (true, true),
            NbdTls::Require => (false, true),
        };
        self.nbd = plain.then(|| format!("nbd://{place}"));
        self.nbds = tls.then(|| format!("nbds://{place}"));
        let export = format!("disk-{disk}");
        self.nbd_unix = Some(unix_url(&addresses.nbd_socket, &record.name, &export));
    }
}

impl FormatView {
    /// Where a disk is served in a format: in the `folder` over NFS, and over NBD if there are addresses.
    fn new(
        record: &SessionRecord,
        (disk, format): (usize, DiskFormat),
        folder: Option<&str>,
        nbd: Option<&Addresses>,
    ) -> Self {
        let name = format.file_name(disk);
        // Two files are no disk.
        let nbd = nbd.filter(|_| format != DiskFormat::Vmdk);
        let plain = nbd.filter(|addresses| addresses.nbd_tls != NbdTls::Require);
        Self {
            format,
            nfs: folder.map(|folder| format!("{folder}/{name}")),
            nbd: plain.map(|addresses| {
                format!("nbd://{}/{}/{name}", reachable(addresses.nbd), record.name)
            }),
            nbd_unix: nbd.map(|addresses| unix_url(&addresses.nbd_socket, &record.name, &name)),
        }
    }
}

fn nbd_commands(
    record: &SessionRecord,
    disk: &DiskView,
    addresses: &Addresses,
) -> Vec<AttachCommand> {
    let address = reachable(addresses.nbd);
    let (option, attribute) = match addresses.nbd_tls {
        NbdTls::Require => (" -enable-tls -cacertfile ca-cert.pem", " tls='yes'"),
        NbdTls::Off | NbdTls::Allow => ("", ""),
    };
    let export = format!("{}/disk-{}", record.name, disk.disk);
    let read_only = if record.mode == SessionMode::ReadOnly {
        " -readonly"
    } else {
        ""
    };
    let xml_read_only = if record.mode == SessionMode::ReadOnly {
        "<readonly/>"
    } else {
        ""
    };
    let (host, port) = (address.ip(), address.port());
    vec![
        AttachCommand {
            system: "linux".to_owned(),
            what: format!("disk {} as a block device over NBD", disk.disk),
            command: format!(
                "nbd-client {host} {port} /dev/nbd{} -N {export}{read_only}{option} -persist",
                disk.disk
            ),
        },
        AttachCommand {
            system: "libvirt".to_owned(),
            what: format!("disk {} in the domain's devices", disk.disk),
            command: format!(
                "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' \
                 name='{export}'{attribute}><host name='{host}' port='{port}'/></source><target dev='vd{}' bus='virtio'/>\
                 {xml_read_only}</disk>",
                letter(disk.disk)
            ),
        },
    ]
}

fn iscsi_urls(target: &str, disk: usize, portals: &[SocketAddr]) -> Vec<String> {
    portals
        .iter()
        .map(|portal| format!("iscsi://{}/{target}/{disk}", reachable(*portal)))
        .collect()
}

fn iscsi_commands(
    target: &str,
    record: &SessionRecord,
    disks: &[DiskView],
    portals: &[SocketAddr],
) -> Vec<AttachCommand> {
    let Some(first) = portals.first() else {
        return Vec::new();
    };
    let portal = reachable(*first);
    let (host, port) = (portal.ip(), portal.port());
    let command = |system: &str, what: String, command: String| AttachCommand {
        system: system.to_owned(),
        what,
        command,
    };
    let mut commands = vec![
        command(
            "linux",
            "all disks as SCSI disks over iSCSI".to_owned(),
            format!(
                "iscsiadm -m discovery -t sendtargets -p {portal} && iscsiadm -m node -T {target} --login"
            ),
        ),
        command(
            "windows",
            "all disks over iSCSI, in PowerShell".to_owned(),
            format!(
                "New-IscsiTargetPortal -TargetPortalAddress {host} -TargetPortalPortNumber {port}; \
                 Connect-IscsiTarget -NodeAddress {target} -TargetPortalAddress {host} -TargetPortalPortNumber {port}"
            ),
        ),
        command(
            "esxi",
            "all disks over iSCSI; HBA is the software adapter, see esxcli iscsi adapter list"
                .to_owned(),
            format!(
                "esxcli iscsi adapter discovery sendtarget add --adapter=HBA --address={portal} && \
                 esxcli storage core adapter rescan --adapter=HBA"
            ),
        ),
    ];
    let read_only = match record.mode {
        SessionMode::ReadOnly => "<readonly/>",
        SessionMode::ReadWrite => "",
    };
    commands.extend(disks.iter().map(|disk| {
        command(
            "libvirt",
            format!("disk {} in the domain's devices, over iSCSI", disk.disk),
            format!(
                "<disk type='network' device='disk'><driver name='qemu' type='raw' discard='unmap'/><source protocol='iscsi' \
                 name='{target}/{}'><host name='{host}' port='{port}'/></source><target dev='sd{}' bus='scsi'/>\
                 {read_only}</disk>",
                disk.disk,
                letter(disk.disk)
            ),
        )
    }));
    commands
}

fn lio_commands(
    record: &SessionRecord,
    disks: &[DiskView],
    addresses: &Addresses,
) -> Vec<AttachCommand> {
    let paths = disks
        .iter()
        .filter_map(|disk| Some((disk.disk, disk.urls.tcmu.clone()?)));
    let target = target_name(&addresses.iscsi_name, record);
    fabrics::commands(record, &target, &paths.collect::<Vec<_>>())
}

fn nfs_commands(record: &SessionRecord, address: SocketAddr) -> Vec<AttachCommand> {
    let (host, port, name) = (address.ip(), address.port(), &record.name);
    let read_only = record.mode == SessionMode::ReadOnly;
    let option = if read_only { ",ro" } else { "" };
    let mut commands = vec![AttachCommand {
        system: "linux".to_owned(),
        what: "all disks as files over NFS".to_owned(),
        command: format!(
            "mount -t nfs -o vers=3,tcp,nolock,hard,port={port},mountport={port}{option} {host}:/{name} /mnt"
        ),
    }];
    let esxi = if port == 2049 {
        let flag = if read_only { " --readonly" } else { "" };
        format!("esxcli storage nfs add --host {host} --share /{name} --volume-name {name}{flag}")
    } else {
        format!(
            "ESXi can only reach NFS on port 2049 with a portmapper: set [nfs] listen and portmapper (now port {port})"
        )
    };
    commands.push(AttachCommand {
        system: "esxi".to_owned(),
        what: "the session as a datastore".to_owned(),
        command: esxi,
    });
    commands
}

/// Clients that cannot be told a port, such as QEMU's, do not want to read the usual one either.
fn nfs_url(address: SocketAddr, session: &str) -> String {
    match address {
        SocketAddr::V4(address) if address.port() == 2049 => {
            format!("nfs://{}/{session}", address.ip())
        }
        SocketAddr::V6(address) if address.port() == 2049 => {
            format!("nfs://[{}]/{session}", address.ip())
        }
        address => format!("nfs://{address}/{session}"),
    }
}

fn unix_url(socket: &Path, session: &str, export: &str) -> String {
    nbd::BoundAddress::Unix(socket.to_owned()).uri(&format!("{session}/{export}"))
}

/// An address that a client can use: a listener on all addresses is told as loopback, where it listens too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn letter(disk: usize) -> char {
    u8::try_from(disk)
        .ok()
        .filter(|&disk| disk < 26)
        .map_or('a', |disk| char::from(b'a' + disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_session_has_urls_and_a_stopped_one_has_none() {
        let mut record = super::super::record::tests::record();
        let mut addresses = Addresses {
            api: "127.0.0.1:8700".parse().unwrap(),
            nbd: "0.0.0.0:10809".parse().unwrap(),
            nbd_tls: NbdTls::Off,
            nbd_socket: "/run/a b/nbd.sock".into(),
            nfs: "127.0.0.1:2049".parse().unwrap(),
            portmapper: None,
            iscsi: vec![
                "0.0.0.0:3260".parse().unwrap(),
                "[::1]:3261".parse().unwrap(),
            ],
            iscsi_name: "iqn.2026-01.holdfast".to_owned(),
            control_socket: "/run/control.sock".into(),
            fingerprint: String::new(),
            process: 1,
        };
        let view = SessionView::new(&record, &addresses, &[]);
        let urls = &view.disks[0].urls;
        assert_eq!(
            urls.nbd.as_deref(),
            Some("nbd://127.0.0.1:10809/web01-3/disk-0")
        );
        assert_eq!(
            urls.nfs.as_deref(),
            Some("nfs://127.0.0.1/web01-3/disk-0.raw")
        );
        assert_eq!(
            urls.iscsi,
            [
                "iscsi://127.0.0.1:3260/iqn.2026-01.holdfast:web01-3/0",
                "iscsi://[::1]:3261/iqn.2026-01.holdfast:web01-3/0",
            ]
        );
        let unix = urls.nbd_unix.as_deref().unwrap();
        assert!(
            unix.starts_with("nbd+unix:///web01-3/disk-0?socket=") && !unix.contains(' '),
            "{unix}"
        );
        assert_eq!(view.created, "1970-01-01T00:00:00Z");
        assert!(urls.nbds.is_none());
        addresses.nbd_tls = NbdTls::Allow;
        let urls = SessionView::new(&record, &addresses, &[]).disks[0]
            .urls
            .clone();
        assert!(urls.nbd.is_some());
        assert_eq!(
            urls.nbds.as_deref(),
            Some("nbds://127.0.0.1:10809/web01-3/disk-0")
        );
        addresses.nbd_tls = NbdTls::Require;
        let view = SessionView::new(&record, &addresses, &[]);
        let urls = &view.disks[0].urls;
        assert!(urls.nbd.is_none() && urls.nbds.is_some() && urls.nbd_unix.is_some());
        assert!(view.attach[0].command.contains(" -enable-tls "));
        assert!(view.attach[1].command.contains(" tls='yes'>"));
        record.state = SessionState::Stopped;
        let view = SessionView::new(&record, &addresses, &[]);
        assert!(
            view.disks[0].urls.nbd.is_none() && view.folder_url.is_none() && view.attach.is_empty()
        );
    }
}
