//! Bearer tokens: kept as hashes, compared in constant time.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{StateError, StateFolder, hexadecimal, random};

/// All tokens that the HTTP interface accepts.
#[derive(Debug)]
pub struct Tokens {
    records: Vec<TokenRecord>,
}

/// One token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRecord {
    /// Who has it.
    name: String,
    /// BLAKE3 of it. Tokens are 256 random bits, so that no slow hash is needed.
    hash: String,
}

impl Tokens {
    /// Loads the tokens. The first time ever it makes one and stores it in clear in the file `token`.
    ///
    /// # Errors
    /// If they cannot be read or stored.
    pub fn load_or_create(state: &StateFolder) -> Result<Self, StateError> {
        let name = Path::new("tokens.json");
        if let Some(text) = state.read(name, LIMIT_BYTES)? {
            let records = serde_json::from_slice(&text).map_err(|error| StateError::Damaged {
                path: state.file(name),
                detail: error.to_string(),
                remedy: "remove it and `token`, and start again; clients then need the new token",
            })?;
            return Ok(Self { records });
        }
        let token = format!("hf_{}", hexadecimal(&random::<32>()));
        let records = vec![TokenRecord {
            name: "operator".to_owned(),
            hash: hash(&token).to_hex().to_string(),
        }];
        // The clear text first: a token whose hash is stored but that nobody knows would lock everyone out. One
        // without a hash, left by a crash between the two, is replaced.
        drop(std::fs::remove_file(state.file(TOKEN_FILE)));
        state.create_secret(Path::new(TOKEN_FILE), format!("{token}\n").as_bytes())?;
        let text = serde_json::to_vec_pretty(&records).expect("token records are plain text");
        state.create_secret(name, &text)?;
        Ok(Self { records })
    }

    /// The name of the one who has this token.
    pub fn owner(&self, token: &str) -> Option<&str> {
        let given = hash(token);
        let mut owner = None;
        for record in &self.records {
            // `blake3::Hash` compares in constant time; every record is looked at.
            if blake3::Hash::from_hex(&record.hash).is_ok_and(|hash| hash == given) {
                owner = Some(record.name.as_str());
            }
        }
        owner
    }
}

/// The file with the first token in clear.
pub(crate) const TOKEN_FILE: &str = "token";

fn hash(token: &str) -> blake3::Hash {
    blake3::derive_key("holdfast 2026 API token", token.as_bytes()).into()
}

const LIMIT_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_is_accepted_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        Tokens::load_or_create(&state).unwrap();
        let tokens = Tokens::load_or_create(&state).unwrap();
        let token = std::fs::read_to_string(folder.path().join("token")).unwrap();
        assert_eq!(tokens.owner(token.trim()), Some("operator"));
        assert_eq!(tokens.owner(&token), None, "with its line end");
        assert_eq!(tokens.owner(""), None);
        let stored = std::fs::read_to_string(folder.path().join("tokens.json")).unwrap();
        assert!(
            !stored.contains(token.trim()),
            "the stored form does not show the token"
        );
    }
}
