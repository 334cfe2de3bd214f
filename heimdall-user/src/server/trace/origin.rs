//! Where parts of the policy come from: keys of the settings, and lines of files.
//!
//! Lines are not kept in memory: the files are read again, by the code that read them first, and one that is
//! another now is said to be.

use std::path::Path;

use crate::{
    answer::{blocklist::BlockAction, local::LocalData},
    blocklist, file,
    server::{
        policy::{MAX_BLOCKLIST, MAX_HOSTS},
        reload::Origin,
    },
};

/// Places that are named, at most.
const MAX_PLACES: usize = 8;

/// The place of an item of a list in the settings.
pub(super) fn place(origin: &Origin, key: &str, item: Option<usize>) -> String {
    let settings = &origin.config.settings;
    let location = item.map(|item| settings.item_location(key, item).to_string());
    match location.as_deref().map(|text| text.trim_end_matches(": ")) {
        None | Some("") => format!("the default of `{key}`"),
        Some(text) => text.to_owned(),
    }
}

/// The records and the lines of hosts files that give a name data.
pub(super) fn of_local_name(origin: &Origin, name: &[u8]) -> Vec<String> {
    let local = &origin.config.local;
    let mut places = Vec::new();
    for (item, record) in local.records.iter().enumerate() {
        let mut data = LocalData::builder();
        if data.record(record).is_ok() && data.has(name) {
            let place = place(origin, "local.records", Some(item));
            places.push(format!("{place}: {record}"));
        }
    }
    for path in &local.hosts {
        let find = |text: &[u8]| -> Vec<usize> {
            let lines = (1..).zip(text.split(|octet| *octet == b'\n'));
            let of_name = lines.filter(|(_, line)| {
                let mut data = LocalData::builder();
                data.hosts(line);
                data.has(name)
            });
            of_name.map(|(number, _)| number).take(MAX_PLACES).collect()
        };
        places.extend(lines_of(origin, path, MAX_HOSTS, find).unwrap_or_default());
    }
    places.truncate(MAX_PLACES);
    places
}

/// The line that puts a name on a list with this action: the name itself, or only the names `below` it, too.
pub(super) fn of_blocked_name(
    origin: &Origin,
    name: &[u8],
    action: BlockAction,
    below: bool,
) -> Vec<String> {
    let lists = origin.config.blocklists.iter();
    // The first list that has the name decides, or the first that allows it.
    let mut lists = lists.filter(|list| list.action == action);
    let place = lists.find_map(|list| {
        let find = |text: &[u8]| -> Vec<usize> {
            let line = blocklist::find_line(text, name, below);
            line.into_iter().collect()
        };
        lines_of(origin, &list.file, MAX_BLOCKLIST, find)
    });
    place.unwrap_or_else(|| vec!["the lists have changed since they were loaded".to_owned()])
}

/// The lines of a file that `find` finds. `None`: there are none, and the file is the one that was loaded.
fn lines_of(
    origin: &Origin,
    path: &Path,
    max: u64,
    find: impl Fn(&[u8]) -> Vec<usize>,
) -> Option<Vec<String>> {
    let shown = path.display();
    let changed = origin.has_changed(path);
    let text = match file::read(path, max) {
        Ok(text) => text,
        Err(error) => return Some(vec![format!("{shown}: it cannot be read now: {error}")]),
    };
    let note = match changed {
        true => " (the file has changed since it was loaded: `heimdall reload` loads it)",
        false => "",
    };
    let lines = find(&text);
    if lines.is_empty() {
        return changed.then(|| vec![format!("{shown}{note}")]);
    }
    let places = lines.iter().map(|line| format!("{shown}:{line}{note}"));
    Some(places.collect())
}
