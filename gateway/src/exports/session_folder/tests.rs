use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use export::{
    BlockExport, Caller, CreateMode, Durability, ExportError, FileExport, FileId, MemoryDisk,
    SetAttributes,
};
use tempfile::TempDir;

use super::super::DiskFormat;
use super::{FolderAccess, FolderDisk, FolderLimits, SessionFolder};

const LIMITS: FolderLimits = FolderLimits {
    files: 100_000,
    file_bytes: 1 << 40,
};
const ROOT_USER: Caller = Caller {
    uid: 0,
    gid: 0,
    gids: Vec::new(),
};
const DISK_BYTES: u64 = 1 << 20;

/// A folder that can be opened again.
struct Place {
    folder: TempDir,
    disk: Arc<MemoryDisk>,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            disk: Arc::new(MemoryDisk::new(DISK_BYTES)),
        }
    }

    fn open(&self) -> SessionFolder {
        self.open_with(FolderAccess::ReadWrite, LIMITS)
    }

    fn open_with(&self, access: FolderAccess, limits: FolderLimits) -> SessionFolder {
        let export: Arc<dyn BlockExport> = Arc::clone(&self.disk) as _;
        let disks = vec![FolderDisk {
            number: 0,
            format: DiskFormat::Raw,
            export,
        }];
        SessionFolder::open(
            self.folder.path(),
            self.folder.path(),
            disks,
            access,
            limits,
        )
        .unwrap()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("names.log")
    }
}

fn create(folder: &SessionFolder, name: &str, mode: CreateMode) -> Result<FileId, ExportError> {
    let made = folder.create(
        &ROOT_USER,
        folder.root(),
        name.as_bytes(),
        mode,
        &SetAttributes::default(),
    );
    made.map(|made| made.file)
}

fn names(folder: &SessionFolder) -> Vec<(u64, String)> {
    let entries = folder.list(folder.root(), 0, 1000).unwrap();
    entries
        .into_iter()
        .map(|entry| (entry.file.0, String::from_utf8(entry.name).unwrap()))
        .collect()
}

fn sized(size_bytes: u64) -> SetAttributes {
    SetAttributes {
        size_bytes: Some(size_bytes),
        ..SetAttributes::default()
    }
}

#[test]
fn the_folder_keeps_the_contract_of_file_exports() {
    let parent = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU64::new(0);
    export::contract::file::check(|| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = parent.path().join(number.to_string());
        let folder = SessionFolder::open(
            &path,
            parent.path(),
            Vec::new(),
            FolderAccess::ReadWrite,
            LIMITS,
        )
        .unwrap();
        let root = folder.root();
        (Arc::new(folder) as _, root)
    });
}

#[test]
fn a_write_of_nothing_behind_the_end_makes_no_file_longer() {
    let place = Place::new();
    let folder = place.open();
    let file = create(&folder, "guest.vmx", CreateMode::Guarded).unwrap();
    let written = folder
        .write(file, 24_446, &[], Durability::Unstable)
        .unwrap();
    assert_eq!(written.attributes.size_bytes, 0);
    assert_eq!(folder.attributes(file).unwrap().size_bytes, 0);
}

#[test]
fn everything_is_there_again_after_a_restart_under_the_same_ids() {
    let place = Place::new();
    let folder = place.open();
    let file = create(&folder, "guest.vmx", CreateMode::Guarded).unwrap();
    let lock = create(&folder, ".lck-1", CreateMode::Exclusive([7; 8])).unwrap();
    let gone = create(&folder, "gone", CreateMode::Guarded).unwrap();
    folder
        .write(
            file,
            0,
            &[Bytes::from_static(b"memory = 512")],
            Durability::Stable,
        )
        .unwrap();
    folder
        .rename(
            &ROOT_USER,
            folder.root(),
            b"guest.vmx",
            folder.root(),
            b"renamed.vmx",
        )
        .unwrap();
    folder
        .rename(
            &ROOT_USER,
            folder.root(),
            b"disk-0.raw",
            folder.root(),
            b"guest-flat.vmdk",
        )
        .unwrap();
    folder.remove(&ROOT_USER, folder.root(), b"gone").unwrap();
    let mode = SetAttributes {
        mode: Some(0o640),
        uid: Some(36),
        ..SetAttributes::default()
    };
    folder.set_attributes(&ROOT_USER, file, &mode).unwrap();
    let (before, attributes) = (names(&folder), folder.attributes(file).unwrap());
    drop(folder);
    let folder = place.open();
    assert_eq!(names(&folder), before);
    assert_eq!(folder.attributes(file).unwrap().mode, attributes.mode);
    assert_eq!(
        (
            folder.attributes(file).unwrap().uid,
            folder.attributes(file).unwrap().size_bytes
        ),
        (36, 12)
    );
    assert_eq!(
        folder.read(file, 0, 100).unwrap().data.to_vec(),
        b"memory = 512"
    );
    assert!(matches!(folder.attributes(gone), Err(ExportError::Stale)));
    assert_eq!(
        create(&folder, ".lck-1", CreateMode::Exclusive([7; 8])).unwrap(),
        lock,
        "the verifier was kept"
    );
    assert!(matches!(
        create(&folder, ".lck-1", CreateMode::Exclusive([8; 8])),
        Err(ExportError::Exists)
    ));
    let new = create(&folder, "new", CreateMode::Guarded).unwrap();
    assert!(new > gone, "ids are not used again");
}

