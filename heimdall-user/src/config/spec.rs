//! What the value of a setting may be: how it is read from the file or a flag, shown, and described.

use std::{fmt::Display, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use clap::ValueHint;

use super::{
    ConfigError, Host, Location, Problem, Size,
    document::{Located, Raw},
    values,
};

/// Stands for a secret where values are shown.
pub(super) const SECRET: &str = "(secret)";

type Parse<T> = Arc<dyn Fn(Located) -> Result<T, ConfigError> + Send + Sync>;
type Check<T> = Arc<dyn Fn(&T) -> Result<(), Problem>>;
type Show<T> = Arc<dyn Fn(&T) -> String>;
type DefaultValue<T> = Arc<dyn Fn(&Host) -> Result<T, Problem>>;

/// How a reload applies a change of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The running server changes it.
    InPlace,
    /// Another server in the same process takes over from the running one.
    TakeOver,
    /// Only another process can have it.
    Restart,
}

impl Applied {
    /// Its name, for operators and programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InPlace => "in place",
            Self::TakeOver => "take-over",
            Self::Restart => "restart",
        }
    }
}

/// The command line's name for a setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// With its dashes.
    pub(super) name: &'static str,
    /// The placeholder of its value in the help.
    pub(super) value: &'static str,
}

/// The description of the values of a setting.
#[derive(Default)]
pub(super) struct About {
    /// What may be written, in words.
    pub(super) values: String,
    /// All values, if they can be listed.
    pub(super) choices: Vec<&'static str>,
    /// What shells offer for a flag's value in place of choices.
    pub(super) offered: ValueHint,
    /// Those words belong beside the value in the example file.
    pub(super) hint: bool,
    /// It is a list: a flag may be repeated.
    pub(super) list: bool,
    /// The key or the flag has to be given, which [`checks`](super::checks) tests: a bad value of another
    /// key is reported first.
    pub(super) required: bool,
    /// How changes are applied, if not like those of the rest of the table.
    pub(super) applied: Option<Applied>,
    /// The effect of leaving the key out, if the default's value does not show it.
    pub(super) unset: &'static str,
    /// A value in TOML for the example file, if the default's does not do.
    pub(super) example: &'static str,
    /// The flag alone, without a value, means true.
    pub(super) switch: bool,
    pub(super) flag: Option<Flag>,
}

/// The values of one setting.
pub(super) struct Spec<T> {
    pub(super) about: About,
    /// Reads one value, whatever others there are.
    pub(super) parse: Parse<T>,
    /// Whether the server can work with a value that was read.
    pub(super) check: Check<T>,
    /// In TOML. Empty: there is no value.
    pub(super) show: Show<T>,
    /// The value without the key and the flag. `None`: the key is required.
    pub(super) default: Option<DefaultValue<T>>,
}

impl<T: 'static> Spec<T> {
    fn new(
        values: impl Into<String>,
        parse: impl Fn(Located) -> Result<T, ConfigError> + Send + Sync + 'static,
        show: impl Fn(&T) -> String + 'static,
    ) -> Self {
        Self {
            about: About {
                values: values.into(),
                ..About::default()
            },
            parse: Arc::new(parse),
            check: Arc::new(|_| Ok(())),
            show: Arc::new(show),
            default: None,
        }
    }

    /// The value without the key and the flag.
    pub(super) fn default(self, value: T) -> Self
    where
        T: Clone,
    {
        self.default_from("", move |_| Ok(value.clone()))
    }

    /// The same, as the host has it; `unset` describes it.
    pub(super) fn default_from(
        mut self,
        unset: &'static str,
        value: impl Fn(&Host) -> Result<T, Problem> + 'static,
    ) -> Self {
        self.default = Some(Arc::new(value));
        self.about.unset = unset;
        self
    }

    /// `None` without the key and the flag; `unset` describes that.
    pub(super) fn optional(self, unset: &'static str) -> Spec<Option<T>> {
        let Self {
            about,
            parse,
            check,
            show,
            ..
        } = self;
        let shown = move |value: &Option<T>| value.as_ref().map(|value| show(value));
        Spec {
            about: About { unset, ..about },
            parse: Arc::new(move |located| parse(located).map(Some)),
            check: Arc::new(move |value| value.as_ref().map_or(Ok(()), |value| check(value))),
            show: Arc::new(move |value| shown(value).unwrap_or_default()),
            default: Some(Arc::new(|_| Ok(None))),
        }
    }

    pub(super) fn required(mut self) -> Self {
        self.about.required = true;
        self
    }

    /// Changes are applied in another way than those of the rest of the table.
    pub(super) fn applied(mut self, applied: Applied) -> Self {
        self.about.applied = Some(applied);
        self
    }

    pub(super) fn check(mut self, check: fn(&T) -> Result<(), Problem>) -> Self {
        self.check = Arc::new(check);
        self
    }

    pub(super) fn example(mut self, example: &'static str) -> Self {
        self.about.example = example;
        self
    }

    pub(super) fn flag(mut self, name: &'static str, value: &'static str) -> Self {
        self.about.flag = Some(Flag { name, value });
        self
    }

    pub(super) fn offered(mut self, offered: ValueHint) -> Self {
        self.about.offered = offered;
        self
    }

    /// Describes the values in other words.
    pub(super) fn values(mut self, values: &str) -> Self {
        self.about.values = values.to_owned();
        self
    }

    /// Appends to the description of the values.
    pub(super) fn unit(mut self, unit: &str) -> Self {
        self.about.values.push_str(unit);
        self
    }
}

