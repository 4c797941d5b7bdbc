//! The login phase (RFC 7143, 6.3 and 12).
//!
//! One request is answered by one response. The last response, which begins full feature phase, is made by
//! [`Login::accept`], after the server has found room for the session and ended the one it takes the place of.

use std::mem;
use std::sync::Arc;

use zerocopy::big_endian::{U16, U32};

use super::keys::{KeyError, Negotiation};
use super::parameters::{Offer, Parameters, SEGMENT_DEFAULT};
use super::sender::push_pdu;
use crate::chap::{Challenge, ChapAlgorithm, ChapPolicy};
use crate::directory::{Authentication, Initiator, OpenError, OpenedTarget, TargetDirectory};
use crate::error::LoginFailure;
use crate::wire::{
    self, Header, LoginFlags, LoginRequest, LoginResponse, Malformed, Text, U24, decode_binary,
    decode_number, encode_hex, opcode,
};

/// What kind of session a login makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// Only to be told the names of targets.
    Discovery,
    /// To use one.
    Normal,
}

/// Who a session belongs to; a login with the name of another session takes its place (RFC 7143, 6.3.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName {
    /// The target, or nothing for discovery.
    pub target: String,
    /// The initiator.
    pub initiator: String,
    /// The initiator's own part of the session identifier.
    pub isid: [u8; 6],
    /// The portal group through which it came.
    pub portal_group: u16,
}

impl SessionName {
    /// The SCSI name of the initiator port (RFC 7143, 4.4.1).
    pub fn initiator_port(&self) -> String {
        format!("{},i,{}", self.initiator, encode_hex(&self.isid))
    }
}

/// What a login must know.
#[derive(Debug, Clone)]
pub struct LoginContext {
    /// Where the initiator connects from.
    pub peer: std::net::SocketAddr,
    /// The group of the portal that it reached.
    pub portal_group: u16,
    /// What the target can do.
    pub offer: Offer,
}

/// What follows a request.
#[derive(Debug)]
pub enum LoginStep {
    /// A response is to be sent, and another request will come.
    Continue,
    /// Everything is agreed on: [`Login::accept`] or [`Login::refuse`].
    Ready(Box<Established>),
    /// A response is to be sent, then the connection is closed.
    Failed(LoginFailure),
}

/// What a login led to.
#[derive(Debug, Clone)]
pub struct Established {
    /// Who.
    pub initiator: Initiator,
    /// Which session.
    pub name: SessionName,
    /// What kind.
    pub kind: SessionKind,
    /// The connection's number.
    pub cid: u16,
    /// The session whose connection of that number this one replaces, if it does (RFC 7143, 6.3.4).
    pub reinstates: Option<u16>,
    /// What was agreed on.
    pub parameters: Parameters,
    /// The target; none for discovery.
    pub opened: Option<OpenedTarget>,
    /// The number of the first command.
    pub exp_cmd_sn: u32,
    /// The number of the first response after the login.
    pub stat_sn: u32,
}

/// The login phase of one connection.
#[derive(Debug)]
pub struct Login {
    context: LoginContext,
    negotiation: Negotiation,
    stage: u8,
    /// Text of requests that go on.
    text: Vec<u8>,
    requests: usize,
    stat_sn: u32,
    /// The request that is being answered.
    request: Option<LoginRequest>,
    identity: Option<Identity>,
    security: Security,
}

/// What the first request tells.
#[derive(Debug, Clone)]
struct Identity {
    initiator: Initiator,
    kind: SessionKind,
    opened: Option<OpenedTarget>,
    isid: [u8; 6],
    cid: u16,
    reinstates: Option<u16>,
}

/// What has been proven.
#[derive(Debug)]
enum Security {
    /// Nothing, and nothing needs to be.
    Open,
    /// Nothing, and something has to be.
    Required(Arc<ChapPolicy>),
    /// CHAP was chosen; the initiator says next which algorithms it has.
    Chosen(Arc<ChapPolicy>),
    /// A challenge was sent.
    Challenged(Arc<ChapPolicy>, Challenge),
    /// Enough.
    Proven,
}

