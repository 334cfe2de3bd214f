//! Which entries.

use std::str::FromStr;

use domain::base::{Name, ToName as _, name::FromStrError};
use thiserror::Error;

use crate::dns::{QUESTION_FIXED, name::eq_ignore_case};

/// Which entries of a cache are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All.
    All,
    /// Those of a name, in wire form, of any type.
    Name(Box<[u8]>),
    /// Those of a name, in wire form, and of all names below it.
    Zone(Box<[u8]>),
    /// Those of a name, in wire form, and of all names above it.
    Above(Box<[u8]>),
}

/// A text that is no name.
#[derive(Debug, Error)]
#[error("{text:?} is no domain name: {source}")]
pub(crate) struct BadName {
    text: String,
    source: FromStrError,
}

/// Creation.
impl Scope {
    /// The entries of a name, in the form of zone files, with or without the last dot.
    ///
    /// # Errors
    /// It is no name.
    pub(crate) fn name(text: &str) -> Result<Self, BadName> {
        wire(text).map(Self::Name)
    }

    /// The entries of a name and of all below it.
    ///
    /// # Errors
    /// It is no name.
    pub(crate) fn zone(text: &str) -> Result<Self, BadName> {
        wire(text).map(Self::Zone)
    }
}

/// A name in the form of zone files, with or without the last dot, in wire form.
///
/// # Errors
/// It is no name.
pub(crate) fn wire(text: &str) -> Result<Box<[u8]>, BadName> {
    match Name::<Vec<u8>>::from_str(text) {
        Ok(name) => Ok(name.to_vec().into_octets().into()),
        Err(source) => Err(BadName {
            text: text.to_owned(),
            source,
        }),
    }
}

/// A name in wire form in the form of zone files, with its last dot; `?` for what is no name.
pub(crate) fn presentation(wire: &[u8]) -> String {
    Name::from_slice(wire).map_or_else(|_| "?".to_owned(), |name| name.fmt_with_dot().to_string())
}

impl Scope {
    /// Whether the entry of a question, in wire form, is among them.
    pub(crate) fn holds(&self, question: &[u8]) -> bool {
        let end = question.len().saturating_sub(QUESTION_FIXED);
        let name = question.get(..end).unwrap_or_default();
        match self {
            Self::All => true,
            Self::Name(wanted) => eq_ignore_case(name, wanted),
            Self::Zone(apex) => ends_with(name, apex),
            Self::Above(wanted) => ends_with(wanted, name),
        }
    }
}

/// Whether `name` is `apex` or below it.
fn ends_with(mut name: &[u8], apex: &[u8]) -> bool {
    while name.len() > apex.len() {
        let Some((len, rest)) = name.split_first() else {
            return false;
        };
        name = rest.get(usize::from(*len)..).unwrap_or_default();
    }
    eq_ignore_case(name, apex)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn question(name: &str) -> Vec<u8> {
        let mut question = wire(name).unwrap().into_vec();
        question.extend_from_slice(&[0, 1, 0, 1]);
        question
    }

    #[test]
    fn names_and_zones() {
        let name = Scope::name("WWW.example.com").unwrap();
        let zone = Scope::zone("Example.com.").unwrap();
        let root = Scope::zone(".").unwrap();
        let above = Scope::Above(wire("www.example.com").unwrap());
        for (text, expected) in [
            ("WWW.example.com", true),
            ("example.com", true),
            ("com", true),
            (".", true),
            ("a.www.example.com", false),
            ("w.example.com", false),
            ("ww.example.com", false),
        ] {
            assert_eq!(above.holds(&question(text)), expected, "{text}");
        }
        for (text, in_name, in_zone) in [
            ("www.example.COM", true, true),
            ("example.com", false, true),
            ("a.www.example.com", false, true),
            ("badexample.com", false, false),
            ("x\\007example.com", false, false),
            ("com", false, false),
            (".", false, false),
        ] {
            let question = question(text);
            assert_eq!(name.holds(&question), in_name, "{text}");
            assert_eq!(zone.holds(&question), in_zone, "{text}");
            assert!(root.holds(&question) && Scope::All.holds(&question));
        }
        assert!(!zone.holds(&[]) && !root.holds(&[7, 0, 0, 1, 0, 1]));
    }

    #[test]
    fn texts_that_are_no_names() {
        for text in ["", "a..b", &"x".repeat(64)] {
            let error = Scope::name(text).unwrap_err().to_string();
            assert!(error.contains("is no domain name"), "{error}");
        }
    }
}
