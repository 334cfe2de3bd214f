//! The list of what the binary is made of, in CycloneDX: all crates by cargo-cyclonedx, and the C libraries that
//! are linked statically.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Release, date, licences::LIBRARIES};
use crate::setup::{cargo, run};

pub(super) fn make(release: &Release, to: &Path) -> Result<()> {
    let manifest = release.source.join("heimdall-user/Cargo.toml");
    let name = "heimdall-bom";
    run(Command::new(&release.cargo_cyclonedx)
        .current_dir(&release.source)
        .args(["cyclonedx", "--quiet", "--format", "json", "--all"])
        .args(["--override-filename", name, "--manifest-path"])
        .arg(&manifest)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string()))?;
    // It writes beside the manifest of each crate of the workspace.
    let file = format!("{name}.json");
    let text = fs::read_to_string(manifest.with_file_name(&file))
        .context("cargo-cyclonedx has not written what it should")?;
    for package in packages(release)? {
        match fs::remove_file(package.with_file_name(&file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let source = release.source.to_string_lossy();
    let mut bom: Value = serde_json::from_str(&text.replace(&*source, "/heimdall"))?;
    // Of each run. What describes the same octets is the same.
    if let Some(bom) = bom.as_object_mut() {
        bom.shift_remove("serialNumber");
    }
    bom["metadata"]["timestamp"] = json!(date(release.epoch, "+%Y-%m-%dT%H:%M:%SZ")?);
    let components = bom["components"].as_array_mut();
    let components = components.context("no components in the bill of materials")?;
    for (library, package) in LIBRARIES {
        let version = Command::new("dpkg-query")
            .args(["--show", "--showformat=${Version}", package])
            .output()?;
        let version = String::from_utf8(version.stdout)?;
        let url = format!("pkg:deb/debian/{package}@{version}");
        components.push(json!({
            "type": "library",
            "bom-ref": url,
            "name": library,
            "version": version,
            "purl": url,
        }));
    }
    fs::write(to, serde_json::to_string_pretty(&bom)?)?;
    Ok(())
}

/// The manifests of the workspace's crates.
fn packages(release: &Release) -> Result<Vec<PathBuf>> {
    let metadata = lab::run(cargo().current_dir(&release.source).args([
        "metadata",
        "--locked",
        "--no-deps",
        "--format-version=1",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let manifests = packages
        .iter()
        .filter_map(|package| package["manifest_path"].as_str());
    Ok(manifests.map(PathBuf::from).collect())
}
