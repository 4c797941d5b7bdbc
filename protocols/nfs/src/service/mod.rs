//! What the three programs do: one call in, one answer out. No sockets here.
//!
//! A call that memory can answer is answered on the spot. A call that may wait for a disk becomes [`Deferred`] work that
//! the caller runs where waiting is allowed.

mod attributes;
mod content;
mod filesystem;
mod listing;
mod mount;
mod names;
mod portmap;
mod request;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use export::Segments;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc::UnboundedSender;

use crate::access::Credential;
use crate::duplicates::{CallKey, DuplicateCache, DuplicateLimits, Verdict};
use crate::error::Status;
use crate::exports::ExportDirectory;
use crate::handle::HandleKey;
use crate::metrics::Metrics;
use crate::wire::nfs3::Procedure;
use crate::wire::rpc::{self, AuthSys, Call};
use crate::wire::xdr::{Malformed, Reader, Writer, length_u32, padding};
use crate::wire::{mount as mount_wire, nfs3, portmap as portmap_wire};

pub(crate) use portmap::Ports;
use request::{Fault, Request, Step, Work};

/// All that the connections of a server share.
pub(crate) struct Service {
    exports: Arc<dyn ExportDirectory>,
    key: HandleKey,
    /// Changes at every start: a client that sees another value writes again what it had not committed.
    write_verifier: [u8; 8],
    duplicates: DuplicateCache<UnboundedSender<Completion>>,
    pub(crate) metrics: Arc<Metrics>,
    transfer_bytes: u32,
    mounts: mount::MountList,
    ports: Ports,
    /// Held around each change of a folder or of attributes, so that the attributes before and after are the change's
    /// own (`wcc_data`) and a guarded SETATTR is one step.
    changes: [Mutex<()>; CHANGE_LOCKS],
}

/// What a service needs to be made.
#[derive(Debug)]
pub(crate) struct ServiceParts {
    pub(crate) key: HandleKey,
    pub(crate) write_verifier: [u8; 8],
    pub(crate) duplicates: DuplicateLimits,
    pub(crate) transfer_bytes: u32,
    pub(crate) ports: Ports,
}

/// What became of a record.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer's head stands in the buffer; this payload and its padding follow it.
    Answered(Segments),
    /// Work that may wait for a disk.
    Deferred(Deferred),
    /// Nothing is to be sent, or not from here.
    Silent,
    /// The bytes are not a call: nothing that follows them can be trusted.
    HangUp,
}

/// A call that may wait for a disk.
pub(crate) struct Deferred {
    /// What it may take of the window, in bytes.
    pub(crate) cost: usize,
    xid: u32,
    procedure: Procedure,
    once: Option<CallKey>,
    work: Work,
}

/// The answer to deferred work.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) head: Bytes,
    pub(crate) data: Segments,
    /// What to give back to the window.
    pub(crate) cost: usize,
    /// Whether this answers a call that the connection itself has deferred.
    pub(crate) own: bool,
}

