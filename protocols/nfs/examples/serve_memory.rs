//! Serves a folder in RAM with one disk file in it, for benchmarks and for trying clients.
//!
//! `nfs_serve_memory 127.0.0.4:111 1024` serves `/x/disk.img` of 1,024 MiB, with our own port mapper at that address and NFS
//! and MOUNT beside it on 2049. With `PORTMAP=rpcbind` in the environment, NFS and MOUNT listen at the address given and
//! are registered with the rpcbind of this machine. With `ENGINE=nfsserve` the crate of that name serves (cargo feature).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use export::{BlockingPool, Caller, CreateMode, Durability, FileExport, MemoryTree, SetAttributes};
use nfs::{
    AddressList, Export, ExportOptions, HandleKey, Limits, Portmap, Server, ServerConfig, Squash,
    StaticDirectory,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments
        .next()
        .ok_or("usage: ADDRESS:PORT [MIB]")?
        .parse()?;
    let size_mib: u64 = arguments.next().as_deref().unwrap_or("64").parse()?;
    let tree = filled_tree(size_mib)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if std::env::var_os("ENGINE").is_some_and(|engine| engine == "nfsserve") {
            return serve_by_nfsserve(tree, address).await;
        }
        let server = serve(tree, address).await?;
        eprintln_ready(address);
        tokio::signal::ctrl_c().await?;
        server.stop().await;
        Ok(())
    })
}

async fn serve(
    tree: Arc<MemoryTree>,
    address: SocketAddr,
) -> Result<Server, Box<dyn std::error::Error>> {
    let directory = Arc::new(StaticDirectory::new());
    let addresses = AddressList::anybody();
    let options = ExportOptions {
        squash: Squash::None,
        addresses,
        ..ExportOptions::default()
    };
    directory.insert(Export {
        id: 1,
        path: "/".to_owned(),
        tree,
        options,
    });
    let rpcbind = std::env::var_os("PORTMAP").is_some_and(|portmap| portmap == "rpcbind");
    let beside = SocketAddr::new(address.ip(), 2049);
    let config = ServerConfig {
        nfs: if rpcbind { address } else { beside },
        mount: None,
        portmap: if rpcbind {
            Portmap::Rpcbind
        } else {
            Portmap::BuiltIn(address)
        },
        key: HandleKey::new([7; 32]),
        limits: Limits::default(),
    };
    let pool = Arc::new(BlockingPool::start(2, 256)?);
    Ok(Server::start(config, directory, pool).await?)
}

#[cfg(feature = "nfsserve")]
async fn serve_by_nfsserve(
    tree: Arc<MemoryTree>,
    address: SocketAddr,
) -> Result<(), Box<dyn std::error::Error>> {
    eprintln_ready(address);
    Ok(nfs::nfsserve_adapter::serve(tree, &address.to_string()).await?)
}

#[cfg(not(feature = "nfsserve"))]
async fn serve_by_nfsserve(
    _tree: Arc<MemoryTree>,
    _address: SocketAddr,
) -> Result<(), Box<dyn std::error::Error>> {
    Err("built without the feature nfsserve".into())
}

/// A tree with `x/disk.img`, every block of it written.
fn filled_tree(size_mib: u64) -> Result<Arc<MemoryTree>, export::ExportError> {
    let tree = Arc::new(MemoryTree::with_capacity((size_mib + 1024) << 20));
    let caller = Caller {
        uid: 0,
        gid: 0,
        gids: Vec::new(),
    };
    let attributes = SetAttributes::default();
    let folder = tree
        .create_directory(&caller, tree.root(), b"x", &attributes)?
        .file;
    let file = tree
        .create(
            &caller,
            folder,
            b"disk.img",
            CreateMode::Guarded,
            &attributes,
        )?
        .file;
    for mib in 0..size_mib {
        let fill = u8::try_from(mib % 251).unwrap_or_default();
        let block = [Bytes::from(vec![fill; 1 << 20])];
        tree.write(file, mib << 20, &block, Durability::Unstable)?;
    }
    Ok(tree)
}

#[expect(
    clippy::print_stderr,
    reason = "an example tells its user that it is ready"
)]
fn eprintln_ready(address: SocketAddr) {
    eprintln!("serving nfs://{}/x/disk.img", address.ip());
}
