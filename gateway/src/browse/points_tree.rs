//! The tree of a restore point, with the other points of its workload in a folder beside the disks.
//!
//! ```text
//! disk-0.vhdx  disk-0/p1/etc/hostname                                   the point that is shown
//! .snapshots/@GMT-2026.11.20-08.00.00/disk-0/p1/etc/hostname            the same file in another point
//! ```
//!
//! Points are opened when somebody looks into their folder, and the ones that were looked into last are kept open.
//!
//! An id has the id of the point's own tree in its lower part. The upper part there says which filesystem is meant; here
//! it is the number of a slot, which says which filesystem of which point. Slots are given out as they are asked for. The
//! point that is shown has ids of its own in the folder of all points: no folder may stand in two places.

use std::collections::BTreeMap;
use std::sync::Arc;

use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileKind,
    FileRead, Particulars, Statistics, Timestamp,
};
use parking_lot::Mutex;

use super::DiskTree;

/// The points of a workload.
pub(crate) trait Points: Send + Sync + 'static {
    /// Those that there are: the number of each in its workload, and when it was made, in seconds since 1970.
    fn list(&self) -> Vec<(u64, i64)>;

    /// What one of them holds.
    fn open(&self, sequence: u64) -> Result<DiskTree, ExportError>;
}

/// The tree.
pub(crate) struct PointsTree {
    points: Box<dyn Points>,
    /// The point that is shown.
    shown: u64,
    top: Arc<DiskTree>,
    /// Others, the one that was looked into last at the end.
    open: Mutex<Vec<(u64, Arc<DiskTree>)>>,
    slots: Mutex<Slots>,
    time: Timestamp,
}

/// By which way a point is come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The one that is shown, from the root.
    Root,
    /// Any, by its number, through the folder of all points.
    Points(u64),
}

/// Which filesystem of which point the upper part of an id means.
struct Slots {
    by_meaning: BTreeMap<(Way, u64), u64>,
    meanings: Vec<(Way, u64)>,
}

/// What an id leads to.
enum Node {
    /// The folder of all points.
    Points,
    /// Something in the tree of a point.
    Inside(Way, Arc<DiskTree>, FileId),
}

impl PointsTree {
    /// Shows the point `shown`, which is `top`, and all `points` beside it; `time` stands at the folder of these.
    pub(crate) fn new(points: Box<dyn Points>, shown: u64, top: DiskTree, time: Timestamp) -> Self {
        // By this slot goes `root`.
        let first = (Way::Root, top.root().0 >> SLOT_SHIFT);
        let slots = Slots {
            by_meaning: BTreeMap::from([(first, 1)]),
            meanings: vec![first],
        };
        Self {
            points,
            shown,
            top: Arc::new(top),
            open: Mutex::default(),
            slots: Mutex::new(slots),
            time,
        }
    }

    fn node(&self, file: FileId) -> Result<Node, ExportError> {
        if file == POINTS {
            return Ok(Node::Points);
        }
        let slot = (file.0 >> SLOT_SHIFT).checked_sub(1);
        let slot = slot.and_then(|slot| usize::try_from(slot).ok());
        let meaning = slot.and_then(|slot| self.slots.lock().meanings.get(slot).copied());
        let (way, filesystem) = meaning.ok_or(ExportError::Stale)?;
        let inner = FileId(filesystem << SLOT_SHIFT | file.0 & INNER_MASK);
        Ok(Node::Inside(way, self.tree(way)?, inner))
    }

    fn tree(&self, way: Way) -> Result<Arc<DiskTree>, ExportError> {
        let sequence = match way {
            Way::Points(sequence) if sequence != self.shown => sequence,
            Way::Root | Way::Points(_) => return Ok(Arc::clone(&self.top)),
        };
        let mut open = self.open.lock();
        let found = open.iter().position(|(point, _)| *point == sequence);
        let entry = match found {
            Some(place) => open.remove(place),
            None => (sequence, Arc::new(self.points.open(sequence)?)),
        };
        let tree = Arc::clone(&entry.1);
        if open.len() >= OPEN_MAX {
            open.remove(0);
        }
        open.push(entry);
        Ok(tree)
    }

