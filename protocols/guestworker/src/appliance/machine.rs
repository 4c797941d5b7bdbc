//! One machine: how QEMU is told of it, and how it is started.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::ApplianceOptions;
use super::confined::FIRST_DESCRIPTOR;
use super::disks::DiskServer;
use super::kinds::Kind;
use super::prepared::Prepared;
use crate::client::{Disks, Launch, Started, send_descriptors};
use crate::reader::{VolumeDescription, VolumePlace};

/// A machine for some volumes of a guest.
pub(super) struct Machine {
    pub(super) options: ApplianceOptions,
    pub(super) prepared: Arc<Prepared>,
    pub(super) volumes: Vec<MachineVolume>,
    pub(super) accelerator: Accelerator,
}

/// What runs its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU.
    Emulation,
}

/// A volume as a disk of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct MachineVolume {
    pub(super) disk: u32,
    pub(super) offset_bytes: u64,
    pub(super) length_bytes: u64,
    pub(super) kind: Kind,
}

/// What lives as long as a machine does. What stands first is dropped first.
struct Held {
    _disks: DiskServer,
    _folder: TempDir,
    _prepared: Arc<Prepared>,
}

impl MachineVolume {
    /// If a machine may know it, and it is a stretch of a disk.
    pub(super) fn of(volume: &VolumeDescription) -> Option<Self> {
        let VolumePlace::Disk(disk) = volume.place else {
            return None;
        };
        Some(Self {
            disk,
            offset_bytes: volume.offset_bytes,
            length_bytes: volume.length_bytes,
            kind: Kind::of(volume)?,
        })
    }
}

impl Accelerator {
    /// How much longer everything may take.
    pub(super) fn slowness(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Emulation => 6,
        }
    }
}

impl Machine {
    /// The machine's memory: what is asked for, and as much as its first files take while they are unpacked.
    fn memory_mebibytes(&self) -> u64 {
        (self.options.memory_bytes + 2 * self.prepared.initramfs_bytes) >> 20
    }

    fn command(&self, folder: &Path) -> Command {
        let memory = self.memory_mebibytes();
        let addresses = (memory << 20) + QEMU_BYTES;
        let mut command = Command::new(&self.options.program);
        command
            .arg0("holdfast")
            .args(&self.options.start_arguments)
            .arg(addresses.to_string())
            .arg(folder)
            .arg(&self.prepared.found.qemu)
            .args(self.words(memory))
            .args(self.serial_ports())
            .args(self.drives(folder))
            .env_clear()
            .current_dir("/")
            // What a terminal sends to whoever started this is not for it.
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn words(&self, memory: u64) -> Vec<OsString> {
        let accelerator = match self.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Emulation => "tcg,thread=multi,split-wx=on,tb-size=64",
        };
        let memory = memory.to_string();
        let agent = self.options.agent_arguments.join(" ");
        let kernel = format!("{KERNEL} -- {agent}");
        let words: [&str; 22] = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-sandbox",
            SANDBOX,
            "-machine",
            "q35,usb=off,vmport=off",
            "-cpu",
            "max",
            "-smp",
            "1",
            "-accel",
            accelerator,
            "-m",
            &memory,
            "-append",
            &kernel,
            "-kernel",
        ];
        let mut words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        words.push(match self.prepared.kernel {
            Some(_) => opened(PORTS + 1),
            None => self.prepared.found.kernel.clone().into(),
        });
        words.push("-initrd".into());
        words.push(opened(PORTS));
        words
    }

    /// What a machine is given besides its ports: its first files, and its kernel if that is unpacked.
    fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let kernel = self.prepared.kernel.as_ref();
        [&self.prepared.initramfs]
            .into_iter()
            .chain(kernel)
            .map(AsFd::as_fd)
    }

    /// The first socket is the control, the others are lanes.
    fn serial_ports(&self) -> Vec<String> {
        let mut words = vec![
            "-device".to_owned(),
            format!("virtio-serial-pci,id=serial,max_ports={}", PORTS + 1),
        ];
        for (socket, port) in (FIRST_DESCRIPTOR..).zip(0..PORTS) {
            let name = match port {
                0 => CONTROL.to_owned(),
                lane => format!("lane{lane}"),
            };
            words.extend([
                "-chardev".to_owned(),
                format!("socket,id=port{port},fd={socket}"),
                "-device".to_owned(),
                format!("virtserialport,bus=serial.0,chardev=port{port},name={name}"),
            ]);
        }
        words
    }

    /// Each with its number and its filesystem as the serial number, by which the machine knows it.
    fn drives(&self, folder: &Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let socket = folder.join(DISKS).display().to_string().replace(',', ",,");
        for (number, volume) in self.volumes.iter().enumerate() {
            let kind = volume.kind.name;
            words.push("-drive".into());
            words.push(
                format!(
                    "if=none,id=disk{number},format=raw,snapshot=on,file.driver=nbd,file.export={number},\
                     file.server.type=unix,file.server.path={socket}"
                )
                .into(),
            );
            words.push("-device".into());
            words.push(format!("virtio-blk-pci,drive=disk{number},serial={number}-{kind}").into());
        }
        words
    }
}

impl Launch for Machine {
    fn launch(&self, disks: &Arc<Disks>) -> io::Result<Started> {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-machine-")
            .tempdir()?;
        let server = DiskServer::start(disks, &self.volumes, &folder.path().join(DISKS))?;
        let (start, theirs) = UnixStream::pair()?;
        let (mut ours, mut machines) = (Vec::new(), Vec::new());
        for _ in 0..PORTS {
            let (our, machine) = UnixStream::pair()?;
            ours.push(our);
            machines.push(machine);
        }
        let child = self
            .command(folder.path())
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        // If it has ended already, waiting for its word tells so, with what it said.
        let machines = machines.iter().map(AsFd::as_fd).chain(self.files());
        drop(send_descriptors(&start, &machines.collect::<Vec<_>>()));
        let control = ours.remove(0);
        Ok(Started {
            child,
            control,
            lanes: ours,
            held: Box::new(Held {
                _disks: server,
                _folder: folder,
                _prepared: Arc::clone(&self.prepared),
            }),
        })
    }

    fn patience(&self) -> Duration {
        BOOT_PATIENCE * self.accelerator.slowness()
    }
}

/// The name under which a machine opens what it was given as the `number`th.
fn opened(number: usize) -> OsString {
    format!("/proc/self/fd/{}", FIRST_DESCRIPTOR as usize + number).into()
}

/// Volumes of one machine: as many as it has places for disks.
pub(super) const VOLUMES_MAX: usize = 24;

/// Requests at once.
const LANES: usize = 4;

/// Ports of a machine: the control and the lanes.
pub(crate) const PORTS: usize = LANES + 1;

/// The name of the port over which the machine says that it is ready.
pub(crate) const CONTROL: &str = "control";

/// The socket of the disks, in the machine's folder.
const DISKS: &str = "disks";

const KERNEL: &str =
    "console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable mitigations=off rdinit=/init";

const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Addresses that QEMU may take besides the machine's memory. Most are never filled: each of its threads may reserve 128 MiB for
/// the C library's memory, and with 1 GiB a start failed now and then.
const QEMU_BYTES: u64 = 4 << 30;

/// Longest wait for a machine that starts and is not emulated.
const BOOT_PATIENCE: Duration = Duration::from_secs(20);
