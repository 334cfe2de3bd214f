//! Blocks of lines, side by side.

use ratatui::layout::Rect;

use super::{Canvas, Cell, Tone};

/// Columns between two blocks.
const GAP: usize = 2;

/// Lines that belong together, the heading first.
pub(super) type Block = Vec<Vec<Cell>>;

/// How many blocks of at least this width have room side by side, up to a number.
pub(super) fn across(width: u16, least: usize, most: usize) -> usize {
    ((usize::from(width) + GAP) / (least + GAP)).clamp(1, most)
}

/// The width of each of `across` blocks.
pub(super) fn width(width: u16, across: usize) -> usize {
    ((usize::from(width) + GAP) / across.max(1)).saturating_sub(GAP)
}

/// Draws blocks from the scrolled line on, each where most room is left; returns how far they can be scrolled.
pub(super) fn draw(
    blocks: &[Block],
    area: Rect,
    across: usize,
    scroll: usize,
    canvas: &mut Canvas<'_>,
) -> usize {
    let width = width(area.width, across);
    let mut columns: Vec<Vec<&[Cell]>> = vec![Vec::new(); across.max(1)];
    for block in blocks.iter().filter(|block| !block.is_empty()) {
        let Some(column) = columns.iter_mut().min_by_key(|column| column.len()) else {
            break;
        };
        if !column.is_empty() {
            column.push(&[]);
        }
        column.extend(block.iter().map(Vec::as_slice));
    }
    let height = usize::from(area.height);
    let longest = columns.iter().map(Vec::len).max().unwrap_or_default();
    if longest <= height {
        columns_at(&columns, area, width, 0, canvas);
        return 0;
    }
    // The last row says that there is more.
    let shown = Rect {
        height: area.height.saturating_sub(1),
        ..area
    };
    let furthest = longest - usize::from(shown.height);
    let scroll = scroll.min(furthest);
    columns_at(&columns, shown, width, scroll, canvas);
    let more = match furthest - scroll {
        0 => "the end".to_owned(),
        more => format!("↓ {more} more lines"),
    };
    canvas.line(
        area,
        height.saturating_sub(1),
        &[Cell::new(more, Tone::Dim)],
    );
    furthest
}

fn columns_at(
    columns: &[Vec<&[Cell]>],
    area: Rect,
    width: usize,
    scroll: usize,
    canvas: &mut Canvas<'_>,
) {
    for (position, column) in columns.iter().enumerate() {
        let left = position * (width + GAP);
        let column_area = Rect {
            x: area.x.saturating_add(left as u16),
            width: width as u16,
            ..area
        };
        let column_area = column_area.intersection(area);
        for (row, cells) in column.iter().skip(scroll).enumerate() {
            canvas.line(column_area, row, cells);
        }
    }
}
