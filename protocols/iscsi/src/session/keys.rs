//! Negotiation of operational keys (RFC 7143, 6.2 and 13).

use super::login::SessionKind;
use super::parameters::{Offer, Parameters};
use crate::wire::{Text, U24, decode_number};

/// The operational negotiation of one login.
#[derive(Debug)]
pub(super) struct Negotiation {
    offer: Offer,
    parameters: Parameters,
    /// Keys that were offered; each may be only once.
    seen: Vec<&'static str>,
    declared: bool,
}

/// A negotiation that cannot go on: the login fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("{0} was negotiated twice")]
    Twice(&'static str),
    #[error("{0} has a value that it cannot have")]
    Value(&'static str),
}

/// How the outcome of a key follows from the two offers.
#[derive(Clone, Copy)]
enum Rule {
    /// The initiator tells its own.
    Declare {
        least: u64,
        most: u64,
    },
    Minimum {
        least: u64,
        most: u64,
        ours: u64,
    },
    Maximum {
        least: u64,
        most: u64,
        ours: u64,
    },
    Or {
        ours: bool,
    },
    And {
        ours: bool,
    },
    /// The first of the initiator's list that is in ours.
    List(&'static [&'static str]),
    /// Gone from the standard; answered so that old initiators go on.
    Obsolete(&'static str),
}

impl Negotiation {
    pub(super) fn new(offer: Offer) -> Self {
        Self {
            offer,
            parameters: Parameters::default(),
            seen: Vec::new(),
            declared: false,
        }
    }

    /// Answers one key. Says whether it was an operational one.
    pub(super) fn answer(
        &mut self,
        kind: SessionKind,
        key: &str,
        value: &str,
        out: &mut Text,
    ) -> Result<bool, KeyError> {
        let Some((key, rule)) = self.rule(key) else {
            return Ok(false);
        };
        if self.seen.contains(&key) {
            return Err(KeyError::Twice(key));
        }
        self.seen.push(key);
        if let "Reject" | "Irrelevant" | "NotUnderstood" = value {
            return Err(KeyError::Value(key));
        }
        if kind == SessionKind::Discovery && NORMAL_ONLY.contains(&key) {
            out.push(key, "Irrelevant");
            return Ok(true);
        }
        let outcome = decide(rule, value).ok_or(KeyError::Value(key));
        let outcome = match outcome {
            // A list without anything we know is a refusal of the key, not of the login.
            Err(_) if matches!(rule, Rule::List(_)) => "Reject".to_owned(),
            outcome => outcome?,
        };
        self.set(key, &outcome);
        if !matches!(rule, Rule::Declare { .. }) {
            out.push(key, outcome);
        }
        Ok(true)
    }

    /// Tells what the target declares, once.
    pub(super) fn declare(&mut self, out: &mut Text) {
        if !self.declared {
            self.declared = true;
            self.parameters.own_segment_bytes = self.offer.segment_bytes;
            out.push(
                "MaxRecvDataSegmentLength",
                self.offer.segment_bytes.to_string(),
            );
        }
    }

    /// What holds now that the login is over.
    pub(super) fn finish(&self) -> Parameters {
        let mut parameters = self.parameters;
        parameters.first_burst_bytes = parameters.first_burst_bytes.min(parameters.max_burst_bytes);
        parameters
    }

    fn rule(&self, key: &str) -> Option<(&'static str, Rule)> {
        let Offer {
            max_burst_bytes,
            first_burst_bytes,
            max_outstanding_r2t,
            ..
        } = self.offer;
        let segment = |ours: u32| Rule::Minimum {
            least: 512,
            most: U24::MAX.into(),
            ours: ours.into(),
        };
        let rule = match key {
            "HeaderDigest" | "DataDigest" => Rule::List(&["None", "CRC32C"]),
            "MaxConnections" => Rule::Minimum {
                least: 1,
                most: 65535,
                ours: 1,
            },
            "InitialR2T" => Rule::Or { ours: false },
            "ImmediateData" => Rule::And { ours: true },
            "MaxRecvDataSegmentLength" => Rule::Declare {
                least: 512,
                most: U24::MAX.into(),
            },
            "MaxBurstLength" => segment(max_burst_bytes),
            "FirstBurstLength" => segment(first_burst_bytes),
            "DefaultTime2Wait" => Rule::Maximum {
                least: 0,
                most: 3600,
                ours: 0,
            },
            // Nothing of a connection is kept for one that comes later: recovery level 0.
            "DefaultTime2Retain" => Rule::Minimum {
                least: 0,
                most: 3600,
                ours: 0,
            },
            "MaxOutstandingR2T" => Rule::Minimum {
                least: 1,
                most: 65535,
                ours: max_outstanding_r2t.into(),
            },
            "DataPDUInOrder" | "DataSequenceInOrder" => Rule::Or { ours: true },
            "ErrorRecoveryLevel" => Rule::Minimum {
                least: 0,
                most: 2,
                ours: 0,
            },
            "TaskReporting" => Rule::List(&["RFC3720"]),
            "iSCSIProtocolLevel" => Rule::Minimum {
                least: 0,
                most: 31,
                ours: 1,
            },
            "IFMarker" | "OFMarker" => Rule::Obsolete("No"),
            "IFMarkInt" | "OFMarkInt" => Rule::Obsolete("Reject"),
            _ => return None,
        };
        let key = KEYS.iter().find(|known| **known == key)?;
        Some((key, rule))
    }

    fn set(&mut self, key: &str, outcome: &str) {
        let parameters = &mut self.parameters;
        let number = || {
            outcome
                .parse::<u32>()
                .expect("the outcome of a numerical key is a number")
        };
        let small = || u16::try_from(number()).unwrap_or(u16::MAX);
        match key {
            "HeaderDigest" => parameters.digests.header = outcome == "CRC32C",
            "DataDigest" => parameters.digests.data = outcome == "CRC32C",
            "InitialR2T" => parameters.initial_r2t = outcome == "Yes",
            "ImmediateData" => parameters.immediate_data = outcome == "Yes",
            "MaxRecvDataSegmentLength" => parameters.peer_segment_bytes = number(),
            "MaxBurstLength" => parameters.max_burst_bytes = number(),
            "FirstBurstLength" => parameters.first_burst_bytes = number(),
            "MaxOutstandingR2T" => parameters.max_outstanding_r2t = small(),
            "DefaultTime2Wait" => parameters.time_to_wait = small(),
            _ => {}
        }
    }
}

/// The outcome of an offer; `None` if it is not one the key can have.
fn decide(rule: Rule, value: &str) -> Option<String> {
    let number = |least: u64, most: u64| {
        decode_number(value).filter(|number| (least..=most).contains(number))
    };
    let boolean = || match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    };
    let word = |yes: bool| if yes { "Yes" } else { "No" }.to_owned();
    match rule {
        Rule::Declare { least, most } => number(least, most).map(|number| number.to_string()),
        Rule::Minimum { least, most, ours } => {
            number(least, most).map(|number| number.min(ours).to_string())
        }
        Rule::Maximum { least, most, ours } => {
            number(least, most).map(|number| number.max(ours).to_string())
        }
        Rule::Or { ours } => boolean().map(|theirs| word(theirs || ours)),
        Rule::And { ours } => boolean().map(|theirs| word(theirs && ours)),
        Rule::List(known) => value
            .split(',')
            .find(|offered| known.contains(offered))
            .map(str::to_owned),
        Rule::Obsolete(answer) => Some(answer.to_owned()),
    }
}

