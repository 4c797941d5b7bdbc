//! Parts of a body, and the name under which it is saved: what HTTP says of downloads.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// What of a file is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    All,
    Part(Range<u64>),
    /// A range that the file does not have.
    Nothing,
}

/// The one range that is asked for. Whatever else there is means all (RFC 9110, section 14.2), as does a condition that
/// does not hold.
pub(super) fn asked_range(headers: &HeaderMap, size: u64, tag: &str) -> Asked {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|condition| condition != tag) {
        return Asked::All;
    }
    let Some(range) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else {
        return Asked::All;
    };
    let Some((first, last)) = range.split_once('-') else {
        return Asked::All;
    };
    let range = match (first.trim().parse::<u64>(), last.trim()) {
        (Ok(first), "") => first..size,
        (Ok(first), last) => match last.parse::<u64>() {
            Ok(last) if last >= first => first..size.min(last.saturating_add(1)),
            _ => return Asked::All,
        },
        (Err(_), last) if first.trim().is_empty() => match last.parse::<u64>() {
            Ok(count) if count > 0 => size.saturating_sub(count)..size,
            Ok(_) => return Asked::Nothing,
            Err(_) => return Asked::All,
        },
        _ => return Asked::All,
    };
    match range.start < range.end {
        true => Asked::Part(range),
        false => Asked::Nothing,
    }
}

/// The name under which a browser saves what comes (RFC 6266, RFC 8187).
pub(super) fn attachment(path: &str, suffix: &str) -> String {
    let name = path
        .rsplit('/')
        .find(|name| !name.is_empty())
        .unwrap_or("disks");
    let mut encoded = String::new();
    for byte in name.bytes().chain(suffix.bytes()) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    format!("attachment; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_given_and_others_mean_all() {
        let asked = |range: &str, condition: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            if let Some(condition) = condition {
                headers.insert(header::IF_RANGE, condition.parse().unwrap());
            }
            asked_range(&headers, 1000, "\"tag\"")
        };
        for (range, expected) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=10-19", Asked::Part(10..20)),
            ("bytes=990-", Asked::Part(990..1000)),
            ("bytes=990-2000", Asked::Part(990..1000)),
            ("bytes=-10", Asked::Part(990..1000)),
            ("bytes=-5000", Asked::Part(0..1000)),
            ("bytes=1000-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=20-10", Asked::All),
            ("bytes=0-1,5-6", Asked::All),
            ("bytes=x-", Asked::All),
            ("lines=0-1", Asked::All),
            ("bytes=0-18446744073709551615", Asked::Part(0..1000)),
        ] {
            assert_eq!(asked(range, None), expected, "{range}");
        }
        assert_eq!(asked("bytes=10-19", Some("\"tag\"")), Asked::Part(10..20));
        assert_eq!(asked("bytes=10-19", Some("\"other\"")), Asked::All);
        assert_eq!(asked_range(&HeaderMap::new(), 0, ""), Asked::All);
    }

    #[test]
    fn a_saved_file_has_its_own_name_and_no_other() {
        assert_eq!(
            attachment("disk-0/p1/a \"b\".txt", ""),
            "attachment; filename*=UTF-8''a%20%22b%22.txt"
        );
        assert_eq!(
            attachment("ü/", ".zip"),
            "attachment; filename*=UTF-8''%C3%BC.zip"
        );
        assert_eq!(
            attachment("", ".tar"),
            "attachment; filename*=UTF-8''disks.tar"
        );
    }
}