impl Login {
    /// Waits for the first request.
    pub fn start(context: LoginContext) -> Self {
        Self {
            negotiation: Negotiation::new(context.offer),
            context,
            stage: SECURITY,
            text: Vec::new(),
            requests: 0,
            stat_sn: 1,
            request: None,
            identity: None,
            security: Security::Open,
        }
    }

    /// Who is logging in, once that is known.
    pub fn initiator(&self) -> Option<&Initiator> {
        self.identity.as_ref().map(|identity| &identity.initiator)
    }

    /// Takes one request with its text, and appends the response to `out`. `session_exists` tells whether there is a
    /// session of that handle.
    pub fn take(
        &mut self,
        header: &Header,
        data: &[u8],
        directory: &dyn TargetDirectory,
        session_exists: &dyn Fn(u16) -> bool,
        out: &mut Vec<u8>,
    ) -> LoginStep {
        let mut text = Text::default();
        match self.step(header, data, directory, session_exists, &mut text) {
            Ok(Next::More) => {
                self.respond(0, 0, 0, text, 0, out);
                LoginStep::Continue
            }
            Ok(Next::Stage(next)) => {
                self.respond(TRANSIT | next, 0, 0, text, 0, out);
                self.stage = next;
                LoginStep::Continue
            }
            Ok(Next::FullFeature) => {
                // The keys of the last response wait with it.
                self.text = text.into_bytes();
                match self.established() {
                    Some(established) => LoginStep::Ready(Box::new(established)),
                    None => self.refuse(LoginFailure::MissingParameter, out),
                }
            }
            Err(failure) => self.refuse(failure, out),
        }
    }

    /// Begins full feature phase, as session `tsih`; appends the last response to `out`.
    pub fn accept(&mut self, tsih: u16, window: u32, out: &mut Vec<u8>) {
        let mut text = Text::default();
        text.append(mem::take(&mut self.text));
        self.respond(TRANSIT | FULL_FEATURE, tsih, 0, text, window - 1, out);
    }

    /// Appends the response that ends the login, if the peer is one that would understand it.
    pub fn refuse(&mut self, failure: LoginFailure, out: &mut Vec<u8>) -> LoginStep {
        if let Some(status) = failure.status() {
            self.respond(0, 0, status, Text::default(), 0, out);
        }
        LoginStep::Failed(failure)
    }

    fn step(
        &mut self,
        header: &Header,
        data: &[u8],
        directory: &dyn TargetDirectory,
        session_exists: &dyn Fn(u16) -> bool,
        out: &mut Text,
    ) -> Result<Next, LoginFailure> {
        if header.kind() != opcode::LOGIN_REQUEST {
            return Err(LoginFailure::NotLogin(header.kind()));
        }
        let request: LoginRequest = header.view();
        let flags = LoginFlags(request.flags);
        self.check(&request, flags)?;
        self.request = Some(request);
        if self.text.len() + data.len() > TEXT_MAX {
            return Err(LoginFailure::Protocol("text is too long"));
        }
        self.text.extend_from_slice(data);
        if flags.is_continued() {
            return Ok(Next::More);
        }
        let text = mem::take(&mut self.text);
        let pairs = wire::parse_text(&text)?;
        if self.identity.is_none() {
            self.identify(&request, &pairs, directory, session_exists, out)?;
        }
        self.answer(&pairs, out)?;
        if !flags.transit() {
            return Ok(Next::More);
        }
        match self.security {
            Security::Required(_) => Err(LoginFailure::Authentication("CHAP is needed")),
            Security::Chosen(_) | Security::Challenged(..) => Ok(Next::More),
            Security::Open | Security::Proven if flags.next() == FULL_FEATURE => {
                Ok(Next::FullFeature)
            }
            Security::Open | Security::Proven => Ok(Next::Stage(flags.next())),
        }
    }

