//! A target, an initiator, and what it takes to send a command.

use std::sync::Arc;

use bytes::Bytes;
use export::{BlockExport, MemoryDisk};
use scsi::{
    Cdb, Command, Direction, LunMask, Nexus, NexusName, Plan, Response, SenseKey, Status, Target,
    TargetIdentity, TargetPort, UnitOptions, encode_lun,
};

pub(crate) const MIB: u64 = 1 << 20;

/// A target with two ports.
pub(crate) fn target() -> Arc<Target> {
    let port = |relative_id: u16| TargetPort {
        relative_id,
        name: format!("iqn.2026-01.org.example:target,t,0x{relative_id:04x}"),
    };
    Target::new(TargetIdentity {
        name: "iqn.2026-01.org.example:target".into(),
        ports: vec![port(1), port(2)],
    })
}

/// A target with one disk of 16 MiB at LUN 0.
pub(crate) fn target_with_disk() -> Arc<Target> {
    target_with(Arc::new(MemoryDisk::new(16 * MIB)), UnitOptions::default())
}

pub(crate) fn target_with(export: Arc<dyn BlockExport>, options: UnitOptions) -> Arc<Target> {
    let target = target();
    target.attach(0, export, options).unwrap();
    target
}

/// An initiator at port 1 that has been told of the power on.
pub(crate) fn host(target: &Arc<Target>, name: &str) -> Host {
    host_at(target, name, 1)
}

pub(crate) fn host_at(target: &Arc<Target>, name: &str, target_port: u16) -> Host {
    let host = Host {
        nexus: Arc::new(target.nexus(port_name(name, target_port), LunMask::All)),
        lun: 0,
    };
    for lun in target.luns() {
        host.at(lun).settle();
    }
    host
}

pub(crate) fn port_name(name: &str, target_port: u16) -> NexusName {
    NexusName {
        initiator_port: format!("iqn.2026-01.org.example:{name},i,0x000000000001"),
        target_port,
    }
}

/// An initiator at one LUN.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) nexus: Arc<Nexus>,
    pub(crate) lun: u16,
}

impl Host {
    /// The same initiator at another LUN.
    pub(crate) fn at(&self, lun: u16) -> Self {
        Self {
            nexus: Arc::clone(&self.nexus),
            lun,
        }
    }

    /// Takes all attentions; gives their codes.
    pub(crate) fn settle(&self) -> Vec<(u8, u8)> {
        let mut told = Vec::new();
        loop {
            let response = self.send(&[0; 6], &[]);
            match response.sense {
                Some(sense) if sense.key == SenseKey::UnitAttention => told.push(sense.code),
                _ => return told,
            }
        }
    }

    /// Sends a command with `data`, as a transport does: it plans, transfers, tries, and waits if it must.
    pub(crate) fn send(&self, cdb: &[u8], data: &[u8]) -> Response {
        self.send_to(encode_lun(self.lun), cdb, data)
    }

    pub(crate) fn send_to(&self, lun: [u8; 8], cdb: &[u8], data: &[u8]) -> Response {
        let cdb = Cdb::new(cdb);
        let wanted = match self.nexus.plan(lun, &cdb) {
            Plan::Refuse(response) => return response,
            Plan::Transfer {
                direction: Direction::FromInitiator,
                length_bytes,
            } => length_bytes as usize,
            Plan::Transfer { .. } => 0,
        };
        let sent = &data[..wanted.min(data.len())];
        // In two pieces, as a transport has them.
        let (one, two) = sent.split_at(sent.len() / 3);
        let command = Command {
            lun,
            cdb,
            data_out: [one, two]
                .into_iter()
                .filter(|piece| !piece.is_empty())
                .map(Bytes::copy_from_slice)
                .collect(),
            expected_bytes: Some(data.len() as u32),
        };
        self.nexus
            .try_execute(&command)
            .unwrap_or_else(|| self.nexus.execute(&command))
    }

