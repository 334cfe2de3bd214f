//! Holds the document against its schema in docs/stats.md.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::VERSION;

/// Each field of the document, those of nested objects included, is in the schema.
pub(super) fn assert_documented(document: &Value) {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stats.md");
    let schema = fs::read_to_string(schema).unwrap();
    assert!(schema.contains(&format!("version {VERSION}")));
    let mut fields = BTreeSet::new();
    names(document, &mut fields);
    assert!(fields.len() > 100, "{fields:?}");
    let missing = |name: &&String| !schema.contains(&format!("`{name}`"));
    let missing: Vec<_> = fields.iter().filter(missing).collect();
    assert!(missing.is_empty(), "not in docs/stats.md: {missing:?}");
}

fn names(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            into.insert(name.clone());
            names(value, into);
        }),
        Value::Array(items) => items.iter().for_each(|item| names(item, into)),
        _ => {}
    }
}
