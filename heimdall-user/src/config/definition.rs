//! How settings are defined: [`settings!`](settings) makes a struct, the code that reads it, and the
//! descriptions of its fields, all from one list.

use std::sync::Arc;

use super::{
    ConfigError, Host, Problem,
    document::{Located, Raw},
    reader::{Reader, from_flag},
    spec::{About, Applied, Spec},
};

/// A table of the file.
pub(super) struct Table {
    /// Empty: the top of the file.
    pub(super) name: &'static str,
    /// What it is about, in lines.
    pub(super) about: &'static [&'static str],
    /// How changes are applied, unless a setting says otherwise.
    pub(super) applied: Applied,
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
    pub(super) about: About,
    /// The key has to be there.
    pub(super) required: bool,
    /// The default in TOML, where it is the same on all hosts; else empty.
    pub(super) default: String,
    /// Whether a flag's value can be read.
    pub(super) accepts: Accepts,
}

impl Definition {
    pub(super) fn new<T: 'static>(
        key: &'static str,
        meaning: &'static [&'static str],
        spec: Spec<T>,
    ) -> Self {
        let Spec {
            about,
            parse,
            show,
            default,
            ..
        } = spec;
        // A default that is described in words depends on the host.
        let fixed = default.filter(|_| about.unset.is_empty());
        let default = fixed.and_then(|default| default(&Host::default()).ok());
        let list = about.list;
        Self {
            key,
            meaning,
            required: about.required || default.is_none() && about.unset.is_empty(),
            default: default.map(|value| show(&value)).unwrap_or_default(),
            about,
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

    /// Takes the values of settings whose changes need a restart from those that a server runs with.
    fn keep_fixed(&mut self, running: &Self);
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

    /// None of a repeated table's settings needs a restart.
    fn keep_fixed(&mut self, _: &Self) {}
}

/// Defines a table of settings.
///
/// The table's comment and name (`""`: the top of the file) come first, then the struct's name, and
/// how changes are applied: `in_place`, by a `take_over`, or by a `restart`. Each setting has a comment, which is shown to
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
                    applied: settings!(@$change),
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
                reader: &mut $crate::config::reader::Reader<'_>,
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

            fn keep_fixed(&mut self, running: &Self) {
                $(
                    let spec: $crate::config::spec::Spec<$type> = $spec;
                    if spec.about.applied.unwrap_or(settings!(@$change))
                        == $crate::config::spec::Applied::Restart
                    {
                        self.$field.clone_from(&running.$field);
                    }
                )+
                $($(Section::keep_fixed(&mut self.$section, &running.$section);)+)?
            }
        }
    };
    (@in_place) => { $crate::config::spec::Applied::InPlace };
    (@take_over) => { $crate::config::spec::Applied::TakeOver };
    (@restart) => { $crate::config::spec::Applied::Restart };
}

pub(super) use settings;
