//! The flags of `heimdall run` and `heimdall check`, made from the definitions of the settings.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches,
    builder::{PossibleValuesParser, ValueParser},
    value_parser,
};

use super::{
    Config,
    definition::{Definition, Section},
    spec::Flag,
};

/// Settings from the command line. Each overrides the file's key.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The settings file.
    pub config: Option<PathBuf>,
    /// The values of flags, by their names with dashes.
    pub settings: BTreeMap<&'static str, Vec<String>>,
}

/// The settings that have a flag.
fn with_flags() -> impl Iterator<Item = (Definition, Flag)> {
    let definitions = Config::tables()
        .into_iter()
        .flat_map(|table| table.definitions);
    definitions.filter_map(|definition| {
        let flag = definition.about.flag?;
        Some((definition, flag))
    })
}

fn id(flag: Flag) -> &'static str {
    flag.name.trim_start_matches('-')
}

/// The flag of a setting, with the setting's meaning as its help: the first sentence as the short
/// one.
fn arg((definition, flag): (Definition, Flag)) -> Arg {
    let Definition {
        meaning,
        about,
        default,
        accepts,
        ..
    } = definition;
    let text: Vec<&str> = meaning.iter().map(|line| line.trim()).collect();
    let text = text.join(" ").replace('`', "");
    let first = text
        .split_once(". ")
        .map_or(text.as_str(), |(first, _)| first);
    let first = first.trim_end_matches('.');
    let repeatable = if about.list { " (repeatable)" } else { "" };
    let default = match (default.as_str(), about.unset) {
        ("", "") => String::new(),
        ("", unset) => format!(" [default: {unset}]"),
        (default, _) => format!(" [default: {}]", default.trim_matches('"')),
    };
    let action = match about.list {
        true => ArgAction::Append,
        false => ArgAction::Set,
    };
    let parser = match about.choices.is_empty() {
        true => ValueParser::new(move |text: &str| accepts(text).map(|()| text.to_owned())),
        false => PossibleValuesParser::new(about.choices).into(),
    };
    let arg = match about.switch {
        true => Arg::new(id(flag))
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        false => Arg::new(id(flag)),
    };
    arg.long(id(flag))
        .value_name(flag.value)
        .action(action)
        .value_parser(parser)
        .value_hint(about.offered)
        .help(format!("{first}{repeatable}{default}"))
        .long_help(format!("{text}{repeatable}{default}"))
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Read settings from this TOML file; flags override it");
        command.arg(config).args(with_flags().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one("config").cloned();
        self.settings = with_flags()
            .filter_map(|(_, flag)| {
                let values = matches.get_many::<String>(id(flag))?;
                Some((flag.name, values.cloned().collect()))
            })
            .collect();
        Ok(())
    }
}
