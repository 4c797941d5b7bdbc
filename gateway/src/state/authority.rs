//! The lock authority: one-time codes (TOTP, RFC 6238) that confirm that a governance lock is lifted.
//!
//! SHA-1, six digits, steps of 30 seconds: what every authenticator app makes. A code counts once. Whoever guesses waits:
//! after a few wrong codes twice as long for each one more, restarts or not.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use repo::AuthorityAge;
use repo::clock::{Clock, UnixNanoseconds, Uptime};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StateError, StateFolder, random};

/// Checks codes, one at a time.
#[derive(Debug)]
pub struct LockAuthority {
    state: Arc<StateFolder>,
    clock: Arc<dyn Clock>,
    /// One code at a time.
    checking: Mutex<()>,
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
    #[error(
        "{wrong_codes} wrong codes came one after the other; none is taken for the next {} minutes", seconds.div_ceil(60)
    )]
    TooMany {
        /// How many since the last right one.
        wrong_codes: u32,
        /// How long none is taken.
        seconds: u64,
    },
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Codes since the last right one.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failures {
    count: u32,
    /// When the last came, by the time that the machine is up, which nobody can set.
    boot: Uuid,
    uptime_seconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    secret: String,
    /// The step of the last code that was taken.
    last_step: u64,
    /// When the first authority was made, of which each later one had a code. One that knows no time was there before
    /// authorities had an age.
    #[serde(default)]
    made_unix_nanoseconds: u64,
    #[serde(default)]
    wrong_codes: Failures,
}

impl Failures {
    fn note(&mut self, uptime: Uptime) {
        *self = Self {
            count: self.count.saturating_add(1),
            boot: uptime.boot,
            uptime_seconds: uptime.nanoseconds / SECOND,
        };
    }

    /// How long no code is taken any more.
    fn wait_seconds(&self, uptime: Uptime) -> u64 {
        let Some(doublings) = self.count.checked_sub(FAILURES_FREE) else {
            return 0;
        };
        let pause = PAUSE_SECONDS << doublings.min(PAUSE_DOUBLINGS_MAX);
        let now = uptime.nanoseconds / SECOND;
        // After a restart of the machine at least the time since then has passed.
        let passed = match self.boot == uptime.boot {
            true => now.saturating_sub(self.uptime_seconds),
            false => now,
        };
        pause.saturating_sub(passed)
    }
}

impl LockAuthority {
    /// The authority whose secret lies in `state`, if there is one.
    pub fn new(state: Arc<StateFolder>, clock: Arc<dyn Clock>) -> Self {
        Self {
            state,
            clock,
            checking: Mutex::default(),
        }
    }

    /// How old it is; `None` if there is none.
    ///
    /// # Errors
    /// If the state folder cannot be read.
    pub fn age(&self) -> Result<Option<AuthorityAge>, AuthorityError> {
        Ok(self.load()?.map(|stored| stored.age()))
    }

    /// Makes a new secret. Where there is one already, a code of it is asked for, and the new one takes over its age;
    /// else it has the `age` that is given.
    ///
    /// # Errors
    /// If there is one and the code does not fit, or the secret cannot be stored.
    pub fn init(
        &self,
        code: Option<&str>,
        label: &str,
        age: AuthorityAge,
    ) -> Result<NewAuthority, AuthorityError> {
        let age = match (self.age()?, code) {
            (None, _) => age,
            (Some(_), None) => return Err(AuthorityError::Exists),
            (Some(_), Some(code)) => self.confirm(code)?,
        };
        let secret = base32(&random::<SECRET_BYTES>());
        self.store(&Stored {
            secret: secret.clone(),
            last_step: 0,
            made_unix_nanoseconds: age.0.0,
            wrong_codes: Failures::default(),
        })?;
        Ok(NewAuthority {
            address: format!("otpauth://totp/Holdfast:{label}?secret={secret}&issuer=Holdfast"),
            secret,
        })
    }

