//! Warning, critical, kill: levels of memory use, and the alerts that crossing them makes.
//!
//! Invariants: the three percentages rise; an alert is made when a level is entered, not while
//! it lasts; a list of alerts is bounded, and what it dropped is counted. Deliberately absent:
//! reading memory, and killing.

use serde::{Deserialize, Serialize};

use crate::domain::{Problem, budget};

/// How full something is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Normal,
    Warning,
    Critical,
    Kill,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Kill => "kill",
        }
    }
}

/// Percentages at which the levels begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Levels {
    pub warning: u8,
    pub critical: u8,
    pub kill: u8,
}

impl Default for Levels {
    fn default() -> Self {
        Self { warning: 75, critical: 85, kill: 92 }
    }
}

impl Levels {
    /// # Errors
    /// Usage: they do not rise, or do not lie between 1 and 100.
    pub fn new(warning: u8, critical: u8, kill: u8) -> Result<Self, Problem> {
        if 1 <= warning && warning < critical && critical < kill && kill <= 100 {
            return Ok(Self { warning, critical, kill });
        }
        Err(Problem::usage(format!(
            "the levels {warning}, {critical} and {kill} do not rise from 1 to 100 percent"
        ))
        .hint("give them in order, for example --warning 75 --critical 85 --kill 92"))
    }

    /// The level of `percent`.
    pub fn of(&self, percent: u8) -> Level {
        match percent {
            p if p >= self.kill => Level::Kill,
            p if p >= self.critical => Level::Critical,
            p if p >= self.warning => Level::Warning,
            _ => Level::Normal,
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A worker against its limit.
    Worker,
    /// Memory of the machine, or of the control group where that has a limit.
    Machine,
    /// The kernel says that programs wait for memory.
    Pressure,
}

impl Subject {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Machine => "machine",
            Self::Pressure => "pressure",
        }
    }
}

/// A level that was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Alert {
    pub subject: Subject,
    pub level: Level,
    /// 0 for pressure, which has no amount.
    pub percent: u8,
    pub used_bytes: u64,
    /// Since watching began.
    pub after_milliseconds: u64,
}

/// The first alerts, and how many more there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    pub list: Vec<Alert>,
    /// Alerts that the list had no room for.
    pub dropped: u64,
}

impl Alerts {
    pub fn add(&mut self, alert: Alert) {
        if self.list.len() < budget::ALERTS {
            self.list.push(alert);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}

/// Remembers the level of one subject and says when another one is entered.
#[derive(Debug, Clone, Copy)]
pub struct Gauge {
    levels: Levels,
    now: Level,
}

impl Gauge {
    pub fn new(levels: Levels) -> Self {
        Self { levels, now: Level::Normal }
    }

    /// Every level that was entered on the way up to `percent`, in order; nothing on the way down.
    pub fn rise(&mut self, percent: u8) -> Vec<Level> {
        let (before, level) = (self.now, self.levels.of(percent));
        self.now = level;
        let all = [Level::Warning, Level::Critical, Level::Kill];
        all.into_iter().filter(|entered| *entered > before && *entered <= level).collect()
    }

    pub fn level(&self) -> Level {
        self.now
    }
}

/// Share of `limit` that `used` is, in percent, rounded down; 100 for no limit to speak of.
pub fn percent_of(used: u64, limit: u64) -> u8 {
    let percent = (u128::from(used) * 100).checked_div(u128::from(limit)).unwrap_or(100);
    u8::try_from(percent.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_must_rise() {
        assert_eq!(Levels::new(75, 85, 92).unwrap(), Levels::default());
        for (warning, critical, kill) in [(85, 75, 92), (75, 75, 92), (75, 92, 92), (0, 1, 2), (75, 85, 101)]
        {
            let problem = Levels::new(warning, critical, kill).unwrap_err();
            assert_eq!(problem.exit_code(), 2, "{problem}");
        }
    }

    #[test]
    fn levels_are_entered_in_order_and_once() {
        let mut gauge = Gauge::new(Levels::default());
        assert_eq!(gauge.rise(74), []);
        assert_eq!(gauge.rise(75), [Level::Warning]);
        assert_eq!(gauge.rise(80), []);
        assert_eq!(gauge.rise(95), [Level::Critical, Level::Kill]);
        assert_eq!(gauge.rise(10), []);
        assert_eq!(gauge.rise(99), [Level::Warning, Level::Critical, Level::Kill]);
        for (percent, level) in [
            (74, Level::Normal),
            (84, Level::Warning),
            (85, Level::Critical),
            (91, Level::Critical),
            (92, Level::Kill),
        ] {
            assert_eq!(Levels::default().of(percent), level, "{percent}");
        }
        assert_eq!(percent_of(299, 400), 74);
        assert_eq!(percent_of(u64::MAX, 1), 100);
        assert_eq!(percent_of(0, 0), 100);
    }

    #[test]
    fn a_list_of_alerts_is_bounded_and_counts_the_rest() {
        let alert = Alert {
            subject: Subject::Machine,
            level: Level::Warning,
            percent: 75,
            used_bytes: 1,
            after_milliseconds: 0,
        };
        let mut alerts = Alerts::default();
        (0..budget::ALERTS + 5).for_each(|_| alerts.add(alert));
        assert_eq!((alerts.list.len(), alerts.dropped), (budget::ALERTS, 5));
    }
}