impl Service {
    pub(crate) fn new(
        exports: Arc<dyn ExportDirectory>,
        metrics: Arc<Metrics>,
        parts: ServiceParts,
    ) -> Self {
        Self {
            exports,
            key: parts.key,
            write_verifier: parts.write_verifier,
            duplicates: DuplicateCache::new(parts.duplicates),
            metrics,
            transfer_bytes: parts.transfer_bytes,
            mounts: mount::MountList::default(),
            ports: parts.ports,
            changes: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    /// The longest record that makes sense.
    pub(crate) fn record_max(&self) -> usize {
        usize::try_from(self.transfer_bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(RECORD_SLACK)
    }

    /// Answers one record, with its mark, at the end of `out`.
    pub(crate) fn call(
        &self,
        peer: IpAddr,
        record: &Bytes,
        answers: &UnboundedSender<Completion>,
        out: &mut BytesMut,
    ) -> Outcome {
        let mut reader = Reader::new(record);
        let Ok(call) = Call::decode(&mut reader) else {
            self.metrics.malformed.add(1);
            return Outcome::HangUp;
        };
        if call.rpc_version != rpc::RPC_VERSION {
            return answer(out, |out| rpc::encode_rpc_mismatch(out, call.xid));
        }
        let credential = match decode_credential(&call) {
            Ok(credential) => credential,
            Err(why) => return answer(out, |out| rpc::encode_auth_error(out, call.xid, why)),
        };
        match call.program {
            nfs3::PROGRAM => {
                let request = Request::new(self, peer, credential, record, reader);
                self.nfs(&call, request, answers, out)
            }
            mount_wire::PROGRAM => self.mount(&call, peer, reader, out),
            portmap_wire::PROGRAM => self.portmap(&call, reader, out),
            _ => accept(out, call.xid, rpc::ACCEPT_PROGRAM_UNAVAILABLE),
        }
    }

    /// Answers a datagram: the port mapper only.
    pub(crate) fn datagram(&self, datagram: &[u8], out: &mut BytesMut) -> bool {
        let mut reader = Reader::new(datagram);
        match Call::decode(&mut reader) {
            Ok(call) if call.rpc_version != rpc::RPC_VERSION => {
                answer(out, |out| rpc::encode_rpc_mismatch(out, call.xid));
            }
            Ok(call) if call.program == portmap_wire::PROGRAM => {
                self.portmap(&call, reader, out);
            }
            Ok(call) => {
                accept(out, call.xid, rpc::ACCEPT_PROGRAM_UNAVAILABLE);
            }
            Err(Malformed) => return false,
        }
        true
    }

    fn nfs(
        &self,
        call: &Call<'_>,
        mut request: Request<'_>,
        answers: &UnboundedSender<Completion>,
        out: &mut BytesMut,
    ) -> Outcome {
        if call.version != nfs3::VERSION {
            let only = (nfs3::VERSION, nfs3::VERSION);
            return answer(out, |out| rpc::encode_version_mismatch(out, call.xid, only));
        }
        let Some(procedure) = Procedure::from_number(call.procedure) else {
            return accept(out, call.xid, rpc::ACCEPT_PROCEDURE_UNAVAILABLE);
        };
        self.metrics.count(procedure);
        let mut once = None;
        if procedure.is_once_only() {
            let key = self
                .duplicates
                .key(request.peer, call.xid, call.procedure, request.record);
            match self.duplicates.enter(key, || answers.clone()) {
                Verdict::Execute => once = Some(key),
                Verdict::Answer(again) => {
                    self.metrics.answered_again.add(1);
                    out.put_slice(&again);
                    return Outcome::Answered(Segments::new());
                }
                Verdict::Wait | Verdict::Ignore => return Outcome::Silent,
            }
        }
        let start = begin(out, call.xid);
        let body = out.len();
        let step = request.run(procedure, out);
        if let (Some(key), false) = (once, matches!(step, Ok(Step::Later { .. }))) {
            // Refused before anything was done: the same call again is refused again.
            self.duplicates.abandoned(key);
        }
        match step {
            Ok(Step::Done(data)) => {
                finish(out, start, &data);
                Outcome::Answered(data)
            }
            Ok(Step::Later { cost, work }) => {
                out.truncate(start);
                Outcome::Deferred(Deferred {
                    cost,
                    xid: call.xid,
                    procedure,
                    once,
                    work,
                })
            }
            Err(Fault::Refused(status)) => {
                out.truncate(body);
                self.refuse(procedure, status, out);
                finish(out, start, &Segments::new());
                Outcome::Answered(Segments::new())
            }
            Err(Fault::Garbage) => {
                out.truncate(start);
                accept(out, call.xid, rpc::ACCEPT_GARBAGE_ARGUMENTS)
            }
        }
    }

    /// Writes the results of a refused procedure, without any attributes.
    fn refuse(&self, procedure: Procedure, status: Status, out: &mut BytesMut) {
        self.metrics.refused.add(1);
        out.put_u32(status.number());
        for _ in 0..absent_attributes(procedure) {
            out.put_u32(0);
        }
    }

    fn change_lock(&self, export: u64, file: export::FileId) -> MutexGuard<'_, ()> {
        let slot = self
            .changes
            .get(change_slot(export, file))
            .expect("a slot is in range");
        slot.lock()
    }

    /// Both locks of a rename, in one order for all.
    fn change_locks(
        &self,
        export: u64,
        one: export::FileId,
        two: export::FileId,
    ) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (mut low, mut high) = (one, two);
        if change_slot(export, low) > change_slot(export, high) {
            (low, high) = (high, low);
        }
        let first = self.change_lock(export, low);
        let same = change_slot(export, low) == change_slot(export, high);
        (first, (!same).then(|| self.change_lock(export, high)))
    }
}

impl Deferred {
    /// Does the work, which may wait for a disk, and sends its answer to all who wait for it.
    pub(crate) fn execute(self, service: &Service, answers: &UnboundedSender<Completion>) {
        let mut head = BytesMut::with_capacity(256);
        let start = begin(&mut head, self.xid);
        let body = head.len();
        let data = match (self.work)(service, &mut head) {
            Ok(data) => data,
            Err(status) => {
                head.truncate(body);
                service.refuse(self.procedure, status, &mut head);
                Segments::new()
            }
        };
        finish(&mut head, start, &data);
        let head = head.freeze();
        if let Some(key) = self.once {
            for waiter in service.duplicates.answered(key, head.clone()) {
                let (head, data) = (head.clone(), Segments::new());
                send(
                    &waiter,
                    Completion {
                        head,
                        data,
                        cost: 0,
                        own: false,
                    },
                );
            }
        }
        send(
            answers,
            Completion {
                head,
                data,
                cost: self.cost,
                own: true,
            },
        );
    }
}

/// Sends to a connection that may be gone, in which case nobody wants the answer any more.
fn send(answers: &UnboundedSender<Completion>, completion: Completion) {
    drop(answers.send(completion));
}

fn decode_credential<'a>(call: &Call<'a>) -> Result<Credential<'a>, u32> {
    match call.flavor {
        rpc::AUTH_NONE => Ok(Credential::None),
        rpc::AUTH_SYS => match AuthSys::decode(call.credential) {
            Ok(auth) => Ok(Credential::Sys(auth)),
            Err(Malformed) => Err(rpc::AUTH_BAD_CREDENTIAL),
        },
        _ => Err(rpc::AUTH_TOO_WEAK),
    }
}

