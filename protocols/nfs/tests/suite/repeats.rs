//! Calls that come twice, because the client heard nothing the first time.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::{Raw, SlowTree, TestServer, exchange, reply, tree_with_file, word};

fn create(root: &[u8], name: &[u8]) -> Raw {
    Raw::nfs(4711, 8)
        .opaque(root)
        .opaque(name)
        .words(&[1, 0, 0, 0, 0, 0, 0])
}

#[test]
fn a_repeated_call_is_answered_again_over_a_new_connection() {
    let server = TestServer::with(tree_with_file(b"content"));
    let root = server.client().root();
    let calls = [
        create(root.as_bytes(), b"new"),
        Raw::nfs(4712, 12).opaque(root.as_bytes()).opaque(b"file"),
        Raw::nfs(4713, 14)
            .opaque(root.as_bytes())
            .opaque(b"new")
            .opaque(root.as_bytes())
            .opaque(b"old"),
        Raw::nfs(4714, 9)
            .opaque(root.as_bytes())
            .opaque(b"d")
            .words(&[0, 0, 0, 0, 0, 0]),
        Raw::nfs(4715, 13).opaque(root.as_bytes()).opaque(b"d"),
    ];
    for call in &calls {
        let first = exchange(&mut server.connect(), call).unwrap();
        assert_eq!(word(&first, 6), 0, "done");
        let again = exchange(&mut server.connect(), call).unwrap();
        assert_eq!(first, again);
    }
    assert_eq!(server.sample("holdfast_nfs_answered_again_total"), 5);
    // The same xid with other arguments is another call.
    let mut other = calls[1].clone();
    let at = other.0.len() - 1;
    other.0[at] = b'x';
    assert_eq!(
        word(&exchange(&mut server.connect(), &other).unwrap(), 6),
        2
    );
}

#[test]
fn a_refusal_is_answered_again_too() {
    let server = TestServer::with(tree_with_file(b"content"));
    let root = server.client().root();
    let remove = Raw::nfs(1, 12).opaque(root.as_bytes()).opaque(b"absent");
    let first = exchange(&mut server.connect(), &remove).unwrap();
    assert_eq!(word(&first, 6), 2);
    exchange(&mut server.connect(), &create(root.as_bytes(), b"absent")).unwrap();
    assert_eq!(exchange(&mut server.connect(), &remove).unwrap(), first);
}

#[test]
fn a_call_repeated_while_it_is_at_work_is_done_once() {
    let tree = Arc::new(SlowTree::new(tree_with_file(b"content")));
    let server = TestServer::with(Arc::clone(&tree) as _);
    let root = server.client().root();
    let call = create(root.as_bytes(), b"new").record();
    let mut first = server.connect();
    first.write_all(&call).unwrap();
    tree.gate.wait_for_arrivals(1);
    let mut second = server.connect();
    second.write_all(&call).unwrap();
    // An answered NULL behind it shows that the repeated call was taken.
    let null = exchange(&mut second, &Raw::nfs(5, 0)).unwrap();
    assert_eq!(word(&null, 0), 5);
    drop(first);
    tree.gate.open(1);
    let answer = reply(&mut second).unwrap();
    assert_eq!((word(&answer, 0), word(&answer, 6)), (4711, 0));
    assert_eq!(tree.creations.load(Ordering::SeqCst), 1);
}
