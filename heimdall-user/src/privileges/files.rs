//! Files: Landlock (landlock(7), Linux 5.13) leaves the process those directories that the settings name.
//!
//! Rules are for directories, not for files: an editor, certbot and the snapshot writer replace a file by another one of its
//! name. Only a file that is read in a directory like /etc, where others keep theirs, secrets among them, has a rule of its own;
//! what replaces it is closed. A symbolic link is followed once, at the start, so that a certificate's own directory is among
//! them, too. Sockets and descriptors that are open already are not restricted, nor are connections to Unix sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fmt, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};
use nix::unistd::{Gid, Uid};

use crate::{config::Config, tap::DnstapTarget};

/// What is handled, as far as the kernel knows it.
const LEVEL: ABI = ABI::V6;

/// What every server reads: facts about the host, root certificates, and what a panic's backtrace reads. Users and groups
/// are looked up before: their files are replaced by others now and then.
const SYSTEM: [&str; 8] = [
    "/proc",
    "/sys",
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
];

/// Directories in which others keep files, too, as do those of /home.
const SHARED: [&str; 9] = [
    "/", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/var", "/var/lib",
];

fn is_shared(directory: &Path) -> bool {
    let is_home = directory.parent() == Some(Path::new("/home"));
    is_home || SHARED.iter().any(|shared| directory == Path::new(shared))
}

/// Where the system's root certificates are looked for. On some systems they are links to other directories.
const ROOTS: [&str; 5] = [
    "/etc/ssl",
    "/etc/ssl/certs",
    "/etc/pki/tls",
    "/etc/pki/tls/certs",
    "/etc/ca-certificates/extracted",
];

/// Files that every server writes to.
const DEVICES: [&str; 1] = ["/dev/null"];

/// How a file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    /// It is made, written, renamed and removed.
    Write,
}

/// A file that a setting names.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) key: &'static str,
    /// Its place in a list.
    pub(super) item: usize,
    pub(super) path: &'a Path,
    to: Use,
}

/// The files that the settings name.
pub(super) fn named(config: &Config) -> Vec<Named<'_>> {
    let dnstap = match &config.dnstap.output {
        Some(DnstapTarget::File(path)) => Some(path),
        _ => None,
    };
    let mut named = Vec::new();
    let mut add = |key, item, path, to| {
        named.push(Named {
            key,
            item,
            path,
            to,
        });
    };
    add("control", 0, config.control.as_path(), Use::Write);
    for (key, path, to) in [
        ("cache.snapshot", config.cache.snapshot.as_ref(), Use::Write),
        ("dnstap.output", dnstap, Use::Write),
        ("query-log.file", config.query_log.file.as_ref(), Use::Write),
        (
            "forward.tls-roots",
            config.forward.tls_roots.as_ref(),
            Use::Read,
        ),
        (
            "tls.certificate",
            config.tls.certificate.as_ref(),
            Use::Read,
        ),
        ("tls.key", config.tls.key.as_ref(), Use::Read),
    ] {
        if let Some(path) = path {
            add(key, 0, path.as_path(), to);
        }
    }
    for (item, path) in config.local.hosts.iter().enumerate() {
        add("local.hosts", item, path.as_path(), Use::Read);
    }
    for (item, list) in config.blocklists.iter().enumerate() {
        add("blocklist.file", item, list.file.as_path(), Use::Read);
    }
    named
}

/// The directories of a path: that of the name, and that of the file if the name is a link.
fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    let of_name = std::path::absolute(path).ok();
    let of_name = of_name.and_then(|path| fs::canonicalize(path.parent()?).ok());
    let target = fs::canonicalize(path).ok();
    let of_target = target.and_then(|path| Some(path.parent()?.to_owned()));
    of_name.into_iter().chain(of_target)
}

/// The directory of a path that exists, or the closest one above it.
fn closest(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors()
        .skip(1)
        .find_map(|directory| fs::canonicalize(directory).ok())
}

/// A file, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
        })
    }
}

/// What is read.
#[derive(Debug, Default)]
struct Readable {
    directories: BTreeSet<PathBuf>,
    /// Those of shared directories.
    files: BTreeMap<PathBuf, Identity>,
}

impl Readable {
    /// Adds the directories of a path; of a shared one the file alone, if it exists.
    fn add(&mut self, path: &Path) {
        for directory in directories(path) {
            if !is_shared(&directory) {
                self.directories.insert(directory);
            } else if let Ok(file) = fs::canonicalize(path)
                && let Some(identity) = Identity::of(&file)
            {
                self.files.insert(file, identity);
            }
        }
    }

    /// The paths of the rules.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let paths = self.directories.iter().chain(self.files.keys());
        paths.map(PathBuf::as_path)
    }
}

/// A directory, and the files that links in it lead to, as far as they are not beneath [`SYSTEM`]'s.
fn link_targets(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| {
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        is_link.then(|| fs::canonicalize(entry.path()).ok())?
    });
    let of_itself = fs::canonicalize(directory).ok();
    let is_closed = |path: &PathBuf| !SYSTEM.iter().any(|open| path.starts_with(open));
    of_itself
        .into_iter()
        .chain(targets)
        .filter(is_closed)
        .collect()
}

/// The directories in this variable of the environment, with `:` between them.
fn split(lists: Option<&OsStr>) -> impl Iterator<Item = PathBuf> {
    lists.into_iter().flat_map(env::split_paths)
}

/// Makes the control socket's directory if it does not exist, for this user if one is given: rules are for
/// directories that exist. An error shows when the socket is made.
pub(super) fn prepare(config: &Config, user: Option<(Uid, Gid)>) {
    let Some(directory) = config.control.parent() else {
        return;
    };
    if directory.exists() {
        return;
    }
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o755).create(directory);
    if let (Ok(()), Some((uid, gid))) = (made, user) {
        let _ = chown(directory, Some(uid.as_raw()), Some(gid.as_raw()));
    }
}

