//! A YAML document as a tree that knows its lines.
//!
//! It is bounded, and aliases are no part of it: they make a short text a huge tree.

use std::path::Path;

use saphyr_parser::{Event, Parser};

use super::super::ConvertError;

/// Octets of a document.
const MAX_OCTETS: usize = 4 << 20;

/// Nodes of a document.
const MAX_NODES: usize = 200_000;

/// Nodes inside one another.
const MAX_DEPTH: usize = 32;

/// A node, and its line, counted from 1.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    Scalar(String),
    List(Vec<Node>),
    /// Each key as text, with its line.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The items of a list. A scalar is one that has itself.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Scalar(_) => std::slice::from_ref(self),
            Value::Map(_) => &[],
        }
    }

    /// The entries of a map.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Scalar(_) | Value::List(_) => &[],
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let mut entries = self.entries().iter();
        entries.find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The text of a key's value.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }
}

/// A list or map that has not ended.
struct Open {
    node: Node,
    /// Of a map: the key whose value comes next.
    key: Option<String>,
}

/// Reads the first document of a text; `None` if there is none.
pub(super) fn read(path: &Path, text: &str) -> Result<Option<Node>, ConvertError> {
    let bad = |line: usize, why: &str| ConvertError::Yaml {
        path: path.to_owned(),
        line,
        why: why.to_owned(),
    };
    let too_much = |what| ConvertError::TooMuch {
        path: path.to_owned(),
        what,
    };
    if text.len() > MAX_OCTETS {
        return Err(too_much("4 MiB"));
    }
    let mut open: Vec<Open> = Vec::new();
    let mut nodes = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| bad(error.marker().line(), error.info()))?;
        let line = span.start.line();
        let ended = match event {
            Event::Scalar(text, ..) => Some(Value::Scalar(text.into_owned())),
            Event::SequenceStart(..) => {
                open.push(Open::new(line, Value::List(Vec::new())));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::new(line, Value::Map(Vec::new())));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(ended) if open.is_empty() => return Ok(Some(ended.node)),
                Some(ended) => {
                    add(&mut open, ended.node);
                    None
                }
                None => None,
            },
            Event::Alias(_) => return Err(bad(line, "aliases (*) are not followed")),
            _ => None,
        };
        nodes += 1;
        if nodes > MAX_NODES || open.len() > MAX_DEPTH {
            return Err(too_much("200,000 values, or 32 inside one another"));
        }
        if let Some(value) = ended {
            let node = Node { line, value };
            if open.is_empty() {
                return Ok(Some(node));
            }
            add(&mut open, node);
        }
    }
    Ok(None)
}

impl Open {
    fn new(line: usize, value: Value) -> Self {
        Self {
            node: Node { line, value },
            key: None,
        }
    }
}

/// Adds a node to the innermost list or map.
fn add(open: &mut [Open], node: Node) {
    let Some(Open { node: parent, key }) = open.last_mut() else {
        return;
    };
    match &mut parent.value {
        Value::List(items) => items.push(node),
        Value::Map(entries) => match key.take() {
            Some(key) => entries.push((key, node)),
            // A key that is no text has none.
            None => *key = Some(node.text().unwrap_or_default().to_owned()),
        },
        Value::Scalar(_) => {}
    }
}
