//! Entry point for fuzzing: what any CDBs, LUNs and parameter lists may do to a device. It must not panic, not hang, and
//! not make answers larger than its limits.

use std::sync::Arc;

use bytes::Bytes;
use export::MemoryDisk;

use crate::wire;
use crate::{
    Cdb, Command, Direction, LunMask, NexusName, Plan, Target, TargetIdentity, TargetPort,
    UnitOptions, encode_lun,
};

/// Gives `data` to a device as one command after the other: a byte that says the LUN and how much data comes, 16 bytes of
/// CDB, and the rest of the input as data, from its beginning.
pub fn fuzz_commands(data: &[u8]) {
    let ports = [1, 2].map(|relative_id| TargetPort {
        relative_id,
        name: format!("iqn.2026-01.org.example:fuzz,t,0x{relative_id:04x}"),
    });
    let target = Target::new(TargetIdentity {
        name: "iqn.2026-01.org.example:fuzz".into(),
        ports: ports.to_vec(),
    });
    for (lun, block_bytes) in [(0, 512), (1, 4096)] {
        let options = UnitOptions {
            logical_block_bytes: block_bytes,
            removable: lun == 1,
            sanitize: lun == 1,
            ..UnitOptions::default()
        };
        target
            .attach(lun, Arc::new(MemoryDisk::new(4 << 20)), options)
            .expect("the numbers are free and the disks fit");
    }
    let nexuses = [1, 2].map(|number: u16| {
        let name = NexusName {
            initiator_port: format!("iqn.2026-01.org.example:host{number},i,0x1"),
            target_port: number,
        };
        target.nexus(name, LunMask::All)
    });
    let mut rest = data;
    for _ in 0..COMMANDS_MAX {
        let Some((&control, after)) = rest.split_first() else {
            return;
        };
        let Some((cdb, after)) = after.split_at_checked(16) else {
            return;
        };
        rest = after;
        let [nexus, _] = &nexuses;
        let nexus = nexuses.get(usize::from(control >> 7)).unwrap_or(nexus);
        one_command(nexus, control, &Cdb::new(cdb), rest);
    }
}

fn one_command(nexus: &crate::Nexus, control: u8, cdb: &Cdb, rest: &[u8]) {
    let lun = match control & 3 {
        3 => wire::array_at(rest, 0),
        number => encode_lun(number.into()),
    };
    let Plan::Transfer {
        direction,
        length_bytes,
    } = nexus.plan(lun, cdb)
    else {
        return;
    };
    let mut data_out = Vec::new();
    if direction == Direction::FromInitiator {
        assert!(length_bytes <= 32 << 20, "data is bounded: {length_bytes}");
        let shift = control >> 2 & 0x0f;
        let wanted = wire::to_usize(length_bytes.into()).min(64 << 10) >> (shift & 3);
        let piece = rest
            .iter()
            .copied()
            .cycle()
            .take(wanted)
            .collect::<Vec<_>>();
        data_out = vec![Bytes::from(piece)];
    }
    let command = Command {
        lun,
        cdb: *cdb,
        data_out,
        expected_bytes: (control & 0x40 != 0).then_some(length_bytes),
    };
    let response = nexus
        .try_execute(&command)
        .unwrap_or_else(|| nexus.execute(&command));
    assert!(
        response.data_in.len() <= 17 << 20,
        "answers are bounded: {}",
        response.data_in.len()
    );
    if let Some(sense) = response.sense {
        assert!(sense.encode().len() <= 252, "sense data fits its field");
    }
}

const COMMANDS_MAX: usize = 64;
