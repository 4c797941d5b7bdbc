//! `holdfast retention`.

use anyhow::{Result, bail};
use repo::retention::{Reach, RetentionRules};
use serde_json::json;

use crate::api::{AppliedView, RetentionBody, RetentionView};

use super::client::{Client, segment};
use super::output::{Output, Table, size, time};

#[derive(Debug, clap::Subcommand)]
pub(super) enum RetentionVerb {
    /// Show all rules
    Show,
    /// Set the rules of a workload, in place of those it had
    Set(SetArgs),
    /// Expire what the rules do not keep
    Apply {
        /// The workload
        workload: String,
        /// Only say what would go, and what that would free
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The workload
    #[arg(required_unless_present = "default")]
    workload: Option<String>,
    /// The rules for workloads that have none of their own
    #[arg(long, conflicts_with = "workload")]
    default: bool,
    /// The workload follows the default again; for the default: keep everything
    #[arg(long)]
    clear: bool,
    /// Keep the newest N points
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep every point for N days
    #[arg(long, value_name = "N")]
    keep_days: Option<u32>,
    /// Keep the newest point of each hour: N hours, or hours within Nd days
    #[arg(long, value_name = "N|Nd", value_parser = reach)]
    keep_hourly: Option<Reach>,
    /// Keep the newest point of each day: N days, or within Nd days
    #[arg(long, value_name = "N|Nd", value_parser = reach)]
    keep_daily: Option<Reach>,
    /// Keep the newest point of each week: N weeks, or within Nd days
    #[arg(long, value_name = "N|Nd", value_parser = reach)]
    keep_weekly: Option<Reach>,
    /// Keep the newest point of each month: N months, or within Nd days
    #[arg(long, value_name = "N|Nd", value_parser = reach)]
    keep_monthly: Option<Reach>,
    /// Keep the newest point of each year: N years, or within Nd days
    #[arg(long, value_name = "N|Nd", value_parser = reach)]
    keep_yearly: Option<Reach>,
}

pub(super) fn run(verb: &RetentionVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        RetentionVerb::Show => {
            let rules: RetentionView = client.get("/v1/retention")?;
            output.result(&rules, |rules| table(rules).to_string())
        }
        RetentionVerb::Set(arguments) => set(arguments, client, output),
        RetentionVerb::Apply { workload, dry_run } => {
            let path = format!("/v1/retention/{}", segment(workload));
            let applied: AppliedView = match dry_run {
                true => client.get(&path)?,
                false => client.post(&path, &json!({}))?,
            };
            output.result(&applied, describe)
        }
    }
}

fn set(arguments: &SetArgs, client: &Client, output: &Output) -> Result<()> {
    let rules = arguments.rules();
    if rules.is_empty() != arguments.clear {
        bail!("say what to keep, for example --keep-daily 7 --keep-monthly 12, or --clear");
    }
    let body = RetentionBody {
        workload: arguments.workload.clone(),
        rules: (!arguments.clear).then_some(rules),
    };
    let rules: RetentionView = client.put("/v1/retention", &body)?;
    let whom = arguments.workload.as_deref().unwrap_or("the default");
    output.result(&rules, |_| {
        format!("The rules of {whom} are set; see `holdfast retention apply WORKLOAD --dry-run`.")
    })
}

impl SetArgs {
    fn rules(&self) -> RetentionRules {
        RetentionRules {
            last: self.keep_last,
            days: self.keep_days,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
        }
    }
}

fn table(rules: &RetentionView) -> Table {
    let mut table = Table::new(&[
        "WORKLOAD", ">LAST", ">DAYS", ">HOURLY", ">DAILY", ">WEEKLY", ">MONTHLY", ">YEARLY",
    ]);
    let mut row = |name: &str, rules: &RetentionRules| {
        let count = |count: Option<u32>| count.map_or("-".to_owned(), |count| count.to_string());
        let reach = |reach: Option<Reach>| match reach {
            None => "-".to_owned(),
            Some(Reach::Count(count)) => count.to_string(),
            Some(Reach::Days(days)) => format!("{days}d"),
        };
        table.row([
            name.to_owned(),
            count(rules.last),
            count(rules.days),
            reach(rules.hourly),
            reach(rules.daily),
            reach(rules.weekly),
            reach(rules.monthly),
            reach(rules.yearly),
        ]);
    };
    row("(default)", &rules.default);
    for workload in &rules.workloads {
        row(&workload.workload, &workload.rules);
    }
    table
}

fn describe(applied: &AppliedView) -> String {
    let mut table = Table::new(&["POINT", "MADE (UTC)", "", "WHY"]);
    let mut gone = 0;
    for point in &applied.points {
        let (fate, why) = match (&point.refused, point.kept_by.is_empty()) {
            (Some(reason), _) => ("stays", reason.clone()),
            (None, false) => ("stays", point.kept_by.join(", ")),
            (None, true) => {
                gone += 1;
                ("goes", "no rule keeps it".to_owned())
            }
        };
        table.row([
            point.point.clone(),
            time(&point.created),
            fate.to_owned(),
            why,
        ]);
    }
    let verb = match applied.applied {
        true => "were expired",
        false => "would be expired",
    };
    let freed = match applied.freed_bytes {
        Some(bytes) => format!(", which would free {}", size(bytes)),
        None => String::new(),
    };
    format!(
        "{table}{gone} of {} points {verb}{freed}.",
        applied.points.len()
    )
}

fn reach(text: &str) -> Result<Reach, String> {
    let refused = |_| format!("`{text}` is neither a number such as 7 nor days such as 30d");
    match text.strip_suffix('d') {
        Some(days) => days.parse().map(Reach::Days).map_err(refused),
        None => text.parse().map(Reach::Count).map_err(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reach_is_a_count_or_days() {
        assert_eq!(reach("7"), Ok(Reach::Count(7)));
        assert_eq!(reach("30d"), Ok(Reach::Days(30)));
        assert!(reach("month").is_err());
        assert!(reach("-1").is_err());
    }
}
