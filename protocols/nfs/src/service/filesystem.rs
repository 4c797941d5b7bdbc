//! FSSTAT, FSINFO, PATHCONF.

use bytes::{BufMut, BytesMut};

use super::content::SIZE_MAX;
use super::request::{Fault, Request, Step};
use crate::wire::nfs3;
use crate::wire::xdr::Writer;

impl Request<'_> {
    /// RFC 1813, 3.3.18.
    pub(super) fn fsstat(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let at = self.locate(handle)?;
        let attributes = at.attributes()?;
        let statistics = at.tree().statistics()?;
        out.put_u32(0);
        let out = &mut Writer::new(out);
        nfs3::encode_post(out, Some(&attributes), at.export.id);
        out.u64(statistics.total_bytes);
        out.u64(statistics.free_bytes);
        out.u64(statistics.available_bytes);
        out.u64(statistics.total_files);
        out.u64(statistics.free_files);
        out.u64(statistics.free_files);
        // Seconds for which these numbers are sure to hold.
        out.u32(0);
        Ok(Step::done())
    }

    /// RFC 1813, 3.3.19.
    pub(super) fn fsinfo(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let at = self.locate(handle)?;
        let attributes = at.attributes()?;
        let transfer = self.service.transfer_bytes;
        out.put_u32(0);
        let out = &mut Writer::new(out);
        nfs3::encode_post(out, Some(&attributes), at.export.id);
        for value in [
            transfer,
            transfer,
            MULTIPLE,
            transfer,
            transfer,
            MULTIPLE,
            LIST_PREFERRED,
        ] {
            out.u32(value);
        }
        out.u64(SIZE_MAX);
        // Times have steps of one nanosecond.
        out.u32(0);
        out.u32(1);
        let links = match at.tree().has_hard_links() {
            true => nfs3::PROPERTY_LINK,
            false => 0,
        };
        out.u32(nfs3::FILESYSTEM_PROPERTIES | links);
        Ok(Step::done())
    }

    /// RFC 1813, 3.3.20.
    pub(super) fn pathconf(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let at = self.locate(handle)?;
        let attributes = at.attributes()?;
        out.put_u32(0);
        let out = &mut Writer::new(out);
        nfs3::encode_post(out, Some(&attributes), at.export.id);
        let links = at.tree().has_hard_links();
        out.u32(if links { LINKS_MAX } else { 1 });
        out.u32(255);
        // Too long names are refused, only root gives files away, case matters and is kept.
        for answer in [true, true, false, true] {
            out.bool(answer);
        }
        Ok(Step::done())
    }
}

const MULTIPLE: u32 = 4096;
const LIST_PREFERRED: u32 = 64 * 1024;
const LINKS_MAX: u32 = 32_000;
