//! The first files of the small machine: our program with its libraries, and modules of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::found::Found;
use super::kinds::Kind;

/// Writes the archive that the kernel unpacks.
pub(super) fn write(found: &Found, program: &Path, to: &mut File) -> io::Result<()> {
    let mut archive = Archive {
        out: BufWriter::new(to),
        inode: 0,
        folders: BTreeSet::new(),
    };
    archive.device("dev/console", 5, 1)?;
    let whole = fs::read(program)?;
    archive.file("init", PROGRAM, loaded(&whole))?;
    for library in libraries(program)? {
        archive.copy(&library, &library)?;
    }
    let modules = Modules::read(&found.modules)?;
    let mut copied = BTreeSet::new();
    let mut listed = BTreeSet::new();
    let kinds = Kind::all().map(|kind| (kind.name, kind.modules));
    for (purpose, names) in [("machine", DEVICES)].into_iter().chain(kinds) {
        if !listed.insert(purpose) {
            continue;
        }
        let paths = modules.in_order(names);
        for path in &paths {
            if copied.insert(path.clone()) {
                archive.copy(&found.modules.join(path), &Path::new("/modules").join(path))?;
            }
        }
        let lines = paths.iter().map(|path| format!("/modules/{path}\n"));
        let list = lines.collect::<String>();
        archive.file(&format!("modules/list/{purpose}"), PLAIN, list.as_bytes())?;
    }
    archive.finish()
}

/// As much of a program as the kernel maps: what stands behind that is for debuggers.
fn loaded(program: &[u8]) -> &[u8] {
    loaded_length(program)
        .and_then(|length| program.get(..length))
        .unwrap_or(program)
}

/// The end of the last segment of a 64-bit, little-endian ELF file.
fn loaded_length(program: &[u8]) -> Option<usize> {
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        let value = field
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    if !program.starts_with(b"\x7FELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    let mut end = table.checked_add(size.checked_mul(count)?)?;
    for segment in 0..count {
        let at = table.checked_add(segment * size)?;
        let is_mapped = number(at, 4)? == 1;
        let last = number(at + 8, 8)?.checked_add(number(at + 32, 8)?)?;
        if is_mapped {
            end = end.max(last);
        }
    }
    Some(end)
}

/// What the dynamic loader would load for a program, and the loader itself. The loader says so in place of starting it; a
/// program without one says something else.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = Command::new(program)
        .arg("--version")
        .env_clear()
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .output()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = |line: &str| {
        let (name, _) = line.trim().rsplit_once(" (0x")?;
        let path = name.rsplit_once(" => ").map_or(name, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Modules of a kernel, and which of them others need.
struct Modules(BTreeMap<String, Vec<String>>);

impl Modules {
    fn read(folder: &Path) -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(
            folder.join("modules.dep"),
        )?))
    }

    fn parse(text: &str) -> Self {
        let module = |line: &str| {
            let (path, needed) = line.split_once(':')?;
            // Those that are needed first come last.
            let needed = needed.split_whitespace().rev().map(str::to_owned);
            let all = needed.chain([path.to_owned()]).collect();
            Some((name(path)?, all))
        };
        Self(text.lines().filter_map(module).collect())
    }

    /// Paths of modules, each after those that it needs. What is built into a kernel, or is not in its package, is left out.
    fn in_order(&self, names: &[&str]) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        for path in names.iter().filter_map(|name| self.0.get(*name)).flatten() {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        paths
    }
}

/// A module's name: that of its file, without the ending, and with no dashes.
fn name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// An archive in the format "newc" of cpio, as the kernel reads it.
struct Archive<W> {
    out: W,
    inode: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let name = to.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        self.file(name.trim_start_matches('/'), PROGRAM, &fs::read(from)?)
    }

    /// A file, in folders that are made before it.
    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.make_folders(name)?;
        self.entry(name, mode, (0, 0), content)
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.make_folders(name)?;
        self.entry(name, CHARACTER_DEVICE, (major, minor), &[])
    }

    fn make_folders(&mut self, name: &str) -> io::Result<()> {
        for (end, _) in name.match_indices('/') {
            let folder = name.get(..end).unwrap_or_default();
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        self.inode += 1;
        let number = |value: usize| u32::try_from(value).map_err(io::Error::other);
        let (length, name_length) = (number(content.len())?, number(name.len() + 1)?);
        // Inode, mode, owner, group, links, time, length, device, device that it is, length of the name, a sum that is
        // not there.
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            major,
            minor,
            name_length,
            0,
        ];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.fill(HEAD_BYTES + name.len() + 1)?;
        self.out.write_all(content)?;
        self.fill(content.len())
    }

    /// Everything begins at a multiple of four.
    fn fill(&mut self, length: usize) -> io::Result<()> {
        let zeroes = [0; 3];
        let missing = length.next_multiple_of(4) - length;
        self.out
            .write_all(zeroes.get(..missing).unwrap_or_default())
    }

    fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()
    }
}

/// What the machine itself is made of.
const DEVICES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console"];

const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const FOLDER: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const HEAD_BYTES: usize = 110;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_those_that_they_need() {
        let modules = Modules::parse(
            "kernel/fs/a.ko: kernel/lib/b-c.ko kernel/lib/d.ko\nkernel/lib/b-c.ko: kernel/lib/d.ko\nkernel/lib/d.ko:\n",
        );
        let order = ["kernel/lib/d.ko", "kernel/lib/b-c.ko", "kernel/fs/a.ko"];
        assert_eq!(modules.in_order(&["b_c", "missing", "a"]), order);
    }

    #[test]
    fn what_is_for_debuggers_stays_out() {
        let own = fs::read("/proc/self/exe").unwrap();
        let length = loaded_length(&own).unwrap();
        assert!((1000..=own.len()).contains(&length));
        for cut in [0, 10, 0x3F, 100] {
            assert_eq!(
                loaded(&own[..cut]).len(),
                cut,
                "what is no program stays whole"
            );
        }
    }

    #[test]
    fn the_archive_is_in_the_format_newc() {
        let mut bytes = Vec::new();
        let mut archive = Archive {
            out: &mut bytes,
            inode: 0,
            folders: BTreeSet::new(),
        };
        archive.file("a/b/c", PLAIN, b"hello").unwrap();
        archive.file("a/b/d", PROGRAM, b"").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut at = 0;
        let mut names = Vec::new();
        while at < bytes.len() {
            let field = |number: usize| {
                let digits = &bytes[at + 6 + 8 * number..][..8];
                usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, length, name_length) = (field(1), field(6), field(11));
            let name = &bytes[at + HEAD_BYTES..][..name_length - 1];
            let name = String::from_utf8(name.to_vec()).unwrap();
            let content = at + (HEAD_BYTES + name_length).next_multiple_of(4);
            names.push((name, mode, bytes[content..][..length].to_vec()));
            at = content + length.next_multiple_of(4);
        }
        let entry = |name: &str, mode: u32, content: &[u8]| {
            (name.to_owned(), mode as usize, content.to_vec())
        };
        let expected = [
            entry("a", FOLDER, b""),
            entry("a/b", FOLDER, b""),
            entry("a/b/c", PLAIN, b"hello"),
            entry("a/b/d", PROGRAM, b""),
            entry("TRAILER!!!", 0, b""),
        ];
        assert_eq!(names, expected);
    }
}
