//! Real clients: libnbd's, QEMU's and fio.

use std::sync::Arc;

use export::BlockExport;

use crate::support::{Fixture, Habit, filled, need, run, run_failing, sparse};

#[test]
fn nbdinfo_describes_and_lists() {
    if !need("nbdinfo") {
        return;
    }
    let fixture = Fixture::memory(64 << 20);
    fixture.directory.add(
        "other disk",
        "the second",
        Arc::new(export::MemoryDisk::new(512)),
    );
    for uri in [fixture.tcp_uri(), fixture.unix_uri()] {
        let text = run("nbdinfo", &["--json", &uri]);
        for wanted in [
            "\"export-name\": \"disk\"",
            "\"description\": \"a disk for tests\"",
            "\"export-size\": 67108864",
            "\"structured\": true",
            "\"base:allocation\"",
            "\"qemu:allocation-depth\"",
            "\"block_size_minimum\": 512",
            "\"block_size_maximum\": 33554432",
            "\"can_cache\": true",
            "\"can_df\": true",
            "\"can_fast_zero\": true",
            "\"can_flush\": true",
            "\"can_fua\": true",
            "\"can_multi_conn\": true",
            "\"can_trim\": true",
            "\"can_zero\": true",
            "\"is_read_only\": false",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }
    let list = run(
        "nbdinfo",
        &["--list", "--json", &format!("nbd://{}", fixture.tcp())],
    );
    for wanted in ["\"disk\"", "\"other disk\"", "\"the second\"", "67108864"] {
        assert!(list.contains(wanted), "{wanted} in\n{list}");
    }
    let refused = run_failing("nbdinfo", &[&format!("nbd://{}/missing", fixture.tcp())]);
    assert!(refused.contains("missing"), "{refused}");
}

#[test]
fn nbdinfo_shows_the_maps() {
    if !need("nbdinfo") {
        return;
    }
    let mut content = vec![0; 4 << 20];
    content[1 << 20..2 << 20].fill(5);
    let fixture = Fixture::serve(Arc::new(Habit::quick(filled(&content))));
    let fields = |text: String| -> Vec<Vec<String>> {
        text.lines()
            .map(|line| line.split_whitespace().take(3).map(str::to_owned).collect())
            .collect()
    };
    let uri = fixture.unix_uri();
    let map = fields(run("nbdinfo", &["--map", &uri]));
    assert_eq!(
        map,
        [
            ["0", "1048576", "3"],
            ["1048576", "1048576", "0"],
            ["2097152", "2097152", "3"]
        ]
    );
    let depth = fields(run("nbdinfo", &["--map=qemu:allocation-depth", &uri]));
    assert_eq!(
        depth,
        [
            ["0", "1048576", "0"],
            ["1048576", "1048576", "1"],
            ["2097152", "2097152", "0"]
        ]
    );
    let dirty = fields(run("nbdinfo", &["--map=qemu:dirty-bitmap:since", &uri]));
    assert_eq!(dirty, [["0", "1048576", "1"], ["1048576", "3145728", "0"]]);
}

#[test]
fn nbdcopy_brings_bytes_in_and_out() {
    if !need("nbdcopy") {
        return;
    }
    let content = sparse(41, 24 << 20);
    let fixture = Fixture::memory(24 << 20);
    let (source, target) = (
        fixture.file("in.img", &content),
        fixture.file("out.img", b""),
    );
    for uri in [fixture.tcp_uri(), fixture.unix_uri()] {
        run("nbdcopy", &["--flush", &source, &uri]);
        run("nbdcopy", &[&uri, &target]);
        assert!(std::fs::read(&target).unwrap() == content, "{uri}");
        run(
            "nbdcopy",
            &[
                "--allocated",
                "--connections=4",
                "--requests=64",
                "--destination-is-zero",
                &uri,
                &target,
            ],
        );
        assert!(std::fs::read(&target).unwrap() == content, "{uri}");
    }
    // The holes of the file are holes of the disk: nbdcopy writes zeroes for them.
    let disk = fixture.directory.open_disk();
    let holes = disk.extents(0, 24 << 20, usize::MAX).unwrap();
    assert!(holes.len() > 10, "{} extents", holes.len());
}

#[test]
fn nbdsh_sees_the_protocol() {
    if !need("nbdsh") {
        return;
    }
    let fixture = Fixture::memory(64 << 20);
    let script = include_str!("protocol.py");
    let text = run(
        "nbdsh",
        &["--base-allocation", "-u", &fixture.unix_uri(), "-c", script],
    );
    assert!(text.contains("all is well"), "{text}");
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    if !need("qemu-img") {
        return;
    }
    let content = sparse(42, 16 << 20);
    let fixture = Fixture::memory(16 << 20);
    let raw = fixture.file("in.raw", &content);
    let qcow = fixture
        .folder
        .path()
        .join("out.qcow2")
        .to_str()
        .unwrap()
        .to_owned();
    let back = fixture.file("back.raw", b"");
    for uri in [fixture.tcp_uri(), fixture.unix_uri()] {
        run(
            "qemu-img",
            &[
                "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", &raw, &uri,
            ],
        );
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", &raw, &uri],
        );
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", "qcow2", &uri, &qcow],
        );
        run(
            "qemu-img",
            &["convert", "-f", "qcow2", "-O", "raw", &qcow, &back],
        );
        assert!(std::fs::read(&back).unwrap() == content, "{uri}");
        let info = run("qemu-img", &["info", "--output=json", &uri]);
        assert!(info.contains("\"virtual-size\": 16777216"), "{info}");
        let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
        assert!(
            map.contains("\"zero\": true") && map.contains("\"data\": true"),
            "{map}"
        );
    }
    let missing = format!("nbd://{}/missing", fixture.tcp());
    let refused = run_failing("qemu-img", &["info", &missing]);
    assert!(refused.contains("missing"), "{refused}");
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_back() {
    if !need("qemu-io") {
        return;
    }
    let fixture = Fixture::memory(64 << 20);
    let commands = [
        "write -P 0x11 0 8M",
        "write -f -P 0x22 1M 64k",
        "write -z 2M 1M",
        "write -z -u 3M 1M",
        "discard 4M 1M",
        "aio_write -P 0x33 5M 1M",
        "aio_write -P 0x44 6M 1M",
        "aio_flush",
        "flush",
        "read -P 0x11 0 1M",
        "read -P 0x22 1M 64k",
        "read -P 0x11 1088k 960k",
        "read -P 0 2M 3M",
        "read -P 0x33 5M 1M",
        "read -P 0x44 6M 1M",
        "read -P 0 32M 16M",
        "write -P 0x55 67108352 512",
        "read -P 0x55 67108352 512",
    ];
    for uri in [fixture.tcp_uri(), fixture.unix_uri()] {
        let mut arguments = vec!["-f", "raw"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(&uri);
        let text = run("qemu-io", &arguments);
        assert!(
            !text.contains("failed") && !text.contains("error"),
            "{text}"
        );
    }
}

#[test]
fn fio_verifies_what_it_writes() {
    if !need("fio") {
        return;
    }
    let fixture = Fixture::memory(64 << 20);
    for (uri, block) in [
        (fixture.tcp_uri(), "4k-4k"),
        (fixture.unix_uri(), "4k-256k"),
    ] {
        let range = format!("--bsrange={block}");
        let uri = format!("--uri={uri}");
        let arguments = [
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            &range,
            "--iodepth=32",
            "--size=48M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_state_save=0",
            "--output-format=terse",
        ];
        if !supports_nbd() {
            return;
        }
        run("fio", &arguments);
    }
}

/// Whether this fio was built with libnbd.
fn supports_nbd() -> bool {
    let found = run("fio", &["--enghelp"])
        .split_whitespace()
        .any(|engine| engine == "nbd");
    assert!(
        found || std::env::var_os("CI").is_none(),
        "fio has no nbd engine, and CI is set"
    );
    found
}

/// The disk behind the only export.
trait OpenDisk {
    fn open_disk(&self) -> Arc<dyn BlockExport>;
}

impl OpenDisk for nbd::StaticDirectory {
    fn open_disk(&self) -> Arc<dyn BlockExport> {
        use nbd::{ExportDirectory, Peer, PeerAddress};
        self.open("disk", &Peer::new(PeerAddress::Unix { uid: None }))
            .unwrap()
            .export
    }
}
