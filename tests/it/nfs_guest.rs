//! The Linux kernel's NFS client, in a guest.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use export::{BlockingPool, MemoryTree};
use nfs::{
    AddressList, Export, ExportOptions, HandleKey, Limits, Portmap, Server, ServerConfig, Squash,
    StaticDirectory,
};
use support::{Drive, Guest, GuestFiles, Machine, scratch};

const MINUTE: Duration = Duration::from_secs(60);

/// What the client must be able to do; it prints a line for each.
const CLIENT: &str = include_str!("../fixtures/nfs-client.sh");

#[test]
fn guest_kernel_uses_a_tree_in_memory() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(serve_memory());
    let folder = scratch();
    let disk = folder.path().join("disk.raw");
    files.copy_of_disk(1, &disk);

    let mut guest = Machine::new(&files, Drive::file(&disk)).start();
    guest.wait_for_login(files.prompt(1));
    guest.log_in();
    mount(&mut guest, server.nfs_address().port(), "/shared");
    exercise(&mut guest);
    guest.must("umount /mnt", MINUTE);
    guest.power_off();
    runtime.block_on(server.stop());
}

async fn serve_memory() -> Server {
    let directory = Arc::new(StaticDirectory::new());
    let options = ExportOptions {
        squash: Squash::None,
        addresses: AddressList::anybody(),
        ..ExportOptions::default()
    };
    let tree = Arc::new(MemoryTree::with_capacity(2 << 30));
    directory.insert(Export {
        id: 1,
        path: "/shared".to_owned(),
        tree,
        options,
    });
    let config = ServerConfig {
        nfs: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        mount: None,
        portmap: Portmap::None,
        key: HandleKey::new([7; 32]),
        limits: Limits::default(),
    };
    let pool = Arc::new(BlockingPool::start(2, 256).expect("threads for the test's server"));
    Server::start(config, directory, pool)
        .await
        .expect("a server on any port")
}

/// Mounts an export of a server on this machine, which is 10.0.2.2 for the guest, in /mnt.
pub(crate) fn mount(guest: &mut Guest, port: u16, export: &str) {
    let options = format!("vers=3,tcp,nolock,hard,port={port},mountport={port}");
    guest.must(
        &format!("mount -t nfs -o {options} 10.0.2.2:{export} /mnt"),
        MINUTE,
    );
}

/// Runs the client's list in a new folder of what is mounted in /mnt.
pub(crate) fn exercise(guest: &mut Guest) {
    let (failed, output) = failures(guest, "");
    assert!(failed.is_empty(), "{output}");
}

/// The same after other commands; gives what failed, and all that was said.
pub(crate) fn failures(guest: &mut Guest, first: &str) -> (Vec<String>, String) {
    let output = guest.must(
        &format!("mkdir /mnt/own && cd /mnt/own || exit\n{first}\n{CLIENT}\ncd /"),
        20 * MINUTE,
    );
    assert!(
        output.contains("checked\n"),
        "the list came to its end:\n{output}"
    );
    let failed = output
        .lines()
        .filter_map(|line| line.strip_prefix("FAILED "));
    (failed.map(|name| name.trim().to_owned()).collect(), output)
}
