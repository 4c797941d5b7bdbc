//! READ, WRITE, COMMIT.

use bytes::{BufMut, Bytes, BytesMut};
use export::{Durability, ExportError, FileRead, Segments, Written};

use super::Service;
use super::attributes::SMALL_COST;
use super::request::{Fault, Located, Request, Step};
use crate::access;
use crate::error::Status;
use crate::wire::nfs3;
use crate::wire::xdr::{Writer, length_u32};

impl Request<'_> {
    /// RFC 1813, 3.3.6.
    pub(super) fn read(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let offset = self.arguments.u64()?;
        let count = self.arguments.u32()?.min(self.service.transfer_bytes);
        let at = self.locate(handle)?;
        if at.caller.uid != 0 {
            access::check_read(&at.caller, &at.attributes()?)?;
        }
        let room = SIZE_MAX.checked_sub(offset).ok_or(Status::Invalid)?;
        let count = count.min(u32::try_from(room).unwrap_or(u32::MAX));
        if let Some(result) = at.tree().read_cached(at.file, offset, count) {
            let read = result?;
            return Ok(Step::Done(encode_read(self.service, &at, read, out)));
        }
        let cost = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Step::later(cost, move |service, out| {
            let read = at.tree().read(at.file, offset, count)?;
            Ok(encode_read(service, &at, read, out))
        }))
    }

    /// RFC 1813, 3.3.7. UNSTABLE may be answered from memory; the two stable kinds wait for the disk and are both
    /// answered as FILE_SYNC.
    pub(super) fn write(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let offset = self.arguments.u64()?;
        let count = usize::try_from(self.arguments.u32()?).unwrap_or(usize::MAX);
        let stable = self.arguments.u32()?;
        if stable > nfs3::FILE_SYNC {
            return Err(Fault::Garbage);
        }
        let payload = self.arguments.opaque(self.record.len())?;
        let at = self.locate_writable(handle)?;
        if count > payload.len() {
            return Err(Status::Invalid.into());
        }
        if at.caller.uid != 0 {
            access::check_write(&at.caller, &at.attributes()?)?;
        }
        let end = offset
            .checked_add(payload.len() as u64)
            .filter(|end| *end <= SIZE_MAX);
        end.ok_or(Status::FileTooBig)?;
        let payload = [self
            .record
            .slice_ref(payload.get(..count).unwrap_or_default())];
        if stable == nfs3::UNSTABLE
            && let Some(result) = at.tree().try_write(at.file, offset, &payload)
        {
            encode_written(self.service, &at, result?, count, out);
            return Ok(Step::done());
        }
        let durability = if stable == nfs3::UNSTABLE {
            Durability::Unstable
        } else {
            Durability::Stable
        };
        Ok(Step::later(self.record.len(), move |service, out| {
            let written = write_all(&at, offset, &payload, durability)?;
            encode_written(service, &at, written, count, out);
            Ok(Segments::new())
        }))
    }

    /// RFC 1813, 3.3.21. The whole file is made durable, whatever range was named.
    pub(super) fn commit(&mut self) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let _offset = self.arguments.u64()?;
        let _count = self.arguments.u32()?;
        let at = self.locate_writable(handle)?;
        Ok(Step::later(SMALL_COST, move |service, out| {
            let after = at.tree().commit(at.file)?;
            out.put_u32(0);
            let out = &mut Writer::new(out);
            nfs3::encode_change(out, None, Some(&after), at.export.id);
            out.fixed(&service.write_verifier);
            Ok(Segments::new())
        }))
    }
}

fn write_all(
    at: &Located,
    offset: u64,
    payload: &[Bytes],
    durability: Durability,
) -> Result<Written, ExportError> {
    let written = at.tree().write(at.file, offset, payload, durability)?;
    debug_assert!(
        durability == Durability::Unstable || written.durability == Durability::Stable,
        "a tree answers a stable write when it is stable"
    );
    Ok(written)
}

fn encode_read(service: &Service, at: &Located, read: FileRead, out: &mut BytesMut) -> Segments {
    service.metrics.read_bytes.add(read.data.len() as u64);
    out.put_u32(0);
    let out = &mut Writer::new(out);
    nfs3::encode_post(out, read.attributes.as_ref(), at.export.id);
    let count = length_u32(read.data.len());
    out.u32(count);
    out.bool(read.end);
    out.u32(count);
    read.data
}

fn encode_written(
    service: &Service,
    at: &Located,
    written: Written,
    count: usize,
    out: &mut BytesMut,
) {
    service.metrics.written_bytes.add(count as u64);
    out.put_u32(0);
    let out = &mut Writer::new(out);
    nfs3::encode_change(out, None, Some(&written.attributes), at.export.id);
    out.u32(length_u32(count));
    out.u32(match written.durability {
        Durability::Unstable => nfs3::UNSTABLE,
        Durability::Stable => nfs3::FILE_SYNC,
    });
    out.fixed(&service.write_verifier);
}

/// No file is longer (`maxfilesize` of FSINFO).
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;
