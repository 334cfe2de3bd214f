//! The systemd unit: a server under exactly its limits, without systemd, and what `systemd-analyze security` says of it.
//!
//! systemd sets the limits from the unit's lines. Here each is set as systemd.exec(5) describes it: capabilities and the user by
//! setpriv(1), files by mounts in a namespace, system calls by the same filters. It needs Debian's package systemd for the
//! groups of system calls.
#![cfg(target_arch = "x86_64")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use lab::{Knot, Lab, Process, SERVER_V4, UPSTREAM};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        signal::Signal,
        stat::{Mode, SFlag, makedev, mknod},
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde_json::Value;

use crate::{
    lab, program,
    recover::{TIMEOUT, kdig},
};

/// The user and group that the server runs as.
const USER: u32 = 65_534;

/// A file of the repository.
fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    path.to_str().unwrap().to_owned()
}

/// Keys of lines that limit nothing here: they say how systemd starts, watches and keeps the service, give a user of its own
/// where the test has one, raise limits, or hold for what is not there (calls of other architectures).
const WITHOUT_LIMITS: [&str; 21] = [
    "After",
    "Description",
    "DynamicUser",
    "Environment",
    "ExecReload",
    "ExecStart",
    "ExecStopPost",
    "FileDescriptorStoreMax",
    "LimitMEMLOCK",
    "LimitNOFILE",
    "PrivateMounts",
    "Restart",
    "RestartSec",
    "StartLimitIntervalSec",
    "SystemCallArchitectures",
    "TimeoutStopSec",
    "Type",
    "UMask",
    "WantedBy",
    "Wants",
    "WatchdogSec",
];

/// Keys of lines of which each is brought about below.
const LIMITS: [&str; 25] = [
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "LockPersonality",
    "LogsDirectory",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateTmp",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "RuntimeDirectory",
    "StateDirectory",
    "SystemCallErrorNumber",
    "SystemCallFilter",
];

/// The unit's lines, by their keys. A key that is there twice has both values.
fn unit() -> BTreeMap<String, String> {
    let text = fs::read_to_string(repository("deploy/heimdall.service")).unwrap();
    let mut values = BTreeMap::<String, String>::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for (key, value) in lines.filter_map(|line| line.split_once('=')) {
        let values = values.entry(key.to_owned()).or_default();
        values.push_str(value);
        values.push(' ');
    }
    for key in values.keys() {
        let is_known = LIMITS.contains(&&**key) || WITHOUT_LIMITS.contains(&&**key);
        assert!(
            is_known,
            "{key}: bring about what it limits, and name it here"
        );
    }
    values
}

/// The words of a key's value.
fn words<'a>(unit: &'a BTreeMap<String, String>, key: &str) -> Vec<&'a str> {
    unit[key].split_whitespace().collect()
}

/// The system calls of a group, or the call itself.
fn calls(name: &str, into: &mut BTreeSet<String>) {
    if !name.starts_with('@') {
        into.insert(name.to_owned());
        return;
    }
    let mut command = Command::new("systemd-analyze");
    let text = lab::run(command.args(["--no-pager", "syscall-filter", name])).unwrap();
    let lines = text.lines().skip(1).map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        calls(line, into);
    }
}

/// The numbers of these calls. Some are of other architectures.
fn numbers(names: &BTreeSet<String>) -> Vec<i64> {
    let header = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";
    let text = fs::read_to_string(header).unwrap();
    let known = text.lines().filter_map(|line| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name, number.trim().parse().ok()?))
    });
    let known: Vec<(&str, i64)> = known.collect();
    let listed = known.into_iter().filter(|(name, _)| names.contains(*name));
    listed.map(|(_, number)| number).collect()
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(rules: Rules, otherwise: SeccompAction, then: SeccompAction) -> BpfProgram {
    let filter = SeccompFilter::new(rules, otherwise, then, TargetArch::x86_64).unwrap();
    BpfProgram::try_from(filter).unwrap()
}

