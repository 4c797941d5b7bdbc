//! Ports and addresses that no other test uses.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// A TCP port on `address` that was free a moment ago.
///
/// For programs that cannot be told "any port"; our own servers are given port 0 and asked.
pub fn free_port(address: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind(SocketAddrV4::new(address, 0)).expect("a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// A loopback address of this test alone, on which the well-known ports are free.
///
/// QEMU's NFS client can name no port: it asks the portmapper on 111. Every server therefore gets its own
/// address out of 127.0.0.0/8. Takes root, or the right to bind ports below 1024.
pub fn loopback_for_well_known_ports() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        // The process number keeps tests of one run apart, the counter the servers of one test.
        let number = process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed);
        let [_, high, middle, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(127, high | 0x40, middle, low);
        if [111, 2049]
            .iter()
            .all(|port| TcpListener::bind((address, *port)).is_ok())
        {
            return address;
        }
    }
    panic!("no loopback address with free ports 111 and 2049: is this test running as root?");
}
