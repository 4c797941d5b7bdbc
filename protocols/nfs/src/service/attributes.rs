//! GETATTR, SETATTR, LOOKUP, ACCESS, READLINK.

use bytes::{BufMut, BytesMut};
use export::Segments;

use super::request::{Fault, Request, Step};
use crate::access::{self, Rights};
use crate::error::Status;
use crate::wire::nfs3::{self, Place};
use crate::wire::xdr::Writer;

impl Request<'_> {
    /// RFC 1813, 3.3.1.
    pub(super) fn getattr(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let at = self.locate(handle)?;
        let attributes = at.attributes()?;
        out.put_u32(0);
        nfs3::encode_attributes(&mut Writer::new(out), &attributes, at.export.id);
        Ok(Step::done())
    }

    /// RFC 1813, 3.3.2.
    pub(super) fn setattr(&mut self) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let change = nfs3::decode_set_attributes(&mut self.arguments)?;
        let guard = self.arguments.optional(nfs3::decode_time)?;
        let at = self.locate_writable(handle)?;
        Ok(Step::later(SMALL_COST, move |service, out| {
            let _one_step = service.change_lock(at.export.id, at.file);
            let before = at.attributes()?;
            access::check_change(&at.caller, &before, &change)?;
            if guard.is_some_and(|guard| guard != before.changed) {
                return Err(Status::NotSync);
            }
            let after = at.tree().set_attributes(&at.caller, at.file, &change)?;
            out.put_u32(0);
            let out = &mut Writer::new(out);
            nfs3::encode_change(out, Some(&before), Some(&after), at.export.id);
            Ok(Segments::new())
        }))
    }

    /// RFC 1813, 3.3.3.
    pub(super) fn lookup(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let place = Place::decode(&mut self.arguments)?;
        let at = self.locate(place.directory)?;
        place.check()?;
        at.require(Rights::SEARCH)?;
        let found = match at.tree().lookup(at.file, place.name) {
            Ok(found) => found,
            Err(error) => {
                // The folder's attributes let the client remember that the name is not there.
                self.service.metrics.refused.add(1);
                out.put_u32(Status::from(error).number());
                let directory = at.attributes_if_any(at.file);
                nfs3::encode_post(&mut Writer::new(out), directory.as_ref(), at.export.id);
                return Ok(Step::done());
            }
        };
        out.put_u32(0);
        let out = &mut Writer::new(out);
        out.opaque(&at.handle_of(self.service, found));
        nfs3::encode_post(out, at.attributes_if_any(found).as_ref(), at.export.id);
        nfs3::encode_post(out, at.attributes_if_any(at.file).as_ref(), at.export.id);
        Ok(Step::done())
    }

    /// RFC 1813, 3.3.4.
    pub(super) fn access(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let wanted = self.arguments.u32()?;
        let at = self.locate(handle)?;
        let attributes = at.attributes()?;
        let read_only = at.export.options.read_only;
        let granted = access::granted(&at.caller, &attributes, read_only, wanted);
        out.put_u32(0);
        let out = &mut Writer::new(out);
        nfs3::encode_post(out, Some(&attributes), at.export.id);
        out.u32(granted);
        Ok(Step::done())
    }

    /// RFC 1813, 3.3.5.
    pub(super) fn readlink(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let at = self.locate(handle)?;
        let target = at.tree().read_symlink(at.file)?;
        out.put_u32(0);
        let out = &mut Writer::new(out);
        nfs3::encode_post(out, at.attributes_if_any(at.file).as_ref(), at.export.id);
        out.opaque(&target);
        Ok(Step::done())
    }
}

/// What a call without payload takes of the window.
pub(super) const SMALL_COST: usize = 1024;
