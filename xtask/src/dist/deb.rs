//! The Debian package, made by cargo-deb as `[package.metadata.deb]` in heimdall-user/Cargo.toml says.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};

use super::{Release, VERSION, date};
use crate::setup::run;

/// Makes the package, with another version than the release's if one is given.
pub(super) fn make(release: &Release, version: Option<&str>, to: &Path) -> Result<()> {
    let own = format!("{VERSION}-1");
    let version = version.unwrap_or(&own);
    let date = date(release.epoch, "+%a, %d %b %Y %H:%M:%S +0000")?;
    let changelog = format!(
        "heimdall ({version}) unstable; urgency=medium\n\n  * See /usr/share/doc/heimdall/changelog.gz.\n\n \
         -- The Heimdall developers <heimdall@developers.invalid>  {date}\n"
    );
    fs::write(release.work().join("changelog"), changelog)?;
    run(Command::new(&release.cargo_deb)
        .current_dir(release.source.join("heimdall-user"))
        // It would warn of each file that cargo does not build.
        .args([
            "--quiet",
            "--no-build",
            "--no-strip",
            "--locked",
            "--deb-version",
            version,
        ])
        .arg("--output")
        .arg(to)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string()))?;
    ensure!(to.exists(), "cargo-deb has not written {}", to.display());
    Ok(())
}
