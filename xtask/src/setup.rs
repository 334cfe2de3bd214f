//! What the tools need on the machine, and its installation.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::workspace;

/// A file that shows that a Debian package is installed, and the package.
type Need = (&'static str, &'static str);

/// To build Heimdall; all but the compiler are for libxdp and libbpf, which xsk-rs compiles.
/// docs/packages.md says what each is for.
pub(crate) const BUILD: &[Need] = &[
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/clang", "clang"),
    ("/usr/bin/m4", "m4"),
    ("/usr/bin/make", "make"),
    ("/usr/bin/pkg-config", "pkg-config"),
    ("/usr/include/libelf.h", "libelf-dev"),
];

/// To make what is published: the package, the archives, the image.
pub(crate) const DIST: &[Need] = &[
    ("/usr/bin/objcopy", "binutils"),
    ("/usr/bin/dpkg-shlibdeps", "dpkg-dev"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ("/usr/bin/git", "git"),
];

/// To test it in roots of its own.
pub(crate) const DIST_TEST: &[Need] = &[
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/sbin/ipvsadm", "ipvsadm"),
    ("/usr/bin/lintian", "lintian"),
    ("/usr/bin/skopeo", "skopeo"),
    ("/usr/bin/umoci", "umoci"),
];

/// To make the lab and ask questions in it.
pub(crate) const LAB: &[Need] = &[
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/ethtool", "ethtool"),
    ("/usr/sbin/knotd", "knot"),
    ("/usr/bin/kdig", "knot-dnsutils"),
    ("/usr/sbin/kxdpgun", "knot-dnsutils"),
    ("/usr/bin/dnsperf", "dnsperf"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/strace", "strace"),
    ("/usr/bin/systemd-analyze", "systemd"),
    ("/usr/bin/tmux", "tmux"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/faketime", "faketime"),
    ("/usr/sbin/xdp-filter", "xdp-tools"),
];

/// Routing daemons, for the commands that the book runs and for `anycast`.
pub(crate) const BOOK: &[Need] = &[
    ("/usr/sbin/bird", "bird2"),
    ("/usr/lib/frr/bgpd", "frr"),
    ("/usr/bin/jq", "jq"),
];

/// The resolvers that Heimdall is compared with.
pub(crate) const PEERS: &[Need] = &[
    ("/usr/sbin/unbound", "unbound"),
    ("/usr/sbin/dnsmasq", "dnsmasq-base"),
];

/// More of them, of which only rates are compared.
pub(crate) const RESOLVERS: &[Need] = &[
    ("/usr/bin/dnsdist", "dnsdist"),
    ("/usr/sbin/kresd", "knot-resolver"),
    ("/usr/sbin/pdns_recursor", "pdns-recursor"),
    ("/usr/sbin/nsd", "nsd"),
];

/// Servers that end-to-end tests have as upstreams.
pub(crate) const UPSTREAMS: &[Need] = &[
    ("/usr/sbin/unbound", "unbound"),
    ("/usr/sbin/kresd", "knot-resolver"),
    ("/usr/sbin/named", "bind9"),
    ("/usr/bin/dnsdist", "dnsdist"),
];

/// Packages that come with a service, which Debian starts at once.
const SERVICES: &[(&str, &str)] = &[
    ("bind9", "named"),
    ("bird2", "bird"),
    ("dnsdist", "dnsdist"),
    ("frr", "frr"),
    ("knot", "knot"),
    ("knot-resolver", "kresd.target"),
    ("nsd", "nsd"),
    ("pdns-recursor", "pdns-recursor"),
    ("prometheus", "prometheus"),
    ("unbound", "unbound"),
];

/// For captures of tests.
pub(crate) const CAPTURE: &[Need] = &[
    ("/usr/bin/tcpdump", "tcpdump"),
    ("/usr/bin/tshark", "tshark"),
];

/// To check metrics, alert rules and the dashboard.
pub(crate) const METRICS: &[Need] = &[
    ("/usr/bin/prometheus", "prometheus"),
    ("/usr/bin/promtool", "prometheus"),
];

/// Readers of dnstap that others wrote.
pub(crate) const DNSTAP: &[Need] = &[
    ("/usr/bin/fstrm_capture", "fstrm-bin"),
    ("/usr/bin/dnstap-ldns", "dnstap-ldns"),
];

/// To check man pages and completions.
pub(crate) const MANUAL: &[Need] = &[
    ("/usr/bin/groff", "groff-base"),
    ("/usr/bin/zsh", "zsh"),
    ("/usr/bin/fish", "fish"),
];

/// For the tests and screenshots of the status page.
pub(crate) const BROWSER: &[Need] = &[("/usr/bin/chromium", "chromium")];

/// For counting instructions.
pub(crate) const COUNT: &[Need] = &[("/usr/bin/valgrind", "valgrind")];

/// To unpack Debian's kernels, and to boot them in guests.
pub(crate) const GUEST: &[Need] = &[
    ("/usr/sbin/depmod", "kmod"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/unshare", "util-linux"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
];

/// To compile for aarch64.
pub(crate) const CROSS: &[Need] = &[
    ("/usr/bin/aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    (
        "/usr/aarch64-linux-gnu/include/stdio.h",
        "libc6-dev-arm64-cross",
    ),
];

/// What to do about missing packages.
#[derive(Args, Clone, Copy)]
pub(crate) struct Setup {
    /// Install nothing: name what is missing, and stop
    #[arg(long, global = true)]
    no_install: bool,
}

impl Setup {
    /// Installs the packages that are missing.
    pub(crate) fn packages(self, needs: &[&[Need]]) -> Result<()> {
        let mut missing: Vec<&str> = needs
            .iter()
            .copied()
            .flatten()
            .filter(|(file, _)| !Path::new(file).exists())
            .map(|(_, package)| *package)
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let list = missing.join(" ");
        let has_apt = Path::new("/usr/bin/apt-get").exists();
        if self.no_install || !nix::unistd::geteuid().is_root() || !has_apt {
            bail!("not installed: {list}; as root: apt-get install --no-install-recommends {list}");
        }
        install(&missing)?;
        // Debian starts a server when it installs it; here only the program is wanted, and port 53
        // of this machine stays as it was.
        if Path::new("/run/systemd/system").exists() {
            for (package, service) in SERVICES {
                if missing.contains(package) {
                    println!("stopping and disabling the service that {package} has started");
                    run(Command::new("systemctl").args(["disable", "--now", "--quiet", service]))?;
                }
            }
        }
        Ok(())
    }

    /// Whether tools may install what they need.
    pub(crate) fn may_install(self) -> bool {
        !self.no_install
    }
}

/// Installs Debian packages, and says which.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Where services are started by scripts: this level has none.
            .env("RUNLEVEL", "1")
            .arg("--quiet=2");
        command
    };
    println!("installing with apt-get: {}", packages.join(" "));
    run(apt().arg("update"))?;
    run(apt()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages))
}

/// Cargo, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Builds `heimdall` as users would; its path.
pub(crate) fn build_heimdall() -> Result<PathBuf> {
    build("--package heimdall-user --bin heimdall", "heimdall")
}

/// The heimdall to run: the one that the user has named, or a new build.
pub(crate) fn heimdall(program: Option<&Path>) -> Result<PathBuf> {
    match program {
        Some(program) => program
            .canonicalize()
            .with_context(|| format!("--program {}", program.display())),
        None => build_heimdall(),
    }
}

/// Builds a program of `benches`; its path.
pub(crate) fn build_bench(name: &str) -> Result<PathBuf> {
    build(&format!("--package benches --bin {name}"), name)
}

fn build(what: &str, name: &str) -> Result<PathBuf> {
    run(cargo()
        .args(["build", "--locked", "--release"])
        .args(what.split(' ')))?;
    Ok(workspace().join("target/release").join(name))
}

/// Whether a command can be run and succeeds; its output is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command that shows its own output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn documents_name_the_packages_that_a_build_needs() {
        let packages: Vec<&str> = BUILD.iter().map(|(_, package)| *package).collect();
        let packages = format!(" {}\n", packages.join(" "));
        for document in ["README.md", "CONTRIBUTING.md", "docs/packages.md"] {
            let text = fs::read_to_string(workspace().join(document)).unwrap();
            let mut commands = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("apt-get install"));
            let command = commands.next().unwrap();
            let command = format!("{}\n", command.replace(" --no-install-recommends", ""));
            assert_eq!(command, packages, "{document}");
        }
    }
}
