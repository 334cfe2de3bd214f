//! The files in which the kernel shows the host: /proc and /sys, below a root that tests choose.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Octets of a file that are read at most: /proc/interrupts of a large host has a few hundred KiB.
const MAX_FILE: u64 = 4 << 20;

/// The host's files. What cannot be read is absent.
#[derive(Clone, Debug)]
pub(crate) struct System {
    root: PathBuf,
}

impl System {
    /// The files of this host.
    pub(crate) fn host() -> Self {
        Self::at(Path::new("/"))
    }

    /// The files below a directory, such as `proc/meminfo`.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text, without blanks around it.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let mut text = String::new();
        let file = File::open(self.path(path)).ok()?;
        file.take(MAX_FILE).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    }

    /// The number that is all of a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The numbers in a file.
    pub(super) fn numbers(&self, path: &str) -> Option<Vec<u64>> {
        let text = self.read(path)?;
        text.split_whitespace()
            .map(|word| word.parse().ok())
            .collect()
    }

    /// The number of a parameter of the kernel.
    pub(super) fn sysctl(&self, key: &str) -> Option<u64> {
        self.number(&sysctl(key))
    }

    /// The kernel's version. (0, 0) if it is not known.
    pub(super) fn kernel(&self) -> (u32, u32) {
        let release = self.read("/proc/sys/kernel/osrelease");
        let release = release.unwrap_or_default();
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse().unwrap_or_default());
        let mut next = || numbers.next().unwrap_or_default();
        (next(), next())
    }

    /// The rest of the line that begins with `start`.
    pub(super) fn line(&self, path: &str, start: &str) -> Option<String> {
        let text = self.read(path)?;
        let mut lines = text.lines();
        let rest = lines.find_map(|line| line.strip_prefix(start))?;
        Some(rest.trim().to_owned())
    }

    /// Numbers of a list like `0-3,8`.
    pub(super) fn list(&self, path: &str) -> Option<BTreeSet<usize>> {
        list(&self.read(path)?)
    }

    /// Names in a directory.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| Some(name.to_str()?.to_owned()))
            .collect()
    }

    /// Writes to a file that exists.
    pub(super) fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).truncate(true).open(self.path(path))?;
        file.write_all(value.as_bytes())
    }
}

/// The file of a parameter of the kernel.
pub(super) fn sysctl(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// Numbers of a list like `0-3,8`. Empty for an empty text.
fn list(text: &str) -> Option<BTreeSet<usize>> {
    /// More than any kernel has cores.
    const MAX: usize = 1 << 16;
    let mut numbers = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().ok()?;
        let last: usize = last.trim().parse().ok()?;
        if last > MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Numbers as a list like `0-3,8`.
pub(crate) fn show(numbers: &BTreeSet<usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let show = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_shown() {
        for text in ["", "0", "0-3", "0-3,8", "1,3,5-6"] {
            let numbers = list(text);
            assert_eq!(numbers.as_ref().map(show).as_deref(), Some(text));
        }
        assert_eq!(list("0-99999999999"), None);
        assert_eq!(list("x"), None);
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let system = System::at(Path::new("/none"));
        assert_eq!(system.read("/proc/meminfo"), None);
        assert!(system.names("/sys").is_empty());
        assert!(system.write("/proc/sys/x", "1").is_err());
    }
}
