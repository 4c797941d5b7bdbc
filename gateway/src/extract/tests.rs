//! Copies out of trees that no honest guest has.

use std::fs;

use bytes::Bytes;
use export::{FileKind, FileRead, Segments, Statistics};
use parking_lot::Mutex;

use super::*;

/// The folder 1 with the loop `a` and `b` back to itself, the file 2, which is `size` bytes long and cannot be read from
/// `broken` on, and the name `c` twice: a link out and a folder.
struct Hostile {
    broken: Mutex<u64>,
}

const SIZE: u64 = 3 << 20;

impl Hostile {
    fn new(broken: u64) -> Self {
        Self {
            broken: Mutex::new(broken),
        }
    }

    fn content(at: u64, length: u64) -> Bytes {
        (at..at + length).map(|byte| (byte % 251) as u8).collect()
    }
}

impl FileExport for Hostile {
    fn root(&self) -> FileId {
        FileId(1)
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        Err(ExportError::NotSupported)
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        let (kind, size_bytes, mode) = match file.0 {
            1 | 4 => (FileKind::Directory, 0, 0o755),
            3 => (FileKind::Symlink, 4, 0o777),
            2 => (FileKind::File, SIZE, 0o4755),
            _ => {
                return Err(ExportError::Corrupt {
                    detail: "lost".into(),
                });
            }
        };
        Ok(Attributes {
            file,
            kind,
            mode,
            links: 1,
            uid: 0,
            gid: 0,
            size_bytes,
            used_bytes: 0,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
        })
    }

    fn lookup(&self, _: FileId, _: &[u8]) -> Result<FileId, ExportError> {
        Err(ExportError::NotFound)
    }

    fn read(&self, _: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let end = *self.broken.lock();
        if offset >= end {
            return Err(ExportError::Corrupt {
                detail: "a hurt block".into(),
            });
        }
        let length = u64::from(length).min(end - offset).min(100_000);
        Ok(FileRead {
            data: Segments::from(Self::content(offset, length)),
            end: false,
            attributes: None,
        })
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        if directory.0 == 4 {
            return Ok(Vec::new());
        }
        let all = [
            ("a", 1),
            ("b", 1),
            ("c", 3),
            ("c", 4),
            ("../up", 2),
            ("..", 2),
            ("file", 2),
            ("lost", 9),
        ];
        let entries = all.iter().enumerate().map(|(number, (name, file))| {
            let plain = Attributes {
                file: FileId(*file),
                kind: FileKind::File,
                ..self.attributes(FileId(2)).unwrap()
            };
            DirectoryEntry {
                file: FileId(*file),
                name: name.as_bytes().to_vec(),
                cookie: number as u64 + 3,
                attributes: self.attributes(FileId(*file)).unwrap_or(plain),
            }
        });
        let after = entries.filter(|entry| entry.cookie > cookie);
        Ok(after.take(limit).collect())
    }

    fn read_symlink(&self, _: FileId) -> Result<Vec<u8>, ExportError> {
        Ok(b"/etc".to_vec())
    }
}

#[test]
fn a_file_that_was_cut_goes_on_where_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("file");
    let tree = Hostile::new(1_500_000);
    let error = file(&tree, FileId(2), &to, false).unwrap_err();
    assert!(
        format!("{error:#}").contains("--resume goes on"),
        "{error:#}"
    );
    assert_eq!(fs::metadata(&to).unwrap().len(), 1_500_000);
    assert_eq!(
        fs::metadata(&to).unwrap().permissions().mode() & 0o777,
        0o600
    );
    *tree.broken.lock() = SIZE;
    let done = file(&tree, FileId(2), &to, true).unwrap();
    assert_eq!(done.bytes, SIZE - 1_500_000);
    assert!(fs::read(&to).unwrap() == Hostile::content(0, SIZE));
    // A file of another point is not gone on with.
    fs::write(&to, b"another").unwrap();
    let error = file(&tree, FileId(2), &to, true).unwrap_err();
    assert!(error.to_string().contains("not the beginning"), "{error}");
}

#[test]
fn a_hostile_folder_stays_inside_and_its_sound_part_comes() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out");
    let tree = Hostile::new(SIZE);
    let done = super::folder(&tree, FileId(1), &to).unwrap();
    assert_eq!(
        (done.files, done.folders, done.links),
        (1, 1, 1),
        "{done:?}"
    );
    assert!(fs::read(to.join("file")).unwrap() == Hostile::content(0, SIZE));
    let mode = fs::metadata(to.join("file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7000, 0, "nothing runs as its owner");
    assert!(!folder.path().join("up").exists());
    // Two loops, a name twice, two that lead elsewhere, a lost inode, the rights of the owner.
    assert_eq!(done.left_out_total, 7, "{:?}", done.left_out);
    // What cannot be read as a whole is not there at all.
    let to = folder.path().join("hurt");
    let done = super::folder(&Hostile::new(1_500_000), FileId(1), &to).unwrap();
    assert_eq!(done.files, 0);
    assert!(!to.join("file").exists());
    assert!(
        done.left_out
            .iter()
            .any(|what| what.contains("a hurt block"))
    );
}

#[test]
fn an_archive_of_a_hostile_folder_is_whole() {
    let mut archive = Vec::new();
    let done = tar(&Hostile::new(1_500_000), FileId(1), &mut archive).unwrap();
    assert_eq!((done.files, done.links), (0, 1), "{done:?}");
    let mut names = Vec::new();
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        if name == "file" {
            let mut found = Vec::new();
            io::Read::read_to_end(&mut entry, &mut found).unwrap();
            assert_eq!(found.len() as u64, SIZE);
            assert!(found[..1_500_000] == Hostile::content(0, 1_500_000));
            assert!(found[1_500_000..].iter().all(|byte| *byte == 0));
        }
        names.push(name);
    }
    assert_eq!(names, ["c", "file"]);
}
