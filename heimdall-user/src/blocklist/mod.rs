//! Builds the blocklists that the answer core looks names up in ([`answer::blocklist`]).
//!
//! Lists have millions of names: their texts become one finite state transducer in a temporary
//! file, which is mapped, so that the kernel may write its pages out. The server builds at the start
//! and at every reload; nothing here runs for a query.
//!
//! [`answer::blocklist`]: crate::answer::blocklist

mod list;
mod mapped;

use std::io::{self, BufWriter};

use fst::MapBuilder;

use crate::answer::blocklist::{BlockAction, Blocklists, Rule};

use list::ListReport;
pub(crate) use list::find_line;

/// Builds blocklists of texts, each with the action for its names. If several entries have the same
/// name, the first list's counts, but [`BlockAction::Allow`] before all. There is a report for each list.
///
/// Takes some seconds for millions of names, and some 30 octets of memory a name meanwhile.
///
/// # Errors
/// A temporary file cannot be written or mapped.
pub fn build<'a>(
    lists: impl IntoIterator<Item = (&'a [u8], BlockAction)>,
) -> io::Result<(Blocklists, Vec<ListReport>)> {
    let mut names = Names::default();
    let reports = lists
        .into_iter()
        .map(|(text, action)| list::read(text, |key, below| names.add(key, action, below)))
        .collect();
    if names.entries.is_empty() {
        return Ok((Blocklists::default(), reports));
    }
    let mut builder =
        MapBuilder::new(BufWriter::new(tempfile::tempfile()?)).map_err(io::Error::other)?;
    names
        .for_each_sorted(|key, rule| builder.insert(key, rule.pack()).map_err(io::Error::other))?;
    let file = builder.into_inner().map_err(io::Error::other)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    let blocklists = Blocklists::new(mapped::private(&file)?).map_err(io::Error::other)?;
    Ok((blocklists, reports))
}

/// The names of all lists, with their keys one behind the other in `octets`.
#[derive(Default)]
struct Names {
    octets: Vec<u8>,
    entries: Vec<Entry>,
}

/// A name on a list.
#[derive(Clone, Copy)]
struct Entry {
    /// Its key's offset and length.
    start: usize,
    len: u8,
    action: BlockAction,
    /// The action is for the names below it, too.
    below: bool,
}

impl Names {
    fn add(&mut self, key: &[u8], action: BlockAction, below: bool) {
        self.entries.push(Entry {
            start: self.octets.len(),
            len: key.len() as u8,
            action,
            below,
        });
        self.octets.extend_from_slice(key);
    }

    /// Calls `visit` with each key once, in ascending order, and the rule that its entries make.
    fn for_each_sorted(
        mut self,
        mut visit: impl FnMut(&[u8], Rule) -> io::Result<()>,
    ) -> io::Result<()> {
        let octets = &self.octets;
        let key = |entry: &Entry| {
            let end = entry.start + usize::from(entry.len);
            octets.get(entry.start..end).unwrap_or_default()
        };
        // Entries with the same name stay in the order of their lists, which is that of the offsets.
        self.entries
            .sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.start.cmp(&b.start)));
        for same in self.entries.chunk_by(|a, b| key(a) == key(b)) {
            let mut rule = Rule::default();
            for entry in same {
                merge(&mut rule.own, entry.action);
                if entry.below {
                    merge(&mut rule.below, entry.action);
                }
            }
            if let Some(entry) = same.first() {
                visit(key(entry), rule)?;
            }
        }
        Ok(())
    }
}

/// Adds a later list's action to those of earlier lists.
fn merge(merged: &mut Option<BlockAction>, action: BlockAction) {
    if merged.is_none() || action == BlockAction::Allow {
        *merged = Some(action);
    }
}

#[cfg(test)]
mod tests;
