//! The settings file as a tree of values, each with its location.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{ConfigError, Location, Problem};

/// A value of the file or of a flag.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) raw: Raw,
    pub(super) location: Location,
}

#[derive(Debug)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Located>),
    Table(BTreeMap<String, Located>),
    /// A type that no setting has, by its name with an article.
    Other(&'static str),
}

impl Located {
    /// The error for a value of the wrong type.
    pub(super) fn mistyped(&self, expected: impl Into<String>) -> ConfigError {
        let found = match &self.raw {
            Raw::Text(text) => format!("{text:?} is a string"),
            Raw::Integer(number) => format!("{number} is a whole number"),
            Raw::Boolean(value) => format!("{value} is a boolean"),
            Raw::List(_) => "the value is a list".to_owned(),
            Raw::Table(_) => "the value is a table".to_owned(),
            Raw::Other(what) => format!("the value is {what}"),
        };
        let expected = expected.into();
        self.location.bad(Problem::Type { found, expected })
    }
}

/// A file, for locations in it.
pub(super) struct Source {
    path: Arc<Path>,
    /// Offsets of the ends of lines.
    ends: Vec<usize>,
}

impl Source {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        let octets = text.bytes().enumerate();
        Self {
            path: path.into(),
            ends: octets
                .filter_map(|(at, octet)| (octet == b'\n').then_some(at))
                .collect(),
        }
    }

    pub(super) fn location(&self, offset: usize, key: &str) -> Location {
        Location::File {
            path: Arc::clone(&self.path),
            line: 1 + self.ends.partition_point(|end| *end < offset),
            key: key.to_owned(),
        }
    }

    fn value(&self, value: Spanned<DeValue<'_>>, key: &str) -> Result<Located, ConfigError> {
        let location = self.location(value.span().start, key);
        let raw = match value.into_inner() {
            DeValue::String(text) => Raw::Text(text.into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map(Raw::Integer)
                .map_err(|_| location.bad(Problem::Huge))?,
            DeValue::Boolean(value) => Raw::Boolean(value),
            DeValue::Float(_) => Raw::Other("a number with a fraction"),
            DeValue::Datetime(_) => Raw::Other("a date or time"),
            DeValue::Array(items) => Raw::List(
                items
                    .into_iter()
                    .map(|item| self.value(item, key))
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(entries) => Raw::Table(self.entries(entries, key)?),
        };
        Ok(Located { raw, location })
    }

    fn entries(
        &self,
        entries: DeTable<'_>,
        table: &str,
    ) -> Result<BTreeMap<String, Located>, ConfigError> {
        let entry = |(key, value): (Spanned<_>, _)| {
            let key: String = std::borrow::Cow::into_owned(key.into_inner());
            let value = self.value(value, &dotted(table, &key))?;
            Ok((key, value))
        };
        entries.into_iter().map(entry).collect()
    }
}

/// A key with the table that it is in.
pub(super) fn dotted(table: &str, key: &str) -> String {
    match table {
        "" => key.to_owned(),
        table => format!("{table}.{key}"),
    }
}

/// Reads the text of a file: its top table.
pub(super) fn parse(path: &Path, text: &str) -> Result<Located, ConfigError> {
    let source = Source::new(path, text);
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().unwrap_or_default().start;
        let message = error.message().replace('\n', "; ");
        source.location(at, "").bad(Problem::Toml(message))
    })?;
    Ok(Located {
        raw: Raw::Table(source.entries(table.into_inner(), "")?),
        location: Location::Unset,
    })
}