    /// Takes a code, once, and says how old the authority is that confirmed with it.
    ///
    /// # Errors
    /// If it does not fit or was used, there were too many wrong ones, or there is no authority.
    pub fn confirm(&self, code: &str) -> Result<AuthorityAge, AuthorityError> {
        // Held to the end, so that a code cannot be used twice at once.
        let _checking = self.checking.lock();
        let mut stored = self.load()?.ok_or(AuthorityError::None)?;
        let uptime = self.clock.uptime();
        let seconds = stored.wrong_codes.wait_seconds(uptime);
        if seconds > 0 {
            let wrong_codes = stored.wrong_codes.count;
            return Err(AuthorityError::TooMany {
                wrong_codes,
                seconds,
            });
        }
        let key = from_base32(&stored.secret).ok_or_else(|| StateError::Damaged {
            path: self.state.file(FILE),
            detail: "its secret is not base 32".to_owned(),
            remedy: "remove it and run `holdfast lock-authority init`",
        })?;
        // Written down before it is looked at: no stop and no full disk makes a guess free.
        stored.wrong_codes.note(uptime);
        self.store(&stored)?;
        let now = self.clock.now().0 / SECOND / STEP_SECONDS;
        let steps = now.saturating_sub(1)..=now + 1;
        let code: String = code
            .chars()
            .filter(|letter| !letter.is_whitespace())
            .collect();
        let fits = |step: &u64| *step > stored.last_step && one_time_code(&key, *step) == code;
        let Some(step) = steps.into_iter().find(fits) else {
            tracing::warn!("a wrong code for the lock authority");
            return Err(AuthorityError::Wrong);
        };
        stored.last_step = step;
        stored.wrong_codes = Failures::default();
        self.store(&stored)?;
        Ok(stored.age())
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

impl Stored {
    fn age(&self) -> AuthorityAge {
        AuthorityAge(UnixNanoseconds(self.made_unix_nanoseconds))
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
/// Wrong codes before the first pause; that pause; how often it doubles, to a day and a half. At that pace a year of
/// guessing against three valid codes of a million finds one with a chance below a thousandth.
const FAILURES_FREE: u32 = 5;
const PAUSE_SECONDS: u64 = 300;
const PAUSE_DOUBLINGS_MAX: u32 = 9;
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

    struct Rig {
        folder: tempfile::TempDir,
        clock: Arc<ManualClock>,
    }

    const FIRST: AuthorityAge = AuthorityAge(UnixNanoseconds(70));
    const LATER: AuthorityAge = AuthorityAge(UnixNanoseconds(80));

    impl Rig {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                clock: Arc::new(ManualClock::new(UnixNanoseconds(1_790_000_000 * SECOND))),
            }
        }

        /// As after a start of the daemon.
        fn authority(&self) -> LockAuthority {
            let state = Arc::new(StateFolder::open(self.folder.path()).unwrap());
            LockAuthority::new(state, Arc::<ManualClock>::clone(&self.clock))
        }

        fn code(&self, new: &NewAuthority) -> String {
            let key = from_base32(&new.secret).unwrap();
            one_time_code(&key, self.clock.now().0 / SECOND / STEP_SECONDS)
        }
    }

    #[test]
    fn a_code_counts_once_and_the_next_secret_takes_over_the_age() {
        let rig = Rig::new();
        let authority = rig.authority();
        assert!(matches!(
            authority.confirm("000000"),
            Err(AuthorityError::None)
        ));
        assert_eq!(authority.age().unwrap(), None);
        let new = authority.init(None, "test", FIRST).unwrap();
        let first = rig.code(&new);
        let typed = format!(" {} {}", &first[..3], &first[3..]);
        assert_eq!(authority.confirm(&typed).unwrap(), FIRST);
        assert!(matches!(
            authority.confirm(&first),
            Err(AuthorityError::Wrong)
        ));
        rig.clock.advance(60 * SECOND);
        assert!(matches!(
            authority.init(None, "test", LATER),
            Err(AuthorityError::Exists)
        ));
        let code = rig.code(&new);
        let next = authority.init(Some(&code), "test", LATER).unwrap();
        assert_ne!(next.secret, new.secret);
        assert_eq!(authority.age().unwrap(), Some(FIRST));
        rig.clock.advance(60 * SECOND);
        assert!(authority.confirm(&rig.code(&new)).is_err(), "the old one");
        assert_eq!(authority.confirm(&rig.code(&next)).unwrap(), FIRST);
    }

    #[test]
    fn each_further_wrong_code_doubles_the_pause_through_restarts() {
        let rig = Rig::new();
        let new = rig.authority().init(None, "test", FIRST).unwrap();
        for _ in 0..5 {
            let refused = rig.authority().confirm("nonsense");
            assert!(matches!(refused, Err(AuthorityError::Wrong)), "{refused:?}");
        }
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let wait = match rig.authority().confirm(&rig.code(&new)) {
                Err(AuthorityError::TooMany { seconds, .. }) => seconds,
                other => panic!("{other:?}"),
            };
            pauses.push(wait / 60);
            rig.clock.advance((wait - 1) * SECOND);
            assert!(matches!(
                rig.authority().confirm("nonsense"),
                Err(AuthorityError::TooMany { seconds: 1, .. })
            ));
            rig.clock.advance(SECOND);
            assert!(matches!(
                rig.authority().confirm("nonsense"),
                Err(AuthorityError::Wrong)
            ));
        }
        assert_eq!(
            pauses,
            [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 2560, 2560]
        );
        // Neither a clock that was set nor a machine that was restarted makes it shorter.
        rig.clock
            .set(UnixNanoseconds(rig.clock.now().0 + 5_000 * 60 * SECOND));
        rig.clock.reboot(0);
        let refused = rig.authority().confirm(&rig.code(&new));
        assert!(matches!(
            refused,
            Err(AuthorityError::TooMany {
                seconds: 153_600,
                wrong_codes: 17
            })
        ));
        rig.clock.advance(153_600 * SECOND);
        rig.authority().confirm(&rig.code(&new)).unwrap();
        let refused = rig.authority().confirm("nonsense");
        assert!(
            matches!(refused, Err(AuthorityError::Wrong)),
            "it begins anew"
        );
    }

    #[test]
    fn one_from_before_authorities_had_an_age_is_older_than_every_lock() {
        let rig = Rig::new();
        let text = r#"{"secret": "MZXW6YTB", "last_step": 5}"#;
        std::fs::write(rig.folder.path().join(FILE), text).unwrap();
        let age = rig.authority().age().unwrap();
        assert_eq!(age, Some(AuthorityAge(UnixNanoseconds(0))));
    }
}
