//! The settings in effect: each one's value as text, and where it comes from.

use super::{
    ConfigError, Location,
    definition::{Section, Table},
    document::Located,
    reader::Reader,
};

/// A setting's value, as the server would use it, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// With the table that it is in.
    pub key: String,
    /// In TOML; in words where there is no value.
    pub value: String,
    /// A reload applies changes; otherwise they need a restart.
    pub(super) reloadable: bool,
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

    /// The keys whose values differ in `new`, if changes of them need a restart.
    pub(crate) fn need_restart<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = &'a str> {
        let fixed = |settings: &'a Self| settings.iter().filter(|setting| !setting.reloadable);
        let pairs = fixed(self).zip(fixed(new));
        pairs
            .filter(|(old, new)| old.value != new.value)
            .map(|(old, _)| old.key.as_str())
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
}
