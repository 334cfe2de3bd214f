//! What the process gives up before it serves: its user, capabilities, files (Landlock) and system calls (seccomp).
//!
//! [`restrict`] is called once, while the process has one thread: Landlock and capabilities are a thread's, and all
//! others inherit them. A start needs whatever a reload or a repair needs later (ports, files, programs), so
//! nothing is left to be given up after it. What is kept follows from the settings; a reload whose settings need more
//! cannot get it, which [`forbidden`] tells beforehand. Both look at a record of the process, as the
//! restrictions are the process's own and cannot be lifted.
//!
//! `cli` calls it, `server` shows what is in force. It must not open what it permits.

mod calls;
mod capabilities;
mod files;
mod user;

use std::{fmt, fs, io, path::Path, sync::OnceLock};

use serde_json::{Value, json};
use thiserror::Error;
use tracing::{info, warn};

use crate::config::{Config, Location, SandboxMode};
use files::Files;

/// What is in force, from [`restrict`] on.
static IN_FORCE: OnceLock<InForce> = OnceLock::new();

/// Why the process cannot be restricted as the settings say. One line each.
#[derive(Debug, Error)]
pub(crate) enum PrivilegeError {
    /// No such user.
    #[error(
        "{location}there is no user {name:?}; make it (useradd --system {name}), or correct `privileges.user`"
    )]
    NoUser {
        /// Where it is given.
        location: Location,
        /// The user.
        name: String,
    },
    /// The user cannot be changed.
    #[error(
        "{location}cannot change to the user {name:?}: {source}; start the server as root, or leave `privileges.user` out"
    )]
    User {
        /// Where it is given.
        location: Location,
        /// The user.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A part of the sandbox is not available, and is required.
    #[error(
        "{location}{part} cannot be restricted as required: {why}; sandbox = \"auto\" starts without that"
    )]
    Required {
        /// Where that is required.
        location: Location,
        /// What.
        part: &'static str,
        /// Why not.
        why: String,
    },
    /// Others would not be restricted.
    #[error("the process has {0} threads before it is restricted, which is a bug")]
    Threads(usize),
}

/// What a process has given up.
#[derive(Debug)]
struct InForce {
    mode: SandboxMode,
    /// That it changed to.
    user: Option<String>,
    /// Those it has kept; or why it keeps all.
    capabilities: Result<Vec<String>, String>,
    /// The files it may use; or why all.
    files: Result<Files, String>,
    /// How many system calls it may use; or why all.
    calls: Result<usize, String>,
    /// It was started for AF_XDP.
    xdp: bool,
    /// Why its user cannot read the settings again, if it cannot.
    unreadable: Option<String>,
}

/// Checks that there is a user to change to, if the settings name one.
///
/// # Errors
/// There is none.
pub(crate) fn check_user(config: &Config) -> Result<(), PrivilegeError> {
    wanted_user(config).map(drop)
}

/// The user to change to, if the settings name one.
fn wanted_user(config: &Config) -> Result<Option<user::Target>, PrivilegeError> {
    let location = || config.settings.location("privileges.user");
    let name = config.privileges.user.as_ref();
    name.map(|name| user::find(name, location())).transpose()
}

/// Gives up what the settings do not need, for good. `file`: the settings file.
///
/// # Errors
/// The user cannot be changed; or with `sandbox = "require"`, a part of the sandbox is not available.
pub(crate) fn restrict(config: &Config, file: Option<&Path>) -> Result<(), PrivilegeError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(PrivilegeError::Threads(threads));
    }
    let settings = &config.settings;
    let mode = config.privileges.sandbox;
    let user = wanted_user(config)?;
    files::prepare(config, user.as_ref().map(|user| user.id()));
    let xdp = config.wants_xdp();
    let off = || "sandbox = \"off\"".to_owned();
    let (mut capabilities, mut files, mut calls) = (Err(off()), Err(off()), Err(off()));
    // While the process may still change the bounding set.
    let kept = capabilities::kept(xdp, user.is_none());
    if mode != SandboxMode::Off {
        capabilities::bound(&kept);
    }
    let name = user.as_ref().map(|user| user.name().to_owned());
    if let Some(user) = user {
        let location = settings.location("privileges.user");
        user.change().map_err(|source| PrivilegeError::User {
            location,
            name: user.name().to_owned(),
            source,
        })?;
    }
    let changed = name.is_some().then_some(file).flatten();
    let unreadable = changed.and_then(|path| {
        let error = fs::File::open(path).err()?;
        Some(format!("cannot read {}: {error}", path.display()))
    });
    if mode != SandboxMode::Off || name.is_some() {
        // Also after a change of the user, when none is effective.
        capabilities = capabilities::keep(&kept);
    }
    if mode != SandboxMode::Off {
        files = Files::restrict(config, file);
        // Last: it forbids the calls that the others make.
        calls = calls::restrict(xdp);
    }
    let in_force = InForce {
        mode,
        user: name,
        capabilities,
        files,
        calls,
        xdp,
        unreadable,
    };
    let partly = in_force.files.as_ref().is_ok_and(|files| !files.fully());
    let partly = partly.then_some((
        "files",
        "this kernel restricts some kinds of access only, Linux 6.12 all",
    ));
    if mode == SandboxMode::Require
        && let Some((part, why)) = in_force.missing().into_iter().next().or(partly)
    {
        return Err(PrivilegeError::Required {
            location: settings.location("privileges.sandbox"),
            part,
            why: why.to_owned(),
        });
    }
    // It is called once.
    let _ = IN_FORCE.set(in_force);
    Ok(())
}