/// A filter that denies what these rules match.
fn denied(rules: impl IntoIterator<Item = (i64, Vec<SeccompRule>)>, error: i32) -> BpfProgram {
    let error = SeccompAction::Errno(error as u32);
    filter(rules.into_iter().collect(), SeccompAction::Allow, error)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: i32) -> SeccompCondition {
    let value = u64::from(value as u32);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).unwrap()
}

fn rule(conditions: impl IntoIterator<Item = SeccompCondition>) -> Vec<SeccompRule> {
    vec![SeccompRule::new(conditions.into_iter().collect()).unwrap()]
}

/// Whether all bits of a mask are set in an argument.
fn has(argument: u8, mask: i32) -> SeccompCondition {
    condition(argument, SeccompCmpOp::MaskedEq(mask as u64), mask)
}

/// The filters that systemd makes of the unit's lines.
fn filters(unit: &BTreeMap<String, String>) -> Vec<BpfProgram> {
    let yes = |key: &str| assert_eq!(words(unit, key), ["yes"], "{key}");
    let mut allowed = BTreeSet::new();
    for name in words(unit, "SystemCallFilter") {
        calls(name, &mut allowed);
    }
    assert_eq!(words(unit, "SystemCallErrorNumber"), ["EPERM"]);
    // What systemd always allows, to start the program.
    calls("@default", &mut allowed);
    let allowed = numbers(&allowed).into_iter().map(|call| (call, Vec::new()));
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    let list = filter(allowed.collect(), eperm, SeccompAction::Allow);

    let families = words(unit, "RestrictAddressFamilies")
        .into_iter()
        .map(|name| {
            let family = match name {
                "AF_INET" => libc::AF_INET,
                "AF_INET6" => libc::AF_INET6,
                "AF_UNIX" => libc::AF_UNIX,
                "AF_NETLINK" => libc::AF_NETLINK,
                "AF_XDP" => libc::AF_XDP,
                other => panic!("{other}"),
            };
            condition(0, SeccompCmpOp::Ne, family)
        });
    let families = denied([(libc::SYS_socket, rule(families))], libc::EAFNOSUPPORT);

    yes("MemoryDenyWriteExecute");
    let exec = libc::PROT_EXEC;
    let memory = denied(
        [
            (
                libc::SYS_mmap,
                rule([has(2, exec), has(2, libc::PROT_WRITE)]),
            ),
            (libc::SYS_mprotect, rule([has(2, exec)])),
            (libc::SYS_pkey_mprotect, rule([has(2, exec)])),
            (libc::SYS_shmat, rule([has(2, libc::SHM_EXEC)])),
        ],
        libc::EPERM,
    );
    yes("RestrictNamespaces");
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let clone = namespaces.into_iter().flat_map(|kind| rule([has(0, kind)]));
    let namespaces = denied(
        [
            (libc::SYS_clone, clone.collect()),
            (libc::SYS_unshare, Vec::new()),
            (libc::SYS_setns, Vec::new()),
        ],
        libc::EPERM,
    );
    let clone3 = denied([(libc::SYS_clone3, Vec::new())], libc::ENOSYS);
    yes("RestrictRealtime");
    let realtime = rule([condition(1, SeccompCmpOp::Ne, libc::SCHED_OTHER)]);
    yes("RestrictSUIDSGID");
    let special = |argument| [libc::S_ISUID, libc::S_ISGID].map(|bit| has(argument, bit as i32));
    let special = |argument| -> Vec<SeccompRule> {
        special(argument)
            .into_iter()
            .flat_map(|bit| rule([bit]))
            .collect()
    };
    yes("LockPersonality");
    let others = denied(
        [
            (libc::SYS_sched_setscheduler, realtime),
            (libc::SYS_chmod, special(1)),
            (libc::SYS_fchmod, special(1)),
            (libc::SYS_fchmodat, special(2)),
            (libc::SYS_personality, Vec::new()),
        ],
        libc::EPERM,
    );
    let mut names = BTreeSet::new();
    for (key, groups) in [
        ("ProtectClock", ["@clock"].as_slice()),
        ("ProtectKernelModules", &["@module"]),
        ("ProtectKernelLogs", &["syslog"]),
        ("ProtectHostname", &["sethostname", "setdomainname"]),
    ] {
        yes(key);
        groups.iter().for_each(|group| calls(group, &mut names));
    }
    let protected = numbers(&names).into_iter().map(|call| (call, Vec::new()));
    // Last what each of them needs itself.
    vec![
        families,
        memory,
        namespaces,
        clone3,
        others,
        denied(protected, libc::EPERM),
        list,
    ]
}

