//! The server and the client of this crate against each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use export::{Durability, ExportError, MemoryDisk, ZeroMode};
use nbd::client::{Address, Client, ClientError, ConnectOptions};
use nbd::wire::{Dialect, ReplyType, Status};

use crate::support::{Fixture, Habit, Random, filled, options, sparse};

fn contexts() -> Vec<String> {
    [
        "base:allocation",
        "qemu:allocation-depth",
        "qemu:dirty-bitmap:since",
        "no:such",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn exports_are_listed_and_described() {
    let fixture = Fixture::memory(1 << 20);
    fixture
        .directory
        .add("b", "", Arc::new(MemoryDisk::new(512).into_read_only()));
    let list = Client::list(&fixture.tcp_address(), &options()).unwrap();
    let names: Vec<_> = list
        .iter()
        .map(|summary| (summary.name.as_str(), summary.description.as_str()))
        .collect();
    assert_eq!(names, [("b", ""), ("disk", "a disk for tests")]);
    let export = Client::info(&fixture.unix_address(), "disk", &options()).unwrap();
    assert_eq!(
        (export.size_bytes, export.name.as_deref()),
        (1 << 20, Some("disk"))
    );
    assert_eq!(export.description.as_deref(), Some("a disk for tests"));
    assert!(!export.is_read_only() && export.can_multi_conn());
    assert_eq!(
        export
            .block_sizes
            .map(|sizes| (sizes.minimum, sizes.maximum)),
        Some((512, 32 << 20))
    );
    assert!(
        Client::info(&fixture.tcp_address(), "b", &options())
            .unwrap()
            .is_read_only()
    );
    match Client::info(&fixture.tcp_address(), "c", &options()) {
        Err(ClientError::Refused {
            reply: ReplyType::ErrUnknown,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

/// Random operations against a vector, inline and through the pool.
fn check_model(extended_headers: bool, quick: bool) {
    let size = 4 << 20;
    let mut model = sparse(7, size);
    let mut habit = Habit::quick(filled(&model));
    habit.quick = quick;
    let fixture = Fixture::serve(Arc::new(habit));
    let options = ConnectOptions {
        extended_headers,
        contexts: contexts(),
        ..options()
    };
    let mut client = Client::connect(&fixture.tcp_address(), "disk", &options).unwrap();
    assert_eq!(
        client.dialect(),
        if extended_headers {
            Dialect::Extended
        } else {
            Dialect::Structured
        }
    );
    assert_eq!(client.contexts().count(), 3);
    let mut random = Random(99);
    for step in 0..300 {
        let offset = random.below(size as u64 / 512) * 512;
        let most = if step % 10 == 0 { 1 << 20 } else { 64 << 10 };
        let length = (512 + random.below(most / 512) * 512).min(size as u64 - offset);
        let range = offset as usize..(offset + length) as usize;
        let durability = if random.below(4) == 0 {
            Durability::Stable
        } else {
            Durability::Unstable
        };
        match random.below(6) {
            0 => {
                client
                    .write_zeroes(offset, length, ZeroMode::Deallocate, durability)
                    .unwrap();
                model[range.clone()].fill(0);
            }
            1 => {
                client.trim(offset, length, durability).unwrap();
                model[range.clone()].fill(0);
            }
            2 => client.flush().unwrap(),
            3 => client.cache(offset, length).unwrap(),
            _ => {
                let data: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
                client.write_at(offset, &data, durability).unwrap();
                model[range.clone()].copy_from_slice(&data);
            }
        }
        let mut seen = vec![1; length as usize];
        client.read_at(offset, &mut seen).unwrap();
        assert!(
            seen == model[range],
            "step {step}: {length} bytes at {offset}"
        );
    }
    check_status(&mut client, &model);
    client.disconnect().unwrap();
}

/// Walks the map: it covers the disk and calls nothing zero that is not.
fn check_status(client: &mut Client, model: &[u8]) {
    let mut offset = 0;
    while offset < model.len() {
        let answers = client
            .block_status(offset as u64, (model.len() - offset) as u64)
            .unwrap();
        assert_eq!(answers.len(), 3);
        let (context, extents) = &answers[0];
        assert_eq!(context, "base:allocation");
        for &(length, flags) in extents {
            let end = offset + length as usize;
            assert!(
                flags & 2 == 0 || model[offset..end].iter().all(|&byte| byte == 0),
                "{flags} at {offset}"
            );
            offset = end;
        }
    }
    assert_eq!(offset, model.len());
}

#[test]
fn structured_connections_agree_with_a_vector() {
    check_model(false, true);
    check_model(false, false);
}

#[test]
fn extended_connections_agree_with_a_vector() {
    check_model(true, true);
    check_model(true, false);
}

#[test]
fn ranges_beyond_32_bits_take_one_request_with_extended_headers() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let habit = Habit::slow(1 << 40, move |call| {
        seen.fetch_add(usize::from(call == "discard"), Ordering::SeqCst);
        Ok(())
    });
    let fixture = Fixture::serve(Arc::new(habit));
    for (extended_headers, wanted) in [(true, 1), (false, 512)] {
        calls.store(0, Ordering::SeqCst);
        let options = ConnectOptions {
            extended_headers,
            contexts: contexts(),
            ..options()
        };
        let mut client = Client::connect(&fixture.unix_address(), "disk", &options).unwrap();
        client.trim(0, 1 << 40, Durability::Unstable).unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), wanted);
        if extended_headers {
            assert_eq!(
                client.block_status(0, 1 << 40).unwrap()[0].1,
                [(1 << 40, 3)]
            );
        }
    }
}

#[test]
fn errors_of_the_export_have_their_numbers() {
    let refusals = [
        (
            "read",
            ExportError::Corrupt {
                detail: "chunk 7".into(),
            },
            Status::Io,
        ),
        (
            "write",
            ExportError::NoSpace {
                detail: "overlay".into(),
            },
            Status::NoSpace,
        ),
        (
            "stable write",
            ExportError::NotPermitted,
            Status::Permission,
        ),
        (
            "flush",
            ExportError::Storage {
                detail: "sync".into(),
            },
            Status::Io,
        ),
        ("discard", ExportError::ShuttingDown, Status::Shutdown),
        (
            "zeroes kept",
            ExportError::NotSupported,
            Status::NotSupported,
        ),
    ];
    let table = refusals.clone();
    let habit = Habit::slow(1 << 20, move |call| {
        let refusal = table.iter().find(|(refused, ..)| *refused == call);
        refusal.map_or(Ok(()), |(_, error, _)| Err(error.clone()))
    });
    let fixture = Fixture::serve(Arc::new(habit));
    for extended_headers in [false, true] {
        let options = ConnectOptions {
            extended_headers,
            ..options()
        };
        let mut client = Client::connect(&fixture.unix_address(), "disk", &options).unwrap();
        for (call, _, status) in &refusals {
            let answer = match *call {
                "read" => client.read_at(0, &mut [0; 512]),
                "write" => client.write_at(0, &[0; 512], Durability::Unstable),
                "stable write" => client.write_at(0, &[0; 512], Durability::Stable),
                "flush" => client.flush(),
                "discard" => client.trim(0, 512, Durability::Unstable),
                _ => client.write_zeroes(0, 512, ZeroMode::KeepAllocated, Durability::Unstable),
            };
            match answer {
                Err(ClientError::Failed(seen)) => assert_eq!(seen, *status, "{call}"),
                other => panic!("{call}: {other:?}"),
            }
        }
        client
            .write_zeroes(0, 512, ZeroMode::Deallocate, Durability::Unstable)
            .unwrap();
    }
}

#[test]
fn a_read_only_export_takes_no_change() {
    let fixture = Fixture::serve(Arc::new(MemoryDisk::new(1 << 20).into_read_only()));
    let mut client = fixture.client();
    let refused = |answer: Result<(), ClientError>| {
        assert!(
            matches!(answer, Err(ClientError::Failed(Status::Permission))),
            "{answer:?}"
        );
    };
    refused(client.write_at(0, &[1; 1 << 20], Durability::Unstable));
    refused(client.write_zeroes(0, 512, ZeroMode::Deallocate, Durability::Unstable));
    refused(client.trim(0, 512, Durability::Stable));
    client.flush().unwrap();
    client.read_at(0, &mut [0; 4096]).unwrap();
}

#[test]
fn a_flush_covers_what_other_connections_wrote() {
    let log = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    let fixture = Fixture::serve(Arc::new(Habit::slow(1 << 20, move |call| {
        seen.lock().push(call);
        Ok(())
    })));
    let (mut one, mut other) = (fixture.client(), fixture.client());
    assert!(one.export().can_multi_conn());
    one.write_at(0, &[1; 4096], Durability::Unstable).unwrap();
    other.flush().unwrap();
    one.write_at(0, &[1; 4096], Durability::Stable).unwrap();
    assert_eq!(*log.lock(), ["write", "flush", "stable write"]);
}

#[test]
fn nobody_listening_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("nobody"));
    let error = Client::connect(&address, "", &options()).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot connect to "),
        "{error}"
    );
}