/// The directories and files that the process may use. All else is closed to it.
#[derive(Debug)]
pub(super) struct Files {
    read: Readable,
    write: BTreeSet<PathBuf>,
    /// The kernel knows all that is handled.
    fully: bool,
}

impl Files {
    /// Restricts the process to the files of the settings. `file`: the settings file.
    ///
    /// # Errors
    /// Why it cannot, or the kernel does not.
    pub(super) fn restrict(config: &Config, file: Option<&Path>) -> Result<Self, String> {
        let named = named(config);
        let of = |to| {
            let paths = named.iter().filter(move |named| named.to == to);
            paths.map(|named| named.path)
        };
        // Where rustls-native-certs looks if they are set.
        let [bundle, lists] = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(env::var_os);
        let bundle = bundle.as_deref().map(Path::new);
        let mut read = Readable::default();
        for path in of(Use::Read).chain(file).chain(bundle) {
            read.add(path);
        }
        read.directories.extend(split(lists.as_deref()));
        let roots = ROOTS.into_iter().map(Path::new).flat_map(link_targets);
        read.directories.extend(roots);
        read.directories.extend(env::current_exe());
        let mut write: BTreeSet<PathBuf> = of(Use::Write).flat_map(directories).collect();
        // Blocklists are sorted in temporary files.
        write.extend(fs::canonicalize(env::temp_dir()));
        let status = enforce(&read, &write).map_err(|error| error.to_string())?;
        match status {
            RulesetStatus::NotEnforced => Err(
                "the kernel has no Landlock, or it is not among its security modules (lsm=)"
                    .to_owned(),
            ),
            status => Ok(Self {
                read,
                write,
                fully: status == RulesetStatus::FullyEnforced,
            }),
        }
    }

    /// Why the process cannot read a file that no setting names, if that is the sandbox.
    pub(super) fn unreadable(&self, path: &Path) -> Option<String> {
        self.closed(&Named {
            key: "",
            item: 0,
            path,
            to: Use::Read,
        })
    }

    /// Why the process cannot use a file, if that is the sandbox.
    pub(super) fn closed(&self, named: &Named<'_>) -> Option<String> {
        let target = fs::canonicalize(named.path).ok();
        let of_target = target.as_deref().and_then(Path::parent);
        let (open, directory) = match (named.to, &target) {
            (Use::Read, Some(file)) => (self.lets_read(file), of_target?.to_owned()),
            // Without a directory the path is wrong, and its use says so.
            (Use::Read, None) => {
                let directory = directories(named.path).next()?;
                (self.lets_read(&directory), directory)
            }
            // It would make one, or there was none at the start.
            (Use::Write, _) => {
                let directory = closest(named.path)?;
                let opens = |directory: &Path| self.lets_write(directory);
                (opens(&directory) && of_target.is_none_or(opens), directory)
            }
        };
        let shared = named.to == Use::Read && is_shared(&directory);
        let why = match shared {
            true => format!(
                "which was not there at the start, or was replaced: of {} it reads no other files",
                directory.display()
            ),
            false => "in a directory that is new to it".to_owned(),
        };
        (!open).then_some(why)
    }

    fn lets_read(&self, path: &Path) -> bool {
        let system = SYSTEM.iter().map(Path::new);
        let read = self.read.directories.iter().map(PathBuf::as_path);
        let mut directories = read.chain(system);
        let is_same = |opened: &Identity| Identity::of(path).as_ref() == Some(opened);
        directories.any(|open| path.starts_with(open))
            || self.read.files.get(path).is_some_and(is_same)
            || self.lets_write(path)
    }

    fn lets_write(&self, path: &Path) -> bool {
        self.write.iter().any(|open| path.starts_with(open))
    }

    /// What follows for the operator from directories in which others keep files, too.
    pub(super) fn notes(&self) -> Vec<String> {
        let alone = self.read.files.keys().map(|file| {
            format!(
                "{} is read by itself, without its directory: if another file replaces it, as editors do, that is read \
                 after a restart",
                file.display()
            )
        });
        let shared = self.write.iter().filter(|directory| is_shared(directory));
        let shared = shared.map(|directory| {
            format!(
                "all of {} can be written; give the files there a directory of their own",
                directory.display()
            )
        });
        alone.chain(shared).collect()
    }

    /// Whether the kernel restricts all kinds of access that are handled.
    pub(super) fn fully(&self) -> bool {
        self.fully
    }

    /// `restricted`, or `partly` on a kernel that lacks some of it.
    pub(super) fn state(&self) -> &'static str {
        match self.fully {
            true => "restricted",
            false => "partly",
        }
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<'a>(paths: impl Iterator<Item = &'a Path>) -> String {
            let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
            paths.join(", ")
        }
        let read = list(self.read.paths());
        let write = list(self.write.iter().map(PathBuf::as_path));
        write!(
            f,
            "files left: read {read} and the system's own; write {write}"
        )?;
        match self.fully {
            true => Ok(()),
            false => f.write_str("; this kernel restricts some kinds of access only"),
        }
    }
}

fn enforce(read: &Readable, write: &BTreeSet<PathBuf>) -> Result<RulesetStatus, RulesetError> {
    let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = reading
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile;
    // What does not exist gets no rule.
    let status = landlock::Ruleset::default()
        .handle_access(AccessFs::from_all(LEVEL))?
        // It signals no other process.
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(read.paths(), reading))?
        .add_rules(path_beneath_rules(SYSTEM, reading))?
        .add_rules(path_beneath_rules(write, writing))?
        .add_rules(path_beneath_rules(DEVICES, writing))?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests;
