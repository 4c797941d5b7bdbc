//! The guest whose disk is backed up: a real one made by `deploy/guest`, or a small file system.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tempfile::TempDir;

use super::Shown;
use super::console::Console;

/// Two states of one disk.
#[derive(Debug)]
pub(super) struct Guest {
    folder: PathBuf,
    machine: Option<Machine>,
    _made: Option<TempDir>,
}

/// How to boot it; the header of `deploy/guest` is the contract.
#[derive(Debug)]
struct Machine {
    arguments: Vec<String>,
    command_line: String,
    prompts: Vec<String>,
}

impl Guest {
    /// The guest in HOLDFAST_GUEST_DIR, or a small file system made now, which cannot boot.
    pub(super) fn find(boot: bool) -> Result<Self> {
        match std::env::var_os("HOLDFAST_GUEST_DIR") {
            Some(folder) => Self::read(PathBuf::from(folder)),
            None if boot => bail!(
                "there is no guest to boot; make one with `deploy/guest make FOLDER` and name it by HOLDFAST_GUEST_DIR=FOLDER, or run deploy/quickstart, which does both"
            ),
            None => Self::make(),
        }
    }

    /// The disk: 0 before and 1 after the change.
    pub(super) fn disk(&self, number: usize) -> PathBuf {
        self.folder.join(format!("disk-{}.raw", number + 1))
    }

    /// Boots from `url`, waits for the login prompt, writes a file, and switches off. Says how long the boot took.
    pub(super) fn boot(&self, number: usize, url: &str) -> Result<Duration> {
        let machine = self.machine.as_ref().context("this guest cannot boot")?;
        let prompt = machine
            .prompts
            .get(number)
            .context("the guest has a prompt for each disk")?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(&machine.arguments)
            .args(["-serial", "stdio", "-append", &machine.command_line])
            .arg("-kernel")
            .arg(self.folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(self.folder.join("initrd"))
            .arg("-drive")
            .arg(format!("if=virtio,format=raw,file={url}"));
        let started = Instant::now();
        let mut console = Console::start(&mut command)?;
        console.expect(prompt, BOOT_LIMIT)?;
        let booted = started.elapsed();
        console.type_text("root\n")?;
        console.expect("$ ", SHELL_LIMIT)?;
        // The quotes keep the echo of the command from being taken for its result.
        console.type_text("echo 'written by the demo' >/root/demo && sync && cat /root/demo >/dev/null && echo writ''ten-well\n")?;
        console.expect("written-well", SHELL_LIMIT)?;
        console.type_text("poweroff\n")?;
        console.wait(BOOT_LIMIT)?;
        Ok(booted)
    }

    fn read(folder: PathBuf) -> Result<Self> {
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "cannot read {}; make the folder anew with deploy/guest",
                    path.display()
                )
            })?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let machine = Machine {
            arguments: lines("qemu")?,
            command_line: lines("cmdline")?.concat(),
            prompts: lines("expect")?,
        };
        Ok(Self {
            folder,
            machine: Some(machine),
            _made: None,
        })
    }

    fn make() -> Result<Self> {
        let made = tempfile::Builder::new()
            .prefix("holdfast-guest-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let files = made.path().join("files");
        std::fs::create_dir(&files)?;
        for number in 0..200_u64 {
            std::fs::write(
                files.join(format!("file-{number}")),
                content(number, 100_000),
            )?;
        }
        make_file_system(&files, &made.path().join("disk-1.raw"))?;
        for number in 0..10_u64 {
            std::fs::write(
                files.join(format!("file-{}", number * 17)),
                content(number + 1000, 100_000),
            )?;
        }
        make_file_system(&files, &made.path().join("disk-2.raw"))?;
        Ok(Self {
            folder: made.path().to_owned(),
            machine: None,
            _made: Some(made),
        })
    }
}

impl Shown for Guest {
    fn shown(&self) -> String {
        match self.machine {
            Some(_) => format!("a real guest in {}", self.folder.display()),
            None => "a small ext4 file system (deploy/guest makes a real guest)".to_owned(),
        }
    }
}

/// An ext4 file system with these files, the same for the same files.
fn make_file_system(files: &Path, image: &Path) -> Result<()> {
    let output = Command::new("mke2fs")
        .args([
            "-q",
            "-t",
            "ext4",
            "-U",
            IDENTITY,
            "-E",
            &format!("hash_seed={IDENTITY}"),
            "-d",
        ])
        .arg(files)
        .arg(image)
        .arg("256M")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| anyhow!("cannot run mke2fs: {error}; install the package e2fsprogs"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "mke2fs failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// Bytes that look like text to a compressor.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(length + 64);
    let mut number = seed;
    while text.len() < length {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(format!("record {number:016x} of file {seed}\n").as_bytes());
    }
    text
}

const IDENTITY: &str = "5a0c6d0e-6f1b-4c5e-9a53-1d2f3a4b5c6d";
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const SHELL_LIMIT: Duration = Duration::from_secs(60);
