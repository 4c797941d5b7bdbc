//! CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK.

use bytes::{BufMut, BytesMut};
use export::{Attributes, CreateMode, Created, ExportError, FileId, Segments, SetAttributes};

use super::Service;
use super::attributes::SMALL_COST;
use super::request::{Fault, Located, Request, Step};
use crate::access;
use crate::error::Status;
use crate::wire::nfs3::{self, Place};
use crate::wire::xdr::{Malformed, Reader, Writer};

impl Request<'_> {
    /// RFC 1813, 3.3.8.
    pub(super) fn create(&mut self) -> Result<Step, Fault> {
        let place = Place::decode(&mut self.arguments)?;
        let (mode, attributes) = decode_create(&mut self.arguments)?;
        let at = self.locate_changing(&place)?;
        let name = place.name.to_vec();
        Ok(Step::later(SMALL_COST, move |service, out| {
            make(service, &at, &attributes, out, || {
                if mode == CreateMode::Unchecked && attributes.size_bytes.is_some() {
                    check_cut(&at, &name)?;
                }
                Ok(at
                    .tree()
                    .create(&at.caller, at.file, &name, mode, &attributes)?)
            })
        }))
    }

    /// RFC 1813, 3.3.9.
    pub(super) fn mkdir(&mut self) -> Result<Step, Fault> {
        let place = Place::decode(&mut self.arguments)?;
        let attributes = nfs3::decode_set_attributes(&mut self.arguments)?;
        let at = self.locate_changing(&place)?;
        let name = place.name.to_vec();
        Ok(Step::later(SMALL_COST, move |service, out| {
            make(service, &at, &attributes, out, || {
                Ok(at
                    .tree()
                    .create_directory(&at.caller, at.file, &name, &attributes)?)
            })
        }))
    }

    /// RFC 1813, 3.3.10.
    pub(super) fn symlink(&mut self) -> Result<Step, Fault> {
        let place = Place::decode(&mut self.arguments)?;
        let attributes = nfs3::decode_set_attributes(&mut self.arguments)?;
        let target = self.arguments.opaque(SYMLINK_MAX)?.to_vec();
        let at = self.locate_changing(&place)?;
        let name = place.name.to_vec();
        Ok(Step::later(SMALL_COST, move |service, out| {
            make(service, &at, &attributes, out, || {
                let tree = at.tree();
                Ok(tree.create_symlink(&at.caller, at.file, &name, &target, &attributes)?)
            })
        }))
    }

    /// RFC 1813, 3.3.11. Devices, sockets and pipes are not kept here.
    pub(super) fn mknod(&mut self) -> Result<Step, Fault> {
        let place = Place::decode(&mut self.arguments)?;
        let kind = self.arguments.u32()?;
        self.locate_changing(&place)?;
        match kind {
            3 | 4 | 6 | 7 => Err(Status::NotSupported.into()),
            _ => Err(Status::BadType.into()),
        }
    }

    /// RFC 1813, 3.3.12.
    pub(super) fn remove(&mut self) -> Result<Step, Fault> {
        let place = Place::decode(&mut self.arguments)?;
        let at = self.locate_changing(&place)?;
        let name = place.name.to_vec();
        Ok(Step::later(SMALL_COST, move |service, out| {
            change_entries(service, &at, out, || {
                check_leaving(&at, &name)?;
                Ok(at.tree().remove(&at.caller, at.file, &name)?)
            })
        }))
    }

    /// RFC 1813, 3.3.13.
    pub(super) fn rmdir(&mut self) -> Result<Step, Fault> {
        let place = Place::decode(&mut self.arguments)?;
        let at = self.locate_changing(&place)?;
        let name = place.name.to_vec();
        Ok(Step::later(SMALL_COST, move |service, out| {
            change_entries(service, &at, out, || {
                check_leaving(&at, &name)?;
                Ok(at.tree().remove_directory(&at.caller, at.file, &name)?)
            })
        }))
    }

    /// RFC 1813, 3.3.14.
    pub(super) fn rename(&mut self) -> Result<Step, Fault> {
        let from = Place::decode(&mut self.arguments)?;
        let to = Place::decode(&mut self.arguments)?;
        let old = self.locate_changing(&from)?;
        let new = self.locate_changing(&to)?;
        if old.export.id != new.export.id {
            return Err(Status::CrossDevice.into());
        }
        let (from, to) = (from.name.to_vec(), to.name.to_vec());
        Ok(Step::later(SMALL_COST, move |service, out| {
            let _one_step = service.change_locks(old.export.id, old.file, new.file);
            let before = (
                old.attributes_if_any(old.file),
                new.attributes_if_any(new.file),
            );
            let result = check_leaving(&old, &from)
                .and_then(|()| check_leaving(&new, &to))
                .and_then(|()| {
                    Ok(old
                        .tree()
                        .rename(&old.caller, old.file, &from, new.file, &to)?)
                });
            let after = (
                old.attributes_if_any(old.file),
                new.attributes_if_any(new.file),
            );
            encode_status(service, result.as_ref().err(), out);
            let out = &mut Writer::new(out);
            nfs3::encode_change(out, before.0.as_ref(), after.0.as_ref(), old.export.id);
            nfs3::encode_change(out, before.1.as_ref(), after.1.as_ref(), new.export.id);
            Ok(Segments::new())
        }))
    }

    /// RFC 1813, 3.3.15.
    pub(super) fn link(&mut self) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let place = Place::decode(&mut self.arguments)?;
        let file = self.locate_writable(handle)?;
        let at = self.locate_changing(&place)?;
        if file.export.id != at.export.id {
            return Err(Status::CrossDevice.into());
        }
        let name = place.name.to_vec();
        Ok(Step::later(SMALL_COST, move |service, out| {
            let _one_step = service.change_lock(at.export.id, at.file);
            let before = at.attributes_if_any(at.file);
            let result = at.tree().link(&at.caller, file.file, at.file, &name);
            let result = result.map_err(Status::from);
            encode_status(service, result.as_ref().err(), out);
            let out = &mut Writer::new(out);
            nfs3::encode_post(out, at.attributes_if_any(file.file).as_ref(), at.export.id);
            let after = at.attributes_if_any(at.file);
            nfs3::encode_change(out, before.as_ref(), after.as_ref(), at.export.id);
            Ok(Segments::new())
        }))
    }
}

