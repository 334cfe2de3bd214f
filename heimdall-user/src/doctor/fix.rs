//! What fixes a finding: words, or commands.
//!
//! Commands are shown as a shell would take them, and executed without one: a file is written, or a program
//! gets its arguments as they are.

use std::{
    borrow::Cow,
    fmt, io,
    process::{Command, Stdio},
};

use super::system::{self, System};

/// What fixes a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// Nothing has to be fixed.
    None,
    /// What to do, in words or as a setting.
    Advice(String),
    /// Commands that may interrupt traffic, or that only the operator can decide on.
    Commands(Vec<Step>),
    /// Commands that change a setting of the running system, and interrupt nothing.
    Safe(Vec<Step>),
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sets a parameter of the kernel (sysctl(8)).
    Sysctl { key: &'static str, value: String },
    /// Writes a value to a file of sysfs.
    Write { path: String, value: String },
    /// Runs a program.
    Run(Vec<String>),
}

impl Fix {
    pub(super) fn advice(text: impl Into<String>) -> Self {
        Self::Advice(text.into())
    }

    /// A parameter of the kernel, which can be set at any time.
    pub(super) fn sysctl(key: &'static str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        Self::Safe(vec![Step::Sysctl { key, value }])
    }

    /// A parameter of the kernel that the operator may have chosen: shown, and not applied.
    pub(super) fn decision(key: &'static str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        Self::Commands(vec![Step::Sysctl { key, value }])
    }

    /// A program with its arguments, separated by blanks.
    pub(super) fn command(line: &str) -> Self {
        Self::Commands(vec![Step::run(line)])
    }

    /// The steps that may be applied without an interruption of traffic.
    pub(crate) fn safe(&self) -> Option<&[Step]> {
        match self {
            Self::Safe(steps) => Some(steps),
            _ => None,
        }
    }

    /// A line for each command, or the words.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Advice(text) => vec![text.clone()],
            Self::Commands(steps) | Self::Safe(steps) => {
                steps.iter().map(Step::to_string).collect()
            }
        }
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}

impl Step {
    /// A program with its arguments, separated by blanks.
    pub(super) fn run(line: &str) -> Self {
        Self::Run(line.split_whitespace().map(str::to_owned).collect())
    }

    /// Does it.
    ///
    /// # Errors
    /// The file cannot be written, or the program cannot be run or fails; with what it wrote to stderr.
    pub(crate) fn apply(&self, system: &System) -> io::Result<()> {
        match self {
            Self::Sysctl { key, value } => system.write(&system::sysctl(key), value),
            Self::Write { path, value } => system.write(path, value),
            Self::Run(words) => run(words),
        }
    }
}

fn run(words: &[String]) -> io::Result<()> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(
                error.kind(),
                format!("{program} is not installed, or not in PATH"),
            ),
            _ => error,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{}: {}",
        output.status,
        said.trim()
    )))
}

/// A word as a shell takes it: names of interfaces may have characters that mean something to a shell.
fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => Cow::Borrowed(word),
        false => Cow::Owned(format!("'{}'", word.replace('\'', r"'\''"))),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { key, value } if value.contains(' ') => {
                write!(f, "sysctl -w {key}=\"{value}\"")
            }
            Self::Sysctl { key, value } => write!(f, "sysctl -w {key}={value}"),
            Self::Write { path, value } => write!(f, "echo {} > {}", quote(value), quote(path)),
            Self::Run(words) => {
                let words: Vec<_> = words.iter().map(|word| quote(word)).collect();
                f.write_str(&words.join(" "))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn steps_are_applied_without_a_shell() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path());
        fs::create_dir_all(root.path().join("proc/sys/net/core")).unwrap();
        let file = root.path().join("proc/sys/net/core/busy_poll");
        fs::write(&file, "50\n").unwrap();
        let fix = Fix::sysctl("net.core.busy_poll", 0);
        assert_eq!(fix.to_string(), "sysctl -w net.core.busy_poll=0");
        for step in fix.safe().unwrap() {
            step.apply(&system).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "0");

        // A file that the kernel does not have is not made.
        let unknown = Step::Write {
            path: "/proc/sys/net/core/none".to_owned(),
            value: "1".to_owned(),
        };
        assert_eq!(unknown.to_string(), "echo 1 > /proc/sys/net/core/none");
        assert!(unknown.apply(&system).is_err());

        let made = root.path().join("made");
        let shell = format!("true ; touch {}", made.display());
        Step::run(&shell).apply(&system).unwrap();
        assert!(!made.exists());
        let error = Step::run("ls /none/such").apply(&system).unwrap_err();
        assert!(error.to_string().contains("/none/such"), "{error}");
        let error = Step::run("no-such-program x").apply(&system).unwrap_err();
        assert!(error.to_string().contains("not installed"), "{error}");
    }

    #[test]
    fn values_with_blanks_are_shown_in_quotes() {
        let fix = Fix::sysctl("net.ipv4.ip_local_port_range", "32768 60999");
        let shown = "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"";
        assert_eq!(fix.to_string(), shown);
        assert_eq!(Fix::command("a b").safe(), None);
        let fix = Fix::command("ip link set dev a;b'c up");
        assert_eq!(fix.to_string(), r"ip link set dev 'a;b'\''c' up");
        let write = Step::Write {
            path: "/sys/class/net/a$b/threaded".to_owned(),
            value: "0 1".to_owned(),
        };
        assert_eq!(
            write.to_string(),
            "echo '0 1' > '/sys/class/net/a$b/threaded'"
        );
    }
}
