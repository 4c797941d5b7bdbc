//! Paths from the top of a tree.

use export::{ExportError, FileExport, FileId};

/// A path that leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PathError {
    /// It goes up or stays.
    #[error("{path} has the part {part}; give the path without it")]
    BadPart { path: String, part: String },
    /// There is no such name.
    #[error(
        "{path} is not there: {place} has no {name}; `holdfast files list POINT {walked}` shows what it has"
    )]
    NotThere {
        path: String,
        place: String,
        name: String,
        walked: String,
    },
    /// What would have to be a folder is none.
    #[error("{path} is not there: {place} is no folder")]
    NoFolder { path: String, place: String },
    /// It is there and is not shown, for a reason that stands beside it.
    #[error("{0}")]
    NotShown(String),
    /// A folder on the way cannot be read.
    #[error("cannot look into {place}")]
    Unreadable {
        place: String,
        #[source]
        source: ExportError,
    },
}

/// What a path leads to. Links are not followed: their targets are for the guest to find.
pub(crate) fn find(tree: &dyn FileExport, path: &str) -> Result<FileId, PathError> {
    let mut at = tree.root();
    let mut walked = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if matches!(name, "." | "..") {
            return Err(PathError::BadPart {
                path: path.to_owned(),
                part: name.to_owned(),
            });
        }
        at = tree.lookup(at, name.as_bytes()).map_err(|source| {
            let place = match walked.as_str() {
                "" => "the top".to_owned(),
                walked => walked.to_owned(),
            };
            let path = path.to_owned();
            match (reason(tree, at, name), source) {
                (Some(reason), _) => PathError::NotShown(reason),
                (None, ExportError::NotFound) => PathError::NotThere {
                    path,
                    place,
                    name: name.to_owned(),
                    walked: walked.clone(),
                },
                (None, ExportError::NotDirectory) => PathError::NoFolder { path, place },
                (None, source) => PathError::Unreadable { place, source },
            }
        })?;
        walked = format!("{walked}/{name}")
            .trim_start_matches('/')
            .to_owned();
    }
    Ok(at)
}

/// Why something is not shown, where a text of its name says so.
fn reason(tree: &dyn FileExport, folder: FileId, name: &str) -> Option<String> {
    let file = tree.lookup(folder, format!("{name}.txt").as_bytes()).ok()?;
    let is_ours = tree
        .attributes(folder)
        .is_ok_and(|folder| folder.mode == 0o555);
    let text = tree.read(file, 0, 4096).ok().filter(|_| is_ours)?;
    let text: Vec<u8> = text.data.into_pieces().concat();
    Some(String::from_utf8_lossy(&text).trim_end().to_owned())
}
