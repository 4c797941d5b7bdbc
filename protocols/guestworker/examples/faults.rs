//! A worker for tests: one with the readers that everybody has, and one whose reader does on purpose what a reader that a
//! guest's disk broke might do.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use export::{
    Attributes, BlockExport, DirectoryEntry, ExportError, FileExport, FileId, FileKind, FileRead,
    Segments, Statistics, Timestamp,
};
use guestworker::worker::WorkerError;
use guestworker::{
    Assembly, GuestReader, GuestVolume, MachineLimits, Made, Reader, Refusal, Unneeded,
    UnneededBytes, Used, VolumeDescription, VolumePlace, become_machine, worker,
};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let mut arguments = arguments.peekable();
    let given = |word: &String| word.starts_with("--inner=");
    let inner = arguments.next_if(given);
    let inner = inner.and_then(|inner| inner.strip_prefix("--inner=")?.parse().ok());
    let ran = match mode.as_str() {
        "machine" => machine(inner, &arguments.collect::<Vec<_>>()),
        "agent" => guestworker::run_agent(),
        "plain" => worker::run(inner, GuestReader),
        "faults" => worker::run(inner, Faults),
        _ => return ExitCode::from(2),
    };
    ran.unwrap_or_else(|error| {
        tell(&error);
        ExitCode::FAILURE
    })
}

/// What it is given: addresses, a folder, a program and its words.
fn machine(inner: Option<u32>, arguments: &[String]) -> Result<ExitCode, WorkerError> {
    let [addresses, folder, command @ ..] = arguments else {
        return Err(WorkerError::Alone("it was told too little"));
    };
    let left = MachineLimits {
        addresses_bytes: addresses.parse().unwrap_or(0),
        folder: folder.into(),
    };
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    become_machine(inner, &left, &command)
}

#[expect(clippy::print_stderr, reason = "whoever started it reads that")]
fn tell(error: &dyn std::error::Error) {
    let cause = error.source().map(ToString::to_string);
    eprintln!("{error}: {}", cause.unwrap_or_default());
}

/// Two volumes with a file for each thing that can be done when it is read.
#[derive(Clone, Copy)]
struct Faults;

struct FaultyVolume {
    description: VolumeDescription,
    disk: Arc<dyn BlockExport>,
}

struct FaultyTree(Arc<dyn BlockExport>);

impl Reader for Faults {
    fn open(&self, disks: &[Arc<dyn BlockExport>]) -> Result<Vec<Box<dyn GuestVolume>>, Refusal> {
        let volume = |name| FaultyVolume::found(disks, name, VolumePlace::Disk(0));
        Ok(vec![volume("p1")?, volume("p2")?])
    }

    /// Hangs if the disk says so.
    fn assemble(&self, disks: &[Arc<dyn BlockExport>]) -> Result<Assembly, Refusal> {
        let first = disks.first().ok_or(ExportError::NotFound)?;
        let hangs = first.read(512, 512)?.to_vec().starts_with(b"hang");
        if hangs {
            loop {
                std::hint::spin_loop();
            }
        }
        let place = VolumePlace::Assembled(Made {
            description: "an array".to_owned(),
            members: vec!["disk-0/p1".to_owned(); 20],
            missing: Vec::new(),
        });
        Ok(Assembly {
            volumes: vec![FaultyVolume::found(disks, "md0", place)?],
            memberships: Vec::new(),
        })
    }

    /// Something beyond the disk.
    fn unneeded(
        &self,
        _: &[Arc<dyn BlockExport>],
        _: &BTreeSet<Unneeded>,
    ) -> Result<Vec<UnneededBytes>, Refusal> {
        Ok(vec![UnneededBytes {
            ranges: std::iter::once(0..1 << 40).collect(),
            by: [(Unneeded::Free, 1 << 40)].into(),
            whole: Vec::new(),
        }])
    }
}

impl FaultyVolume {
    fn found(
        disks: &[Arc<dyn BlockExport>],
        name: &str,
        place: VolumePlace,
    ) -> Result<Box<dyn GuestVolume>, Refusal> {
        let disk = disks.first().ok_or(ExportError::NotFound)?;
        Ok(Box::new(Self {
            disk: Arc::clone(disk),
            description: VolumeDescription {
                place,
                name: name.to_owned(),
                offset_bytes: 0,
                length_bytes: 1 << 40,
                partition: None,
                content: "faults".to_owned(),
                label: None,
            },
        }))
    }
}

