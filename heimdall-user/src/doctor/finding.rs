//! What a check found.

use std::fmt;

use serde_json::{Value, json};

use super::{checks::Check, fix::Fix};

/// How bad a finding is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be, or nothing that could be changed.
    Good,
    /// It works, and costs something: speed, memory, or the ability to see more.
    Warn,
    /// Something does not work as the settings ask, or a server with them would not start.
    Bad,
}

impl Level {
    /// `good`, `warn` or `bad`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// What a check found on one subject.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) check: &'static Check,
    pub(crate) level: Level,
    /// The interface, file, setting or part of the system that it is about.
    pub(crate) subject: String,
    pub(crate) finding: String,
    pub(crate) fix: Fix,
}

impl Check {
    pub(super) fn good(
        &'static self,
        subject: impl Into<String>,
        finding: impl Into<String>,
    ) -> Finding {
        self.finding(Level::Good, subject, finding, Fix::None)
    }

    pub(super) fn warn(
        &'static self,
        subject: impl Into<String>,
        finding: impl Into<String>,
        fix: Fix,
    ) -> Finding {
        self.finding(Level::Warn, subject, finding, fix)
    }

    pub(super) fn bad(
        &'static self,
        subject: impl Into<String>,
        finding: impl Into<String>,
        fix: Fix,
    ) -> Finding {
        self.finding(Level::Bad, subject, finding, fix)
    }

    pub(super) fn finding(
        &'static self,
        level: Level,
        subject: impl Into<String>,
        finding: impl Into<String>,
        fix: Fix,
    ) -> Finding {
        Finding {
            check: self,
            level,
            subject: subject.into(),
            finding: finding.into(),
            fix,
        }
    }
}

impl Finding {
    /// As an object of JSON: `check`, `level`, `subject`, `finding`, `why`, `fix`, all texts.
    pub(crate) fn json(&self) -> Value {
        json!({
            "check": self.check.id,
            "level": self.level.name(),
            "subject": self.subject,
            "finding": self.finding,
            "why": self.check.why,
            "fix": self.fix.to_string(),
        })
    }
}

/// One line for the log: the finding, and what to do.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.finding)?;
        match &self.fix {
            Fix::None => Ok(()),
            Fix::Advice(text) => write!(f, "; {text}"),
            Fix::Commands(_) | Fix::Safe(_) => write!(f, "; run `{}`", self.fix),
        }
    }
}