    fn outer_id(&self, way: Way, inner: FileId) -> Result<FileId, ExportError> {
        let meaning = (way, inner.0 >> SLOT_SHIFT);
        let mut slots = self.slots.lock();
        let slot = match slots.by_meaning.get(&meaning) {
            Some(slot) => *slot,
            None => {
                slots.meanings.push(meaning);
                let slot = slots.meanings.len() as u64;
                if slot > SLOTS_MAX {
                    slots.meanings.pop();
                    return Err(ExportError::NotSupported);
                }
                slots.by_meaning.insert(meaning, slot);
                slot
            }
        };
        Ok(FileId(slot << SLOT_SHIFT | inner.0 & INNER_MASK))
    }

    fn outer(&self, way: Way, inner: Attributes) -> Result<Attributes, ExportError> {
        Ok(Attributes {
            file: self.outer_id(way, inner.file)?,
            ..inner
        })
    }

    fn own(&self) -> Attributes {
        Attributes {
            file: POINTS,
            kind: FileKind::Directory,
            mode: 0o555,
            links: 2,
            uid: 0,
            gid: 0,
            size_bytes: 4096,
            used_bytes: 4096,
            accessed: self.time,
            modified: self.time,
            changed: self.time,
        }
    }

    /// The names of all points. Of those that were made within one second the last has the name.
    fn names(&self) -> BTreeMap<String, u64> {
        let points = self.points.list().into_iter();
        points
            .filter_map(|(sequence, seconds)| Some((name_of(seconds)?, sequence)))
            .collect()
    }

    fn point_entries(&self) -> Result<Vec<DirectoryEntry>, ExportError> {
        let mut entries = Vec::new();
        for (name, sequence) in self.names() {
            let file = self.outer_id(Way::Points(sequence), self.top.root())?;
            entries.push(DirectoryEntry {
                file,
                name: name.into_bytes(),
                cookie: sequence.saturating_add(COOKIES_BEFORE),
                attributes: Attributes { file, ..self.own() },
            });
        }
        entries.sort_by_key(|entry| entry.cookie);
        Ok(entries)
    }

    fn top_entries(&self, cookie: u64, limit: usize) -> Result<Vec<DirectoryEntry>, ExportError> {
        let mut entries = match cookie < POINTS_COOKIE {
            true => self.inner_entries(Way::Root, &self.top, self.top.root(), cookie, limit)?,
            false => Vec::new(),
        };
        if entries.len() < limit && cookie < POINTS_COOKIE {
            entries.push(DirectoryEntry {
                file: POINTS,
                name: POINTS_FOLDER.as_bytes().to_vec(),
                cookie: POINTS_COOKIE,
                attributes: self.own(),
            });
        }
        Ok(entries)
    }

    fn inner_entries(
        &self,
        way: Way,
        tree: &DiskTree,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let entries = tree.list(directory, cookie, limit)?.into_iter();
        entries
            .map(|entry| {
                Ok(DirectoryEntry {
                    file: self.outer_id(way, entry.file)?,
                    attributes: self.outer(way, entry.attributes)?,
                    ..entry
                })
            })
            .collect()
    }
}

