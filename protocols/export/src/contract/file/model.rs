//! Random operations on a tree and on a simple picture of it.

use std::collections::BTreeMap;
use std::mem::discriminant;

use bytes::Bytes;

use super::{ROOT, read_all};
use crate::{CreateMode, Durability, ExportError, FileExport, FileId, FileKind, SetAttributes};

/// What a tree should hold.
#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<FileId, Node>,
}

#[derive(Debug)]
enum Node {
    File(Vec<u8>),
    Folder(BTreeMap<Vec<u8>, FileId>),
}

pub(super) fn check_random_operations(tree: &dyn FileExport, folder: FileId, seed: u64) {
    let mut random = Random(seed);
    let mut model = Model::default();
    model.nodes.insert(folder, Node::Folder(BTreeMap::new()));
    for step in 0..STEPS {
        let expected_and_got = match random.below(10) {
            0 | 1 => create_file(tree, &mut model, &mut random),
            2 => create_folder(tree, &mut model, &mut random),
            3 => remove(tree, &mut model, &mut random),
            4 => remove_folder(tree, &mut model, &mut random),
            5 | 6 => rename(tree, &mut model, &mut random),
            7 => resize(tree, &mut model, &mut random),
            _ => write(tree, &mut model, &mut random),
        };
        let Some((expected, got)) = expected_and_got else {
            continue;
        };
        let same = match (&expected, &got) {
            (Ok(()), Ok(())) => true,
            (Err(expected), Err(got)) => discriminant(expected) == discriminant(got),
            _ => false,
        };
        assert!(
            same,
            "seed {seed}, step {step}: expected {expected:?}, got {got:?}"
        );
        if step % 50 == 49 {
            model.compare(tree, seed, step);
        }
    }
    model.compare(tree, seed, STEPS);
}

type Results = Option<(Result<(), ExportError>, Result<(), ExportError>)>;

fn create_file(tree: &dyn FileExport, model: &mut Model, random: &mut Random) -> Results {
    let (folder, name) = model.place(random);
    let expected = match model.find(folder, &name) {
        Some(_) => Err(ExportError::Exists),
        None => Ok(()),
    };
    let plain = SetAttributes::default();
    let got = tree.create(&ROOT, folder, &name, CreateMode::Guarded, &plain);
    if let Ok(created) = &got {
        model.add(folder, name, created.file, Node::File(Vec::new()));
    }
    Some((expected, got.map(drop)))
}

fn create_folder(tree: &dyn FileExport, model: &mut Model, random: &mut Random) -> Results {
    let (folder, name) = model.place(random);
    let expected = match model.find(folder, &name) {
        Some(_) => Err(ExportError::Exists),
        None => Ok(()),
    };
    let got = tree.create_directory(&ROOT, folder, &name, &SetAttributes::default());
    if let Ok(created) = &got {
        model.add(folder, name, created.file, Node::Folder(BTreeMap::new()));
    }
    Some((expected, got.map(drop)))
}

fn remove(tree: &dyn FileExport, model: &mut Model, random: &mut Random) -> Results {
    let (folder, name) = model.place(random);
    let found = model.find(folder, &name);
    let expected = match found.map(|file| &model.nodes[&file]) {
        None => Err(ExportError::NotFound),
        Some(Node::Folder(_)) => Err(ExportError::IsDirectory),
        Some(Node::File(_)) => Ok(()),
    };
    if expected.is_ok() {
        model.forget(folder, &name);
    }
    Some((expected, tree.remove(&ROOT, folder, &name)))
}

fn remove_folder(tree: &dyn FileExport, model: &mut Model, random: &mut Random) -> Results {
    let (folder, name) = model.place(random);
    let found = model.find(folder, &name);
    let expected = match found.map(|file| &model.nodes[&file]) {
        None => Err(ExportError::NotFound),
        Some(Node::Folder(entries)) if entries.is_empty() => Ok(()),
        Some(Node::Folder(_)) => Err(ExportError::NotEmpty),
        Some(Node::File(_)) => Err(ExportError::NotDirectory),
    };
    if expected.is_ok() {
        model.forget(folder, &name);
    }
    Some((expected, tree.remove_directory(&ROOT, folder, &name)))
}

fn rename(tree: &dyn FileExport, model: &mut Model, random: &mut Random) -> Results {
    let (from_folder, from) = model.place(random);
    let (to_folder, to) = model.place(random);
    let expected = model.check_rename((from_folder, &from), (to_folder, &to));
    let got = tree.rename(&ROOT, from_folder, &from, to_folder, &to);
    let moved = model.find(from_folder, &from);
    if let (Ok(()), Some(moved)) = (&expected, moved)
        && model.find(to_folder, &to) != Some(moved)
    {
        model.forget(to_folder, &to);
        model.entries(from_folder).remove(&from);
        model.entries(to_folder).insert(to, moved);
    }
    Some((expected, got))
}

fn resize(tree: &dyn FileExport, model: &mut Model, random: &mut Random) -> Results {
    let size = random.below(SIZE_MAX);
    let (file, content) = model.file(random)?;
    content.resize(usize::try_from(size).unwrap(), 0);
    let change = SetAttributes {
        size_bytes: Some(size),
        ..SetAttributes::default()
    };
    Some((Ok(()), tree.set_attributes(&ROOT, file, &change).map(drop)))
}