/// A whole number.
pub(super) fn integer<N>(min: i64, max: i64) -> Spec<N>
where
    N: TryFrom<i64> + Display + 'static,
{
    let parse = move |located: Located| match located.raw {
        Raw::Integer(value) => N::try_from(value)
            .ok()
            .filter(|_| (min..=max).contains(&value))
            .ok_or_else(|| located.location.bad(Problem::Range { value, min, max })),
        _ => Err(located.mistyped(format!("a whole number from {min} to {max}"))),
    };
    let mut spec = Spec::new(format!("{min} to {max}"), parse, N::to_string);
    spec.about.hint = true;
    spec
}

/// A time, written as a whole number.
fn duration(
    (min, max): (i64, i64),
    unit: &str,
    read: fn(u64) -> Duration,
    show: fn(&Duration) -> u128,
) -> Spec<Duration> {
    let number = integer::<u64>(min, max).unit(unit);
    let parse = number.parse;
    let parse = move |located| parse(located).map(read);
    let mut spec = Spec::new(number.about.values, parse, move |time| {
        show(time).to_string()
    });
    spec.about.hint = true;
    spec
}

pub(super) fn seconds(min: i64, max: i64) -> Spec<Duration> {
    let show = |time: &Duration| time.as_secs().into();
    duration((min, max), " seconds", Duration::from_secs, show)
}

pub(super) fn milliseconds(min: i64, max: i64) -> Spec<Duration> {
    let read = Duration::from_millis;
    duration((min, max), " milliseconds", read, Duration::as_millis)
}

pub(super) fn boolean() -> Spec<bool> {
    let parse = |located: Located| match (&located.raw, &located.location) {
        (Raw::Boolean(value), _) => Ok(*value),
        (Raw::Text(text), Location::Flag(_)) if text == "true" => Ok(true),
        (Raw::Text(text), Location::Flag(_)) if text == "false" => Ok(false),
        _ => Err(located.mistyped("true or false")),
    };
    let mut spec = Spec::new("true or false", parse, bool::to_string);
    spec.about.switch = true;
    spec.about.choices = vec!["true", "false"];
    spec
}

/// A text that `parse` reads and `show` writes.
pub(super) fn text<T: 'static, P: Into<Problem>>(
    values: &'static str,
    parse: impl Fn(&str) -> Result<T, P> + Send + Sync + 'static,
    show: impl Fn(&T) -> String + 'static,
) -> Spec<T> {
    let parse = move |located: Located| match &located.raw {
        Raw::Text(text) => parse(text).map_err(|problem| located.location.bad(problem.into())),
        _ => Err(located.mistyped("a string in \"quotes\"")),
    };
    Spec::new(values, parse, move |value| quoted(&show(value)))
}

