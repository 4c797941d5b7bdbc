//! Programs that others wrote: libnfs's tools, QEMU, rpcinfo and showmount.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::sync::Arc;

use export::{FileExport, MemoryTree, SetAttributes};
use nfs::{Export, Limits, Portmap, StaticDirectory};

use crate::support::{ROOT, TestServer, loopback_config, plain_options, tree_with_file};

/// Whether a program is here. Without it a test is skipped on a laptop and fails where `CI` is set.
fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    });
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{program} is missing"
    );
    found
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60", program])
        .args(arguments)
        .output();
    output.unwrap()
}

fn succeed(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = run(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output.stdout
}

fn url(server: &TestServer, path: &str) -> String {
    let port = server.address().port();
    format!("nfs://127.0.0.1{path}?nfsport={port}&mountport={port}")
}

/// A tree with `/vm/file`. Debian's libnfs asks for the empty path where the file is in the root, and then refuses
/// its own empty path ("Export is empty"), whatever the server says: disks for it must be in a folder.
fn tree_with_disk(content: &[u8]) -> Arc<MemoryTree> {
    let tree = tree_with_file(content);
    let folder = tree.create_directory(&ROOT, tree.root(), b"vm", &SetAttributes::default());
    tree.rename(&ROOT, tree.root(), b"file", folder.unwrap().file, b"file")
        .unwrap();
    tree
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at / 512 + at) % 251).unwrap())
        .collect()
}

#[test]
fn libnfs_lists_copies_and_reads() {
    if !["nfs-ls", "nfs-cp", "nfs-cat"].into_iter().all(have) {
        return;
    }
    let content = pattern(3_000_001);
    let server = TestServer::with(tree_with_disk(&content));
    let listing = succeed("nfs-ls", &[&url(&server, "/vm")]);
    assert!(String::from_utf8_lossy(&listing).contains("3000001 file"));
    assert_eq!(succeed("nfs-cat", &[&url(&server, "/vm/file")]), content);
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("local");
    std::fs::write(&local, &content).unwrap();
    succeed(
        "nfs-cp",
        &[local.to_str().unwrap(), &url(&server, "/vm/copy")],
    );
    assert_eq!(succeed("nfs-cat", &[&url(&server, "/vm/copy")]), content);
}

/// A server with port 111 on a loopback address of its own, because QEMU's driver takes no port.
fn server_on_port_111(content: &[u8]) -> Option<(TestServer, Ipv4Addr)> {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, a | 64, b, c | 2);
    let allowed = std::net::TcpListener::bind((own, 111)).is_ok();
    assert!(
        allowed || std::env::var_os("CI").is_none(),
        "port 111 needs CAP_NET_BIND_SERVICE"
    );
    if !allowed {
        return None;
    }
    let mut config = loopback_config(Limits::default());
    config.nfs = SocketAddr::new(IpAddr::V4(own), 0);
    config.portmap = Portmap::BuiltIn(SocketAddr::new(IpAddr::V4(own), 111));
    let directory = Arc::new(StaticDirectory::new());
    let (path, tree) = ("/".to_owned(), tree_with_disk(content));
    directory.insert(Export {
        id: 1,
        path,
        tree,
        options: plain_options(),
    });
    Some((TestServer::of(directory, config), own))
}

#[test]
fn qemu_reads_compares_and_writes_through_the_port_mapper() {
    if !["qemu-img", "qemu-io", "rpcinfo", "showmount"]
        .into_iter()
        .all(have)
    {
        return;
    }
    let content = pattern(8 << 20);
    let Some((server, address)) = server_on_port_111(&content) else {
        return;
    };
    let url = format!("nfs://{address}/vm/file");
    let told = succeed("qemu-img", &["info", "--output=json", "-f", "raw", &url]);
    assert!(String::from_utf8_lossy(&told).contains("\"virtual-size\": 8388608"));
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("local");
    std::fs::write(&local, &content).unwrap();
    let local = local.to_str().unwrap();
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", local, &url],
    );
    for options in [
        &["-d", "32", "-s", "4096"][..],
        &["-d", "8", "-s", "1048576", "-c", "64"],
    ] {
        succeed(
            "qemu-img",
            &[
                &["bench", "-f", "raw", "-t", "none", "-c", "2000"],
                options,
                &[&url],
            ]
            .concat(),
        );
    }
    let write = "write -P 0xab 1M 3M";
    succeed(
        "qemu-io",
        &["-f", "raw", "-t", "none", "-c", write, "-c", "flush", &url],
    );
    succeed("qemu-io", &["-f", "raw", "-c", "read -P 0xab 1M 3M", &url]);
    succeed("qemu-io", &["-f", "raw", "-c", write, local]);
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", local, &url],
    );
    let told = succeed("rpcinfo", &["-p", &address.to_string()]);
    let port = server.address().port().to_string();
    assert!(
        String::from_utf8_lossy(&told)
            .lines()
            .any(|line| line.contains("100003") && line.contains(&port))
    );
    let exports = succeed("showmount", &["-e", "--no-headers", &address.to_string()]);
    assert!(String::from_utf8_lossy(&exports).starts_with("/ 127.0.0.0/8"));
}
