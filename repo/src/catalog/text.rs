//! The head line of the text files of `docs/formats/catalog.md`, which proves the rest without a key.

use crate::error::RepoError;

/// Puts the head line before a body: `holdfast KIND VERSION HASH`.
pub(crate) fn seal_head(kind: &str, version: u32, body: &[u8]) -> Vec<u8> {
    let hash = text_hash(kind, version, body);
    let mut text = format!("holdfast {kind} {version} {hash}\n").into_bytes();
    text.extend_from_slice(body);
    text
}

/// The hash in the head line covers the rest of that line, too.
fn text_hash(kind: &str, version: u32, body: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("holdfast {kind} {version}\n").as_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The version and body of what [`seal_head`] made, proven.
pub(crate) fn open_head<'a>(
    what: &str,
    kind: &str,
    known: u32,
    text: &'a [u8],
) -> Result<(u32, &'a [u8]), RepoError> {
    let corrupt = |detail: &str| RepoError::Corrupt {
        what: what.to_owned(),
        detail: detail.to_owned(),
    };
    let end = text.iter().position(|byte| *byte == b'\n');
    let (head, body) = end
        .and_then(|end| text.split_at_checked(end))
        .ok_or_else(|| corrupt("it is cut off in its first line"))?;
    let head = std::str::from_utf8(head).map_err(|_| corrupt("it is not text"))?;
    let body = body.get(1..).unwrap_or_default();
    let words: Vec<&str> = head.split(' ').collect();
    let ["holdfast", found, version, hash] = words.as_slice() else {
        return Err(corrupt("its first line is not one of holdfast's"));
    };
    let version: u32 = version
        .parse()
        .map_err(|_| corrupt("its format version is no number"))?;
    if *found != kind {
        return Err(corrupt(&format!("it is a {found}, not a {kind}")));
    }
    if version > known {
        return Err(RepoError::TooNew {
            what: what.to_owned(),
            found: version,
            known,
        });
    }
    if text_hash(kind, version, body).to_hex().as_str() != *hash {
        return Err(corrupt(
            "its content does not have the hash in its first line",
        ));
    }
    Ok((version, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_named_as_such() {
        let error = open_head("manifest x", "point", 1, b"holdfast point 2 00\n{}").unwrap_err();
        assert!(
            matches!(
                error,
                RepoError::TooNew {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_body_need_not_be_text() {
        let text = seal_head("x", 3, b"\xff\n\x00");
        assert_eq!(
            open_head("x", "x", 3, &text).unwrap(),
            (3, b"\xff\n\x00".as_slice())
        );
    }
}
