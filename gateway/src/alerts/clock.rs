//! Alerts about a trusted time that the machine's clock contradicts (`docs/operations/locks.md`).

use repo::ClockState;

use super::{AlertKind, Alerts, News};

/// Tells once each time that the two begin to contradict each other.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    told_refused: bool,
    told_ahead: bool,
}

impl ClockWatch {
    /// Tells what is new.
    pub(crate) fn look(&mut self, state: ClockState, alerts: &Alerts) {
        alerts.raise(self.news(state));
    }

    fn news(&mut self, state: ClockState) -> Vec<News> {
        let mut news = Vec::new();
        if let (Some(refused), false) = (state.refused, self.told_refused) {
            news.push(News {
                kind: AlertKind::Clock,
                subject: "clock".to_owned(),
                message: format!(
                    "the repository's clock file, or a lock in it, said {refused}, far ahead of the machine's clock, and was not believed"
                ),
                mend: "find out whether somebody changed that file; if the machine's clock is wrong instead, set it, stop the daemon, remove the file `clock` and start it again: until then locks and retention are late".to_owned(),
            });
        }
        self.told_refused = state.refused.is_some();
        if state.is_ahead() && !self.told_ahead {
            news.push(News {
                kind: AlertKind::Clock,
                subject: "machine".to_owned(),
                message: "the machine's clock is more than an hour behind the trusted time"
                    .to_owned(),
                mend: "find out who set it back, and set it right before the daemon is started again: an opening believes no time that is ahead of the machine's clock".to_owned(),
            });
        }
        self.told_ahead = state.is_ahead();
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::UnixNanoseconds;

    #[test]
    fn each_contradiction_is_told_once() {
        const HOUR: u64 = 3_600_000_000_000;
        let state = |trusted: u64, refused: Option<u64>| ClockState {
            trusted: UnixNanoseconds(trusted * HOUR),
            machine: UnixNanoseconds(100 * HOUR),
            refused: refused.map(UnixNanoseconds),
        };
        let mut watch = ClockWatch::default();
        let mut told = |state| {
            let news = watch.news(state).into_iter();
            news.map(|news| news.subject).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(told(state(100, None)), none);
        assert_eq!(told(state(90, None)), none, "a machine that was off");
        assert_eq!(told(state(102, None)), ["machine"]);
        assert_eq!(told(state(103, None)), none);
        assert_eq!(told(state(101, None)), none);
        assert_eq!(told(state(102, None)), ["machine"]);
        assert_eq!(told(state(100, Some(7))), ["clock"]);
        assert_eq!(told(state(100, Some(7))), none);
    }
}
