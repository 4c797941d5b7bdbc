//! Who may do what: squashing of user numbers, and permission bits as POSIX reads them.

use export::{Attributes, Caller, FileKind, SetAttributes, TimeChange};

use crate::error::Status;
use crate::exports::{ExportOptions, Squash};
use crate::wire::nfs3;
use crate::wire::rpc::AuthSys;

/// Who a request comes from, before an export's rules are applied. Borrowed from the record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Credential<'a> {
    /// AUTH_NONE: nobody in particular.
    None,
    /// AUTH_SYS: as the peer says.
    Sys(AuthSys<'a>),
}

impl Credential<'_> {
    /// The caller as an export sees it.
    pub(crate) fn caller(&self, options: &ExportOptions) -> Caller {
        let anonymous = || Caller {
            uid: options.anonymous_uid,
            gid: options.anonymous_gid,
            gids: Vec::new(),
        };
        match (self, options.squash) {
            (Self::None, _) | (Self::Sys(_), Squash::All) => anonymous(),
            (Self::Sys(auth), Squash::None) => Caller {
                uid: auth.uid,
                gid: auth.gid,
                gids: auth.groups().collect(),
            },
            (Self::Sys(auth), Squash::Root) if auth.uid == 0 => anonymous(),
            (Self::Sys(auth), Squash::Root) => {
                let squashed = |gid| if gid == 0 { options.anonymous_gid } else { gid };
                let gids = auth.groups().map(squashed).collect();
                Caller {
                    uid: auth.uid,
                    gid: squashed(auth.gid),
                    gids,
                }
            }
        }
    }
}

/// Permission bits of one class: read 4, write 2, execute or search 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights(u32);

impl Rights {
    pub(crate) const READ: Self = Self(4);
    pub(crate) const WRITE: Self = Self(2);
    pub(crate) const SEARCH: Self = Self(1);
    pub(crate) const CHANGE_ENTRIES: Self = Self(3);

    /// What `caller` has on an object.
    fn of(caller: &Caller, attributes: &Attributes) -> Self {
        let mode = attributes.mode;
        if caller.uid == 0 {
            let executable = attributes.kind == FileKind::Directory || mode & 0o111 != 0;
            return Self(if executable { 7 } else { 6 });
        }
        let class = if caller.uid == attributes.uid {
            mode >> 6
        } else if in_group(caller, attributes.gid) {
            mode >> 3
        } else {
            mode
        };
        Self(class & 7)
    }