/// A `MaxRecvDataSegmentLength` that the initiator declares anew in full feature phase.
pub(super) fn declared_segment(value: &str) -> Option<u32> {
    let most = u64::from(U24::MAX);
    let number = decode_number(value).filter(|number| (512..=most).contains(number))?;
    u32::try_from(number).ok()
}

/// Whether `key` is negotiated in a login, so that it is too late for it afterwards.
pub(super) fn is_operational(key: &str) -> bool {
    KEYS.contains(&key)
}

const KEYS: &[&str] = &[
    "HeaderDigest",
    "DataDigest",
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxRecvDataSegmentLength",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "TaskReporting",
    "iSCSIProtocolLevel",
    "IFMarker",
    "OFMarker",
    "IFMarkInt",
    "OFMarkInt",
];

/// Keys that mean nothing in a discovery session (13).
const NORMAL_ONLY: &[&str] = &[
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxBurstLength",
    "FirstBurstLength",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "TaskReporting",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to one offer, without the key.
    fn answer(key: &str, value: &str) -> Result<Option<String>, KeyError> {
        let mut negotiation = Negotiation::new(Offer::default());
        let mut text = Text::default();
        let known = negotiation.answer(SessionKind::Normal, key, value, &mut text)?;
        let text = String::from_utf8(text.into_bytes()).unwrap();
        let answer = text
            .strip_suffix('\0')
            .and_then(|pair| pair.split_once('='))
            .map(|(_, value)| value.to_owned());
        assert!(known || answer.is_none());
        Ok(answer)
    }

    #[test]
    fn each_key_has_its_rule() {
        let check = |key: &str, value: &str, wanted: &str| {
            assert_eq!(
                answer(key, value),
                Ok(Some(wanted.to_owned())),
                "{key}={value}"
            );
        };
        check("HeaderDigest", "CRC32C,None", "CRC32C");
        check("HeaderDigest", "None,CRC32C", "None");
        check("DataDigest", "X-best,CRC32C", "CRC32C");
        check("DataDigest", "X-best", "Reject");
        check("MaxConnections", "8", "1");
        check("InitialR2T", "Yes", "Yes");
        check("InitialR2T", "No", "No");
        check("ImmediateData", "No", "No");
        check("ImmediateData", "Yes", "Yes");
        check("MaxBurstLength", "16776192", "4194304");
        check("MaxBurstLength", "0x10000", "65536");
        check("FirstBurstLength", "512", "512");
        check("DefaultTime2Wait", "2", "2");
        check("DefaultTime2Retain", "20", "0");
        check("MaxOutstandingR2T", "1", "1");
        check("MaxOutstandingR2T", "64", "8");
        check("DataPDUInOrder", "No", "Yes");
        check("ErrorRecoveryLevel", "2", "0");
        check("TaskReporting", "FastAbort,RFC3720", "RFC3720");
        check("iSCSIProtocolLevel", "2", "1");
        check("OFMarker", "No", "No");
        check("IFMarkInt", "1~2048", "Reject");
        assert_eq!(answer("MaxRecvDataSegmentLength", "65536"), Ok(None));
        assert_eq!(answer("X-vendor", "1"), Ok(None));
    }

    #[test]
    fn values_out_of_range_end_the_login() {
        for (key, value) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "16777216"),
            ("MaxRecvDataSegmentLength", "many"),
            ("InitialR2T", "yes"),
            ("MaxConnections", "0"),
            ("ErrorRecoveryLevel", "3"),
            ("MaxOutstandingR2T", "Reject"),
        ] {
            assert!(
                matches!(answer(key, value), Err(KeyError::Value(_))),
                "{key}={value}"
            );
        }
    }

    #[test]
    fn a_key_is_negotiated_once_and_discovery_has_fewer() {
        let mut negotiation = Negotiation::new(Offer::default());
        let mut text = Text::default();
        let mut offer = |kind, key, value| negotiation.answer(kind, key, value, &mut text);
        assert_eq!(offer(SessionKind::Discovery, "InitialR2T", "No"), Ok(true));
        assert_eq!(
            offer(SessionKind::Discovery, "HeaderDigest", "None"),
            Ok(true)
        );
        let twice = offer(SessionKind::Discovery, "HeaderDigest", "CRC32C");
        assert_eq!(twice, Err(KeyError::Twice("HeaderDigest")));
        let text = String::from_utf8(text.into_bytes()).unwrap();
        assert_eq!(text, "InitialR2T=Irrelevant\0HeaderDigest=None\0");
    }
}
