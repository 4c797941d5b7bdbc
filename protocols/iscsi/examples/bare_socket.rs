//! What TCP alone costs: `bare_socket ADDRESS:PORT` answers requests of 48 bytes, as a target that did nothing but move
//! bytes would. The first four bytes are 0 to be sent so many bytes, or 1 to send them and be sent 48; the next four say
//! how many, big-endian. The bytes lie where a disk of 192 MiB has them, one request behind the other, so that they come
//! from memory and not from a processor's cache.

use std::io::{Error, Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1);
    let address = address.ok_or(Error::other("usage: bare_socket ADDRESS:PORT"))?;
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || serve(stream));
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut disk = vec![7; DISK_BYTES];
    let mut request = [0; 48];
    let mut at = 0;
    loop {
        stream.read_exact(&mut request)?;
        let [_, _, _, writes, a, b, c, d, ..] = request;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(Error::other)?;
        if at + length > DISK_BYTES {
            at = 0;
        }
        let data = disk
            .get_mut(at..at + length)
            .ok_or(Error::other("that is too long"))?;
        at += length + SKIPPED_BYTES;
        if writes == 1 {
            stream.read_exact(data)?;
            stream.write_all(&request)?;
        } else {
            stream.write_all(data)?;
        }
    }
}

const DISK_BYTES: usize = 192 << 20;
/// As the workloads of `peers.py` do.
const SKIPPED_BYTES: usize = 1 << 20;
