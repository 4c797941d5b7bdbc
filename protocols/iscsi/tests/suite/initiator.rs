//! An initiator that does what a test says, right or wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use iscsi::wire::{
    DataIn, DataOut, Digests, HEADER_LENGTH, Header, LoginRequest, LoginResponse, NO_TAG, Pdu, R2t,
    ScsiCommand, ScsiResponse, TaskManagementRequest, TaskManagementResponse, TextRequest, U24,
    digest, opcode, padding,
};
use zerocopy::FromBytes;
use zerocopy::big_endian::{U16, U32};

/// One connection.
pub(crate) struct Initiator {
    pub(crate) stream: TcpStream,
    pub(crate) digests: Digests,
    pub(crate) name: String,
    pub(crate) isid: [u8; 6],
    /// Number of the next command.
    pub(crate) cmd_sn: u32,
    pub(crate) next_tag: u32,
    /// `MaxCmdSN` as it was last told.
    pub(crate) max_cmd_sn: u32,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) status: u8,
    /// Sense key and additional sense code.
    pub(crate) sense: Option<(u8, u8, u8)>,
    pub(crate) data: Vec<u8>,
    /// Positive: so much more than expected; negative: less.
    pub(crate) residual: i64,
}

pub(crate) type Pairs = Vec<(String, String)>;

