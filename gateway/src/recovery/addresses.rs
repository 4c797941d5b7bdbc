//! How to reach a session: URLs, and commands that attach its disks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::NbdTls;
use crate::exports::DiskFormat;
use crate::state::Addresses;

use super::fabrics;
use super::record::{DiskRecord, Protocol, SessionMode, SessionRecord, SessionState};
use super::shares::{share_name, user_name};
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
    /// Its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<ShareView>,
    /// How to attach it.
    pub attach: Vec<AttachCommand>,
}

/// A session's SMB share as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ShareView {
    /// As Windows writes it.
    pub path: String,
    /// As others do.
    pub url: String,
    /// Who may use it.
    pub user: String,
    /// The user's password. It is shown when the session is started, and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Whether it shows what lies on the disks, and other points of the workload as earlier versions.
    pub files: bool,
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
    /// Over SMB, as Windows writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smb: Option<String>,
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
    /// SMB, as Windows writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smb: Option<String>,
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
    /// Which machine: `linux`, `qemu`, `libvirt`, `esxi` or `windows`; `lio` is the daemon's own, for fabrics of its kernel.
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
        let smb = served && record.protocols.contains(&Protocol::Smb);
        let smb_address = addresses.smb.filter(|_| smb).map(reachable);
        let places = Places {
            addresses,
            nbd: nbd.then_some(addresses),
            folder: nfs.then(|| nfs_url(nfs_address, &record.name)),
            share: smb_address.map(|address| ShareView::new(record, address)),
            target,
            backstores,
        };
        let disks = record.disks.iter();
        let disks: Vec<DiskView> = disks.map(|disk| places.of_disk(record, disk)).collect();
        let Places {
            folder,
            share,
            target,
            ..
        } = places;
        let mut attach = Vec::new();
        for disk in disks.iter().filter(|_| nbd) {
            attach.extend(nbd_commands(record, disk, addresses));
        }
        if nfs {
            attach.extend(nfs_commands(record, &disks, addresses));
        }
        if let Some(target) = &target {
            attach.extend(iscsi_commands(target, record, &disks, &addresses.iscsi));
        }
        if let (Some(share), Some(address)) = (&share, smb_address) {
            attach.extend(share_commands(record, share, address));
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
            share,
            folder_url: folder,
            attach,
        }
    }
}

/// Where a session is served.
struct Places<'a> {
    addresses: &'a Addresses,
    /// If it is served over NBD.
    nbd: Option<&'a Addresses>,
    /// Over NFS.
    folder: Option<String>,
    share: Option<ShareView>,
    /// Over iSCSI.
    target: Option<String>,
    backstores: &'a [(usize, PathBuf)],
}

