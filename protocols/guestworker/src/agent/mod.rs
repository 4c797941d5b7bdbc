//! What runs in the small machine: it mounts what its kernel knows, and answers as a worker does.
//!
//! It is the machine's first process and has no other. When its caller is gone the machine is switched off.

mod devices;
mod folder;
mod places;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

use crate::appliance::{CONTROL, PORTS};
use crate::lane::{Lane, Stream};
use crate::wire::{self, Body, Hello, Layers};
use crate::worker::{Served, WorkerError, serve, system};

use devices::Devices;

/// Does the work of the first process of a machine, and switches it off. Anywhere else it says that it is not that.
///
/// # Errors
/// If it is not the first process.
pub fn run() -> Result<ExitCode, WorkerError> {
    if std::process::id() != 1 {
        return Err(WorkerError::Alone("it is the first of a machine"));
    }
    if let Err(error) = work() {
        tell(&error);
    }
    reboot(RebootCommand::PowerOff).map_err(|error| system("switch the machine off", error))?;
    Ok(ExitCode::SUCCESS)
}

#[expect(
    clippy::print_stderr,
    reason = "the machine's console is all that there is"
)]
fn tell(error: &io::Error) {
    eprintln!("the small machine stops: {error}");
}

fn work() -> io::Result<()> {
    for (kind, folder) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        fs::create_dir_all(folder)?;
        mount(kind, folder, kind, MountFlags::empty(), None)?;
    }
    load("machine")?;
    let served = Arc::new(Served::new(Devices, Vec::new()));
    let mut control = None;
    for (name, path) in ports()? {
        let port: Stream = Box::new(File::options().read(true).write(true).open(path)?);
        if name == CONTROL {
            control = Some(Lane::new(port));
            continue;
        }
        let served = Arc::clone(&served);
        std::thread::Builder::new()
            .name("lane".to_owned())
            .spawn(move || serve(Lane::new(port), &served))?;
    }
    let mut control = control.ok_or(io::Error::other("there is no control port"))?;
    let hello = Body::of(Hello {
        missing: Layers::new(),
    });
    control
        .send(wire::Kind::Hello, &hello, &mut || true)
        .map_err(io::Error::other)?;
    // Nothing comes but the end.
    drop(control.receive(&mut || true));
    Ok(())
}

/// Ports to the caller, by the names that it gave them. They come, and get their names, some time after their device.
fn ports() -> io::Result<Vec<(String, PathBuf)>> {
    let began = Instant::now();
    loop {
        let ports = named_ports()?;
        if ports.len() >= PORTS {
            return Ok(ports);
        }
        if began.elapsed() > PORTS_PATIENCE {
            let told = format!("{} of {PORTS} ports are there", ports.len());
            return Err(io::Error::other(told));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn named_ports() -> io::Result<Vec<(String, PathBuf)>> {
    let mut ports = Vec::new();
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let path = Path::new("/dev").join(entry.file_name());
        match fs::read_to_string(entry.path().join("name")) {
            Ok(name) if path.exists() => ports.push((name.trim().to_owned(), path)),
            _ => {}
        }
    }
    Ok(ports)
}

/// Loads the modules that a list of the first files names for `what`.
fn load(what: &str) -> io::Result<()> {
    for path in fs::read_to_string(Path::new("/modules/list").join(what))?.lines() {
        let module = File::open(path)?;
        let flags = if path.ends_with(".ko") { 0 } else { COMPRESSED };
        match finit_module(&module, c"", flags) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The kernel itself unpacks the module (`MODULE_INIT_COMPRESSED_FILE`).
const COMPRESSED: i32 = 4;
const PORTS_PATIENCE: Duration = Duration::from_secs(20);