/// A text that the type itself reads and writes.
pub(super) fn parsed<T>(values: &'static str) -> Spec<T>
where
    T: FromStr<Err: Into<Problem>> + Display + 'static,
{
    text(values, T::from_str, T::to_string)
}

/// The path of a file.
pub(super) fn path() -> Spec<PathBuf> {
    let parse = |text: &str| Ok::<_, Problem>(PathBuf::from(text));
    text("a path", parse, |path| path.display().to_string()).offered(ValueHint::FilePath)
}

/// One of some words.
pub(super) fn choice<T>(choices: &'static [(&'static str, T)]) -> Spec<T>
where
    T: Copy + PartialEq + Sync + 'static,
{
    let words: Vec<String> = choices.iter().map(|(word, _)| quoted(word)).collect();
    let words = match words.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        words => words.concat(),
    };
    let expected = words.clone();
    let parse = move |located: Located| match &located.raw {
        Raw::Text(given) => {
            let choice = choices.iter().find(|(word, _)| word == given);
            choice.map(|(_, value)| *value).ok_or_else(|| {
                located.location.bad(Problem::Choice {
                    given: given.clone(),
                    choices: expected.clone(),
                })
            })
        }
        _ => Err(located.mistyped(expected.clone())),
    };
    let mut spec = Spec::new(words, parse, |value| {
        let choice = choices.iter().find(|(_, choice)| choice == value);
        choice.map(|(word, _)| quoted(word)).unwrap_or_default()
    });
    spec.about.hint = true;
    spec.about.choices = choices.iter().map(|(word, _)| *word).collect();
    spec
}

/// A value, or "auto", which is `None` and the default.
pub(super) fn auto_or<T: Clone + 'static>(spec: Spec<T>) -> Spec<Option<T>> {
    let Spec {
        about,
        parse,
        check,
        show,
        ..
    } = spec;
    let values = format!("\"auto\" or {}", about.values);
    let expected = values.clone();
    let parse = move |located: Located| match &located.raw {
        Raw::Text(text) if text == "auto" => Ok(None),
        Raw::Text(_) => Err(located.mistyped(expected.clone())),
        _ => parse(located).map(Some),
    };
    let shown = move |value: &Option<T>| match value {
        Some(value) => show(value),
        None => quoted("auto"),
    };
    let mut spec = Spec::new(values.clone(), parse, shown).default(None);
    spec.check = Arc::new(move |value| value.as_ref().map_or(Ok(()), |value| check(value)));
    spec.about = About { values, ..about };
    spec
}

/// A number of octets.
pub(super) fn size() -> Spec<usize> {
    let parse = |located: Located| match &located.raw {
        Raw::Integer(number) => usize::try_from(*number)
            .map_err(|_| located.location.bad(Problem::Size(number.to_string()))),
        Raw::Text(text) => match text.parse() {
            Ok(Size(octets)) => Ok(octets),
            Err(problem) => Err(located.location.bad(problem)),
        },
        _ => Err(located.mistyped("a size like 67108864 or \"64M\"")),
    };
    let values = "octets, or with K, M or G for powers of 1024";
    Spec::new(values, parse, |octets| quoted(&Size(*octets).to_string()))
}

/// A list of such items; never empty if it is given.
pub(super) fn list<T: 'static>(item: Spec<T>) -> Spec<Vec<T>> {
    let Spec {
        about, parse, show, ..
    } = item;
    let parse = move |located: Located| match located.raw {
        Raw::List(items) if items.is_empty() => Err(located.location.bad(Problem::Empty)),
        Raw::List(items) => items.into_iter().map(|item| parse(item)).collect(),
        _ => Err(located.mistyped("a list in [brackets]")),
    };
    let show = move |list: &Vec<T>| {
        let items: Vec<String> = list.iter().map(|item| show(item)).collect();
        match items.is_empty() {
            true => String::new(),
            false => format!("[{}]", items.join(", ")),
        }
    };
    let mut spec = Spec::new(format!("list of {}", about.values), parse, show);
    spec.about.list = true;
    spec
}

/// A secret, of which nothing is shown.
pub(super) fn secret() -> Spec<[u8; 16]> {
    let values = "strings of 32 hexadecimal digits";
    let mut spec = text(values, values::secret, |_| String::new());
    spec.show = Arc::new(|_| SECRET.to_owned());
    spec
}

/// A text as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