impl GuestVolume for FaultyVolume {
    fn description(&self) -> &VolumeDescription {
        &self.description
    }

    fn files(&self) -> Result<Arc<dyn FileExport>, Refusal> {
        Ok(Arc::new(FaultyTree(Arc::clone(&self.disk))))
    }

    fn allocated(&self) -> Result<Used, Refusal> {
        Ok(Box::new(
            (0..RANGES).map(|number| Ok(number * 10..number * 10 + 5)),
        ))
    }
}

/// What a file does when it is read.
const ACTS: [&str; 15] = [
    "fine", "hang", "panic", "eat", "open", "socket", "fork", "run", "execute", "signal", "long",
    "out", "name", "disk", "huge",
];

const RANGES: u64 = 100_000;
const ROOT: u64 = 1;
const FIRST: u64 = 100;

impl FaultyTree {
    fn act(&self, file: FileId) -> Result<String, ExportError> {
        let act = usize::try_from(file.0 - FIRST).ok();
        let act = act.and_then(|act| ACTS.get(act));
        Ok(match *act.ok_or(ExportError::Stale)? {
            "hang" => loop {
                std::hint::spin_loop();
            },
            "panic" => panic!("a fault in the reader"),
            "eat" => {
                let mut eaten: Vec<Vec<u8>> = Vec::new();
                loop {
                    eaten.push(vec![1; 16 << 20]);
                }
            }
            "open" => told(std::fs::File::open("/etc/passwd")),
            "socket" => told(std::net::TcpListener::bind("127.0.0.1:0")),
            "fork" => told(std::thread::Builder::new().spawn(|| {})),
            "run" => told(std::process::Command::new("/bin/true").status()),
            "execute" => told(
                vm_memory::mmap::MmapRegionBuilder::<()>::new(4096)
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_EXEC)
                    .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
                    .build()
                    .map_err(io::Error::other),
            ),
            "signal" => told(
                rustix::process::kill_process(
                    rustix::process::getppid().ok_or(ExportError::NotFound)?,
                    rustix::process::Signal::TERM,
                )
                .map_err(io::Error::from),
            ),
            "disk" => {
                let read = self.0.read(0, 4096)?.to_vec();
                String::from_utf8_lossy(read.get(..4).unwrap_or_default()).into_owned()
            }
            "out" => {
                let size = self.0.properties().size_bytes;
                format!("{:?}", self.0.read(size, 4096).err())
            }
            "long" => "x".repeat(3 << 20),
            other => other.to_owned(),
        })
    }
}

fn told<T>(done: io::Result<T>) -> String {
    match done {
        Ok(_) => "it could".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn entry(number: u64, name: &str) -> DirectoryEntry {
    DirectoryEntry {
        file: FileId(FIRST + number),
        name: name.as_bytes().to_vec(),
        cookie: 3 + number,
        attributes: attributes(FileId(FIRST + number), FileKind::File),
    }
}

fn attributes(file: FileId, kind: FileKind) -> Attributes {
    Attributes {
        file,
        kind,
        mode: 0o644,
        links: 1,
        uid: 0,
        gid: 0,
        size_bytes: 4096,
        used_bytes: 4096,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
    }
}

impl FileExport for FaultyTree {
    fn root(&self) -> FileId {
        FileId(ROOT)
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        Err(ExportError::NotSupported)
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        match file.0 {
            ROOT => Ok(attributes(file, FileKind::Directory)),
            _ => Ok(attributes(file, FileKind::File)),
        }
    }

    fn lookup(&self, _: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let place = ACTS.iter().position(|act| act.as_bytes() == name);
        let place = place.ok_or(ExportError::NotFound)?;
        Ok(FileId(FIRST + place as u64))
    }

    fn read(&self, file: FileId, _: u64, _: u32) -> Result<FileRead, ExportError> {
        Ok(FileRead {
            data: Segments::from(Bytes::from(self.act(file)?)),
            end: true,
            attributes: None,
        })
    }

    /// Of the file `name`: a name that leads out of its folder.
    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        if directory.0 != ROOT {
            return Ok(vec![entry(0, "../../etc/passwd")]);
        }
        let entries = (0..).zip(ACTS).map(|(number, name)| entry(number, name));
        let after = entries.filter(|entry| entry.cookie > cookie);
        Ok(after.take(limit).collect())
    }
}
