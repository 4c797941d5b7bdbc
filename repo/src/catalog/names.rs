//! Names of workloads and restore points.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::RepoError;

/// Name of a workload: 1 to 128 of the letters `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadName(String);

impl WorkloadName {
    /// Checks `name`.
    ///
    /// # Errors
    /// If it is not a valid name; the error says what is.
    pub fn parse(name: &str) -> Result<Self, RepoError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let good = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with(['.', '-']);
        if good {
            Ok(Self(name.to_owned()))
        } else {
            let rule =
                "use 1 to 128 letters, digits, '.', '_' or '-', and do not start with '.' or '-'";
            Err(RepoError::BadName {
                name: name.to_owned(),
                what: "workload name",
                rule,
            })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for WorkloadName {
    type Err = RepoError;

    fn from_str(name: &str) -> Result<Self, RepoError> {
        Self::parse(name)
    }
}

impl TryFrom<String> for WorkloadName {
    type Error = RepoError;

    fn try_from(name: String) -> Result<Self, RepoError> {
        Self::parse(&name)
    }
}

impl From<WorkloadName> for String {
    fn from(name: WorkloadName) -> Self {
        name.0
    }
}

/// Name of a restore point: `WORKLOAD@SEQUENCE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PointName {
    /// Whose moment it is.
    pub workload: WorkloadName,
    /// The how-manieth, from 1; never given twice.
    pub sequence: u64,
}

impl fmt::Display for PointName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.workload, self.sequence)
    }
}

impl FromStr for PointName {
    type Err = RepoError;

    fn from_str(name: &str) -> Result<Self, RepoError> {
        let rule = "write WORKLOAD@NUMBER, as `holdfast point list` shows it";
        let bad = || RepoError::BadName {
            name: name.to_owned(),
            what: "restore point",
            rule,
        };
        let (workload, sequence) = name.rsplit_once('@').ok_or_else(bad)?;
        Ok(Self {
            workload: WorkloadName::parse(workload)?,
            sequence: sequence.parse().map_err(|_| bad())?,
        })
    }
}

impl TryFrom<String> for PointName {
    type Error = RepoError;

    fn try_from(name: String) -> Result<Self, RepoError> {
        name.parse()
    }
}

impl From<PointName> for String {
    fn from(name: PointName) -> Self {
        name.to_string()
    }
}

const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "-x",
            "a b",
            "a@b",
            "\u{e9}",
            &"x".repeat(129),
        ] {
            assert!(WorkloadName::parse(bad).is_err(), "{bad}");
        }
        assert!(WorkloadName::parse(&"x".repeat(128)).is_ok());
    }

    #[test]
    fn point_names_read_back() {
        let name: PointName = "web-01.example@17".parse().unwrap();
        assert_eq!(
            (name.workload.as_str(), name.sequence),
            ("web-01.example", 17)
        );
        assert_eq!(name.to_string(), "web-01.example@17");
        for bad in ["web", "web@", "web@x", "@1", "web@-1"] {
            assert!(bad.parse::<PointName>().is_err(), "{bad}");
        }
    }
}
