//! The lock authority: one-time codes (TOTP, RFC 6238) that confirm that a governance lock is lifted.
//!
//! SHA-1, six digits, steps of 30 seconds: what every authenticator app makes. A code counts once, and guessing is slowed.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::clock::Clock;
use serde::{Deserialize, Serialize};

use super::{StateError, StateFolder, random};

/// Checks codes, one at a time.
#[derive(Debug)]
pub struct LockAuthority {
    state: Arc<StateFolder>,
    clock: Arc<dyn Clock>,
    failures: Mutex<Failures>,
}

/// A secret that was just made. It is told once.
#[derive(Debug, Clone)]
pub struct NewAuthority {
    /// In base 32, as authenticator apps take it.
    pub secret: String,
    /// The same as an address for such an app.
    pub address: String,
}

/// A confirmation that was not given.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is none.
    #[error(
        "there is no lock authority, so governance locks cannot be lifted; make one with `holdfast lock-authority init`"
    )]
    None,
    /// There is one already.
    #[error("there is a lock authority already; to replace it, give a code of it with --code")]
    Exists,
    /// The code is wrong, or was used before.
    #[error("the code is wrong or was used before; wait for the next one")]
    Wrong,
    /// Too many wrong codes.
    #[error("too many wrong codes; none is taken for the next five minutes")]
    TooMany,
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    /// When the count began, in seconds of the machine's uptime.
    since: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    secret: String,
    /// The step of the last code that was taken.
    last_step: u64,
}

impl LockAuthority {
    /// The authority whose secret lies in `state`, if there is one.
    pub fn new(state: Arc<StateFolder>, clock: Arc<dyn Clock>) -> Self {
        Self {
            state,
            clock,
            failures: Mutex::default(),
        }
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// If the state folder cannot be read.
    pub fn exists(&self) -> Result<bool, AuthorityError> {
        Ok(self.load()?.is_some())
    }

    /// Makes a new secret. Where there is one already, a code of it is asked for.
    ///
    /// # Errors
    /// If there is one and the code does not fit, or the secret cannot be stored.
    pub fn init(&self, code: Option<&str>, label: &str) -> Result<NewAuthority, AuthorityError> {
        match (self.exists()?, code) {
            (false, _) => {}
            (true, None) => return Err(AuthorityError::Exists),
            (true, Some(code)) => self.confirm(code)?,
        }
        let secret = base32(&random::<SECRET_BYTES>());
        self.store(&Stored {
            secret: secret.clone(),
            last_step: 0,
        })?;
        Ok(NewAuthority {
            address: format!("otpauth://totp/Holdfast:{label}?secret={secret}&issuer=Holdfast"),
            secret,
        })
    }

    /// Takes a code, once.
    ///
    /// # Errors
    /// If it does not fit or was used, there were too many wrong ones, or there is no authority.
    pub fn confirm(&self, code: &str) -> Result<(), AuthorityError> {
        // Held to the end, so that a code cannot be used twice at once.
        let mut failures = self.failures.lock();
        let stored = self.load()?.ok_or(AuthorityError::None)?;
        let uptime = self.clock.uptime().nanoseconds / SECOND;
        if failures.count >= FAILURES_MAX && uptime < failures.since + PAUSE_SECONDS {
            return Err(AuthorityError::TooMany);
        }
        let key = from_base32(&stored.secret).ok_or_else(|| StateError::Damaged {
            path: self.state.file(FILE),
            detail: "its secret is not base 32".to_owned(),
            remedy: "remove it and run `holdfast lock-authority init`",
        })?;
        let now = self.clock.now().0 / SECOND / STEP_SECONDS;
        let steps = now.saturating_sub(1)..=now + 1;
        let code: String = code
            .chars()
            .filter(|letter| !letter.is_whitespace())
            .collect();
        let fits = |step: &u64| *step > stored.last_step && one_time_code(&key, *step) == code;
        match steps.into_iter().find(fits) {
            Some(step) => {
                *failures = Failures::default();
                self.store(&Stored {
                    last_step: step,
                    ..stored
                })
            }
            None => {
                if uptime >= failures.since + PAUSE_SECONDS {
                    *failures = Failures {
                        count: 0,
                        since: uptime,
                    };
                }
                failures.count += 1;
                tracing::warn!("a wrong code for the lock authority");
                Err(AuthorityError::Wrong)
            }
        }
    }

    fn load(&self) -> Result<Option<Stored>, AuthorityError> {
        let Some(text) = self.state.read(Path::new(FILE), LIMIT_BYTES)? else {
            return Ok(None);
        };
        let stored = serde_json::from_slice(&text).map_err(|error| StateError::Damaged {
            path: self.state.file(FILE),
            detail: error.to_string(),
            remedy: "put it back from a copy, or remove it and run `holdfast lock-authority init`",
        })?;
        Ok(Some(stored))
    }

    fn store(&self, stored: &Stored) -> Result<(), AuthorityError> {
        let text = serde_json::to_vec_pretty(stored).expect("the record is plain text");
        Ok(self.state.replace(Path::new(FILE), &text)?)
    }
}

/// The code of a step: RFC 4226 over the number of the step.
fn one_time_code(key: &[u8], step: u64) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let tag = ring::hmac::sign(&key, &step.to_be_bytes());
    let bytes = tag.as_ref();
    let offset = bytes.last().map_or(0, |last| usize::from(last & 0xf));
    let word = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    let number = word.map_or(0, |word| u32::from_be_bytes(*word)) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(5) {
        let mut word = [0; 8];
        for (target, byte) in word.iter_mut().skip(3).zip(group) {
            *target = *byte;
        }
        let word = u64::from_be_bytes(word);
        let letters = (group.len() * 8).div_ceil(5);
        for position in 0..letters {
            let value = (word >> (35 - 5 * position)) & 31;
            let letter = usize::try_from(value)
                .ok()
                .and_then(|value| ALPHABET.get(value));
            text.push(letter.map_or('A', |letter| char::from(*letter)));
        }
    }
    text
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0_u32);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        held = (held << 5) | u32::try_from(value).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