impl FileExport for PointsTree {
    fn root(&self) -> FileId {
        FileId(1 << SLOT_SHIFT | self.top.root().0)
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        self.top.statistics()
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        match self.node(file)? {
            Node::Points => Ok(self.own()),
            Node::Inside(way, tree, inner) => self.outer(way, tree.attributes(inner)?),
        }
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        match self.node(directory)? {
            Node::Points => match name {
                b"." => Ok(POINTS),
                b".." => Ok(self.root()),
                name => {
                    let name = std::str::from_utf8(name).map_err(|_| ExportError::NotFound)?;
                    let sequence = self.names().get(name).copied();
                    let sequence = sequence.ok_or(ExportError::NotFound)?;
                    self.outer_id(Way::Points(sequence), self.top.root())
                }
            },
            Node::Inside(way, tree, inner) => match (way, name) {
                (Way::Root, POINTS_NAME) | (Way::Points(_), b"..") if inner == tree.root() => {
                    Ok(POINTS)
                }
                _ => self.outer_id(way, tree.lookup(inner, name)?),
            },
        }
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        match self.node(file)? {
            Node::Points => Err(ExportError::IsDirectory),
            Node::Inside(way, tree, inner) => {
                let read = tree.read(inner, offset, length)?;
                let attributes = read.attributes;
                let outer = attributes.map(|attributes| self.outer(way, attributes));
                Ok(FileRead {
                    attributes: outer.transpose()?,
                    ..read
                })
            }
        }
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        match self.node(directory)? {
            Node::Points => {
                let entries = self.point_entries()?.into_iter();
                let after = entries.filter(|entry| entry.cookie > cookie);
                Ok(after.take(limit).collect())
            }
            Node::Inside(Way::Root, tree, inner) if inner == tree.root() => {
                self.top_entries(cookie, limit)
            }
            Node::Inside(way, tree, inner) => self.inner_entries(way, &tree, inner, cookie, limit),
        }
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        match self.node(file)? {
            Node::Points => Err(ExportError::Invalid),
            Node::Inside(_, tree, inner) => tree.read_symlink(inner),
        }
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        match self.node(file)? {
            Node::Points => Ok(Vec::new()),
            Node::Inside(_, tree, inner) => tree.extended_attributes(inner),
        }
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        match self.node(file)? {
            Node::Points => Ok(Particulars::default()),
            Node::Inside(_, tree, inner) => tree.particulars(inner),
        }
    }
}

/// The name under which Windows knows a moment.
fn name_of(seconds: i64) -> Option<String> {
    let moment = jiff::Timestamp::from_second(seconds).ok()?;
    Some(moment.strftime("@GMT-%Y.%m.%d-%H.%M.%S").to_string())
}

/// The folder of all points.
pub(crate) const POINTS_FOLDER: &str = ".snapshots";
const POINTS_NAME: &[u8] = POINTS_FOLDER.as_bytes();
const POINTS: FileId = FileId(2);
/// Behind all that a point has at its top.
const POINTS_COOKIE: u64 = 1 << 62;
/// Cookies 0, 1 and 2 belong to the servers.
const COOKIES_BEFORE: u64 = 16;