#[test]
fn a_torn_log_loses_nothing_that_was_answered() {
    let place = Place::new();
    let folder = place.open();
    create(&folder, "first", CreateMode::Guarded).unwrap();
    let whole = std::fs::metadata(place.log()).unwrap().len();
    create(&folder, "second", CreateMode::Guarded).unwrap();
    drop(folder);
    let text = std::fs::read(place.log()).unwrap();
    for cut in [whole + 1, whole + 30, text.len() as u64 - 1] {
        std::fs::write(place.log(), &text[..usize::try_from(cut).unwrap()]).unwrap();
        let folder = place.open();
        let names: Vec<_> = names(&folder).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["disk-0.raw", "first"], "cut at {cut}");
        create(&folder, "third", CreateMode::Guarded).unwrap();
    }
    let mut hurt = text;
    let middle = usize::try_from(whole / 2).unwrap();
    hurt[middle] ^= 1;
    std::fs::write(place.log(), &hurt).unwrap();
    let export: Arc<dyn BlockExport> = Arc::clone(&place.disk) as _;
    let disks = vec![FolderDisk {
        number: 0,
        format: DiskFormat::Raw,
        export,
    }];
    let path = place.folder.path();
    let error =
        SessionFolder::open(path, path, disks, FolderAccess::ReadWrite, LIMITS).unwrap_err();
    assert!(
        error.to_string().contains("names.log is damaged"),
        "{error}"
    );
}

#[test]
fn a_log_that_grows_is_rewritten_while_it_is_used() {
    let place = Place::new();
    let folder = place.open();
    let mut longest = 0;
    for round in 0..500 {
        create(&folder, "lock", CreateMode::Guarded).unwrap();
        folder.remove(&ROOT_USER, folder.root(), b"lock").unwrap();
        if round % 100 == 0 {
            create(&folder, &format!("kept-{round}"), CreateMode::Guarded).unwrap();
        }
        longest = longest.max(std::fs::metadata(place.log()).unwrap().len());
    }
    assert!(longest < 20_000, "1000 changes of 170 bytes took {longest}");
    let before = names(&folder);
    drop(folder);
    let folder = place.open();
    assert_eq!(names(&folder), before);
    let next = create(&folder, "next", CreateMode::Guarded).unwrap();
    assert_eq!(next.0, 523, "ids of removed files are not used again");
}

#[test]
fn a_closed_folder_takes_no_change_and_waits_for_those_under_way() {
    let place = Place::new();
    let folder = Arc::new(place.open());
    let file = create(&folder, "a", CreateMode::Guarded).unwrap();
    let under_way = folder.writing().unwrap();
    let closing = {
        let folder = Arc::clone(&folder);
        std::thread::spawn(move || folder.close())
    };
    // A writer that waits keeps further readers out.
    while folder.taking.try_read().is_some() {
        std::thread::yield_now();
    }
    assert!(!closing.is_finished(), "a change is under way");
    drop(under_way);
    closing.join().unwrap();
    let log = std::fs::read(place.log()).unwrap();
    let data = [Bytes::from_static(b"late")];
    let root = folder.root();
    assert!(matches!(
        create(&folder, "late", CreateMode::Guarded),
        Err(ExportError::Stale)
    ));
    assert!(matches!(
        folder.write(file, 0, &data, Durability::Unstable),
        Err(ExportError::Stale)
    ));
    assert!(matches!(
        folder.remove(&ROOT_USER, root, b"a"),
        Err(ExportError::Stale)
    ));
    assert!(matches!(
        folder.rename(&ROOT_USER, root, b"a", root, b"b"),
        Err(ExportError::Stale)
    ));
    assert_eq!(std::fs::read(place.log()).unwrap(), log);
    assert!(folder.attributes(file).is_ok(), "looking goes on");
    assert_eq!(names(&place.open()).len(), 2);
}

