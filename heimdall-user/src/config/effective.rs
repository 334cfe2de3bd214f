//! The settings in effect: each one's value as text, and where it comes from.

use serde_json::{Map, Value, json};

use super::{
    Config, ConfigError, Location,
    definition::{Section, Table},
    document::Located,
    reader::Reader,
    spec::{Applied, SECRET},
};

/// A setting's value, as the server would use it, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// With the table that it is in.
    pub key: String,
    /// In TOML; in words where there is no value.
    pub value: String,
    /// How a reload applies changes.
    pub(super) applied: Applied,
    /// Of its value, or of each item of a list. Empty: it is not given.
    pub(super) locations: Vec<Location>,
}

impl Setting {
    /// Where its value is; of a list, its first item.
    pub(crate) fn location(&self) -> Location {
        self.item_location(0)
    }

    fn item_location(&self, item: usize) -> Location {
        self.locations.get(item).cloned().unwrap_or_default()
    }

    /// Its value; null if there is none, nothing if it is secret.
    fn json(&self) -> Option<Value> {
        (!self.value.contains(SECRET)).then(|| json_value(&self.value))
    }
}

/// A value in TOML as JSON. What is not TOML says in words that there is no value: null.
pub(super) fn json_value(value: &str) -> Value {
    let parsed = toml::from_str::<Map<String, Value>>(&format!("value = {value}"));
    let value = parsed.ok().and_then(|mut table| table.remove("value"));
    value.unwrap_or_default()
}

/// All settings, in the order of the file's tables. Those of a repeated table follow
/// each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(pub(super) Vec<Setting>);

impl Settings {
    /// Each setting.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// Where the value of a key is. A key is given with its table, like `cache.size`.
    pub(crate) fn location(&self, key: &str) -> Location {
        self.item_location(key, 0)
    }

    /// Where an item of a list is, or the key of one of the repeated tables.
    pub(crate) fn item_location(&self, key: &str, item: usize) -> Location {
        let mut settings = self.0.iter().filter(|setting| setting.key == key);
        let first = settings.next();
        debug_assert!(first.is_some(), "there is no setting {key}");
        match item.checked_sub(1).and_then(|after| settings.nth(after)) {
            Some(repeated) => repeated.location(),
            None => first
                .map(|setting| setting.item_location(item))
                .unwrap_or_default(),
        }
    }

    /// Where an item of a list is that is the key of a repeated table, by the number of that.
    pub(crate) fn nested_location(&self, key: &str, table: usize, item: usize) -> Location {
        let mut settings = self.0.iter().filter(|setting| setting.key == key);
        let setting = settings.nth(table);
        setting
            .map(|setting| setting.item_location(item))
            .unwrap_or_default()
    }

    /// Each setting under its key, in an object for each table. Null: there is no value. Secrets are left out.
    pub(crate) fn json(&self) -> Value {
        let tables = Config::tables();
        let is_repeated = |name| {
            tables
                .iter()
                .any(|table| table.name == name && table.repeated)
        };
        let mut all = Map::new();
        for setting in &self.0 {
            let Some(value) = setting.json() else {
                continue;
            };
            let (table, key) = setting.key.split_once('.').unwrap_or(("", &setting.key));
            let objects = match table {
                "" => {
                    all.insert(key.to_owned(), value);
                    continue;
                }
                table if is_repeated(table) => all.entry(table).or_insert_with(|| json!([])),
                table => all.entry(table).or_insert_with(|| json!({})),
            };
            let object = match objects {
                Value::Array(list) => {
                    // A key that the last object has begins the next one.
                    if list.last().is_none_or(|last| last.get(key).is_some()) {
                        list.push(json!({}));
                    }
                    list.last_mut()
                }
                object => Some(object),
            };
            if let Some(Value::Object(object)) = object {
                object.insert(key.to_owned(), value);
            }
        }
        Value::Object(all)
    }
}

/// The settings that were read before it in the same struct.
impl Section for Settings {
    const NAME: &'static str = "";

    fn tables() -> Vec<Table> {
        Vec::new()
    }

    fn read(_: Option<Located>, reader: &mut Reader<'_>) -> Result<Self, ConfigError> {
        Ok(std::mem::take(&mut reader.settings))
    }

    fn keep_fixed(&mut self, running: &Self) {
        let is_fixed = |setting: &&Setting| setting.applied == Applied::Restart;
        // They are the same in both, in the same order.
        let mut kept = running.iter().filter(is_fixed);
        for setting in &mut self.0 {
            if setting.applied == Applied::Restart
                && let Some(kept) = kept.next()
            {
                setting.clone_from(kept);
            }
        }
    }
}
