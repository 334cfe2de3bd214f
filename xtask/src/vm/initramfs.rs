//! The guest's initramfs: busybox, the modules that the host's file system takes, and the plan.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{Plan, kernel::Kernel, tools::Tools};

const INIT: &str = include_str!("init.sh");

/// For the host's file system and the layer over it.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Makes one in a directory.
pub(super) fn make(
    tools: &Tools,
    kernel: &Kernel,
    plan: &Plan,
    directory: &Path,
) -> Result<PathBuf> {
    let root = directory.join("initramfs");
    for part in [
        "bin", "modules", "proc", "sys", "dev", "host", "layer", "root",
    ] {
        fs::create_dir_all(root.join(part))?;
    }
    fs::copy(tools.busybox(), root.join("bin/busybox")).context("busybox")?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    fs::write(root.join("plan.json"), serde_json::to_vec(plan)?)?;
    let program = env::current_exe()?;
    fs::write(root.join("xtask"), format!("{}\n", program.display()))?;
    for (number, file) in kernel.files(&MODULES).iter().enumerate() {
        let name = file.file_name().context("a module without a name")?;
        let name = name.to_string_lossy();
        // Their order is that of their names.
        let to = |name: &str| root.join(format!("modules/{number:02}-{name}"));
        if let Some(name) = name.strip_suffix(".xz") {
            let xz = Command::new("xz")
                .args(["--decompress", "--stdout"])
                .arg(file)
                .output()?;
            ensure!(
                xz.status.success(),
                "xz: {}",
                String::from_utf8_lossy(&xz.stderr)
            );
            fs::write(to(name), xz.stdout)?;
        } else {
            fs::copy(file, to(&name))?;
        }
    }
    let archive = directory.join("initramfs.cpio");
    let pack = "find . | \"$1\" cpio -o -H newc > \"$2\"";
    lab::run(
        Command::new("sh")
            .current_dir(&root)
            .args(["-eu", "-c", pack, "sh"])
            .args([&tools.busybox(), &archive]),
    )?;
    Ok(archive)
}