const FILE: &str = "lock-authority.json";
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const SECRET_BYTES: usize = 20;
const STEP_SECONDS: u64 = 30;
const SECOND: u64 = 1_000_000_000;
/// Wrong codes before a pause, and the pause.
const FAILURES_MAX: u32 = 5;
const PAUSE_SECONDS: u64 = 300;
const LIMIT_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use repo::UnixNanoseconds;
    use repo::clock::ManualClock;

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B, the last six of its eight digits.
        let key = b"12345678901234567890";
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(one_time_code(key, seconds / STEP_SECONDS), code);
        }
    }

    #[test]
    fn secrets_are_written_as_apps_take_them() {
        for (bytes, text) in [
            (&b"f"[..], "MY"),
            (b"fo", "MZXQ"),
            (b"foo", "MZXW6"),
            (b"foob", "MZXW6YQ"),
            (b"fooba", "MZXW6YTB"),
            (b"foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes), text);
            assert_eq!(from_base32(text).unwrap(), bytes);
        }
        assert_eq!(from_base32("mz"), None);
    }

    #[test]
    fn a_code_counts_once_and_guessing_is_slowed() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(StateFolder::open(folder.path()).unwrap());
        let clock = Arc::new(ManualClock::new(UnixNanoseconds(1_790_000_000 * SECOND)));
        let authority = LockAuthority::new(state, Arc::<ManualClock>::clone(&clock));
        assert!(matches!(
            authority.confirm("000000"),
            Err(AuthorityError::None)
        ));
        let new = authority.init(None, "test").unwrap();
        let key = from_base32(&new.secret).unwrap();
        let code = |clock: &ManualClock| one_time_code(&key, clock.now().0 / SECOND / 30);
        let first = code(&clock);
        authority
            .confirm(&format!(" {} {}", &first[..3], &first[3..]))
            .unwrap();
        assert!(matches!(
            authority.confirm(&first),
            Err(AuthorityError::Wrong)
        ));
        for _ in 0..4 {
            assert!(authority.confirm("nonsense").is_err());
        }
        clock.advance(60 * SECOND);
        assert!(matches!(
            authority.confirm(&code(&clock)),
            Err(AuthorityError::TooMany)
        ));
        clock.advance(300 * SECOND);
        assert!(matches!(
            authority.init(None, "test"),
            Err(AuthorityError::Exists)
        ));
        let next = authority.init(Some(&code(&clock)), "test").unwrap();
        assert_ne!(next.secret, new.secret);
        clock.advance(60 * SECOND);
        assert!(
            authority.confirm(&code(&clock)).is_err(),
            "of the old secret"
        );
    }
}