/// Starts an answer: room for its mark, and the head that says that the call was understood.
fn begin(out: &mut BytesMut, xid: u32) -> usize {
    let start = out.len();
    out.reserve(REPLY_RESERVE);
    out.put_u32(0);
    rpc::encode_accepted(&mut Writer::new(out), xid, rpc::ACCEPT_SUCCESS);
    start
}

/// Fills in the mark of an answer that `data` will follow.
fn finish(out: &mut BytesMut, start: usize, data: &Segments) {
    let length = out.len() - start - 4 + data.len() + padding(data.len()).len();
    let mark = length_u32(length) | rpc::LAST_FRAGMENT;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&mark.to_be_bytes());
    }
}

/// Writes a whole answer that has no payload.
fn answer(out: &mut BytesMut, write: impl FnOnce(&mut Writer<'_, BytesMut>)) -> Outcome {
    let start = out.len();
    out.put_u32(0);
    write(&mut Writer::new(out));
    finish(out, start, &Segments::new());
    Outcome::Answered(Segments::new())
}

fn accept(out: &mut BytesMut, xid: u32, status: u32) -> Outcome {
    answer(out, |out| rpc::encode_accepted(out, xid, status))
}

/// How many absent attributes follow the status in a refused procedure's results.
fn absent_attributes(procedure: Procedure) -> usize {
    match procedure {
        Procedure::Null | Procedure::Getattr => 0,
        Procedure::Lookup
        | Procedure::Access
        | Procedure::Readlink
        | Procedure::Read
        | Procedure::Readdir
        | Procedure::Readdirplus
        | Procedure::Fsstat
        | Procedure::Fsinfo
        | Procedure::Pathconf => 1,
        Procedure::Setattr
        | Procedure::Write
        | Procedure::Create
        | Procedure::Mkdir
        | Procedure::Symlink
        | Procedure::Mknod
        | Procedure::Remove
        | Procedure::Rmdir
        | Procedure::Commit => 2,
        Procedure::Link => 3,
        Procedure::Rename => 4,
    }
}

fn change_slot(export: u64, file: export::FileId) -> usize {
    let mixed = (export ^ file.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap_or(0) % CHANGE_LOCKS
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Service")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Deferred")
            .field("procedure", &self.procedure)
            .finish_non_exhaustive()
    }
}

/// Room in a record for everything but the payload of a WRITE.
const RECORD_SLACK: usize = 4096;
const REPLY_RESERVE: usize = 256;
const CHANGE_LOCKS: usize = 64;