impl Initiator {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Self {
            stream,
            digests: Digests::default(),
            name: "iqn.2026-01.test:initiator".to_owned(),
            isid: [0x80, 0, 0, 0, 0, 1],
            cmd_sn: 1,
            next_tag: 1,
            max_cmd_sn: 1,
        }
    }

    /// A session with these keys in its login beside the names.
    pub(crate) fn session(address: SocketAddr, target: &str, keys: &[(&str, &str)]) -> Self {
        let mut initiator = Self::connect(address);
        let answer = initiator.log_in(target, keys);
        assert_eq!(answer.0, 0, "the login is let in");
        initiator
    }

    /// Logs in without security; gives the status and the keys of the answer.
    pub(crate) fn log_in(&mut self, target: &str, keys: &[(&str, &str)]) -> (u16, Pairs) {
        let name = self.name.clone();
        let mut pairs = vec![("InitiatorName", name.as_str())];
        match target {
            "" => pairs.push(("SessionType", "Discovery")),
            target => pairs.push(("TargetName", target)),
        }
        pairs.extend_from_slice(keys);
        let (response, answers) = self.login_request(0x87, &pairs);
        let status = response.status.get();
        if status == 0 {
            let on = |key: &str| answers.iter().any(|(k, v)| k == key && v == "CRC32C");
            self.digests = Digests {
                header: on("HeaderDigest"),
                data: on("DataDigest"),
            };
        }
        (status, answers)
    }

    /// One login request and its response.
    pub(crate) fn login_request(
        &mut self,
        flags: u8,
        pairs: &[(&str, &str)],
    ) -> (LoginResponse, Pairs) {
        self.login_bytes(flags, &text(pairs))
    }

    pub(crate) fn login_bytes(&mut self, flags: u8, text: &[u8]) -> (LoginResponse, Pairs) {
        let request = self.login_header(flags);
        self.send(&request, text);
        let (header, data) = self.receive();
        assert_eq!(header.kind(), opcode::LOGIN_RESPONSE);
        let response: LoginResponse = header.view();
        self.max_cmd_sn = response.max_cmd_sn.get();
        (response, pairs(&data))
    }

    pub(crate) fn login_header(&self, flags: u8) -> LoginRequest {
        LoginRequest {
            opcode: opcode::LOGIN_REQUEST | Header::IMMEDIATE,
            flags,
            isid: self.isid,
            task_tag: U32::new(0x1111),
            cid: U16::new(7),
            cmd_sn: U32::new(self.cmd_sn),
            ..LoginRequest::default()
        }
    }

    /// A text request with its whole answer, over as many PDUs as it takes.
    pub(crate) fn text(&mut self, wanted: &[(&str, &str)]) -> Pairs {
        let mut bytes = Vec::new();
        let (mut request, mut transfer_tag) = (text(wanted), NO_TAG);
        loop {
            let pdu = TextRequest {
                opcode: opcode::TEXT_REQUEST,
                flags: Header::FINAL,
                task_tag: U32::new(0x2222),
                transfer_tag: U32::new(transfer_tag),
                cmd_sn: U32::new(self.number()),
                ..TextRequest::default()
            };
            self.send(&pdu, &std::mem::take(&mut request));
            let (header, data) = self.receive();
            assert_eq!(header.kind(), opcode::TEXT_RESPONSE, "{header:?}");
            bytes.extend_from_slice(&data);
            if header.is_final() {
                return pairs(&bytes);
            }
            transfer_tag = header.view::<TextRequest>().transfer_tag.get();
        }
    }

    /// The header of a command, which takes the next number and tag.
    pub(crate) fn command(&mut self, cdb: &[u8], flags: u8, length: u32) -> ScsiCommand {
        let mut bytes = [0; 16];
        bytes[..cdb.len()].copy_from_slice(cdb);
        self.next_tag += 1;
        ScsiCommand {
            opcode: opcode::SCSI_COMMAND,
            flags: Header::FINAL | flags,
            lun: [0, 1, 0, 0, 0, 0, 0, 0],
            task_tag: U32::new(self.next_tag),
            expected_length: U32::new(length),
            cmd_sn: U32::new(self.number()),
            cdb: bytes,
            ..ScsiCommand::default()
        }
    }

    pub(crate) fn read(&mut self, lba: u32, blocks: u16) -> Done {
        let length = u32::from(blocks) * 512;
        let command = self.command(&cdb_10(0x28, lba, blocks), ScsiCommand::READ, length);
        self.send(&command, &[]);
        self.finish(command.task_tag.get())
    }

    /// Sends a read and does not wait for it; gives its tag.
    pub(crate) fn start_read(&mut self, lba: u32, blocks: u16) -> u32 {
        let length = u32::from(blocks) * 512;
        let command = self.command(&cdb_10(0x28, lba, blocks), ScsiCommand::READ, length);
        self.send(&command, &[]);
        command.task_tag.get()
    }

    /// Writes: `immediate` bytes with the command, the rest as R2T asks.
    pub(crate) fn write(&mut self, lba: u32, data: &[u8], immediate: usize) -> Done {
        let tag = self.start_write(lba, data, immediate);
        self.finish_write(tag, data)
    }

    pub(crate) fn start_write(&mut self, lba: u32, data: &[u8], immediate: usize) -> u32 {
        let blocks = u16::try_from(data.len() / 512).unwrap();
        let length = data.len() as u32;
        let mut command = self.command(&cdb_10(0x2a, lba, blocks), ScsiCommand::WRITE, length);
        command.data_length = U24::new(immediate);
        self.send(&command, &data[..immediate]);
        command.task_tag.get()
    }

    /// Gives R2T what it asks for until the command is over.
    pub(crate) fn finish_write(&mut self, tag: u32, data: &[u8]) -> Done {
        let mut answers = Vec::new();
        loop {
            let (header, bytes) = self.receive();
            if header.kind() != opcode::R2T {
                return done(&header, &bytes, &mut answers);
            }
            let r2t: R2t = header.view();
            assert_eq!(r2t.task_tag.get(), tag);
            let start = r2t.buffer_offset.get() as usize;
            let end = start + r2t.desired_length.get() as usize;
            self.data_out(tag, r2t.transfer_tag.get(), start, &data[start..end]);
        }
    }

    /// One sequence of Data-Out, in PDUs of 64 KiB.
    pub(crate) fn data_out(&mut self, tag: u32, transfer_tag: u32, start: usize, data: &[u8]) {
        let last = data.len().div_ceil(65536).saturating_sub(1);
        for (number, part) in data.chunks(65536).enumerate() {
            let pdu = DataOut {
                opcode: opcode::DATA_OUT,
                flags: if number == last { Header::FINAL } else { 0 },
                data_length: U24::new(part.len()),
                task_tag: U32::new(tag),
                transfer_tag: U32::new(transfer_tag),
                data_sn: U32::new(number as u32),
                buffer_offset: U32::new((start + number * 65536) as u32),
                ..DataOut::default()
            };
            self.send(&pdu, part);
        }
    }

    /// Receives until the command `tag` is over.
    pub(crate) fn finish(&mut self, tag: u32) -> Done {
        let mut data = Vec::new();
        loop {
            let (header, bytes) = self.receive();
            assert_eq!(header.task_tag.get(), tag, "{header:?}");
            if header.kind() == opcode::DATA_IN {
                let pdu: DataIn = header.view();
                assert_eq!(pdu.buffer_offset.get() as usize, data.len());
                data.extend_from_slice(&bytes);
                if pdu.flags & DataIn::STATUS == 0 {
                    continue;
                }
            }
            return done(&header, &bytes, &mut data);
        }
    }

    pub(crate) fn manage(&mut self, function: u8, lun: u8, referenced: (u32, u32)) -> u32 {
        self.next_tag += 1;
        let request = TaskManagementRequest {
            opcode: opcode::TASK_MANAGEMENT_REQUEST | Header::IMMEDIATE,
            function: 0x80 | function,
            lun: [0, lun, 0, 0, 0, 0, 0, 0],
            task_tag: U32::new(self.next_tag),
            referenced_task_tag: U32::new(referenced.0),
            ref_cmd_sn: U32::new(referenced.1),
            cmd_sn: U32::new(self.cmd_sn),
            ..TaskManagementRequest::default()
        };
        self.send(&request, &[]);
        self.next_tag
    }

    /// The response to a function, which must be the next PDU.
    pub(crate) fn managed(&mut self, tag: u32) -> u8 {
        let (header, _) = self.receive();
        assert_eq!(
            header.kind(),
            opcode::TASK_MANAGEMENT_RESPONSE,
            "{header:?}"
        );
        assert_eq!(header.task_tag.get(), tag);
        header.view::<TaskManagementResponse>().response
    }

    /// The number of the next command, which it then has.
    pub(crate) fn number(&mut self) -> u32 {
        self.cmd_sn += 1;
        self.cmd_sn - 1
    }

    pub(crate) fn send(&mut self, pdu: &impl Pdu, data: &[u8]) {
        let bytes = self.encode(pdu, data);
        self.stream.write_all(&bytes).unwrap();
    }

    pub(crate) fn encode(&self, pdu: &impl Pdu, data: &[u8]) -> Vec<u8> {
        let mut header = pdu.header();
        header.data_length = U24::new(data.len());
        let mut bytes = zerocopy::IntoBytes::as_bytes(&header).to_vec();
        if self.digests.header {
            bytes.extend_from_slice(&digest([&bytes[..]]));
        }
        let start = bytes.len();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        if self.digests.data && !data.is_empty() {
            let sum = digest([&bytes[start..]]);
            bytes.extend_from_slice(&sum);
        }
        bytes
    }

    pub(crate) fn receive(&mut self) -> (Header, Vec<u8>) {
        self.try_receive().expect("the target answers")
    }

    /// The next PDU; `None` if the target has closed the connection.
    pub(crate) fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut bytes = [0; HEADER_LENGTH];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the target does not answer")
            }
            Err(_) => return None,
        }
        let header = Header::read_from_bytes(&bytes).unwrap();
        let mut exact = |length: usize| {
            let mut bytes = vec![0; length];
            self.stream.read_exact(&mut bytes).ok().map(|()| bytes)
        };
        if self.digests.header {
            assert_eq!(exact(4)?, digest([&bytes[..]]));
        }
        let length = header.data_length.get();
        let mut data = exact(length + padding(length))?;
        if self.digests.data && length > 0 {
            assert_eq!(exact(4)?, digest([&data[..]]));
        }
        data.truncate(length);
        if header.kind() != opcode::LOGIN_RESPONSE {
            self.max_cmd_sn = header.view::<ScsiResponse>().max_cmd_sn.get();
        }
        Some((header, data))
    }

    /// Whether the target closes the connection, whatever it sends before.
    pub(crate) fn is_closed(&mut self) -> bool {
        while self.try_receive().is_some() {}
        true
    }

    /// Takes the unit attention that every nexus begins with.
    pub(crate) fn settle(mut self) -> Self {
        for _ in 0..3 {
            let command = self.command(&[0; 6], 0, 0);
            self.send(&command, &[]);
            if self.finish(command.task_tag.get()).status == 0 {
                return self;
            }
        }
        panic!("the unit does not become ready");
    }
}