/// Makes an object and writes the results that CREATE, MKDIR and SYMLINK share.
fn make(
    service: &Service,
    at: &Located,
    attributes: &SetAttributes,
    out: &mut BytesMut,
    make: impl FnOnce() -> Result<Created, Status>,
) -> Result<Segments, Status> {
    check_owner(at, attributes)?;
    let _one_step = service.change_lock(at.export.id, at.file);
    let before = at.attributes_if_any(at.file);
    let result = make();
    let after = at.attributes_if_any(at.file);
    encode_status(service, result.as_ref().err(), out);
    let out = &mut Writer::new(out);
    if let Ok(created) = result {
        let handle = at.handle_of(service, created.file);
        out.optional(Some(handle), |out, handle| out.opaque(&handle));
        nfs3::encode_post(out, Some(&created.attributes), at.export.id);
    }
    nfs3::encode_change(out, before.as_ref(), after.as_ref(), at.export.id);
    Ok(Segments::new())
}

/// Changes a folder and writes the results that REMOVE and RMDIR share.
fn change_entries(
    service: &Service,
    at: &Located,
    out: &mut BytesMut,
    change: impl FnOnce() -> Result<(), Status>,
) -> Result<Segments, Status> {
    let _one_step = service.change_lock(at.export.id, at.file);
    let before = at.attributes_if_any(at.file);
    let result = change();
    let after = at.attributes_if_any(at.file);
    encode_status(service, result.as_ref().err(), out);
    nfs3::encode_change(
        &mut Writer::new(out),
        before.as_ref(),
        after.as_ref(),
        at.export.id,
    );
    Ok(Segments::new())
}

fn encode_status(service: &Service, refused: Option<&Status>, out: &mut BytesMut) {
    service.metrics.refused.add(u64::from(refused.is_some()));
    out.put_u32(refused.map_or(0, |status| status.number()));
}

/// `createhow3` (RFC 1813, 3.3.8).
fn decode_create(arguments: &mut Reader<'_>) -> Result<(CreateMode, SetAttributes), Malformed> {
    match arguments.u32()? {
        nfs3::CREATE_UNCHECKED => Ok((
            CreateMode::Unchecked,
            nfs3::decode_set_attributes(arguments)?,
        )),
        nfs3::CREATE_GUARDED => Ok((CreateMode::Guarded, nfs3::decode_set_attributes(arguments)?)),
        nfs3::CREATE_EXCLUSIVE => Ok((
            CreateMode::Exclusive(arguments.array()?),
            SetAttributes::default(),
        )),
        _ => Err(Malformed),
    }
}

/// Refuses to make objects that belong to somebody else.
fn check_owner(at: &Located, attributes: &SetAttributes) -> Result<(), Status> {
    let Ok(directory) = at.attributes() else {
        return Ok(());
    };
    let own = Attributes {
        uid: at.caller.uid,
        gid: at.caller.gid,
        mode: 0o700,
        ..directory
    };
    let change = SetAttributes {
        uid: attributes.uid,
        gid: attributes.gid,
        ..SetAttributes::default()
    };
    access::check_change(&at.caller, &own, &change)
}

/// Refuses to cut a file that is there already and that the caller may not write.
fn check_cut(at: &Located, name: &[u8]) -> Result<(), Status> {
    match find(at, name)? {
        Some(file) if at.caller.uid != 0 => {
            access::check_write(&at.caller, &at.tree().attributes(file)?)
        }
        _ => Ok(()),
    }
}

/// Refuses to take a name out of a sticky folder from its owner.
fn check_leaving(at: &Located, name: &[u8]) -> Result<(), Status> {
    if at.caller.uid == 0 || matches!(name, b"." | b"..") {
        return Ok(());
    }
    let Some(file) = find(at, name)? else {
        return Ok(());
    };
    access::check_sticky(&at.caller, &at.attributes()?, &at.tree().attributes(file)?)
}

fn find(at: &Located, name: &[u8]) -> Result<Option<FileId>, Status> {
    match at.tree().lookup(at.file, name) {
        Ok(file) => Ok(Some(file)),
        Err(ExportError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const SYMLINK_MAX: usize = 1024;
