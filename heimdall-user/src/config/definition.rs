//! How settings are defined: [`settings!`](settings) makes a struct, the code that reads it, and the
//! descriptions of its fields, all from one list.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ConfigError, Flags, Host, Location, Problem,
    document::{Located, Raw, dotted},
    spec::{Flag, Spec},
};

/// A table of the file.
pub(super) struct Table {
    /// Empty: the top of the file.
    pub(super) name: &'static str,
    /// What it is about, in lines.
    pub(super) about: &'static [&'static str],
    /// A reload applies changes; otherwise they need a restart.
    pub(super) reloadable: bool,
    /// It may be there many times, as `[[name]]`.
    pub(super) repeated: bool,
    pub(super) definitions: Vec<Definition>,
}

type Accepts = Arc<dyn Fn(&str) -> Result<(), Problem> + Send + Sync>;

/// One setting, described.
pub(super) struct Definition {
    pub(super) key: &'static str,
    /// What it means, in lines.
    pub(super) meaning: &'static [&'static str],
    pub(super) flag: Option<Flag>,
    /// The flag may be given many times.
    pub(super) list: bool,
    /// What may be written.
    pub(super) values: String,
    /// That is worth a comment in the example file.
    pub(super) hint: bool,
    /// The key has to be there.
    pub(super) required: bool,
    /// The default in TOML, where it is the same on all hosts; else empty.
    pub(super) default: String,
    /// What holds without the key, where that is no value.
    pub(super) unset: &'static str,
    /// A value in TOML that is not the default. May be empty.
    pub(super) example: &'static str,
    /// Whether a flag's value can be read.
    pub(super) accepts: Accepts,
}

impl Definition {
    pub(super) fn new<T: 'static>(
        key: &'static str,
        meaning: &'static [&'static str],
        spec: Spec<T>,
    ) -> Self {
        // A default that is described in words depends on the host.
        let fixed = spec.default.as_ref().filter(|_| spec.unset.is_empty());
        let default = fixed.and_then(|default| default(&Host::default()).ok());
        let required = default.is_none() && spec.unset.is_empty();
        let default = default.map(|value| (spec.show)(&value)).unwrap_or_default();
        let parse = spec.parse;
        let list = spec.list;
        Self {
            key,
            meaning,
            flag: spec.flag,
            list,
            values: spec.values,
            hint: spec.hint,
            required,
            default,
            unset: spec.unset,
            example: spec.example,
            accepts: Arc::new(move |text| {
                let located = from_flag("", list, &[text.to_owned()]);
                match parse(located) {
                    Err(ConfigError::Bad { problem, .. }) => Err(problem),
                    _ => Ok(()),
                }
            }),
        }
    }
}

/// A part of the settings that can be read: a table, or a list of tables.
pub(super) trait Section: Sized {
    /// The table's name.
    const NAME: &'static str;

    /// What it consists of.
    fn tables() -> Vec<Table>;

    /// Reads it. `None`: the file does not have it.
    fn read(table: Option<Located>, reader: &mut Reader<'_>) -> Result<Self, ConfigError>;
}

impl<T: Section> Section for Vec<T> {
    const NAME: &'static str = T::NAME;

    fn tables() -> Vec<Table> {
        let mut tables = T::tables();
        for table in &mut tables {
            table.repeated = true;
        }
        tables
    }

    fn read(table: Option<Located>, reader: &mut Reader<'_>) -> Result<Self, ConfigError> {
        let expected = || format!("[[{}]] above its keys", T::NAME);
        let Some(located) = table else {
            return Ok(Self::new());
        };
        let Raw::List(tables) = located.raw else {
            return Err(located.mistyped(expected()));
        };
        tables
            .into_iter()
            .map(|table| T::read(Some(table), reader))
            .collect()
    }
}

/// A setting's value, as the server would use it, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// With the table that it is in.
    pub key: String,
    /// In TOML; in words where there is no value.
    pub value: String,
    /// A reload applies changes; otherwise they need a restart.
    pub reloadable: bool,
    /// Of its value, or of each item of a list. Empty: it is not given.
    locations: Vec<Location>,
}

impl Setting {
    /// Where its value is; of a list, its first item.
    pub fn location(&self) -> Location {
        self.item_location(0)
    }

    fn item_location(&self, item: usize) -> Location {
        self.locations.get(item).cloned().unwrap_or_default()
    }
}

/// All settings, in the order of the file's tables. Those of a repeated table are one after the
/// other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(Vec<Setting>);

impl Settings {
    /// Each setting.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// Where the value of a key is. A key is given with its table, like `cache.size`.
    pub fn location(&self, key: &str) -> Location {
        self.item_location(key, 0)
    }

