//! Images of filesystems, made by the programs of others.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use export::{FileExport, Segments};
use guestfs::{GuestError, Source, Volume, open_source};

/// A file as a disk.
pub(crate) struct FileSource(File);

impl FileSource {
    pub(crate) fn open(image: &Path) -> Arc<dyn Source> {
        Arc::new(Self(File::open(image).unwrap()))
    }
}

impl Source for FileSource {
    fn length_bytes(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, offset).unwrap();
        Ok(bytes::Bytes::from(bytes).into())
    }
}

/// The one volume of an image without a table.
pub(crate) fn volume(image: &Path) -> Volume {
    let mut volumes = open_source(FileSource::open(image)).unwrap();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    volumes.remove(0)
}

pub(crate) fn tree(image: &Path) -> Arc<dyn FileExport> {
    volume(image).files().unwrap()
}

/// Runs a program that must succeed, and gives what it prints.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {} {}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Copies what is in use, and nothing else, to an image that is otherwise full of rubbish. Says what is left out.
pub(crate) fn copy_of_used(image: &Path, what: &str) -> (PathBuf, u64) {
    let copied = image.with_extension("used");
    let source = File::open(image).unwrap();
    let length = source.metadata().unwrap().len();
    let target = File::create(&copied).unwrap();
    let rubbish = vec![0x5A; 1 << 20];
    for at in (0..length).step_by(1 << 20) {
        let step = usize::try_from((length - at).min(1 << 20)).unwrap();
        target.write_all_at(&rubbish[..step], at).unwrap();
    }
    let mut used = 0;
    for range in volume(image).allocated().unwrap() {
        let range = range.unwrap();
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        source.read_exact_at(&mut bytes, range.start).unwrap();
        target.write_all_at(&bytes, range.start).unwrap();
        used += range.end - range.start;
    }
    println!("{what}: {used} of {length} bytes are in use");
    (copied, length - used)
}

/// Whether a program is there. Where `CI` is set, it has to be.
pub(crate) fn have(program: &str) -> bool {
    let found = Command::new(program).arg("-V").output().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "CI has {program}: deploy/packages"
    );
    if !found {
        println!("left out: there is no {program}");
    }
    found
}

/// An image mounted by the kernel, until it is dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// `None`, with the reason printed, where mounting is not allowed.
    pub(crate) fn new(image: &Path, kind: &str, options: &str) -> Option<Self> {
        let point = image.with_extension("mount");
        fs::create_dir_all(&point).unwrap();
        let output = Command::new("mount")
            .args(["-t", kind, "-o"])
            .arg(format!("loop,{options}"))
            .arg(image)
            .arg(&point)
            .output();
        let fault = match output {
            Ok(output) if output.status.success() => return Some(Self(point)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        println!("left out: cannot mount by a loop device here: {fault}");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(done.unwrap().success());
        }
    }
}