fn write(tree: &dyn FileExport, model: &mut Model, random: &mut Random) -> Results {
    let offset = random.below(SIZE_MAX);
    let length = if random.below(2) == 0 {
        random.below(600)
    } else {
        random.below(SIZE_MAX)
    };
    let fill = u8::try_from(random.below(255) + 1).unwrap();
    let durability = if random.below(8) == 0 {
        Durability::Stable
    } else {
        Durability::Unstable
    };
    let quick = random.below(2) == 0;
    let (file, content) = model.file(random)?;
    let (start, count) = (
        usize::try_from(offset).unwrap(),
        usize::try_from(length).unwrap(),
    );
    if count > 0 {
        content.resize(content.len().max(start + count), 0);
        content[start..start + count].fill(fill);
    }
    let data = [
        Bytes::from(vec![fill; count / 2]),
        Bytes::from(vec![fill; count - count / 2]),
    ];
    if quick && let Some(result) = tree.try_write(file, offset, &data) {
        return Some((Ok(()), result.map(drop)));
    }
    Some((
        Ok(()),
        tree.write(file, offset, &data, durability).map(drop),
    ))
}

impl Model {
    fn entries(&mut self, folder: FileId) -> &mut BTreeMap<Vec<u8>, FileId> {
        match self.nodes.get_mut(&folder) {
            Some(Node::Folder(entries)) => entries,
            _ => panic!("the model has no folder {folder:?}"),
        }
    }

    fn add(&mut self, folder: FileId, name: Vec<u8>, file: FileId, node: Node) {
        assert!(
            self.nodes.insert(file, node).is_none(),
            "{file:?} is given twice"
        );
        self.entries(folder).insert(name, file);
    }

    fn forget(&mut self, folder: FileId, name: &[u8]) {
        if let Some(file) = self.entries(folder).remove(name) {
            self.nodes.remove(&file);
        }
    }

    fn find(&self, folder: FileId, name: &[u8]) -> Option<FileId> {
        match &self.nodes[&folder] {
            Node::Folder(entries) => entries.get(name).copied(),
            Node::File(_) => None,
        }
    }

    fn check_rename(
        &self,
        (from_folder, from): (FileId, &[u8]),
        (to_folder, to): (FileId, &[u8]),
    ) -> Result<(), ExportError> {
        let moved = self.find(from_folder, from).ok_or(ExportError::NotFound)?;
        let replaced = self.find(to_folder, to);
        if replaced == Some(moved) {
            return Ok(());
        }
        if self.is_below(to_folder, moved) {
            return Err(ExportError::Invalid);
        }
        match (
            &self.nodes[&moved],
            replaced.map(|replaced| &self.nodes[&replaced]),
        ) {
            (Node::Folder(_), Some(Node::File(_))) => Err(ExportError::NotDirectory),
            (Node::File(_), Some(Node::Folder(_))) => Err(ExportError::IsDirectory),
            (Node::Folder(_), Some(Node::Folder(entries))) if !entries.is_empty() => {
                Err(ExportError::NotEmpty)
            }
            _ => Ok(()),
        }
    }

    fn is_below(&self, file: FileId, above: FileId) -> bool {
        match &self.nodes[&above] {
            _ if file == above => true,
            Node::File(_) => false,
            Node::Folder(entries) => entries.values().any(|entry| self.is_below(file, *entry)),
        }
    }

    /// Some folder and one of few names, so that names are often taken.
    fn place(&self, random: &mut Random) -> (FileId, Vec<u8>) {
        let folders = self
            .nodes
            .iter()
            .filter(|(_, node)| matches!(node, Node::Folder(_)));
        let folders: Vec<FileId> = folders.map(|(file, _)| *file).collect();
        let folder = folders[random.index(folders.len())];
        (folder, vec![b'a' + u8::try_from(random.below(6)).unwrap()])
    }

    fn file(&mut self, random: &mut Random) -> Option<(FileId, &mut Vec<u8>)> {
        let count = self
            .nodes
            .values()
            .filter(|node| matches!(node, Node::File(_)))
            .count();
        if count == 0 {
            return None;
        }
        let files = self.nodes.iter_mut().filter_map(|(file, node)| match node {
            Node::File(content) => Some((*file, content)),
            Node::Folder(_) => None,
        });
        files.into_iter().nth(random.index(count))
    }

    fn compare(&self, tree: &dyn FileExport, seed: u64, step: u32) {
        for (file, node) in &self.nodes {
            let attributes = tree.attributes(*file).unwrap();
            match node {
                Node::File(content) => {
                    assert_eq!(attributes.size_bytes, content.len() as u64);
                    let same = read_all(tree, *file) == *content;
                    assert!(
                        same,
                        "seed {seed}, step {step}: content of {file:?} differs"
                    );
                }
                Node::Folder(entries) => {
                    assert_eq!(attributes.kind, FileKind::Directory);
                    let listed = tree.list(*file, 0, 1000).unwrap();
                    let listed: BTreeMap<_, _> = listed
                        .into_iter()
                        .map(|entry| (entry.name, entry.file))
                        .collect();
                    assert_eq!(
                        &listed, entries,
                        "seed {seed}, step {step}: entries of {file:?}"
                    );
                }
            }
        }
    }
}

/// Numbers that look random, the same for the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}

const STEPS: u32 = 600;
const SIZE_MAX: u64 = 200_000;
