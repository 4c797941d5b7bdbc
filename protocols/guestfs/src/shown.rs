//! What all trees show in the same way.

use export::{Attributes, ExportError, FileId, FileKind, Timestamp};

/// Seconds since 1970, negative before, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl From<Moment> for Timestamp {
    /// Times before 1970 are shown as its first moment: exports have none.
    fn from(moment: Moment) -> Self {
        u64::try_from(moment.seconds).map_or(Self::default(), |seconds| Self {
            seconds,
            nanoseconds: moment.nanoseconds,
        })
    }
}

/// An empty file without rights, for a name that leads to damage: the other names of the folder are still wanted, and
/// reading this file fails.
pub(crate) fn unreadable(file: FileId) -> Attributes {
    Attributes {
        file,
        kind: FileKind::File,
        mode: 0,
        links: 1,
        uid: 0,
        gid: 0,
        size_bytes: 0,
        used_bytes: 0,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
    }
}

/// Refuses what cannot be the name of anything: nothing, and more than `most` bytes.
pub(crate) fn check_name(name: &[u8], most: usize) -> Result<(), ExportError> {
    match name.len() {
        0 => Err(ExportError::BadName),
        length if length > most => Err(ExportError::NameTooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_its_first_moment() {
        let shown = |seconds| {
            Timestamp::from(Moment {
                seconds,
                nanoseconds: 7,
            })
        };
        assert_eq!(shown(-1), Timestamp::default());
        assert_eq!((shown(5).seconds, shown(5).nanoseconds), (5, 7));
    }
}
