//! Disk images that a test can make quickly, and compare.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that look random, and are the same for the same seed: they neither compress nor repeat.
pub struct Noise {
    stream: blake3::OutputReader,
}

impl Noise {
    /// The stream of bytes that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        Self {
            stream: hasher.finalize_xof(),
        }
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.fill(&mut bytes);
        bytes
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.stream.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    }

    /// A file of `length` such bytes.
    pub fn file(&mut self, path: &Path, length: u64) {
        let mut file =
            BufWriter::with_capacity(1 << 20, File::create(path).expect("the file can be made"));
        let mut left = length;
        while left > 0 {
            let step = left.min(1 << 20);
            let bytes = self.bytes(usize::try_from(step).expect("at most 1 MiB"));
            file.write_all(&bytes).expect("there is room on the disk");
            left -= step;
        }
        file.flush().expect("there is room on the disk");
    }
}

impl std::fmt::Debug for Noise {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Noise")
    }
}

/// A sparse disk of `size` bytes with `islands` islands of 64 KiB noise at seeded places.
pub fn sparse_disk(path: &Path, size: u64, islands: u32, seed: u64) {
    const ISLAND: u64 = 64 << 10;
    let mut noise = Noise::new(seed);
    let file = File::create(path).expect("the file can be made");
    file.set_len(size)
        .expect("the filesystem takes sparse files of this size");
    for _ in 0..islands {
        // Whole sectors, but no larger alignment: chunk borders are crossed.
        let offset = noise.below((size - ISLAND) / 512) * 512;
        let bytes = noise.bytes(64 << 10);
        file.write_all_at(&bytes, offset)
            .expect("there is room on the disk");
    }
}

/// Compares two files of any size byte for byte; holes are read as zeroes.
///
/// # Panics
/// With the first offset at which they differ.
pub fn assert_same_bytes(left: &Path, right: &Path) {
    let mut readers =
        [left, right].map(|path| (path, File::open(path).expect("the file is there")));
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut offset = 0_u64;
    loop {
        let mut counts = [0; 2];
        for (((path, file), buffer), count) in readers.iter_mut().zip(&mut buffers).zip(&mut counts)
        {
            *count = read_full(file, buffer, path);
        }
        let [left_bytes, right_bytes] = &buffers;
        let [left_count, right_count] = counts;
        let common = left_count.min(right_count);
        let differs = left_bytes
            .iter()
            .zip(right_bytes)
            .take(common)
            .position(|(a, b)| a != b);
        if let Some(position) = differs {
            let at = offset + u64::try_from(position).expect("below 1 MiB");
            panic!(
                "{} and {} differ at offset {at}",
                left.display(),
                right.display()
            );
        }
        assert_eq!(
            left_count,
            right_count,
            "{} and {} differ in length",
            left.display(),
            right.display()
        );
        if common == 0 {
            return;
        }
        offset += u64::try_from(common).expect("at most 1 MiB");
    }
}

fn read_full(file: &mut File, buffer: &mut [u8], path: &Path) -> usize {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_disk() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        sparse_disk(&one, 8 << 20, 4, 7);
        sparse_disk(&two, 8 << 20, 4, 7);
        assert_same_bytes(&one, &two);
    }

    #[test]
    #[should_panic(expected = "differ at offset 1048577")]
    fn names_the_first_byte_that_differs() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        Noise::new(1).file(&one, 2 << 20);
        Noise::new(1).file(&two, 2 << 20);
        let mut byte = [0];
        let file = File::options().read(true).write(true).open(&two).unwrap();
        file.read_exact_at(&mut byte, 1_048_577).unwrap();
        file.write_all_at(&[!byte[0]], 1_048_577).unwrap();
        assert_same_bytes(&one, &two);
    }
}