    /// Refuses what does not fit the state of the login.
    fn check(&mut self, request: &LoginRequest, flags: LoginFlags) -> Result<(), LoginFailure> {
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Err(LoginFailure::Protocol("too many requests"));
        }
        if request.version_min > VERSION {
            return Err(LoginFailure::Version(request.version_min));
        }
        match &self.request {
            None => self.stage = flags.current(),
            Some(first) if first.isid != request.isid || first.cid != request.cid => {
                return Err(LoginFailure::Protocol(
                    "the session changed during its login",
                ));
            }
            Some(_) => {}
        }
        let forward = match (flags.current(), flags.next()) {
            _ if !flags.transit() => true,
            (SECURITY, OPERATIONAL | FULL_FEATURE) | (OPERATIONAL, FULL_FEATURE) => true,
            _ => false,
        };
        if flags.current() > OPERATIONAL || flags.current() != self.stage || !forward {
            return Err(LoginFailure::Protocol(
                "the stage is not one that could follow",
            ));
        }
        if flags.transit() && flags.is_continued() {
            return Err(LoginFailure::Protocol(
                "text goes on behind the last of a stage",
            ));
        }
        Ok(())
    }

    /// Learns from the first request who wants what.
    fn identify(
        &mut self,
        request: &LoginRequest,
        pairs: &[(&str, &str)],
        directory: &dyn TargetDirectory,
        session_exists: &dyn Fn(u16) -> bool,
        out: &mut Text,
    ) -> Result<(), LoginFailure> {
        let value = |wanted: &str| {
            let found = pairs.iter().find(|(key, _)| *key == wanted);
            found.map(|(_, value)| *value)
        };
        let name = value("InitiatorName").ok_or(LoginFailure::MissingParameter)?;
        if !is_name(name) {
            return Err(LoginFailure::Protocol("the initiator's name is none"));
        }
        let reinstates = match request.tsih.get() {
            0 => None,
            tsih if session_exists(tsih) => Some(tsih),
            tsih => return Err(LoginFailure::NoSession(tsih)),
        };
        let initiator = Initiator {
            name: name.to_owned(),
            address: self.context.peer,
        };
        let kind = match value("SessionType") {
            None | Some("Normal") => SessionKind::Normal,
            Some("Discovery") => SessionKind::Discovery,
            Some(_) => return Err(LoginFailure::SessionType),
        };
        let opened = match (kind, value("TargetName")) {
            (SessionKind::Discovery, _) => None,
            (SessionKind::Normal, None) => return Err(LoginFailure::MissingParameter),
            (SessionKind::Normal, Some(target)) => Some(directory.open(target, &initiator)?),
        };
        let authentication = match &opened {
            Some(opened) => opened.authentication.clone(),
            None => directory.discovery(&initiator),
        };
        self.security = match authentication {
            Authentication::None => Security::Open,
            Authentication::Chap(policy) => Security::Required(policy),
        };
        if let Some(opened) = &opened {
            out.push(
                "TargetPortalGroupTag",
                self.context.portal_group.to_string(),
            );
            if !opened.alias.is_empty() {
                out.push("TargetAlias", &opened.alias);
            }
        }
        self.identity = Some(Identity {
            initiator,
            kind,
            opened,
            isid: request.isid,
            cid: request.cid.get(),
            reinstates,
        });
        Ok(())
    }

    /// Answers the keys of a request.
    fn answer(&mut self, pairs: &[(&str, &str)], out: &mut Text) -> Result<(), LoginFailure> {
        let kind = self
            .identity
            .as_ref()
            .map_or(SessionKind::Normal, |identity| identity.kind);
        for (key, value) in pairs {
            match *key {
                "AuthMethod" | "CHAP_A" | "CHAP_N" | "CHAP_R" | "CHAP_I" | "CHAP_C"
                    if self.stage != SECURITY =>
                {
                    return Err(LoginFailure::Protocol("it is too late to prove anything"));
                }
                "AuthMethod" => self.choose_method(value, out)?,
                "CHAP_A" => self.challenge(value, out)?,
                "CHAP_R" => self.verify(pairs, out)?,
                "CHAP_N" | "CHAP_I" | "CHAP_C" | "InitiatorName" | "InitiatorAlias"
                | "TargetName" | "SessionType" | "X#NodeArchitecture" => {}
                "SendTargets" | "TargetAddress" | "TargetAlias" | "TargetPortalGroupTag" => {
                    out.push(key, "Reject");
                }
                _ if self.negotiation.answer(kind, key, value, out)? => {}
                _ if *value == "NotUnderstood" => {}
                _ => out.push(key, "NotUnderstood"),
            }
        }
        if self.stage == OPERATIONAL {
            if let Security::Required(_) = self.security {
                return Err(LoginFailure::Authentication("CHAP is needed"));
            }
            self.negotiation.declare(out);
        }
        if out.len() > SEGMENT_DEFAULT as usize {
            return Err(LoginFailure::Protocol("text asks for too much"));
        }
        Ok(())
    }

    fn choose_method(&mut self, offered: &str, out: &mut Text) -> Result<(), LoginFailure> {
        let offers = |method: &str| offered.split(',').any(|one| one == method);
        match &self.security {
            Security::Required(policy) if offers("CHAP") => {
                out.push("AuthMethod", "CHAP");
                self.security = Security::Chosen(Arc::clone(policy));
                Ok(())
            }
            Security::Open if offers("None") => {
                out.push("AuthMethod", "None");
                Ok(())
            }
            Security::Required(_) => Err(LoginFailure::Authentication("CHAP is needed")),
            Security::Open => Err(LoginFailure::Authentication(
                "the initiator wants to prove what nobody asks for",
            )),
            _ => Err(LoginFailure::Protocol("AuthMethod was negotiated twice")),
        }
    }

    fn challenge(&mut self, offered: &str, out: &mut Text) -> Result<(), LoginFailure> {
        let Security::Chosen(policy) = &self.security else {
            return Err(LoginFailure::Protocol("CHAP_A does not fit the state"));
        };
        let algorithm = offered
            .split(',')
            .filter_map(|number| ChapAlgorithm::from_number(decode_number(number)?))
            .find(|algorithm| policy.algorithms.contains(algorithm))
            .ok_or(LoginFailure::Authentication("no common CHAP algorithm"))?;
        let challenge = Challenge::new(algorithm).ok_or(LoginFailure::Target)?;
        out.push("CHAP_A", algorithm.number().to_string());
        out.push("CHAP_I", challenge.identifier.to_string());
        out.push("CHAP_C", encode_hex(&challenge.bytes));
        self.security = Security::Challenged(Arc::clone(policy), challenge);
        Ok(())
    }

    fn verify(&mut self, pairs: &[(&str, &str)], out: &mut Text) -> Result<(), LoginFailure> {
        let Security::Challenged(policy, challenge) = &self.security else {
            return Err(LoginFailure::Protocol("CHAP_R does not fit the state"));
        };
        let value = |wanted: &str| {
            let found = pairs.iter().find(|(key, _)| *key == wanted);
            found.map(|(_, value)| *value)
        };
        let refused = LoginFailure::Authentication("CHAP name or secret is wrong");
        let name = value("CHAP_N").ok_or(LoginFailure::Protocol("CHAP_R without CHAP_N"))?;
        let response = value("CHAP_R").and_then(|text| decode_binary(text, BINARY_MAX));
        if !challenge.is_answered_by(policy, name, &response.unwrap_or_default()) {
            return Err(refused);
        }
        if let (Some(identifier), Some(theirs)) = (value("CHAP_I"), value("CHAP_C")) {
            let own = policy.own.as_ref().ok_or(LoginFailure::Authentication(
                "the initiator asks for a proof that the target has no secret for",
            ))?;
            let identifier = decode_number(identifier).and_then(|number| u8::try_from(number).ok());
            let theirs = decode_binary(theirs, BINARY_MAX);
            let (Some(identifier), Some(theirs)) = (identifier, theirs) else {
                return Err(LoginFailure::Protocol("the initiator's challenge is none"));
            };
            // What we asked is not to be answered for somebody else, and one secret is not to serve both directions.
            let reuses = policy
                .accounts
                .iter()
                .any(|account| account.secret == own.secret);
            if theirs == challenge.bytes || reuses {
                return Err(LoginFailure::Authentication("the challenge is our own"));
            }
            let proof = challenge
                .algorithm
                .response(identifier, &own.secret, &theirs);
            out.push("CHAP_N", &own.name);
            out.push("CHAP_R", encode_hex(&proof));
        }
        self.security = Security::Proven;
        Ok(())
    }

    fn established(&self) -> Option<Established> {
        let Identity {
            initiator,
            kind,
            opened,
            isid,
            cid,
            reinstates,
        } = self.identity.clone()?;
        let target = opened
            .as_ref()
            .map(|opened| opened.target.identity().name.clone());
        Some(Established {
            name: SessionName {
                target: target.unwrap_or_default(),
                initiator: initiator.name.clone(),
                isid,
                portal_group: self.context.portal_group,
            },
            initiator,
            kind,
            cid,
            reinstates,
            parameters: self.negotiation.finish(),
            opened,
            exp_cmd_sn: self.request?.cmd_sn.get(),
            stat_sn: self.stat_sn.wrapping_add(1),
        })
    }

    fn respond(
        &mut self,
        flags: u8,
        tsih: u16,
        status: u16,
        text: Text,
        window: u32,
        out: &mut Vec<u8>,
    ) {
        let data = text.into_bytes();
        let request = self.request;
        let cmd_sn = request.map_or(0, |request| request.cmd_sn.get());
        let response = LoginResponse {
            opcode: opcode::LOGIN_RESPONSE,
            flags: flags | self.stage << 2,
            data_length: U24::new(data.len()),
            isid: request.map_or([0; 6], |request| request.isid),
            tsih: U16::new(tsih),
            task_tag: request.map_or(U32::new(0), |request| request.task_tag),
            stat_sn: U32::new(self.stat_sn),
            exp_cmd_sn: U32::new(cmd_sn),
            max_cmd_sn: U32::new(cmd_sn.wrapping_add(window)),
            status: U16::new(status),
            ..LoginResponse::default()
        };
        self.stat_sn = self.stat_sn.wrapping_add(1);
        push_pdu(&response, &data, out);
    }
}