    fn include(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// Refuses unless `caller` has all of `wanted`.
pub(crate) fn check(caller: &Caller, object: &Attributes, wanted: Rights) -> Result<(), Status> {
    if Rights::of(caller, object).include(wanted) {
        Ok(())
    } else {
        Err(Status::Access)
    }
}

/// Refuses to give content away. The owner may always read, because an open file stays open after a `chmod`; and what
/// can be executed must be readable for the client to execute it.
pub(crate) fn check_read(caller: &Caller, file: &Attributes) -> Result<(), Status> {
    let rights = Rights::of(caller, file);
    let may = caller.uid == file.uid
        || rights.include(Rights::READ)
        || (file.kind == FileKind::File && rights.include(Rights::SEARCH));
    if may { Ok(()) } else { Err(Status::Access) }
}

/// Refuses to take content; the owner may always write, as above.
pub(crate) fn check_write(caller: &Caller, file: &Attributes) -> Result<(), Status> {
    let may = caller.uid == file.uid || Rights::of(caller, file).include(Rights::WRITE);
    if may { Ok(()) } else { Err(Status::Access) }
}

/// Refuses a change of attributes that POSIX does not allow `caller`.
pub(crate) fn check_change(
    caller: &Caller,
    object: &Attributes,
    change: &SetAttributes,
) -> Result<(), Status> {
    if caller.uid == 0 {
        return Ok(());
    }
    let owner = caller.uid == object.uid;
    let gives_away = change.uid.is_some_and(|uid| uid != object.uid);
    let regroups = change
        .gid
        .is_some_and(|gid| gid != object.gid && !in_group(caller, gid));
    let sets_times = [change.accessed, change.modified];
    let to_any = sets_times
        .iter()
        .any(|time| matches!(time, Some(TimeChange::To(_))));
    let touches = sets_times.iter().any(Option::is_some);
    if gives_away || regroups {
        return Err(Status::Perm);
    }
    if !owner && (change.mode.is_some() || change.gid.is_some() || to_any) {
        return Err(Status::Perm);
    }
    if change.size_bytes.is_some() || (touches && !owner) {
        check_write(caller, object)?;
    }
    Ok(())
}

/// Refuses to take a name out of a folder with the sticky bit from anyone but an owner.
pub(crate) fn check_sticky(
    caller: &Caller,
    directory: &Attributes,
    object: &Attributes,
) -> Result<(), Status> {
    let free = directory.mode & STICKY == 0
        || caller.uid == 0
        || caller.uid == directory.uid
        || caller.uid == object.uid;
    if free { Ok(()) } else { Err(Status::Perm) }
}

/// Which of the `wanted` ACCESS3 bits `caller` has (RFC 1813, 3.3.4).
pub(crate) fn granted(caller: &Caller, object: &Attributes, read_only: bool, wanted: u32) -> u32 {
    let rights = Rights::of(caller, object);
    let is_directory = object.kind == FileKind::Directory;
    let mut bits = 0;
    if rights.include(Rights::READ) {
        bits |= nfs3::ACCESS_READ;
    }
    if rights.include(Rights::SEARCH) {
        bits |= if is_directory {
            nfs3::ACCESS_LOOKUP
        } else {
            nfs3::ACCESS_EXECUTE
        };
    }
    if rights.include(Rights::WRITE) && !read_only {
        bits |= nfs3::ACCESS_MODIFY | nfs3::ACCESS_EXTEND;
        if is_directory {
            bits |= nfs3::ACCESS_DELETE;
        }
    }
    bits & wanted
}

fn in_group(caller: &Caller, gid: u32) -> bool {
    caller.gid == gid || caller.gids.contains(&gid)
}

const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use export::{FileExport, MemoryTree};

    use super::*;

    fn object(mode: u32) -> Attributes {
        let tree = MemoryTree::new();
        let attributes = tree.attributes(tree.root()).unwrap();
        Attributes {
            mode,
            uid: 10,
            gid: 20,
            kind: FileKind::File,
            ..attributes
        }
    }

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller {
            uid,
            gid,
            gids: vec![gid + 1],
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let file = object(0o640);
        assert_eq!(check(&caller(10, 1), &file, Rights::WRITE), Ok(()));
        assert_eq!(check(&caller(11, 20), &file, Rights::READ), Ok(()));
        assert_eq!(
            check(&caller(11, 19), &file, Rights::READ),
            Ok(()),
            "a further group"
        );
        assert_eq!(
            check(&caller(11, 20), &file, Rights::WRITE),
            Err(Status::Access)
        );
        assert_eq!(
            check(&caller(11, 1), &file, Rights::READ),
            Err(Status::Access)
        );
        let odd = object(0o077);
        assert_eq!(
            check(&caller(10, 1), &odd, Rights::READ),
            Err(Status::Access),
            "owner first"
        );
    }

    #[test]
    fn only_root_gives_files_away() {
        let file = object(0o666);
        let to = |uid| SetAttributes {
            uid: Some(uid),
            ..SetAttributes::default()
        };
        assert_eq!(
            check_change(&caller(10, 20), &file, &to(11)),
            Err(Status::Perm)
        );
        assert_eq!(check_change(&caller(10, 20), &file, &to(10)), Ok(()));
        assert_eq!(check_change(&caller(0, 0), &file, &to(11)), Ok(()));
        let now = SetAttributes {
            modified: Some(TimeChange::Now),
            ..SetAttributes::default()
        };
        assert_eq!(check_change(&caller(11, 1), &file, &now), Ok(()));
        assert_eq!(
            check_change(&caller(11, 1), &object(0o600), &now),
            Err(Status::Access)
        );
    }

    #[test]
    fn a_read_only_export_grants_no_change() {
        let all = 0x3f;
        assert_eq!(granted(&caller(0, 0), &object(0o600), false, all), 0x0d);
        assert_eq!(granted(&caller(0, 0), &object(0o600), true, all), 0x01);
        assert_eq!(granted(&caller(5, 5), &object(0o601), false, all), 0x20);
    }
}