    /// Where an item of a list is, or the key of one of the repeated tables.
    pub fn item_location(&self, key: &str, item: usize) -> Location {
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
    pub fn need_restart<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = &'a str> {
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

/// The entries of a table that are not read yet.
pub(super) struct Entries {
    table: &'static str,
    reloadable: bool,
    location: Location,
    entries: BTreeMap<String, Located>,
}

impl Entries {
    pub(super) fn take(&mut self, key: &str) -> Option<Located> {
        self.entries.remove(key)
    }
}

/// Reads settings from flags, the file and the host, the first that has it.
pub(super) struct Reader<'a> {
    pub(super) flags: &'a Flags,
    pub(super) host: &'a Host,
    pub(super) settings: Settings,
}

impl Reader<'_> {
    /// Opens a table that has these keys and no others.
    pub(super) fn open(
        &self,
        table: &'static str,
        reloadable: bool,
        located: Option<Located>,
        keys: &[&'static str],
    ) -> Result<Entries, ConfigError> {
        let (location, entries) = match located {
            None => (Location::Unset, BTreeMap::new()),
            Some(Located {
                raw: Raw::Table(entries),
                location,
            }) => (location, entries),
            Some(other) => return Err(other.mistyped(format!("[{table}] above its keys"))),
        };
        let known = |key: &str| !key.is_empty() && keys.contains(&key);
        if let Some((key, value)) = entries.iter().find(|(key, _)| !known(key)) {
            return Err(value.location.bad(Problem::unknown(key, keys)));
        }
        Ok(Entries {
            table,
            reloadable,
            location,
            entries,
        })
    }

    /// Reads a setting of a table.
    pub(super) fn read<T: 'static>(
        &mut self,
        table: &mut Entries,
        key: &'static str,
        spec: Spec<T>,
    ) -> Result<T, ConfigError> {
        let from_file = table.take(key);
        let given = self.flag(&spec).or(from_file);
        let (value, locations) = match given {
            Some(located) => {
                let location = located.location.clone();
                let locations = match &located.raw {
                    Raw::List(items) => items.iter().map(|item| item.location.clone()).collect(),
                    _ => vec![location.clone()],
                };
                let value = (spec.parse)(located)?;
                (spec.check)(&value).map_err(|problem| location.bad(problem))?;
                (value, locations)
            }
            None => {
                let missing = Err(Problem::Missing(key));
                let value = spec.default.map_or(missing, |default| default(self.host));
                let value = value.map_err(|problem| table.location.bad(problem))?;
                (value, Vec::new())
            }
        };
        let shown = (spec.show)(&value);
        self.settings.0.push(Setting {
            key: dotted(table.table, key),
            value: match shown.as_str() {
                "" if spec.unset.is_empty() => "none".to_owned(),
                "" => spec.unset.to_owned(),
                _ => shown,
            },
            reloadable: table.reloadable,
            locations,
        });
        Ok(value)
    }

    fn flag<T>(&self, spec: &Spec<T>) -> Option<Located> {
        let flag = spec.flag?.name;
        let given = self.flags.settings.get(flag)?;
        Some(from_flag(flag, spec.list, given))
    }
}

/// What a flag says.
fn from_flag(flag: &'static str, list: bool, given: &[String]) -> Located {
    let mut texts: Vec<Located> = given
        .iter()
        .map(|text| Located {
            raw: Raw::Text(text.clone()),
            location: Location::Flag(flag),
        })
        .collect();
    match texts.pop() {
        Some(last) if !list => last,
        last => {
            texts.extend(last);
            Located {
                raw: Raw::List(texts),
                location: Location::Flag(flag),
            }
        }
    }
}

/// Defines a table of settings.
///
/// The table's comment and name (`""`: the top of the file) come first, then the struct's name, and
/// whether changes need a `reload` or a `restart`. Each setting has a comment, which is shown to
/// operators, too, its key, its field, and the [`Spec`] of its values. `tables` are the [`Section`]s
/// within it.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $table:literal => $name:ident, $change:ident;
        $(
            $(#[doc = $meaning:literal])+
            $key:literal => $field:ident: $type:ty = $spec:expr;
        )+
        $(
            tables:
            $(
                $(#[doc = $section_about:literal])+
                $section:ident: $section_type:ty;
            )+
        )?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $(
                $(#[doc = $meaning])+
                pub $field: $type,
            )+
            $($(
                $(#[doc = $section_about])+
                pub $section: $section_type,
            )+)?
        }

        impl $crate::config::definition::Section for $name {
            const NAME: &'static str = $table;

            fn tables() -> Vec<$crate::config::definition::Table> {
                #[allow(unused_mut, reason = "not all tables have tables")]
                let mut tables = vec![$crate::config::definition::Table {
                    name: $table,
                    about: &[$($about),+],
                    reloadable: settings!(@$change),
                    repeated: false,
                    definitions: vec![
                        $($crate::config::definition::Definition::new(
                            $key,
                            &[$($meaning),+],
                            $spec,
                        ),)+
                    ],
                }];
                $($(tables.extend(<$section_type as Section>::tables());)+)?
                tables
            }

            fn read(
                table: Option<$crate::config::document::Located>,
                reader: &mut $crate::config::definition::Reader<'_>,
            ) -> Result<Self, $crate::config::ConfigError> {
                let keys = [$($key,)+ $($(<$section_type as Section>::NAME,)+)?];
                let mut entries = reader.open($table, settings!(@$change), table, &keys)?;
                Ok(Self {
                    $($field: reader.read(&mut entries, $key, $spec)?,)+
                    $($($section: Section::read(
                        entries.take(<$section_type as Section>::NAME),
                        reader,
                    )?,)+)?
                })
            }
        }
    };
    (@reload) => { true };
    (@restart) => { false };
}

pub(super) use settings;