/// What follows from a request that was understood.
enum Next {
    More,
    Stage(u8),
    FullFeature,
}

/// Whether a text can be an iSCSI name (RFC 7143, 4.2.7).
fn is_name(name: &str) -> bool {
    let fits = |letter: char| !letter.is_control() && !letter.is_whitespace() && letter != ',';
    !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(fits)
}

impl From<KeyError> for LoginFailure {
    fn from(error: KeyError) -> Self {
        Self::Protocol(match error {
            KeyError::Twice(_) => "a key was negotiated twice",
            KeyError::Value(_) => "a key has a value that it cannot have",
        })
    }
}

impl From<Malformed> for LoginFailure {
    fn from(error: Malformed) -> Self {
        Self::Text(error)
    }
}

impl From<OpenError> for LoginFailure {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;
const TRANSIT: u8 = 0x80;
/// The only version of the protocol.
const VERSION: u8 = 0;
/// Longest name (RFC 7143, 4.2.7.1).
const NAME_MAX: usize = 223;
/// Longest text of one stage's request, over all its PDUs.
const TEXT_MAX: usize = 16 * 1024;
/// Longest challenge or response (RFC 7143, 12.1.3).
const BINARY_MAX: usize = 1024;
/// Most requests of one login.
const REQUESTS_MAX: usize = 64;