impl InForce {
    /// The parts that are not restricted, and why.
    fn missing(&self) -> Vec<(&'static str, &str)> {
        let parts = [
            ("capabilities", self.capabilities.as_ref().err()),
            ("files", self.files.as_ref().err()),
            ("system calls", self.calls.as_ref().err()),
        ];
        let missing = parts.into_iter();
        missing
            .filter_map(|(part, why)| Some((part, why?.as_str())))
            .collect()
    }
}

/// What is not restricted although it should be, and why. Nothing before [`restrict`], and with `sandbox = "off"`.
pub(crate) fn unrestricted() -> Vec<String> {
    let in_force = IN_FORCE.get();
    let in_force = in_force.filter(|in_force| in_force.mode != SandboxMode::Off);
    let missing = in_force.map(InForce::missing).into_iter().flatten();
    missing
        .map(|(part, why)| format!("{part} are not restricted: {why}"))
        .collect()
}

/// Logs what is in force.
pub(crate) fn log() {
    let Some(in_force) = IN_FORCE.get() else {
        return;
    };
    if let Some(user) = &in_force.user {
        info!("changed to the user {user}");
    }
    if let Some(why) = &in_force.unreadable {
        warn!("a reload will fail, as the server's user {why}; give the file to its group");
    }
    if in_force.mode == SandboxMode::Off {
        info!("sandbox: off");
        return;
    }
    for open in unrestricted() {
        warn!("sandbox: {open}");
    }
    if let Ok(kept) = &in_force.capabilities {
        let kept = match kept.as_slice() {
            [] => "none".to_owned(),
            kept => kept.join(" "),
        };
        info!("sandbox: capabilities left: {kept}");
    }
    if let Ok(files) = &in_force.files {
        info!("sandbox: {files}");
        for note in files.notes() {
            warn!("sandbox: {note}");
        }
    }
    if let Ok(calls) = in_force.calls {
        info!("sandbox: {calls} system calls left");
    }
}

/// What is in force, for the statistics. Null before [`restrict`].
pub(crate) fn json() -> Value {
    let Some(in_force) = IN_FORCE.get() else {
        return Value::Null;
    };
    json!({
        "mode": match in_force.mode {
            SandboxMode::Auto => "auto",
            SandboxMode::Require => "require",
            SandboxMode::Off => "off",
        },
        "user": in_force.user,
        "capabilities": in_force.capabilities.as_ref().ok(),
        "files": in_force.files.as_ref().map_or("all", Files::state),
        "system_calls": in_force.calls.as_ref().ok(),
    })
}

/// Something that the sandbox keeps from settings.
#[derive(Debug)]
pub(crate) struct Forbidden {
    location: Location,
    what: String,
    /// The setting. `None`: nothing works without it.
    key: Option<&'static str>,
}

impl Forbidden {
    /// Whether it keeps settings from being used that have changed by this key, or repeated table. What has not changed
    /// is as useful as before.
    pub(crate) fn concerns(&self, changed: &str) -> bool {
        let table = changed.trim_matches(['[', ']']);
        let is_of = |key: &str| {
            key.strip_prefix(table)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.key.is_some_and(is_of)
    }

    /// Whether it keeps all settings from being used: what every reload reads cannot be read.
    pub(crate) fn concerns_all(&self) -> bool {
        matches!(self.key, None | Some("local.hosts" | "blocklist.file"))
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { location, what, .. } = self;
        write!(f, "{location}{what}; a restart can")
    }
}

/// What keeps this process from reading a file, if that is the sandbox.
pub(crate) fn unreadable(path: &Path) -> Option<Forbidden> {
    let files = IN_FORCE.get()?.files.as_ref().ok()?;
    let why = files.unreadable(path)?;
    let path = path.display();
    Some(Forbidden {
        location: Location::Unset,
        what: format!("the sandbox cannot let the server read {path}, {why}"),
        key: None,
    })
}

/// What a server with these settings would need that this process has given up.
pub(crate) fn forbidden(config: &Config) -> Vec<Forbidden> {
    let Some(in_force) = IN_FORCE.get() else {
        return Vec::new();
    };
    let mut forbidden = Vec::new();
    let restricted = in_force.capabilities.is_ok() || in_force.calls.is_ok();
    if restricted && config.wants_xdp() && !in_force.xdp {
        forbidden.push(Forbidden {
            location: config.settings.location("interface"),
            what: "the server was started without AF_XDP, and its sandbox cannot let it in"
                .to_owned(),
            key: None,
        });
    }
    if let Ok(files) = &in_force.files {
        for named in files::named(config) {
            if let Some(why) = files.closed(&named) {
                let path = named.path.display();
                forbidden.push(Forbidden {
                    location: config.settings.item_location(named.key, named.item),
                    what: format!("the sandbox cannot let the server use {path}, {why}"),
                    key: Some(named.key),
                });
            }
        }
    }
    forbidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_concerns_the_settings_that_have_changed() {
        let forbidden = |key| Forbidden {
            location: Location::Unset,
            what: String::new(),
            key,
        };
        for (key, changed, concerned) in [
            ("cache.snapshot", "cache.snapshot", true),
            ("cache.snapshot", "cache.size", false),
            ("cache.snapshot", "cache.snap", false),
            ("blocklist.file", "[[blocklist]]", true),
            ("blocklist.file", "[[route]]", false),
        ] {
            assert_eq!(
                forbidden(Some(key)).concerns(changed),
                concerned,
                "{key} {changed}"
            );
        }
        for (key, all) in [
            (None, true),
            (Some("local.hosts"), true),
            (Some("blocklist.file"), true),
            (Some("cache.snapshot"), false),
            (Some("tls.key"), false),
        ] {
            assert_eq!(forbidden(key).concerns_all(), all, "{key:?}");
        }
    }
}
