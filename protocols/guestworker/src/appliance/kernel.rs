//! The kernel without its wrapping.
//!
//! What lies in /boot unpacks itself when it is started. Emulated, that takes longer than all the rest of the start, so it is
//! unpacked here where a program for that is installed; QEMU starts the ELF file inside by the entry that it has for
//! virtual machines (PVH).

use std::io::{self, Write as _};
use std::ops::Range;
use std::process::{Command, Stdio};

/// The ELF file in a kernel of Linux's boot protocol; nothing if it cannot be had.
pub(super) fn unpack(kernel: &[u8]) -> Option<Vec<u8>> {
    let packed = kernel.get(payload(kernel)?)?;
    let (_, program) = PACKERS
        .iter()
        .find(|(magic, _)| packed.starts_with(magic))?;
    let unpacked = run(program, packed).ok()?;
    unpacked.starts_with(b"\x7FELF").then_some(unpacked)
}

/// Where the packed file lies (Linux's Documentation/x86/boot.rst, `payload_offset`).
fn payload(kernel: &[u8]) -> Option<Range<usize>> {
    if kernel.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let number = |at: usize| {
        let bytes = kernel.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup_sectors = match *kernel.get(0x1F1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + number(0x248)?;
    Some(start..start.checked_add(number(0x24C)?)?)
}

/// Has a program unpack it. Behind what was packed stands its length, about which the program complains.
fn run(program: &str, packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(input) = &mut input {
                // It ends before it has read what it complains about.
                drop(input.write_all(packed));
            }
        });
        child.wait_with_output().map(|output| output.stdout)
    })
}

const PACKERS: &[(&[u8], &str)] = &[
    (b"\xFD7zXZ\0", "xz"),
    (b"\x28\xB5\x2F\xFD", "zstd"),
    (b"\x1F\x8B", "gzip"),
    (b"\x02\x21\x4C\x18", "lz4"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(payload: &[u8]) -> Vec<u8> {
        let mut kernel = vec![0; 1024];
        kernel[0x1F1] = 1;
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x248..0x24C].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        kernel[0x24C..0x250].copy_from_slice(&length.to_le_bytes());
        kernel.resize(1024 + 16, 7);
        kernel.extend(payload);
        kernel
    }

    #[test]
    fn a_packed_kernel_is_found_and_unpacked() {
        let mut packed = run_gzip(b"\x7FELF and the rest");
        packed.extend(18_u32.to_le_bytes());
        let kernel = wrapped(&packed);
        assert_eq!(unpack(&kernel).unwrap(), b"\x7FELF and the rest");
        for length in 0..kernel.len() {
            let cut = unpack(&kernel[..length]);
            assert!(cut.is_none(), "cut to {length}");
        }
        assert!(unpack(&wrapped(&run_gzip(b"something else"))).is_none());
        assert!(unpack(&wrapped(b"not packed")).is_none());
    }

    fn run_gzip(bytes: &[u8]) -> Vec<u8> {
        let mut child = Command::new("gzip")
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap().stdout
    }
}
