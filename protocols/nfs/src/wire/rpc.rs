//! Remote procedure calls (RFC 5531) and their record marks on a byte stream (its part 11).

use bytes::BufMut;

use super::xdr::{Malformed, Reader, Writer};

/// The head of a call: `rpc_msg` with `call_body` (RFC 5531, part 9).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) xid: u32,
    pub(crate) rpc_version: u32,
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: u32,
    pub(crate) flavor: u32,
    pub(crate) credential: &'a [u8],
}

impl<'a> Call<'a> {
    /// Reads a call and leaves the reader at the procedure's arguments.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let xid = reader.u32()?;
        if reader.u32()? != MESSAGE_CALL {
            return Err(Malformed);
        }
        let rpc_version = reader.u32()?;
        let program = reader.u32()?;
        let version = reader.u32()?;
        let procedure = reader.u32()?;
        let flavor = reader.u32()?;
        let credential = reader.opaque(CREDENTIAL_MAX)?;
        let _verifier_flavor = reader.u32()?;
        let _verifier = reader.opaque(CREDENTIAL_MAX)?;
        Ok(Self {
            xid,
            rpc_version,
            program,
            version,
            procedure,
            flavor,
            credential,
        })
    }

    pub(crate) fn encode<B: BufMut>(&self, out: &mut Writer<'_, B>) {
        for value in [
            self.xid,
            MESSAGE_CALL,
            self.rpc_version,
            self.program,
            self.version,
            self.procedure,
            self.flavor,
        ] {
            out.u32(value);
        }
        out.opaque(self.credential);
        out.u32(AUTH_NONE);
        out.opaque(&[]);
    }
}

/// `authsys_parms` (RFC 5531, appendix A).
#[derive(Debug, Clone, Copy)]
pub(crate) struct AuthSys<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Further groups, still as they came: four bytes each.
    pub(crate) gids: &'a [u8],
}

impl<'a> AuthSys<'a> {
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let _stamp = reader.u32()?;
        let _machine = reader.opaque(MACHINE_NAME_MAX)?;
        let uid = reader.u32()?;
        let gid = reader.u32()?;
        let count = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
        if count > GIDS_MAX || reader.rest().len() != count * 4 {
            return Err(Malformed);
        }
        Ok(Self {
            uid,
            gid,
            gids: reader.rest(),
        })
    }

    /// The further groups as numbers.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u32> + 'a {
        self.gids
            .as_chunks()
            .0
            .iter()
            .map(|gid| u32::from_be_bytes(*gid))
    }
}

/// Writes the head of `accepted_reply` (RFC 5531, part 9) for a call that was understood as far as `status` says.
pub(crate) fn encode_accepted<B: BufMut>(out: &mut Writer<'_, B>, xid: u32, status: u32) {
    for value in [xid, MESSAGE_REPLY, 0, AUTH_NONE, 0, status] {
        out.u32(value);
    }
}

/// Writes an `accepted_reply` that names the versions we speak.
pub(crate) fn encode_version_mismatch<B: BufMut>(
    out: &mut Writer<'_, B>,
    xid: u32,
    (lowest, highest): (u32, u32),
) {
    encode_accepted(out, xid, ACCEPT_PROGRAM_MISMATCH);
    out.u32(lowest);
    out.u32(highest);
}

/// Writes a `rejected_reply` for a call of another RPC version than 2.
pub(crate) fn encode_rpc_mismatch<B: BufMut>(out: &mut Writer<'_, B>, xid: u32) {
    for value in [
        xid,
        MESSAGE_REPLY,
        1,
        REJECT_RPC_MISMATCH,
        RPC_VERSION,
        RPC_VERSION,
    ] {
        out.u32(value);
    }
}

/// Writes a `rejected_reply` for a credential that does not do.
pub(crate) fn encode_auth_error<B: BufMut>(out: &mut Writer<'_, B>, xid: u32, why: u32) {
    for value in [xid, MESSAGE_REPLY, 1, REJECT_AUTH_ERROR, why] {
        out.u32(value);
    }
}

/// Splits a record mark: length of the fragment, and whether it is the last of its record.
pub(crate) fn split_mark(mark: [u8; 4]) -> (usize, bool) {
    let mark = u32::from_be_bytes(mark);
    let length = usize::try_from(mark & !LAST_FRAGMENT).unwrap_or(usize::MAX);
    (length, mark & LAST_FRAGMENT != 0)
}

pub(crate) const LAST_FRAGMENT: u32 = 0x8000_0000;
pub(crate) const RPC_VERSION: u32 = 2;
pub(crate) const MESSAGE_CALL: u32 = 0;
pub(crate) const MESSAGE_REPLY: u32 = 1;

pub(crate) const AUTH_NONE: u32 = 0;
pub(crate) const AUTH_SYS: u32 = 1;

pub(crate) const ACCEPT_SUCCESS: u32 = 0;
pub(crate) const ACCEPT_PROGRAM_UNAVAILABLE: u32 = 1;
pub(crate) const ACCEPT_PROGRAM_MISMATCH: u32 = 2;
pub(crate) const ACCEPT_PROCEDURE_UNAVAILABLE: u32 = 3;
pub(crate) const ACCEPT_GARBAGE_ARGUMENTS: u32 = 4;

pub(crate) const REJECT_RPC_MISMATCH: u32 = 0;
pub(crate) const REJECT_AUTH_ERROR: u32 = 1;
pub(crate) const AUTH_BAD_CREDENTIAL: u32 = 1;
pub(crate) const AUTH_TOO_WEAK: u32 = 5;

/// `opaque_auth` bodies are at most this long (RFC 5531, part 8.2).
pub(crate) const CREDENTIAL_MAX: usize = 400;
const MACHINE_NAME_MAX: usize = 255;
const GIDS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_must_fill_the_credential() {
        let mut body = Vec::new();
        let mut out = Writer::new(&mut body);
        out.u32(1);
        out.opaque(b"host");
        for value in [1000, 100, 2, 5, 6] {
            out.u32(value);
        }
        let auth = AuthSys::decode(&body).unwrap();
        assert_eq!((auth.uid, auth.gid), (1000, 100));
        assert_eq!(auth.groups().collect::<Vec<_>>(), [5, 6]);
        body.extend([0; 4]);
        assert!(AuthSys::decode(&body).is_err());
    }

    #[test]
    fn more_than_sixteen_groups_are_refused() {
        let mut body = Vec::new();
        let mut out = Writer::new(&mut body);
        out.u32(1);
        out.opaque(b"");
        for value in [0, 0, 17] {
            out.u32(value);
        }
        body.extend([0; 17 * 4]);
        assert!(AuthSys::decode(&body).is_err());
    }
}