/// The unit's mounts, with the server's files in /mnt. The directories of the unit are those in it.
const MOUNTS: &str = r#"
cd /
mount --bind "$0" /mnt
for directory in run lib log; do mount --bind /mnt/$directory /mnt/$directory; done
# PrivateDevices
mount --bind /mnt/dev /dev
# ProtectSystem=strict
mount -o remount,bind,ro /
mount -o remount,bind,ro /mnt
# PrivateTmp
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /var/tmp
# ProtectHome
mount -t tmpfs -o mode=0000,ro tmpfs /home
mount -t tmpfs -o mode=0000,ro tmpfs /root
# ProtectProc=invisible
mount -t proc -o hidepid=invisible proc /proc
# ProtectKernelTunables, ProtectControlGroups
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /sys
echo mounted
exec sleep 300
"#;

/// The server's files, and a process that keeps the unit's mounts.
struct Root {
    directory: tempfile::TempDir,
    mounts: Process,
}

impl Root {
    fn new(lab: &Lab, unit: &BTreeMap<String, String>) -> Self {
        for (key, value) in [
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
            ("PrivateDevices", "yes"),
            ("ProtectProc", "invisible"),
            ("ProtectKernelTunables", "yes"),
            ("ProtectControlGroups", "yes"),
            ("RuntimeDirectory", "heimdall"),
            ("StateDirectory", "heimdall"),
            ("LogsDirectory", "heimdall"),
        ] {
            assert_eq!(words(unit, key), [value], "{key}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        lab::copy_program(program(), &path.join("heimdall")).unwrap();
        for name in ["run", "lib", "log"] {
            fs::create_dir(path.join(name)).unwrap();
            chown(path.join(name), Some(USER), Some(USER)).unwrap();
        }
        fs::create_dir(path.join("dev")).unwrap();
        for (name, minor) in [
            ("null", 3),
            ("zero", 5),
            ("full", 7),
            ("random", 8),
            ("urandom", 9),
        ] {
            let node = path.join("dev").join(name);
            mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(1, minor)).unwrap();
            fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let mut command = lab.on_server("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-e",
            "-c",
            MOUNTS,
        ]);
        let mut mounts = Process::start(command.arg(path)).unwrap();
        mounts.wait_for("mounted", TIMEOUT).unwrap();
        Self { directory, mounts }
    }

    /// A command under the limits of the unit.
    fn command(&self, unit: &BTreeMap<String, String>) -> Command {
        let capabilities = words(unit, "AmbientCapabilities");
        assert_eq!(capabilities, words(unit, "CapabilityBoundingSet"));
        let names = capabilities
            .iter()
            .map(|name| name.trim_start_matches("CAP_").to_lowercase());
        let only: String = ["-all".to_owned()]
            .into_iter()
            .chain(names.map(|name| format!(",+{name}")))
            .collect();
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                &USER.to_string(),
                "--regid",
                &USER.to_string(),
                "--clear-groups",
            ])
            .args([
                "--no-new-privs",
                "--bounding-set",
                &only,
                "--inh-caps",
                &only,
            ])
            .args(["--ambient-caps", &only, "--", "/mnt/heimdall"]);
        let namespace =
            |kind| File::open(format!("/proc/{}/ns/{kind}", self.mounts.pid())).unwrap();
        let (net, mnt) = (namespace("net"), namespace("mnt"));
        let filters = filters(unit);
        let limit = move || -> io::Result<()> {
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            setns(&mnt, CloneFlags::CLONE_NEWNS)?;
            for filter in &filters {
                seccompiler::apply_filter(filter).map_err(|_| io::ErrorKind::Other)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(limit) };
        command
    }
}