    /// Sends a command that must succeed; gives its data.
    pub(crate) fn good(&self, cdb: &[u8], data: &[u8]) -> Vec<u8> {
        let response = self.send(cdb, data);
        assert_eq!(
            (response.status, response.sense),
            (Status::Good, None),
            "{cdb:02x?} is done"
        );
        response.data_in.to_vec()
    }

    /// Sends a command that must end in CHECK CONDITION with `key` and `code`.
    pub(crate) fn bad(
        &self,
        cdb: &[u8],
        data: &[u8],
        key: SenseKey,
        code: (u8, u8),
    ) -> scsi::Sense {
        let response = self.send(cdb, data);
        let sense = response.sense.unwrap_or_else(|| {
            panic!(
                "{cdb:02x?} ends in CHECK CONDITION, not {:?}",
                response.status
            )
        });
        assert_eq!(response.status, Status::CheckCondition);
        assert_eq!((sense.key, sense.code), (key, code), "{cdb:02x?}");
        assert!(response.data_in.is_empty());
        sense
    }

    /// Sends a command that is wrong, in its CDB at `field` if that is told.
    pub(crate) fn bad_field(&self, cdb: &[u8], data: &[u8], field: Option<u16>) {
        let sense = self.bad(cdb, data, SenseKey::IllegalRequest, INVALID_FIELD_IN_CDB);
        if let Some(field) = field {
            let pointer = sense.specific.expect("the field is named");
            assert_eq!(
                u16::from_be_bytes([pointer[1], pointer[2]]),
                field,
                "{cdb:02x?}: the field that is wrong"
            );
        }
    }

    /// Sends a command that must end in RESERVATION CONFLICT.
    pub(crate) fn conflict(&self, cdb: &[u8], data: &[u8]) {
        let response = self.send(cdb, data);
        assert_eq!(response.status, Status::ReservationConflict, "{cdb:02x?}");
        assert_eq!(response.sense, None);
    }

    pub(crate) fn write(&self, lba: u32, data: &[u8]) {
        let block = self.block_bytes();
        self.good(&cdb10(0x2a, 0, lba, (data.len() / block) as u16), data);
    }

    pub(crate) fn read(&self, lba: u32, blocks: u16) -> Vec<u8> {
        self.good(&cdb10(0x28, 0, lba, blocks), &[])
    }

    pub(crate) fn block_bytes(&self) -> usize {
        let answer = self.good(&cdb10(0x25, 0, 0, 0), &[]);
        u32::from_be_bytes(answer[4..8].try_into().unwrap()) as usize
    }
}

/// A CDB of 6 bytes with LBA and length.
pub(crate) fn cdb6(opcode: u8, lba: u32, blocks: u8) -> [u8; 6] {
    let [_, one, two, three] = lba.to_be_bytes();
    [opcode, one, two, three, blocks, 0]
}

/// A CDB of 10 bytes with LBA and length.
pub(crate) fn cdb10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A CDB of 12 bytes with LBA and length.
pub(crate) fn cdb12(opcode: u8, flags: u8, lba: u32, blocks: u32) -> [u8; 12] {
    let mut cdb = [0; 12];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[6..10].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// A CDB of 16 bytes with LBA and length.
pub(crate) fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// The CDB for a vital product data page.
pub(crate) fn vpd(page: u8) -> [u8; 6] {
    [0x12, 1, page, 0x04, 0, 0]
}

pub(crate) const INVALID_FIELD_IN_CDB: (u8, u8) = (0x24, 0x00);
pub(crate) const INVALID_FIELD_IN_PARAMETERS: (u8, u8) = (0x26, 0x00);
pub(crate) const LBA_OUT_OF_RANGE: (u8, u8) = (0x21, 0x00);
pub(crate) const PARAMETER_LIST_LENGTH: (u8, u8) = (0x1a, 0x00);
pub(crate) const WRITE_PROTECTED: (u8, u8) = (0x27, 0x00);