/// As in the trees of points.
const SLOT_SHIFT: u32 = 48;
const INNER_MASK: u64 = (1 << SLOT_SHIFT) - 1;
const SLOTS_MAX: u64 = (1 << 16) - 1;
/// Points besides the one that is shown that are kept open.
const OPEN_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use export::{BlockExport, Durability, MemoryDisk};
    use guestworker::WorkerOptions;

    use super::*;
    use crate::browse::BrowsedDisk;
    use crate::exports::DiskFormat;

    /// Points whose disks hold their own number.
    struct Numbered(Vec<(u64, i64)>);

    impl Points for Numbered {
        fn list(&self) -> Vec<(u64, i64)> {
            self.0.clone()
        }

        fn open(&self, sequence: u64) -> Result<DiskTree, ExportError> {
            let disk = MemoryDisk::new(1 << 20);
            let content = Bytes::from(vec![u8::try_from(sequence).unwrap(); 512]);
            disk.write(0, &[content], Durability::Unstable)?;
            let disks = vec![BrowsedDisk {
                number: 0,
                disk: Arc::new(disk),
            }];
            Ok(DiskTree::new(
                disks,
                &[DiskFormat::Raw],
                Timestamp::default(),
                WorkerOptions::default(),
            ))
        }
    }

    fn tree(points: &[(u64, i64)]) -> PointsTree {
        let points = Numbered(points.to_vec());
        let top = points.open(3).unwrap();
        PointsTree::new(Box::new(points), 3, top, Timestamp::default())
    }

    fn names(tree: &PointsTree, directory: FileId) -> Vec<String> {
        let mut names = Vec::new();
        let mut cookie = 0;
        // One at a time, so that every cookie is gone on from.
        while let Some(entry) = tree.list(directory, cookie, 1).unwrap().pop() {
            assert_eq!(tree.lookup(directory, &entry.name).unwrap(), entry.file);
            assert_eq!(tree.attributes(entry.file).unwrap().file, entry.file);
            cookie = entry.cookie;
            names.push(String::from_utf8(entry.name).unwrap());
        }
        names
    }

    fn first_byte(tree: &PointsTree, path: &[&str]) -> u8 {
        let file = path.iter().fold(tree.root(), |file, name| {
            tree.lookup(file, name.as_bytes()).unwrap()
        });
        let read = tree.read(file, 0, 1).unwrap();
        read.data.pieces()[0][0]
    }

    #[test]
    fn each_point_is_a_folder_named_by_its_time() {
        let tree = tree(&[(1, 1_760_000_000), (2, 1_760_000_001), (3, 1_770_000_000)]);
        assert_eq!(
            names(&tree, tree.root()),
            ["disk-0.raw", "disk-0", ".snapshots"]
        );
        let points = tree.lookup(tree.root(), b".snapshots").unwrap();
        let wanted = [
            "@GMT-2025.10.09-08.53.20",
            "@GMT-2025.10.09-08.53.21",
            "@GMT-2026.02.02-02.40.00",
        ];
        assert_eq!(names(&tree, points), wanted);
        assert_eq!(first_byte(&tree, &["disk-0.raw"]), 3);
        for (point, number) in wanted.iter().zip(1..) {
            assert_eq!(
                first_byte(&tree, &[".snapshots", point, "disk-0.raw"]),
                number
            );
        }
        let first = tree.lookup(points, wanted[0].as_bytes()).unwrap();
        assert_eq!(names(&tree, first), ["disk-0.raw", "disk-0"]);
        assert_eq!(tree.lookup(first, b"..").unwrap(), points);
        let third = tree.lookup(points, wanted[2].as_bytes()).unwrap();
        assert_ne!(third, tree.root(), "a folder that is in itself");
        assert_eq!(tree.lookup(third, b"..").unwrap(), points);
        assert_eq!(tree.lookup(points, b"..").unwrap(), tree.root());
        assert_eq!(tree.lookup(tree.root(), b"..").unwrap(), tree.root());
        assert!(matches!(
            tree.lookup(points, b"@GMT-x"),
            Err(ExportError::NotFound)
        ));
        assert!(matches!(
            tree.lookup(first, b".snapshots"),
            Err(ExportError::NotFound)
        ));
    }

    #[test]
    fn of_two_points_in_a_second_the_later_is_shown() {
        let tree = tree(&[(1, 1_760_000_000), (2, 1_760_000_000), (3, 1_770_000_000)]);
        let path = [".snapshots", "@GMT-2025.10.09-08.53.20", "disk-0.raw"];
        assert_eq!(first_byte(&tree, &path), 2);
    }

    #[test]
    fn ids_stay_when_points_are_closed_and_opened_again() {
        let points: Vec<_> = (1..=30)
            .map(|n| (n, 1_760_000_000 + i64::try_from(n).unwrap()))
            .collect();
        let tree = tree(&points);
        let folder = tree.lookup(tree.root(), b".snapshots").unwrap();
        let files: Vec<FileId> = names(&tree, folder)
            .iter()
            .map(|name| {
                let point = tree.lookup(folder, name.as_bytes()).unwrap();
                tree.lookup(point, b"disk-0.raw").unwrap()
            })
            .collect();
        for (file, (number, _)) in files.iter().zip(points).rev() {
            let read = tree.read(*file, 0, 1).unwrap();
            assert_eq!(u64::from(read.data.pieces()[0][0]), number);
        }
        assert!(tree.open.lock().len() <= OPEN_MAX);
        assert!(matches!(
            tree.attributes(FileId(0)),
            Err(ExportError::Stale)
        ));
        assert!(matches!(
            tree.attributes(FileId(u64::MAX)),
            Err(ExportError::Stale)
        ));
    }
}