#[test]
fn the_server_works_under_exactly_the_limits_of_the_unit() {
    let Some(lab) = lab("the_server_works_under_the_limits") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let unit = unit();
    let root = Root::new(&lab, &unit);
    let path = root.directory.path();
    let settings = format!(
        "interface = [{:?}]\nbackend = \"xdp\"\nlisten = [\"{SERVER_V4}:53\"]\nupstream = [\"{UPSTREAM}\"]\n\
         [cache]\nsnapshot = \"/mnt/lib/cache.snapshot\"\n[query-log]\nsample = \"1/1\"\nfile = \"/mnt/log/queries.json\"\n",
        lab.server_if
    );
    fs::write(path.join("heimdall.toml"), settings).unwrap();
    let control = path.join("run/control.sock");
    let mut command = root.command(&unit);
    command.args([
        "run",
        "--config",
        "/mnt/heimdall.toml",
        "--control",
        "/mnt/run/control.sock",
    ]);
    let mut process = Process::start(&mut command).unwrap();
    process.wait_for("ready: AF_XDP", TIMEOUT).unwrap();
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args(arguments).arg("--control").arg(&control);
        lab::run(&mut command).unwrap()
    };
    for name in ["n1.example.com", "n2.example.com"] {
        assert_eq!(
            kdig(&lab, SERVER_V4, name),
            "NOERROR",
            "{}",
            process.output()
        );
    }
    // An interface that returns is attached to again.
    let stats: Value = serde_json::from_str(&ask(&["stats", "--json"])).unwrap();
    assert_eq!(stats["backend"], "xdp", "{stats:#}");
    let sandbox = &stats["sandbox"];
    let mut kept: Vec<String> = serde_json::from_value(sandbox["capabilities"].clone()).unwrap();
    kept.iter_mut().for_each(|name| name.insert_str(0, "CAP_"));
    let mut given = words(&unit, "AmbientCapabilities");
    given.sort_unstable();
    assert_eq!(kept, given);
    assert!(sandbox["system_calls"].as_u64() > Some(50), "{sandbox}");
    ask(&["reload"]);
    assert_eq!(kdig(&lab, SERVER_V4, "n3.example.com"), "NOERROR");
    process.signal(Signal::SIGTERM).unwrap();
    let status = process.wait(TIMEOUT).unwrap();
    let log = process.output();
    assert!(status.success(), "{log}");
    for refused in ["not permitted", "denied", "Read-only", "WARN sandbox"] {
        assert!(!log.contains(refused), "{log}");
    }
    for file in ["lib/cache.snapshot", "log/queries.json"] {
        assert!(fs::metadata(path.join(file)).unwrap().len() > 0, "{file}");
    }
}

#[test]
fn the_exposure_of_the_unit_is_as_documented() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // Each version weighs more of a unit's lines.
    if !version.is_ok_and(|version| version.starts_with("systemd 252")) {
        eprintln!("the_exposure_of_the_unit: skipped, it needs systemd 252");
        return;
    }
    let mut command = Command::new("systemd-analyze");
    command.args(["--no-pager", "security", "--offline=true"]);
    let text = lab::run(command.arg(repository("deploy/heimdall.service"))).unwrap();
    let (_, level) = text
        .split_once("Overall exposure level for heimdall.service: ")
        .unwrap();
    let level = level.split_whitespace().next().unwrap();
    let documented = fs::read_to_string(repository("docs/security-model.md")).unwrap();
    let expected = format!("exposure level {level} ");
    assert!(
        documented.contains(&expected),
        "not in docs/security-model.md: {expected}"
    );
}
