//! Hostile bytes through everything behind the socket: the function that fuzzing and the ordinary tests call.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use export::{
    Caller, CreateMode, Durability, FileExport, MemoryTree, PayloadBuffers, SetAttributes,
};

use crate::duplicates::DuplicateLimits;
use crate::exports::{Export, ExportOptions, Squash, StaticDirectory};
use crate::handle::{Handle, HandleKey, Target};
use crate::metrics::Metrics;
use crate::service::{Ports, Service, ServiceParts};
use crate::session::{Budget, Session, Window};
use crate::wire::rpc::{self, AuthSys, Call};
use crate::wire::xdr::{Reader, Writer, length_u32};

/// Feeds `data` to a connection twice: as the raw bytes of its stream, and as the arguments of a procedure (the first
/// byte says which) behind a good head. A quarter of the latter get a good handle, of a folder or of a file, put
/// before them.
#[doc(hidden)]
pub fn fuzz_record(data: &[u8]) {
    let (service, [folder, file]) = small_service();
    feed(&service, data);
    if let Some((first, rest)) = data.split_first() {
        let handle = if first & 32 == 0 { folder } else { file };
        feed(&service, &call_record(u32::from(*first), &handle, rest));
    }
    let _credential = AuthSys::decode(data);
    let _call = Call::decode(&mut Reader::new(data));
}

/// A service of a small tree, and handles of its root and of a file in it.
pub(crate) fn small_service() -> (Arc<Service>, [Handle; 2]) {
    let tree = Arc::new(MemoryTree::with_capacity(1 << 24));
    let caller = Caller {
        uid: 0,
        gid: 0,
        gids: Vec::new(),
    };
    // Everybody may do everything: calls come without a user, and are to go deep.
    let open = SetAttributes {
        mode: Some(0o777),
        ..SetAttributes::default()
    };
    let opened = tree.set_attributes(&caller, tree.root(), &open);
    opened.expect("a mode can be set");
    let made = tree.create(&caller, tree.root(), b"a", CreateMode::Guarded, &open);
    let file = made.expect("an empty tree takes a file").file;
    let data = [Bytes::from(BytesMut::zeroed(1000))];
    tree.write(file, 0, &data, Durability::Unstable)
        .expect("a small write fits");
    let key = HandleKey::new([0; 32]);
    let handles = [tree.root(), file].map(|file| key.seal(Target { export: 1, file }));
    let directory = StaticDirectory::new();
    let options = ExportOptions {
        squash: Squash::None,
        ..ExportOptions::default()
    };
    directory.insert(Export {
        id: 1,
        path: "/".to_owned(),
        tree,
        options,
    });
    let parts = ServiceParts {
        key,
        write_verifier: [0; 8],
        duplicates: DuplicateLimits::default(),
        transfer_bytes: 1 << 20,
        ports: Ports {
            nfs: 2049,
            mount: 2049,
            portmap: 111,
        },
    };
    let service = Service::new(Arc::new(directory), Arc::new(Metrics::default()), parts);
    (Arc::new(service), handles)
}

/// A call of one of the programs, chosen by `choice`, with `arguments`.
fn call_record(choice: u32, handle: &[u8], arguments: &[u8]) -> Vec<u8> {
    let (program, version) = match choice / 64 {
        0 => (100_005, 3),
        1 => (100_000, 2),
        _ => (100_003, 3),
    };
    let mut record = vec![0; 4];
    let out = &mut Writer::new(&mut record);
    let (rpc_version, procedure) = (rpc::RPC_VERSION, choice % 32);
    let (flavor, credential) = (rpc::AUTH_NONE, &[][..]);
    Call {
        xid: 7,
        rpc_version,
        program,
        version,
        procedure,
        flavor,
        credential,
    }
    .encode(out);
    if choice >= 192 {
        out.opaque(handle);
    }
    record.extend_from_slice(arguments);
    let mark = length_u32(record.len() - 4) | rpc::LAST_FRAGMENT;
    if let Some(place) = record.first_chunk_mut() {
        *place = mark.to_be_bytes();
    }
    record
}

fn feed(service: &Arc<Service>, bytes: &[u8]) {
    let (answers, mut completions) = tokio::sync::mpsc::unbounded_channel();
    let window = Window {
        requests: 8,
        bytes: 1 << 20,
    };
    let budget = Arc::new(Budget::new(1 << 24));
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut session = Session::new(
        Arc::clone(service),
        peer,
        window,
        Arc::clone(&budget),
        answers.clone(),
        PayloadBuffers::new(0),
    );
    let mut rest = bytes;
    while !rest.is_empty() {
        let part = rest.get(..PART).unwrap_or(rest);
        let taken = session.inlet().put(part);
        rest = rest.get(taken..).unwrap_or_default();
        loop {
            if session.advance().is_err() {
                return;
            }
            while let Some(work) = session.take_deferred() {
                work.execute(service, &answers);
            }
            while let Ok(completion) = completions.try_recv() {
                session.complete(completion);
            }
            let sent = session.output().bytes();
            let mut slices = [std::io::IoSlice::new(&[]); 4];
            session.output().fill(&mut slices);
            session.sent(sent);
            if !session.has_record() {
                break;
            }
        }
    }
    drop(session);
    assert_eq!(budget.used(), 0, "a session gives back what it took");
}

/// Bytes that arrive together; small, so that records arrive in parts.
const PART: usize = 1000;
