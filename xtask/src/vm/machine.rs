//! The guest: a machine of qemu's with two NICs that are connected to each other.
//!
//! The guest sees the host's file system, which it cannot write to. Its first serial port is the kernel's console, which
//! is kept in a file, and what comes from the second, which are messages ([`super::report`]), in another.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use lab::Process;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{Plan, initramfs, kernel::Kernel, report::Message, tools::Tools};
use crate::stop::Stop;

/// Processors. On fewer of them than queues virtio_net has to share queues for XDP.
pub(super) const PROCESSORS: usize = 2;
/// Queues that a NIC is used with, unless a check changes that.
pub(super) const QUEUES: usize = 2;
/// MiB.
const MEMORY: usize = 2048;

/// How long a guest may say nothing.
const SILENCE: Duration = Duration::from_secs(300);

/// What a kernel without a terminal, and without a need to protect itself, is told.
const KERNEL: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off";

const TAPS: &str = include_str!("taps.sh");

/// The NICs of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(super) enum Nic {
    /// virtio_net, with the IOMMU's addresses, without which it has no zero-copy
    Virtio,
    /// virtio_net with more queue pairs than processors, of which the driver adds some for XDP
    VirtioSpare,
    /// Intel's 82576
    Igb,
}

impl Nic {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::VirtioSpare => "virtio-spare",
            Self::Igb => "igb",
        }
    }

    /// The module of the kernel that drives it.
    pub(super) fn driver(self) -> &'static str {
        match self {
            Self::Virtio | Self::VirtioSpare => "virtio_net",
            Self::Igb => "igb",
        }
    }

    /// Queue pairs that the driver adds while a program is attached: one for each processor, if there are as many to spare.
    pub(super) fn added_pairs(self) -> usize {
        match self {
            Self::VirtioSpare => PROCESSORS,
            Self::Virtio | Self::Igb => 0,
        }
    }

    /// qemu's options for the number-th NIC.
    fn options(self, number: usize) -> [String; 6] {
        let (backend, device) = match self {
            Self::Virtio | Self::VirtioSpare => {
                let pairs = QUEUES + self.added_pairs();
                (
                    format!(
                        "tap,ifname=tap{number},script=no,downscript=no,queues={pairs},vhost=off"
                    ),
                    // A vector for each queue, one for the configuration and one for the control queue.
                    format!(
                        "virtio-net-pci,mq=on,vectors={},iommu_platform=on,disable-legacy=on",
                        2 * pairs + 2
                    ),
                )
            }
            Self::Igb => ("hubport,hubid=0".to_owned(), "igb".to_owned()),
        };
        [
            "-netdev".to_owned(),
            format!("{backend},id=net{number}"),
            "-device".to_owned(),
            // A second igb on the root bus does not work.
            format!("pcie-root-port,id=port{number},chassis={}", number + 1),
            "-device".to_owned(),
            format!(
                "{device},bus=port{number},netdev=net{number},mac=52:54:00:53:00:0{number},romfile="
            ),
        ]
    }
}

/// A machine that can be started.
pub(super) struct Machine<'a> {
    pub(super) tools: &'a Tools,
    pub(super) kernel: &'a Kernel,
    pub(super) nic: Nic,
    /// Of what it leaves behind.
    pub(super) directory: PathBuf,
}

impl Machine<'_> {
    /// Starts it, passes its messages on as they come, and waits for its end.
    ///
    /// # Errors
    /// It does not start, or ends without having said that all was run; the error has the end of its console.
    pub(super) fn run(
        &self,
        plan: &Plan,
        stop: &Stop,
        mut message: impl FnMut(Message),
    ) -> Result<()> {
        let _only_one = self.lock()?;
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        fs::create_dir_all(&self.directory)?;
        let initramfs = initramfs::make(self.tools, self.kernel, plan, &self.directory)?;
        let mut process = Process::start(&mut self.command(&initramfs))?;
        let mut heard = Instant::now();
        let mut read = 0;
        loop {
            let ended = process.wait(Duration::from_millis(200)).is_ok();
            let messages = fs::read(self.messages_path()).unwrap_or_default();
            let new = &messages[read..];
            let complete = new
                .iter()
                .rposition(|octet| *octet == b'\n')
                .map_or(0, |at| at + 1);
            read += complete;
            for line in new[..complete].split(|octet| *octet == b'\n') {
                heard = Instant::now();
                match serde_json::from_slice(line) {
                    Ok(Message::End) => return Ok(()),
                    Ok(received) => message(received),
                    Err(_) if line.trim_ascii().is_empty() => {}
                    Err(error) => {
                        let line = String::from_utf8_lossy(line);
                        bail!("a message that is none: {error}: {line}");
                    }
                }
            }
            stop.check()?;
            if ended || heard.elapsed() > SILENCE {
                let how = if ended { "ended" } else { "became silent" };
                let (output, console) = (process.output(), self.console());
                bail!("the guest {how} before all was run:\n{output}{console}");
            }
        }
    }

    fn command(&self, initramfs: &Path) -> Command {
        let mut qemu = self.tools.qemu();
        let (accelerator, processor) = match has_kvm() {
            true => ("kvm", "host"),
            false => ("tcg,thread=multi", "max,la57=off"),
        };
        qemu.args(["-machine", "q35", "-accel", accelerator, "-cpu", processor])
            .args(["-smp", &PROCESSORS.to_string(), "-m", &MEMORY.to_string()])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", KERNEL])
            .arg("-serial")
            .arg(format!("file:{}", self.console_path().display()))
            .arg("-serial")
            .arg(format!("file:{}", self.messages_path().display()))
            .args([
                "-fsdev",
                "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            ])
            .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        for number in 0..2 {
            qemu.args(self.nic.options(number));
        }
        if self.nic == Nic::Igb {
            return qemu;
        }
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--net", "sh", "-eu", "-c", TAPS, "sh"])
            .arg(qemu.get_program())
            .args(qemu.get_args());
        for (name, value) in qemu.get_envs() {
            unshare.env(name, value.unwrap_or_default());
        }
        unshare
    }

    /// Keeps other runs out of the directory.
    fn lock(&self) -> Result<Flock<File>> {
        let path = self.directory.with_extension("lock");
        fs::create_dir_all(path.parent().context("no directory")?)?;
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        lock.map_err(|_| {
            anyhow!(
                "{} is in use: another `cargo xtask vm` runs the same guest",
                self.directory.display()
            )
        })
    }

    fn console_path(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    fn messages_path(&self) -> PathBuf {
        self.directory.join("messages")
    }

    /// The end of what the kernel wrote, and where all of it is.
    fn console(&self) -> String {
        let path = self.console_path();
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("{end}\n(the end of {})", path.display())
    }
}

/// Whether guests can run on the processor itself. A /dev/kvm of a processor without VMX and SVM is that of a
/// hypervisor that starts only kernels made for it.
fn has_kvm() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let supported = processor
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    supported && OpenOptions::new().write(true).open("/dev/kvm").is_ok()
}
