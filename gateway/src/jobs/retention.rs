//! Retention rules: kept in the state folder, applied by the clock or by a person.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use repo::retention::{RetainedPoint, RetentionRules, Verdict, judge};
use repo::{PointName, RepoError, Repository, WorkloadName};
use serde::{Deserialize, Serialize};

use crate::state::{StateError, StateFolder};

/// The rules of all workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleBook {
    /// For workloads that have none of their own.
    pub default: RetentionRules,
    /// By workload.
    pub workloads: BTreeMap<WorkloadName, RetentionRules>,
}

/// Keeps and applies rules.
#[derive(Debug)]
pub struct Retention {
    repository: Repository,
    state: Arc<StateFolder>,
    rules: RwLock<RuleBook>,
}

/// What became of a workload's points.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// What was judged, the newest point first.
    pub verdicts: Vec<Verdict>,
    /// Points that should go and cannot yet, with the reason.
    pub refused: Vec<(PointName, String)>,
    /// How many went.
    pub expired: u64,
}

impl Retention {
    /// Reads the rules.
    ///
    /// # Errors
    /// If the state folder cannot be read, or the rules in it make no sense.
    pub fn open(repository: Repository, state: Arc<StateFolder>) -> Result<Self, StateError> {
        let rules = match state.read(Path::new(FILE), RULES_BYTES_MAX)? {
            None => RuleBook::default(),
            Some(text) => serde_json::from_slice(&text).map_err(|error| StateError::Damaged {
                path: state.file(FILE),
                detail: error.to_string(),
                remedy: "mend it, or remove it and set the rules again",
            })?,
        };
        Ok(Self {
            repository,
            state,
            rules: RwLock::new(rules),
        })
    }

    /// All rules.
    pub fn rules(&self) -> RuleBook {
        self.rules.read().clone()
    }

    /// The rules for a workload: its own, or the default.
    pub fn rules_of(&self, workload: &WorkloadName) -> RetentionRules {
        let rules = self.rules.read();
        let own = rules.workloads.get(workload);
        own.unwrap_or(&rules.default).clone()
    }

    /// Sets the rules of a workload, or the default; none: the workload follows the default again.
    ///
    /// # Errors
    /// If they cannot be stored; the old ones hold then.
    pub fn set(
        &self,
        workload: Option<&WorkloadName>,
        rules: Option<RetentionRules>,
    ) -> Result<(), StateError> {
        let mut book = self.rules.write();
        let mut next = book.clone();
        match (workload, rules) {
            (None, rules) => next.default = rules.unwrap_or_default(),
            (Some(workload), Some(rules)) => drop(next.workloads.insert(workload.clone(), rules)),
            (Some(workload), None) => drop(next.workloads.remove(workload)),
        }
        let text = serde_json::to_vec_pretty(&next).expect("rules have only text keys");
        self.state.replace(Path::new(FILE), &text)?;
        *book = next;
        Ok(())
    }

    /// What the rules say of a workload's points, now.
    pub fn judge(&self, workload: &WorkloadName) -> Vec<Verdict> {
        let points = self.repository.points(Some(workload));
        let retained: Vec<_> = points
            .iter()
            .map(|point| {
                let marks = self.repository.marks(&point.name);
                RetainedPoint {
                    name: point.name.clone(),
                    created: point.created,
                    held: marks.starred || !marks.locks.is_empty() || marks.damaged.is_some(),
                }
            })
            .collect();
        judge(
            &retained,
            &self.rules_of(workload),
            self.repository.trusted_now(),
        )
    }

    /// Expires what the rules do not keep. `may_expire` says why a point cannot go yet.
    ///
    /// # Errors
    /// If the storage fails.
    pub fn apply(
        &self,
        workload: &WorkloadName,
        may_expire: &dyn Fn(&PointName) -> Result<(), String>,
    ) -> Result<Applied, RepoError> {
        let mut applied = Applied {
            verdicts: self.judge(workload),
            ..Applied::default()
        };
        for verdict in applied.verdicts.iter().filter(|verdict| verdict.goes()) {
            let name = &verdict.point;
            if let Err(reason) = may_expire(name) {
                applied.refused.push((name.clone(), reason));
                continue;
            }
            match self.repository.expire(name) {
                Ok(()) => {
                    applied.expired += 1;
                    tracing::info!(restore_point = %name, "expired by the retention rules");
                }
                Err(error) if error.culprit() == repo::Culprit::Caller => {
                    applied.refused.push((name.clone(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(applied)
    }
}

const FILE: &str = "retention.json";
const RULES_BYTES_MAX: u64 = 1 << 20;
