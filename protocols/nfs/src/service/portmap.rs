//! The port mapper program (RFC 1833, 3.2): tells clients that may not choose a port where to go.

use bytes::BytesMut;

use super::{Outcome, Service, accept, answer};
use crate::wire::portmap::{self, Mapping};
use crate::wire::rpc::{self, Call};
use crate::wire::xdr::Reader;
use crate::wire::{mount, nfs3};

/// Where the programs listen. A port of 0 is not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) nfs: u16,
    pub(crate) mount: u16,
    pub(crate) portmap: u16,
}

impl Ports {
    /// Everything that can be asked for.
    pub(crate) fn mappings(self) -> impl Iterator<Item = Mapping> {
        let tcp = portmap::PROTOCOL_TCP;
        [
            (portmap::PROGRAM, portmap::VERSION, tcp, self.portmap),
            (
                portmap::PROGRAM,
                portmap::VERSION,
                portmap::PROTOCOL_UDP,
                self.portmap,
            ),
            (mount::PROGRAM, mount::VERSION, tcp, self.mount),
            (mount::PROGRAM, mount::VERSION_OLD, tcp, self.mount),
            (nfs3::PROGRAM, nfs3::VERSION, tcp, self.nfs),
        ]
        .into_iter()
        .filter(|(.., port)| *port != 0)
        .map(|(program, version, protocol, port)| Mapping {
            program,
            version,
            protocol,
            port: u32::from(port),
        })
    }

    fn find(self, wanted: &Mapping) -> u32 {
        let fits = |mapping: &Mapping| {
            Mapping {
                port: wanted.port,
                ..*mapping
            } == *wanted
        };
        self.mappings().find(fits).map_or(0, |mapping| mapping.port)
    }
}

impl Service {
    pub(super) fn portmap(
        &self,
        call: &Call<'_>,
        mut arguments: Reader<'_>,
        out: &mut BytesMut,
    ) -> Outcome {
        if call.version != portmap::VERSION {
            let only = (portmap::VERSION, portmap::VERSION);
            return answer(out, |out| rpc::encode_version_mismatch(out, call.xid, only));
        }
        match call.procedure {
            portmap::PROCEDURE_NULL => accept(out, call.xid, rpc::ACCEPT_SUCCESS),
            // Our ports are not for others to change.
            portmap::PROCEDURE_SET | portmap::PROCEDURE_UNSET => answer_number(out, call.xid, 0),
            portmap::PROCEDURE_GETPORT => match Mapping::decode(&mut arguments) {
                Ok(wanted) => answer_number(out, call.xid, self.ports.find(&wanted)),
                Err(_) => accept(out, call.xid, rpc::ACCEPT_GARBAGE_ARGUMENTS),
            },
            portmap::PROCEDURE_DUMP => answer(out, |out| {
                rpc::encode_accepted(out, call.xid, rpc::ACCEPT_SUCCESS);
                for mapping in self.ports.mappings() {
                    out.bool(true);
                    mapping.encode(out);
                }
                out.bool(false);
            }),
            _ => accept(out, call.xid, rpc::ACCEPT_PROCEDURE_UNAVAILABLE),
        }
    }
}

fn answer_number(out: &mut BytesMut, xid: u32, number: u32) -> Outcome {
    answer(out, |out| {
        rpc::encode_accepted(out, xid, rpc::ACCEPT_SUCCESS);
        out.u32(number);
    })
}