impl Places<'_> {
    fn of_disk(&self, record: &SessionRecord, disk: &DiskRecord) -> DiskView {
        let number = disk.number;
        let mut urls = Urls::default();
        if let Some(addresses) = self.nbd {
            urls.add_nbd(record, number, addresses);
        }
        if record.formats.contains(&DiskFormat::Raw) {
            let (folder, share) = (self.folder.as_ref(), self.share.as_ref());
            let name = DiskFormat::Raw.file_name(number);
            urls.nfs = folder.map(|folder| format!("{folder}/{name}"));
            urls.smb = share.map(|share| format!("{}\\{name}", share.path));
        }
        if let Some(target) = &self.target {
            urls.iscsi = iscsi_urls(target, number, &self.addresses.iscsi);
        }
        let mut backstores = self.backstores.iter();
        let backstore = backstores.find(|(backed, _)| *backed == number);
        urls.tcmu = backstore.map(|(_, path)| path.display().to_string());
        let is_served = record.state == SessionState::Active;
        let others = record.formats.iter().filter(|format| !format.is_raw());
        DiskView {
            disk: number,
            name: disk.name.clone(),
            size_bytes: disk.size_bytes,
            urls,
            formats: others
                .filter(|_| is_served)
                .map(|format| {
                    let folders = (self.folder.as_deref(), self.share.as_ref());
                    FormatView::new(record, (number, *format), folders, self.nbd)
                })
                .collect(),
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
    /// Where a disk is served in a format: in the `folder` over NFS, in the `share`, and over NBD if there are addresses.
    fn new(
        record: &SessionRecord,
        (disk, format): (usize, DiskFormat),
        (folder, share): (Option<&str>, Option<&ShareView>),
        nbd: Option<&Addresses>,
    ) -> Self {
        let name = format.file_name(disk);
        // Two files are no disk.
        let nbd = nbd.filter(|_| format != DiskFormat::Vmdk);
        let plain = nbd.filter(|addresses| addresses.nbd_tls != NbdTls::Require);
        Self {
            format,
            nfs: folder.map(|folder| format!("{folder}/{name}")),
            smb: share.map(|share| format!("{}\\{name}", share.path)),
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
    let is_tls = addresses.nbd_tls == NbdTls::Require;
    let (option, attribute) = match is_tls {
        true => (" -enable-tls -cacertfile ca-cert.pem", " tls='yes'"),
        false => ("", ""),
    };
    let (credentials, tls) = match is_tls {
        true => (
            "-object tls-creds-x509,id=tls,endpoint=client,dir=FOLDER ",
            ",tls-creds=tls",
        ),
        false => ("", ""),
    };
    let (flag, element, property) = match record.mode {
        SessionMode::ReadOnly => (" -readonly", "<readonly/>", ",read-only=on"),
        SessionMode::ReadWrite => ("", "", ",discard=unmap"),
    };
    let (number, export) = (disk.disk, format!("{}/disk-{}", record.name, disk.disk));
    let (host, port) = (address.ip(), address.port());
    vec![
        AttachCommand {
            system: "linux".to_owned(),
            what: format!("disk {} as a block device over NBD", disk.disk),
            command: format!(
                "nbd-client {host} {port} /dev/nbd{number} -N {export}{flag}{option} -persist"
            ),
        },
        AttachCommand {
            system: "qemu".to_owned(),
            what: format!("disk {number}; the guest waits for a daemon that restarts"),
            command: format!(
                "{credentials}-blockdev driver=nbd,node-name=disk-{number},server.type=inet,server.host={host},server.port={port},\
                 export={export},reconnect-delay={RECONNECT_SECS}{tls}{property} -device virtio-blk-pci,drive=disk-{number}"
            ),
        },
        AttachCommand {
            system: "libvirt".to_owned(),
            what: format!("disk {} in the domain's devices", disk.disk),
            command: format!(
                "<disk type='network' device='disk'><driver name='qemu' type='raw' discard='unmap'/><source protocol='nbd' \
                 name='{export}'{attribute}><host name='{host}' port='{port}'/><reconnect delay='{RECONNECT_SECS}'/></source>\
                 <target dev='vd{}' bus='virtio'/>{element}</disk>",
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

fn nfs_commands(
    record: &SessionRecord,
    disks: &[DiskView],
    addresses: &Addresses,
) -> Vec<AttachCommand> {
    let address = reachable(addresses.nfs);
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
    let raw = disks.iter().filter(|disk| disk.urls.nfs.is_some());
    commands.extend(raw.map(|disk| AttachCommand {
        system: "qemu".to_owned(),
        what: format!("disk {} over QEMU's own NFS driver", disk.disk),
        command: match addresses.has_portmapper() {
            true => {
                let url = nfs_url(SocketAddr::new(host, NFS_PORT), name);
                let file = DiskFormat::Raw.file_name(disk.disk);
                let option = if read_only { ",readonly=on" } else { "" };
                format!("-drive file={url}/{file},format=raw,if=virtio{option}")
            }
            false => "QEMU's own NFS driver asks a portmapper on port 111: set portmapper under [nfs], or mount the folder".to_owned(),
        },
    }));
    let esxi = if port == NFS_PORT && addresses.has_portmapper() {
        let flag = if read_only { " --readonly" } else { "" };
        format!("esxcli storage nfs add --host {host} --share /{name} --volume-name {name}{flag}")
    } else {
        format!(
            "ESXi can only reach NFS on port 2049 with a portmapper on port 111: set [nfs] listen and portmapper (now port {port}, {})",
            match addresses.has_portmapper() {
                true => "portmapper on",
                false => "portmapper off",
            }
        )
    };
    commands.push(AttachCommand {
        system: "esxi".to_owned(),
        what: "the session as a datastore".to_owned(),
        command: esxi,
    });
    commands
}

impl ShareView {
    fn new(record: &SessionRecord, address: SocketAddr) -> Self {
        let (name, host) = (share_name(record), unc_host(address.ip()));
        let place = match address.port() {
            445 => address.to_string().trim_end_matches(":445").to_owned(),
            _ => address.to_string(),
        };
        Self {
            path: format!("\\\\{host}\\{name}"),
            url: format!("smb://{place}/{name}"),
            user: user_name(record),
            password: None,
            files: record.files,
        }
    }
}

/// Windows has names for addresses of version 6, as a colon cannot stand in a path.
fn unc_host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("{}.ipv6-literal.net", ip.to_string().replace(':', "-")),
    }
}

fn share_commands(
    record: &SessionRecord,
    share: &ShareView,
    address: SocketAddr,
) -> Vec<AttachCommand> {
    let command = |system: &str, what: String, command: String| AttachCommand {
        system: system.to_owned(),
        what,
        command,
    };
    let (host, port) = (address.ip(), address.port());
    let (path, user) = (&share.path, &share.user);
    let option = match port {
        445 => String::new(),
        port => format!(" /tcpport:{port}"),
    };
    let what = match (record.files, option.is_empty()) {
        (true, true) => {
            "the files as a drive; properties of a file or folder show its previous versions"
        }
        (false, true) => "the disks as files in a drive",
        (_, false) => "as a drive; takes Windows 11 24H2 or Server 2025, as the port is not 445",
    };
    let mut commands = vec![command(
        "windows",
        what.to_owned(),
        format!("net use Z: {path} /user:HOLDFAST\\{user} *{option}"),
    )];
    if record.formats.contains(&DiskFormat::Vhdx) {
        commands.extend(record.disks.iter().map(|disk| {
            let file = format!("{path}\\{}", DiskFormat::Vhdx.file_name(disk.number));
            command(
                "windows",
                format!(
                    "disk {} as a copy, for Hyper-V; a machine that is to run without one takes iSCSI",
                    disk.number
                ),
                format!("Copy-Item {file} ."),
            )
        }));
    }
    let read_only = match record.mode {
        SessionMode::ReadOnly => ",ro",
        SessionMode::ReadWrite => "",
    };
    let name = share_name(record);
    commands.push(command(
        "linux",
        "the share as a folder".to_owned(),
        format!(
            "mount -t cifs -o vers=3.1.1,seal,port={port},username={user}{read_only} //{host}/{name} /mnt"
        ),
    ));
    commands
}

/// Clients that cannot be told a port, such as QEMU's, do not want to read the usual one either.
fn nfs_url(address: SocketAddr, session: &str) -> String {
    match address {
        SocketAddr::V4(address) if address.port() == NFS_PORT => {
            format!("nfs://{}/{session}", address.ip())
        }
        SocketAddr::V6(address) if address.port() == NFS_PORT => {
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

/// For how long a client waits for a daemon that restarts.
const RECONNECT_SECS: u32 = 60;
/// The usual port of NFS, and the only one that ESXi takes.
const NFS_PORT: u16 = 2049;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_written_as_each_system_writes_it() {
        let mut record = super::super::record::tests::record();
        record.formats = vec![DiskFormat::Vhdx];
        let at = |address: &str| {
            let address = address.parse().unwrap();
            let share = ShareView::new(&record, address);
            let commands = share_commands(&record, &share, address);
            (share, commands)
        };
        let (share, commands) = at("192.0.2.7:445");
        assert_eq!(share.path, "\\\\192.0.2.7\\web01-3");
        assert_eq!(share.url, "smb://192.0.2.7/web01-3");
        assert_eq!(
            commands[0].command,
            "net use Z: \\\\192.0.2.7\\web01-3 /user:HOLDFAST\\holdfast-2 *"
        );
        assert!(
            commands[1]
                .command
                .ends_with("\\\\192.0.2.7\\web01-3\\disk-0.vhdx .")
        );
        let (share, commands) = at("[fd00::7]:4450");
        assert_eq!(share.path, "\\\\fd00--7.ipv6-literal.net\\web01-3");
        assert_eq!(share.url, "smb://[fd00::7]:4450/web01-3");
        assert!(commands[0].command.ends_with(" /tcpport:4450"));
        assert!(
            commands[2]
                .command
                .contains("port=4450,username=holdfast-2 //fd00::7/web01-3 ")
        );
    }

    fn addresses() -> Addresses {
        Addresses {
            api: "127.0.0.1:8700".parse().unwrap(),
            nbd: "0.0.0.0:10809".parse().unwrap(),
            nbd_tls: NbdTls::Off,
            nbd_socket: "/run/a b/nbd.sock".into(),
            nfs: "127.0.0.1:2049".parse().unwrap(),
            portmapper: None,
            rpcbind: false,
            iscsi: vec![
                "0.0.0.0:3260".parse().unwrap(),
                "[::1]:3261".parse().unwrap(),
            ],
            iscsi_name: "iqn.2026-01.holdfast".to_owned(),
            smb: Some("127.0.0.1:445".parse().unwrap()),
            ingest: None,
            ingest_socket: "/run/ingest.sock".into(),
            control_socket: "/run/control.sock".into(),
            fingerprint: String::new(),
            process: 1,
        }
    }

    /// The commands of a session for one kind of machine.
    fn commands(addresses: &Addresses, system: &str) -> String {
        let record = super::super::record::tests::record();
        let view = SessionView::new(&record, addresses, &[]);
        let commands = view.attach.into_iter();
        let commands = commands.filter(|command| command.system == system);
        commands.map(|command| command.command + "\n").collect()
    }

    #[test]
    fn clients_that_ask_a_portmapper_are_shown_the_way_only_if_there_is_one() {
        let mut addresses = addresses();
        for (rpcbind, portmapper, there) in [
            (false, None, false),
            (false, Some("127.0.0.1:1111"), false),
            (false, Some("127.0.0.1:111"), true),
            (true, None, true),
        ] {
            addresses.rpcbind = rpcbind;
            addresses.portmapper = portmapper.map(|address| address.parse().unwrap());
            let (esxi, qemu) = (commands(&addresses, "esxi"), commands(&addresses, "qemu"));
            assert_eq!(esxi.contains("esxcli storage nfs add"), there, "{esxi}");
            assert_eq!(
                qemu.contains("file=nfs://127.0.0.1/web01-3/disk-0.raw"),
                there,
                "{qemu}"
            );
            assert_eq!(esxi.contains("[nfs]"), !there, "{esxi}");
            assert_eq!(qemu.contains("[nfs]"), !there, "{qemu}");
        }
        addresses.nfs.set_port(12049);
        assert!(!commands(&addresses, "esxi").contains("nfs add"));
    }

    #[test]
    fn clients_of_nbd_are_told_to_wait_for_a_restart() {
        let addresses = addresses();
        assert!(
            commands(&addresses, "qemu").contains(",export=web01-3/disk-0,reconnect-delay=60,")
        );
        let libvirt = commands(&addresses, "libvirt");
        assert!(
            libvirt.contains("port='10809'/><reconnect delay='60'/></source>"),
            "{libvirt}"
        );
    }

    #[test]
    fn an_active_session_has_urls_and_a_stopped_one_has_none() {
        let mut record = super::super::record::tests::record();
        let mut addresses = addresses();
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
        assert!(view.share.is_none(), "it was not named");
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
        assert!(view.attach[1].command.contains(",tls-creds=tls"));
        assert!(view.attach[2].command.contains(" tls='yes'>"));
        record.state = SessionState::Stopped;
        let view = SessionView::new(&record, &addresses, &[]);
        assert!(
            view.disks[0].urls.nbd.is_none() && view.folder_url.is_none() && view.attach.is_empty()
        );
    }
}
