#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn files_that_links_of_a_directory_lead_to_are_read() {
    let root = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(root.path()).unwrap();
    for directory in ["certs", "store"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    fs::write(root.join("store/bundle.pem"), "").unwrap();
    symlink("../store/bundle.pem", root.join("certs/ca.pem")).unwrap();
    symlink("/usr/share", root.join("certs/beneath")).unwrap();
    symlink("nowhere", root.join("certs/broken")).unwrap();
    let expected = ["certs", "store/bundle.pem"].map(|path| root.join(path));
    assert_eq!(link_targets(&root.join("certs")), expected.into());
    symlink("store", root.join("linked")).unwrap();
    let expected = ["store"].map(|directory| root.join(directory));
    assert_eq!(link_targets(&root.join("linked")), expected.into());
    assert_eq!(link_targets(&root.join("none")), BTreeSet::new());
}

#[test]
fn a_file_is_covered_by_its_directory_and_that_of_its_target() {
    let root = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(root.path()).unwrap();
    for directory in ["live", "archive", "new", "state"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    fs::write(root.join("archive/key1.pem"), "").unwrap();
    symlink("../archive/key1.pem", root.join("live/key.pem")).unwrap();
    fs::write(root.join("new/key.pem"), "").unwrap();
    symlink("../new/key.pem", root.join("live/moved.pem")).unwrap();
    let key = root.join("live/key.pem");
    let mut read = Readable::default();
    read.add(&key);
    assert_eq!((read.directories.len(), read.files.len()), (2, 0));
    let files = Files {
        read,
        write: [root.join("state")].into(),
        fully: true,
    };
    let let_read = |path: &str| files.unreadable(&root.join(path)).is_none();
    for (path, to, covered) in [
        ("live/key.pem", Use::Read, true),
        ("archive/key2.pem", Use::Read, true),
        ("live/moved.pem", Use::Read, false),
        ("new/key.pem", Use::Read, false),
        ("missing/key.pem", Use::Read, true),
        ("live/key.pem", Use::Write, false),
        ("state/cache.snapshot", Use::Write, true),
        ("state/list.txt", Use::Read, true),
        // What will not be in a directory of the start.
        ("missing/cache.snapshot", Use::Write, false),
        ("state/missing/cache.snapshot", Use::Write, true),
    ] {
        let path = root.join(path);
        let named = Named {
            key: "tls.key",
            item: 0,
            path: &path,
            to,
        };
        assert_eq!(files.closed(&named).is_none(), covered, "{named:?}");
    }
    // The link of a directory that leads elsewhere now.
    symlink("live", root.join("current")).unwrap();
    assert!(let_read("current/heimdall.toml"));
    fs::remove_file(root.join("current")).unwrap();
    symlink("new", root.join("current")).unwrap();
    assert!(!let_read("current/heimdall.toml"));
}

#[test]
fn of_a_shared_directory_the_file_alone_is_read() {
    for (directory, shared) in [
        ("/etc", true),
        ("/home/operator", true),
        ("/etc/heimdall", false),
        ("/home/operator/dns", false),
    ] {
        assert_eq!(is_shared(Path::new(directory)), shared, "{directory}");
    }
    let mut read = Readable::default();
    read.add(Path::new("/etc/passwd"));
    read.add(Path::new("/etc/there-is-none"));
    let rules: Vec<&Path> = read.paths().collect();
    assert_eq!(rules, [Path::new("/etc/passwd")]);
    let mut files = Files {
        read,
        write: ["/var".into()].into(),
        fully: true,
    };
    assert_eq!(files.unreadable(Path::new("/etc/passwd")), None);
    let other = files.unreadable(Path::new("/etc/shadow")).unwrap();
    assert!(other.contains("of /etc it reads no other files"), "{other}");
    let notes = files.notes().concat();
    assert!(notes.contains("/etc/passwd is read by itself"), "{notes}");
    assert!(notes.contains("all of /var can be written"), "{notes}");
    // Another file has its name now.
    let identity = files.read.files.values_mut().next().unwrap();
    identity.inode += 1;
    assert!(files.unreadable(Path::new("/etc/passwd")).is_some());
}

#[test]
fn root_certificates_are_in_several_directories() {
    let found: Vec<PathBuf> = split(Some(OsStr::new("/one:/other"))).collect();
    assert_eq!(found, [Path::new("/one"), Path::new("/other")]);
    assert_eq!(split(None).count(), 0);
}

#[test]
fn files_elsewhere_are_closed() {
    const NAME: &str = "privileges::files::tests::files_elsewhere_are_closed";
    if !lab::in_own_process(NAME).unwrap() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let [read, write, other] = ["read", "write", "other"].map(|name| root.path().join(name));
    for directory in [&read, &write, &other] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("file"), "text").unwrap();
    }
    let mut readable = Readable::default();
    readable.add(&read.join("file"));
    readable.add(Path::new("/etc/hosts"));
    let status = enforce(&readable, &[write.clone()].into()).unwrap();
    if status == RulesetStatus::NotEnforced {
        eprintln!("{NAME}: skipped, as this kernel has no Landlock");
        return;
    }
    let denied = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    // A file that comes later is in the directory, too.
    fs::write(write.join("new"), "text").unwrap();
    fs::rename(write.join("new"), write.join("file")).unwrap();
    assert_eq!(fs::read_to_string(write.join("file")).unwrap(), "text");
    fs::remove_file(write.join("file")).unwrap();
    assert_eq!(fs::read_to_string(read.join("file")).unwrap(), "text");
    denied(fs::write(read.join("file"), "text").unwrap_err());
    denied(fs::read(other.join("file")).unwrap_err());
    denied(fs::write(other.join("new"), "text").unwrap_err());
    denied(fs::create_dir(write.join("directory")).unwrap_err());
    fs::read("/etc/hosts").unwrap();
    denied(fs::read("/etc/shadow").unwrap_err());
    denied(fs::read("/etc/passwd").unwrap_err());
    denied(fs::read_dir("/etc").unwrap_err());
    fs::read("/proc/self/status").unwrap();
    fs::write("/dev/null", "text").unwrap();
    tempfile::tempfile_in(&write).unwrap();
}
