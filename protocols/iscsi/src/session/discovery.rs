//! Text in full feature phase: above all SendTargets (RFC 7143, 4.3 and appendix C).

use bytes::Bytes;
use zerocopy::big_endian::U32;

use super::full_feature::FullFeature;
use super::keys::{declared_segment, is_operational};
use super::login::SessionKind;
use super::receiver::Received;
use super::window::Turn;
use crate::error::SessionError;
use crate::wire::{
    Header, NO_TAG, Text, TextRequest, TextResponse, U24, opcode, parse_text, reject_reason,
};

/// What an initiator may be told of targets.
pub trait Names: Send + Sync + 'static {
    /// The targets that it may see, each with its addresses (`HOST:PORT,GROUP`).
    fn targets(&self) -> Vec<(String, Vec<String>)>;

    /// The one that it is connected to, in a normal session.
    fn own(&self) -> Option<String>;
}

/// A negotiation that takes more than one PDU.
#[derive(Debug, Default)]
pub(super) struct TextExchange {
    /// Text of requests that go on.
    request: Vec<u8>,
    /// What is left of a response, and the tag under which the initiator asks for it.
    response: Option<(u32, Bytes)>,
}

impl FullFeature {
    /// Takes a Text Request.
    pub(super) fn text_request(&mut self, received: &Received) -> Result<(), SessionError> {
        let header = received.header;
        let request: TextRequest = header.view();
        let turn = self
            .sender
            .window
            .take(request.cmd_sn.get(), header.is_immediate())?;
        if turn == Turn::Never {
            return Ok(());
        }
        let task_tag = request.task_tag.get();
        let data = received.data.bytes();
        let transfer_tag = request.transfer_tag.get();
        let waiting = self.text.response.take();
        if transfer_tag == NO_TAG {
            // A new negotiation ends the one before (11.10.4).
            self.text.request.clear();
        } else {
            match waiting {
                Some((tag, rest)) if tag == transfer_tag && rest.is_empty() => {}
                Some((tag, rest)) if tag == transfer_tag && data.is_empty() => {
                    self.text_response(task_tag, rest);
                    return Ok(());
                }
                _ => {
                    self.reject(&header, reject_reason::PROTOCOL_ERROR);
                    return Ok(());
                }
            }
        }
        if self.text.request.len() + data.len() > TEXT_MAX {
            self.text.request.clear();
            self.reject(&header, reject_reason::INVALID_FIELD);
            return Ok(());
        }
        self.text.request.extend_from_slice(data);
        if request.flags & TextRequest::CONTINUE != 0 {
            let tag = self.transfer_tag();
            self.text.response = Some((tag, Bytes::new()));
            self.push_text(task_tag, 0, tag, &[]);
            return Ok(());
        }
        let text = std::mem::take(&mut self.text.request);
        match self.answer_text(&text) {
            Some(answer) => self.text_response(task_tag, answer.into_bytes().into()),
            None => self.reject(&header, reject_reason::INVALID_FIELD),
        }
        Ok(())
    }

    /// The answers to the keys of a text; `None` if it is none.
    fn answer_text(&mut self, text: &[u8]) -> Option<Text> {
        let mut out = Text::default();
        for (key, value) in parse_text(text).ok()? {
            match key {
                "SendTargets" => self.send_targets(value, &mut out),
                "MaxRecvDataSegmentLength" => match declared_segment(value) {
                    Some(length) => self.sender.set_segment_bytes(length),
                    None => out.push(key, "Reject"),
                },
                "InitiatorAlias" | "X#NodeArchitecture" => {}
                _ if value == "NotUnderstood" => {}
                _ if is_operational(key) => out.push(key, "Reject"),
                _ => out.push(key, "NotUnderstood"),
            }
        }
        Some(out)
    }

    fn send_targets(&self, which: &str, out: &mut Text) {
        let names = &self.around.names;
        let own = names.own();
        let is_wanted = |name: &str| match which {
            "All" => true,
            "" => own.as_deref() == Some(name),
            _ => which == name,
        };
        if which == "All" && self.kind == SessionKind::Normal {
            // Only a discovery session may ask for all (appendix C).
            out.push("SendTargets", "Reject");
            return;
        }
        for (name, addresses) in names.targets() {
            if !is_wanted(&name) || own.as_ref().is_some_and(|own| *own != name) {
                continue;
            }
            out.push("TargetName", &name);
            for address in addresses {
                out.push("TargetAddress", address);
            }
        }
    }

    /// Queues as much of a response as one PDU holds; the initiator asks for the rest.
    fn text_response(&mut self, task_tag: u32, mut text: Bytes) {
        let part = text.split_to(text.len().min(self.sender.segment_bytes()));
        if text.is_empty() {
            self.push_text(task_tag, Header::FINAL, NO_TAG, &part);
        } else {
            let tag = self.transfer_tag();
            self.text.response = Some((tag, text));
            self.push_text(task_tag, TextRequest::CONTINUE, tag, &part);
        }
    }

    fn push_text(&mut self, task_tag: u32, flags: u8, transfer_tag: u32, text: &[u8]) {
        let pdu = TextResponse {
            opcode: opcode::TEXT_RESPONSE,
            flags,
            data_length: U24::new(text.len()),
            task_tag: U32::new(task_tag),
            transfer_tag: U32::new(transfer_tag),
            stat_sn: self.sender.next_stat_sn(),
            exp_cmd_sn: self.sender.exp_cmd_sn(),
            max_cmd_sn: self.sender.max_cmd_sn(),
            ..TextResponse::default()
        };
        self.sender.push(&pdu, text);
    }
}

/// Longest text of one request, over all its PDUs.
const TEXT_MAX: usize = 16 * 1024;