/// READ (10) and its kind.
pub(crate) fn cdb_10(opcode: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![opcode, 0];
    cdb.extend_from_slice(&lba.to_be_bytes());
    cdb.push(0);
    cdb.extend_from_slice(&blocks.to_be_bytes());
    cdb.push(0);
    cdb
}

pub(crate) fn text(pairs: &[(&str, &str)]) -> Vec<u8> {
    let pair = |(key, value): &(&str, &str)| format!("{key}={value}\0");
    pairs.iter().map(pair).collect::<String>().into_bytes()
}

/// The value of a key that an answer must have.
pub(crate) fn value<'a>(pairs: &'a Pairs, key: &str) -> &'a str {
    let found = pairs.iter().find(|(name, _)| name == key);
    &found.unwrap_or_else(|| panic!("{key} in {pairs:?}")).1
}

fn pairs(data: &[u8]) -> Pairs {
    let text = std::str::from_utf8(data).unwrap();
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    };
    text.split_terminator('\0').map(pair).collect()
}

fn done(header: &Header, bytes: &[u8], data: &mut Vec<u8>) -> Done {
    let response: ScsiResponse = header.view();
    let residual = i64::from(response.residual.get());
    let sense = (header.kind() == opcode::SCSI_RESPONSE && bytes.len() > 15)
        .then(|| (bytes[4] & 0xf, bytes[14], bytes[15]));
    assert!(
        matches!(header.kind(), opcode::SCSI_RESPONSE | opcode::DATA_IN),
        "{header:?}"
    );
    Done {
        status: response.status,
        sense,
        data: std::mem::take(data),
        residual: match response.flags & 6 {
            4 => residual,
            2 => -residual,
            _ => 0,
        },
    }
}
