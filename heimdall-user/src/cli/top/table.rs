//! Lists in columns: which fit, in which order, of which rows.

use std::cmp::Ordering;

use super::draw::{Cell, Tone};
use crate::cli::view::{View, format::fit};

/// Space between two columns.
const GAP: usize = 2;

/// What a row is sorted by: texts in ascending order, numbers in descending order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Key {
    Text(String),
    Number(f64),
}

pub(super) struct Column<T> {
    pub(super) title: &'static str,
    /// The order in which columns are left out when there is no room: the highest first, never 0.
    pub(super) rank: u8,
    pub(super) cell: fn(&T, &View) -> String,
    pub(super) key: fn(&T) -> Key,
    pub(super) tone: fn(&T) -> Tone,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) column: usize,
    pub(super) is_reversed: bool,
}

/// The headings and the rows, each as wide as `width` at most. The first column takes the room that others leave.
pub(super) fn lines<T>(
    columns: &[Column<T>],
    items: &[T],
    view: &View,
    (sort, filter): (Sort, &str),
    width: usize,
) -> (Vec<Cell>, Vec<Vec<Cell>>) {
    let filter = filter.to_lowercase();
    let mut rows: Vec<(&T, Vec<String>)> = items
        .iter()
        .map(|item| {
            (
                item,
                columns
                    .iter()
                    .map(|column| (column.cell)(item, view))
                    .collect(),
            )
        })
        .filter(|(_, cells): &(&T, Vec<String>)| {
            filter.is_empty()
                || cells
                    .iter()
                    .any(|cell| cell.to_lowercase().contains(&filter))
        })
        .collect();
    if let Some(column) = columns.get(sort.column) {
        rows.sort_by(|(one, _), (other, _)| {
            let order = order(&(column.key)(one), &(column.key)(other));
            if sort.is_reversed {
                order.reverse()
            } else {
                order
            }
        });
    }
    let widths = widths(
        columns,
        rows.iter().map(|(_, cells)| cells.as_slice()),
        width,
    );
    let cell = |position: usize, text: &str, width: usize, tone: Tone| {
        let text = fit(text, width);
        let text = match position {
            0 => format!("{text:<width$}"),
            _ => format!("{text:>0$}", width + GAP),
        };
        Cell { text, tone }
    };
    let heading = widths.iter().enumerate().filter_map(|(position, width)| {
        let tone = if position == sort.column {
            Tone::Selected
        } else {
            Tone::Title
        };
        Some(cell(
            position,
            columns.get(position)?.title,
            (*width)?,
            tone,
        ))
    });
    let heading = heading.collect();
    let row = |(item, cells): &(&T, Vec<String>)| {
        let cells = widths.iter().enumerate().filter_map(|(position, width)| {
            let column = columns.get(position)?;
            Some(cell(
                position,
                cells.get(position)?,
                (*width)?,
                (column.tone)(item),
            ))
        });
        cells.collect()
    };
    (heading, rows.iter().map(row).collect())
}

fn order(one: &Key, other: &Key) -> Ordering {
    match (one, other) {
        (Key::Text(one), Key::Text(other)) => one.cmp(other),
        (Key::Number(one), Key::Number(other)) => other.total_cmp(one),
        (Key::Number(_), Key::Text(_)) => Ordering::Less,
        (Key::Text(_), Key::Number(_)) => Ordering::Greater,
    }
}

/// The width of each column, `None` for those that do not fit.
fn widths<'a, T>(
    columns: &[Column<T>],
    rows: impl Iterator<Item = &'a [String]>,
    width: usize,
) -> Vec<Option<usize>> {
    let mut wanted: Vec<usize> = columns
        .iter()
        .map(|column| column.title.chars().count())
        .collect();
    for row in rows {
        for (wanted, cell) in wanted.iter_mut().zip(row) {
            *wanted = cell.chars().count().max(*wanted);
        }
    }
    let mut by_rank: Vec<usize> = (0..columns.len()).collect();
    by_rank.sort_by_key(|position| columns.get(*position).map(|column| column.rank));
    // A long name leaves room for the other columns.
    let longest = (width / 3).max(16);
    let mut widths = vec![None; columns.len()];
    let mut left = width;
    for position in by_rank {
        let wanted = wanted.get(position).copied().unwrap_or_default();
        let least = if position == 0 {
            wanted.min(longest).min(width)
        } else {
            wanted
        };
        let gap = if left == width { 0 } else { GAP };
        if least + gap > left {
            break;
        }
        left -= least + gap;
        if let Some(width) = widths.get_mut(position) {
            *width = Some(least);
        }
    }
    // Unused room goes to the names that were cut.
    if let (Some(Some(first)), Some(wanted)) = (widths.first_mut(), wanted.first()) {
        *first = (*wanted).min(*first + left);
    }
    widths
}
