//! The thread that listens to the system's events.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::known::{KnownFiles, walk};
use super::{Attention, FILES, FOLDERS, ForeignChange, OVERLAYS, TEMPORARY_PREFIX, attention};

/// Watching, for as long as the value lives.
#[derive(Debug)]
pub struct Watch {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// Who is told. Several changes that were found at once come together.
pub(super) type Report = Box<dyn Fn(Vec<ForeignChange>) + Send>;

struct Watcher {
    files: Arc<KnownFiles>,
    inotify: OwnedFd,
    /// Which folder a number in an event means.
    folders: BTreeMap<i32, PathBuf>,
    report: Report,
}

/// What to look at because of some events; each once, however many there were.
#[derive(Debug, Default)]
struct Suspects {
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// The system dropped events: anything may have happened.
    all: bool,
}

impl Watch {
    /// Takes everything as it is now, and reports what others do to it from then on.
    pub(crate) fn start(
        files: Arc<KnownFiles>,
        report: impl Fn(Vec<ForeignChange>) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let mut watcher = Watcher {
            files,
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            folders: BTreeMap::new(),
            report: Box::new(report),
        };
        watcher.begin()?;
        let stopped = stop.try_clone()?;
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watcher.run(&stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            // It ends by itself, whatever became of its last report.
            drop(thread.join());
        }
    }
}

impl Watcher {
    /// Watches first and takes note then, so that nothing happens unseen between the two.
    fn begin(&mut self) -> io::Result<()> {
        self.add(Path::new(""))?;
        let mut found: Vec<PathBuf> = FILES.iter().map(PathBuf::from).collect();
        for folder in FOLDERS {
            found.extend(self.add_below(Path::new(folder))?);
        }
        found.retain(|path| self.files.root().join(path).exists());
        self.files.learn(found.into_iter());
        self.files.remember();
        Ok(())
    }

    fn run(&mut self, stop: &OwnedFd) {
        loop {
            let found = self.files.take_found();
            if !found.is_empty() {
                (self.report)(found);
            }
            if self.files.is_record_due() {
                self.files.remember();
            }
            let mut descriptors = [
                PollFd::new(&self.inotify, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut descriptors, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the repository's folder is not watched any more");
                    return;
                }
            }
            let [_, stopped] = &descriptors;
            if stopped.revents().contains(PollFlags::IN) {
                return;
            }
            let suspects = self.read_events();
            self.look_at(suspects);
        }
    }

    /// Everything that the system has told so far.
    fn read_events(&mut self) -> Suspects {
        let mut suspects = Suspects::default();
        let mut buffer = [const { MaybeUninit::uninit() }; EVENT_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                suspects.all = true;
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
                continue;
            }
            let Some(folder) = self.folders.get(&event.wd()) else {
                continue;
            };
            match event.file_name() {
                Some(name) => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    let is_folder = flags.contains(ReadFlags::ISDIR);
                    suspects.add(folder, name, is_folder);
                }
                // The folder itself was moved or removed.
                None if folder.as_os_str().is_empty() => suspects.all = true,
                None => drop(suspects.folders.insert(folder.clone())),
            }
        }
        suspects
    }

    fn look_at(&mut self, suspects: Suspects) {
        for path in &suspects.files {
            self.files.check(path);
        }
        let mut folders = suspects.folders;
        if suspects.all {
            tracing::warn!("events of the repository's folder were lost; all of it is compared");
            folders = FOLDERS.iter().map(PathBuf::from).collect();
            for name in FILES {
                self.files.check(Path::new(name));
            }
        }
        for folder in folders {
            let inside = self.add_below(&folder).unwrap_or_else(|error| {
                tracing::error!(folder = %folder.display(), %error, "a folder of the repository cannot be watched; raise fs.inotify.max_user_watches");
                walk(self.files.root(), &folder).0
            });
            for path in inside.iter().chain(&self.files.expected(&folder)) {
                self.files.check(path);
            }
        }
    }

    /// Watches a folder and those below it, and gives the files in them.
    fn add_below(&mut self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        // A folder that appears while the others are looked at tells of itself once those are watched.
        let (_, folders) = walk(self.files.root(), folder);
        for folder in &folders {
            self.add(folder)?;
        }
        Ok(walk(self.files.root(), folder).0)
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        let full = self.files.root().join(folder);
        match inotify::add_watch(&self.inotify, full, events(folder)) {
            Ok(number) => {
                self.folders.insert(number, folder.to_owned());
                Ok(())
            }
            // It is gone again, of which its own folder tells.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Suspects {
    fn add(&mut self, folder: &Path, name: &OsStr, is_folder: bool) {
        if name.as_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
            return;
        }
        let path = folder.join(name);
        match is_folder {
            true if folder.as_os_str().is_empty() && !FOLDERS.iter().any(|one| name == *one) => {}
            true => drop(self.folders.insert(path)),
            false if attention(&path) == Attention::None => {}
            false => drop(self.files.insert(path)),
        }
    }
}

fn events(folder: &Path) -> WatchFlags {
    let of_names = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    // Each write of a guest would be an event.
    match folder.starts_with(OVERLAYS) {
        true => of_names,
        false => of_names | WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE,
    }
}

/// Room for some hundred events.
const EVENT_BYTES: usize = 16 * 1024;