#[test]
fn a_disk_is_read_and_written_at_any_byte_and_keeps_its_size() {
    let place = Place::new();
    let folder = place.open();
    let disk = folder.lookup(folder.root(), b"disk-0.raw").unwrap();
    let mut model = vec![0; usize::try_from(DISK_BYTES).unwrap()];
    for (offset, length) in [
        (0, 512),
        (1, 1),
        (511, 2),
        (700, 3000),
        (4096, 4096),
        (DISK_BYTES - 3, 3),
        (5000, 100_000),
    ] {
        let fill = u8::try_from(offset % 251).unwrap() + 1;
        let data = [
            Bytes::from(vec![fill; length / 2]),
            Bytes::from(vec![fill; length - length / 2]),
        ];
        let before = folder.attributes(disk).unwrap();
        let written = folder
            .write(disk, offset, &data, Durability::Unstable)
            .unwrap();
        assert!(
            written.attributes.modified > before.modified
                && written.attributes.changed > before.changed
        );
        let start = usize::try_from(offset).unwrap();
        model[start..start + length].fill(fill);
    }
    let all = folder
        .read(disk, 0, u32::try_from(DISK_BYTES).unwrap())
        .unwrap();
    assert!(all.end && all.data.to_vec() == model);
    let part = folder.read(disk, 699, 77).unwrap();
    assert!(!part.end && part.data.to_vec() == model[699..776]);
    let tail = folder.read(disk, DISK_BYTES - 5, 100).unwrap();
    assert_eq!((tail.data.len(), tail.end), (5, true));
    assert!(matches!(
        folder.write(
            disk,
            DISK_BYTES - 1,
            &[Bytes::from_static(b"xy")],
            Durability::Unstable
        ),
        Err(ExportError::TooLarge)
    ));
    folder
        .set_attributes(&ROOT_USER, disk, &sized(DISK_BYTES))
        .unwrap();
    for size in [0, DISK_BYTES - 512, DISK_BYTES + 512] {
        assert!(matches!(
            folder.set_attributes(&ROOT_USER, disk, &sized(size)),
            Err(ExportError::NotPermitted)
        ));
    }
}

#[test]
fn a_disk_may_be_renamed_but_neither_removed_nor_replaced() {
    let place = Place::new();
    let folder = place.open();
    let disk = folder.lookup(folder.root(), b"disk-0.raw").unwrap();
    create(&folder, "file", CreateMode::Guarded).unwrap();
    let root = folder.root();
    assert!(matches!(
        folder.remove(&ROOT_USER, root, b"disk-0.raw"),
        Err(ExportError::NotPermitted)
    ));
    assert!(matches!(
        folder.rename(&ROOT_USER, root, b"file", root, b"disk-0.raw"),
        Err(ExportError::NotPermitted)
    ));
    folder
        .rename(&ROOT_USER, root, b"disk-0.raw", root, b"file")
        .unwrap();
    assert_eq!(folder.lookup(root, b"file").unwrap(), disk);
    assert!(matches!(
        folder.lookup(root, b"disk-0.raw"),
        Err(ExportError::NotFound)
    ));
}

#[test]
fn limits_and_read_only_folders_refuse() {
    let place = Place::new();
    let folder = place.open_with(
        FolderAccess::ReadWrite,
        FolderLimits {
            files: 3,
            file_bytes: 100_000,
        },
    );
    let file = create(&folder, "a", CreateMode::Guarded).unwrap();
    create(&folder, "b", CreateMode::Guarded).unwrap();
    assert!(matches!(
        create(&folder, "c", CreateMode::Guarded),
        Err(ExportError::NoSpace { .. })
    ));
    let write = |file, offset, length: usize| {
        let data = [Bytes::from(vec![1; length])];
        folder.write(file, offset, &data, Durability::Unstable)
    };
    write(file, 0, 90_000).unwrap();
    assert!(matches!(
        write(file, 90_000, 50_000),
        Err(ExportError::NoSpace { .. })
    ));
    write(file, 0, 90_000).expect("writing over what is there takes no more space");
    folder.set_attributes(&ROOT_USER, file, &sized(10)).unwrap();
    folder
        .set_attributes(&ROOT_USER, file, &sized(1 << 40))
        .expect("a hole takes no space");
    write(file, 1 << 39, 50_000).unwrap();
    assert!(folder.attributes(file).unwrap().used_bytes < 100_000);
    folder.remove(&ROOT_USER, folder.root(), b"a").unwrap();
    let file = create(&folder, "c", CreateMode::Guarded).unwrap();
    write(file, 0, 90_000).unwrap();
    drop(folder);
    let folder = place.open_with(FolderAccess::ReadOnly, LIMITS);
    assert!(matches!(
        create(&folder, "d", CreateMode::Guarded),
        Err(ExportError::ReadOnly)
    ));
    let data = [Bytes::from_static(b"x")];
    assert!(matches!(
        folder.write(file, 0, &data, Durability::Unstable),
        Err(ExportError::ReadOnly)
    ));
    assert_eq!(folder.read(file, 0, 10).unwrap().data.len(), 10);
}
