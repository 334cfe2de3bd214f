//! What differs between the settings that a server runs with and others, key by key.

use std::{collections::BTreeSet, fmt};

use serde_json::{Value, json};

use super::{Config, Setting, Settings, definition::Section, effective::json_value, spec::Applied};

/// A difference: a setting with another value, or one of the repeated tables that was added, removed or moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// With its table, like `cache.size`; the name of a repeated table, like `[[route]]`.
    pub(crate) key: String,
    /// In TOML, or in words where there is no value. `None`: there was no such table.
    old: Option<String>,
    /// The same, after the change.
    new: Option<String>,
    /// How a reload applies it.
    pub(crate) applied: Applied,
}

impl Change {
    /// For programs. A value is null if there is none, or if it is secret.
    pub(crate) fn json(&self) -> Value {
        let value = |text: &Option<String>| text.as_deref().map(json_value);
        json!({
            "key": self.key,
            "old": value(&self.old),
            "new": value(&self.new),
            "applied": self.applied.name(),
            "text": self.to_string(),
        })
    }
}

impl Setting {
    /// The name of the table that it is in; empty at the top of the file.
    fn table(&self) -> &str {
        self.key.split_once('.').map_or("", |(table, _)| table)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |text: &Option<String>| text.clone().unwrap_or_else(|| "absent".to_owned());
        let (old, new) = (value(&self.old), value(&self.new));
        write!(f, "{}: {old} -> {new}", self.key)
    }
}

impl Config {
    /// What differs in `new`, in the order of the settings.
    pub(crate) fn changes(&self, new: &Self) -> Vec<Change> {
        let mut changes = self.settings.changes(&new.settings);
        // Their texts are alike.
        if self.cookies.secrets != new.cookies.secrets
            && changes.iter().all(|change| change.key != "cookies.secrets")
        {
            let text = |config: &Self| {
                let mut settings = config.settings.iter();
                let setting = settings.find(|setting| setting.key == "cookies.secrets");
                setting.map(|setting| setting.value.clone())
            };
            changes.push(Change {
                key: "cookies.secrets".to_owned(),
                old: text(self),
                new: text(new),
                applied: Applied::InPlace,
            });
        }
        changes
    }

    /// Takes the values of settings whose changes need a restart from those that a server runs with.
    pub(crate) fn keep_fixed(&mut self, running: &Self) {
        Section::keep_fixed(self, running);
    }
}

impl Settings {
    fn changes(&self, new: &Self) -> Vec<Change> {
        let tables = Config::tables();
        let repeated: BTreeSet<&str> = tables
            .iter()
            .filter(|table| table.repeated)
            .map(|table| table.name)
            .collect();
        let single = |settings: &Self| {
            let single = settings
                .iter()
                .filter(|one| !repeated.contains(one.table()));
            single.cloned().collect::<Vec<_>>()
        };
        let mut changes = Vec::new();
        // The same keys in both, in the same order.
        for (old, new) in single(self).into_iter().zip(single(new)) {
            if old.value != new.value {
                changes.push(Change {
                    key: old.key,
                    old: Some(old.value),
                    new: Some(new.value),
                    applied: old.applied,
                });
            }
        }
        for table in tables.iter().filter(|table| table.repeated) {
            let (old, new) = (self.repeated(table.name), new.repeated(table.name));
            let change = |old, new| Change {
                key: format!("[[{}]]", table.name),
                old,
                new,
                applied: table.applied,
            };
            let removed: Vec<_> = old.iter().filter(|one| !new.contains(one)).collect();
            let added: Vec<_> = new.iter().filter(|one| !old.contains(one)).collect();
            changes.extend(removed.iter().map(|one| change(Some((*one).clone()), None)));
            changes.extend(added.iter().map(|one| change(None, Some((*one).clone()))));
            if removed.is_empty() && added.is_empty() && old != new {
                let list = |tables: &[String]| Some(format!("[{}]", tables.join(", ")));
                changes.push(change(list(&old), list(&new)));
            }
        }
        changes
    }

    /// Each of the repeated tables of this name as an inline table, with the keys that are given in the file.
    fn repeated(&self, name: &str) -> Vec<String> {
        let mut tables: Vec<String> = Vec::new();
        let mut first = None;
        for setting in self.iter() {
            let Some((table, key)) = setting.key.split_once('.') else {
                continue;
            };
            if table != name {
                continue;
            }
            // Its first key begins each table.
            if *first.get_or_insert(key) == key {
                tables.push(String::new());
            }
            if let Some(text) = tables.last_mut()
                && !setting.locations.is_empty()
            {
                let separator = if text.is_empty() { "" } else { ", " };
                text.push_str(&format!("{separator}{key} = {}", setting.value));
            }
        }
        tables
            .iter()
            .map(|table| format!("{{ {table} }}"))
            .collect()
    }
}
