//! Reads settings from flags, the file and the host.

use std::collections::BTreeMap;

use super::{
    ConfigError, Flags, Host, Location, Problem, Setting, Settings,
    document::{Located, Raw, dotted},
    spec::{Applied, Spec},
};

/// The entries of a table that are not read yet.
pub(super) struct Entries {
    table: &'static str,
    applied: Applied,
    location: Location,
    entries: BTreeMap<String, Located>,
}

impl Entries {
    pub(super) fn take(&mut self, key: &str) -> Option<Located> {
        self.entries.remove(key)
    }
}

/// Reads each setting from the first that has it: the flags, the file, the host, the default.
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
        applied: Applied,
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
            applied,
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
                "" if spec.about.unset.is_empty() => "none".to_owned(),
                "" => spec.about.unset.to_owned(),
                _ => shown,
            },
            applied: spec.about.applied.unwrap_or(table.applied),
            locations,
        });
        Ok(value)
    }

    fn flag<T>(&self, spec: &Spec<T>) -> Option<Located> {
        let flag = spec.about.flag?.name;
        let given = self.flags.settings.get(flag)?;
        Some(from_flag(flag, spec.about.list, given))
    }
}

/// The value of a flag.
pub(super) fn from_flag(flag: &'static str, list: bool, given: &[String]) -> Located {
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
