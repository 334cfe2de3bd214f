//! Makes a frame of what is shown: no clock, no terminal.

mod blocks;
mod help;
mod overview;

use std::iter;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{
    app::{App, Pane},
    panes, table,
};
use crate::cli::view::{
    Count, Front, View,
    format::{clean, compact, fit, octets, seconds, span},
};
use blocks::Block;

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Cell {
    fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = text.into();
        Self { text, tone }
    }
}

/// What a text is, which decides its style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Title,
    Selected,
    Dim,
    Good,
    Warn,
    Bad,
    Chart,
}

impl Tone {
    /// The style, by the terminal's first eight colours, whose shades are the user's choice.
    fn style(self, has_color: bool) -> Style {
        let plain = Style::new();
        let color = |color: Color| if has_color { plain.fg(color) } else { plain };
        match self {
            Self::Plain => plain,
            Self::Title => color(Color::Cyan).add_modifier(Modifier::BOLD),
            Self::Selected => plain.add_modifier(Modifier::REVERSED),
            Self::Dim => plain.add_modifier(Modifier::DIM),
            Self::Good => color(Color::Green),
            Self::Warn => color(Color::Yellow),
            Self::Bad => color(Color::Red).add_modifier(Modifier::BOLD),
            Self::Chart => color(Color::Green),
        }
    }
}

/// The buffer, and how to write to it.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    has_color: bool,
}

impl Canvas<'_> {
    /// Writes a line at a row of an area, as far as there is room.
    fn line(&mut self, area: Rect, row: usize, cells: &[Cell]) {
        let Some(row) = u16::try_from(row).ok().filter(|row| *row < area.height) else {
            return;
        };
        let mut x = area.x;
        for cell in cells {
            let room = area.right().saturating_sub(x);
            if room == 0 {
                return;
            }
            let style = cell.tone.style(self.has_color);
            (x, _) = self
                .buffer
                .set_stringn(x, area.y + row, &cell.text, room.into(), style);
        }
    }

    /// Writes two texts, one to the left and one to the right end, which has precedence.
    fn ends(&mut self, area: Rect, row: usize, left: &[Cell], right: Cell) {
        let width = usize::from(area.width);
        let len = right.text.chars().count().min(width);
        let start = Rect {
            width: (width - len) as u16,
            ..area
        };
        let end = Rect {
            x: start.right(),
            width: len as u16,
            ..area
        };
        self.line(start, row, left);
        self.line(end, row, &[right]);
    }
}

/// Draws the frame, and returns how far it can be scrolled.
pub(super) fn draw(app: &App, area: Rect, buffer: &mut Buffer) -> usize {
    let area = area.intersection(buffer.area);
    let mut canvas = Canvas {
        buffer,
        has_color: app.options.has_color,
    };
    header(app, area, &mut canvas);
    // The header, and on a terminal the panes and the keys.
    let (above, below) = if app.options.is_interactive {
        (2, 1)
    } else {
        (2, 0)
    };
    if app.options.is_interactive {
        tabs(app, area, &mut canvas);
        footer(app, area, &mut canvas);
    }
    let body = Rect {
        y: area.y + above.min(area.height),
        height: area.height.saturating_sub(above + below),
        ..area
    };
    if app.is_help {
        return blocks::draw(&[help::help()], body, 1, app.scroll, &mut canvas);
    }
    match app.pane {
        Pane::Overview => overview::draw(app, body, &mut canvas),
        Pane::Queues => queues(app, body, &mut canvas),
        Pane::Upstreams => upstreams(app, body, &mut canvas),
        Pane::Names => names(app, body, &mut canvas),
    }
}

/// The frame as lines of text without trailing blanks.
pub(super) fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in buffer.content.chunks(usize::from(buffer.area.width).max(1)) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn header(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let screen = app.screen();
    let view = &screen.view;
    let status = if screen.lost.is_some() {
        Cell::new(" SERVER LOST", Tone::Bad)
    } else if app.is_paused() {
        Cell::new(" PAUSED", Tone::Warn)
    } else if view.is_since_start {
        Cell::new(" average since the start", Tone::Dim)
    } else {
        Cell::new(format!(" over {}", seconds(view.seconds)), Tone::Dim)
    };
    let mut facts = vec![view.backend.clone(), format!("up {}", span(view.uptime))];
    let cpu = view.cpu_seconds.filter(|_| view.seconds > 0.0);
    facts.extend(cpu.map(|cpu| format!("cpu {:.0} %", cpu / view.seconds * 100.0)));
    facts.extend(view.memory.map(octets));
    facts.extend(view.pid.map(|pid| format!("pid {pid}")));
    let mut left = vec![Cell::new(view.server.clone(), Tone::Title)];
    let mut room = usize::from(area.width)
        .saturating_sub(view.server.chars().count() + status.text.chars().count());
    // Those that there is room for.
    for fact in facts {
        let fact = format!("  {fact}");
        match room.checked_sub(fact.chars().count()) {
            Some(rest) => room = rest,
            None => break,
        }
        left.push(Cell::new(fact, Tone::Plain));
    }
    canvas.ends(area, 0, &left, status);
}

fn tabs(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let gap = if area.width < 60 { "" } else { " " };
    let tab = |(pane, number): (Pane, u32)| {
        let tone = if pane == app.pane {
            Tone::Selected
        } else {
            Tone::Plain
        };
        let title = Cell::new(format!("{gap}{number} {}{gap}", pane.title()), tone);
        [title, Cell::new(" ", Tone::Plain)]
    };
    let tabs: Vec<Cell> = Pane::ALL.into_iter().zip(1..).flat_map(tab).collect();
    canvas.line(area, 1, &tabs);
}

/// The keys, or what is more important.
fn footer(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let row = usize::from(area.height).saturating_sub(1);
    let width = usize::from(area.width);
    let filter = &app.filter;
    if app.is_typing {
        let typed = Cell::new(format!("/{filter}_"), Tone::Selected);
        let keys = Cell::new("  Enter keeps it, Esc clears it", Tone::Dim);
        canvas.line(area, row, &[typed, keys]);
    } else if let Some(why) = &app.screen().lost {
        let text = format!("{}; trying again", clean(why));
        canvas.line(area, row, &[Cell::new(fit(&text, width), Tone::Bad)]);
    } else {
        let keys = match app.pane {
            _ if width < 60 => "q quit  p pause  / filter  ? help",
            Pane::Overview => "q quit  p pause  1-4 or Tab pane  ↑↓ scroll  ? help",
            _ => "q quit  p pause  / filter  s sort  r reverse  ↑↓ scroll  ? help",
        };
        let shown = match filter.as_str() {
            "" => String::new(),
            filter => format!(" /{filter}"),
        };
        canvas.ends(
            area,
            row,
            &[Cell::new(keys, Tone::Dim)],
            Cell::new(shown, Tone::Warn),
        );
    }
}

fn queues(app: &App, area: Rect, canvas: &mut Canvas<'_>) -> usize {
    let view = &app.screen().view;
    let order = (app.sort(), app.filter.as_str());
    let with_queues =
        |front: &Front| iter::once(front.clone()).chain(front.rows_below().collect::<Vec<_>>());
    let fronts: Vec<Front> = view.fronts.iter().flat_map(with_queues).collect();
    let (heading, rows) = table::lines(panes::QUEUES, &fronts, view, order, area.width.into());
    list(app, (heading, rows), &notes(view), area, canvas)
}

/// What the columns have no room for: the service addresses, interfaces, and why something does not run.
fn notes(view: &View) -> Vec<Vec<Cell>> {
    let note = |name: &str, state: &str, facts: String| {
        vec![
            Cell::new(format!("{name} "), Tone::Title),
            Cell::new(state, panes::tone_of(state)),
            Cell::new(facts, Tone::Plain),
        ]
    };
    let because = |reason: &Option<String>| {
        let reason = reason.as_ref().map(|why| format!(": {why}"));
        reason.unwrap_or_default()
    };
    let services = view.services.iter();
    let services = services.map(|one| note("service addresses", &one.state, because(&one.reason)));
    let interfaces = view.interfaces.iter().map(|one| {
        let attach = one.attach.as_ref();
        let attach = attach.map(|how| format!(", XDP program {how}"));
        let facts = attach.unwrap_or_default() + &because(&one.reason);
        note(&one.name, &one.state, facts)
    });
    let fronts = view.fronts.iter().filter(|one| one.reason.is_some());
    let fronts = fronts.map(|one| note(&one.name, &one.state, because(&one.reason)));
    services.chain(interfaces).chain(fronts).collect()
}

fn upstreams(app: &App, area: Rect, canvas: &mut Canvas<'_>) -> usize {
    let view = &app.screen().view;
    let order = (app.sort(), app.filter.as_str());
    let (heading, rows) = table::lines(
        panes::UPSTREAMS,
        &view.upstreams,
        view,
        order,
        area.width.into(),
    );
    let forwarder = &view.forwarder;
    let rate = |count: u64| compact(view.rate(count));
    let done = format!(
        "requests {}/s, sent {}/s, answers {}/s",
        rate(forwarder.requests),
        rate(forwarder.sent),
        rate(forwarder.answers),
    );
    let failed = format!(
        "timeouts {}/s, errors {}/s, in flight {}",
        rate(forwarder.timeouts),
        rate(forwarder.errors),
        forwarder.in_flight,
    );
    let problems = view.upstreams.iter().filter_map(|upstream| {
        let problem = upstream.problem.as_ref()?;
        Some(vec![
            Cell::new(upstream.address.clone(), Tone::Bad),
            Cell::new(format!(": {problem}"), Tone::Plain),
        ])
    });
    let errors = view.upstreams.iter().filter_map(|upstream| {
        let errors = upstream.errors_in_words()?;
        let text = format!("{}: {errors}", upstream.address);
        Some(vec![Cell::new(text, Tone::Plain)])
    });
    let rates = [done, failed].map(|text| vec![Cell::new(text, Tone::Plain)]);
    let notes: Vec<_> = rates.into_iter().chain(problems).chain(errors).collect();
    list(app, (heading, rows), &notes, area, canvas)
}

/// Headings, rows from the scrolled one on, and notes below them.
fn list(
    app: &App,
    (heading, rows): (Vec<Cell>, Vec<Vec<Cell>>),
    notes: &[Vec<Cell>],
    area: Rect,
    canvas: &mut Canvas<'_>,
) -> usize {
    let height = usize::from(area.height);
    let notes = notes.get(..notes.len().min(height / 3)).unwrap_or_default();
    // A blank line above the notes.
    let below = if notes.is_empty() { 0 } else { notes.len() + 1 };
    let room = height.saturating_sub(1 + below);
    let furthest = rows.len().saturating_sub(room);
    let scroll = app.scroll.min(furthest);
    canvas.line(area, 0, &heading);
    for (row, cells) in rows.iter().skip(scroll).take(room).enumerate() {
        canvas.line(area, 1 + row, cells);
    }
    let mut row = 1 + room.min(rows.len());
    if furthest > 0 && !notes.is_empty() {
        let shown = format!("{} to {} of {}", scroll + 1, scroll + room, rows.len());
        canvas.line(area, row, &[Cell::new(shown, Tone::Dim)]);
    } else if rows.is_empty() {
        let none = if app.filter.is_empty() {
            "none"
        } else {
            "none matches the filter"
        };
        canvas.line(area, row, &[Cell::new(none, Tone::Dim)]);
        row += 1;
    }
    for (position, note) in notes.iter().enumerate() {
        canvas.line(area, row + 1 + position, note);
    }
    furthest
}

fn names(app: &App, area: Rect, canvas: &mut Canvas<'_>) -> usize {
    let view = &app.screen().view;
    let Some(popular) = &view.popular else {
        let none = Cell::new("The server does not know popular names.", Tone::Dim);
        canvas.line(area, 0, &[none]);
        return 0;
    };
    let across = blocks::across(area.width, 38, 3);
    let width = blocks::width(area.width, across);
    let sample = match popular.one_in {
        Some(one_in) => format!("Of the last minutes, by a sample of 1 of {one_in} queries."),
        None => "The server takes no sample of queries.".to_owned(),
    };
    canvas.line(area, 0, &[Cell::new(sample, Tone::Dim)]);
    let lists = [
        ("NAME", &popular.names),
        ("TYPE", &popular.types),
        ("CLIENT", &popular.clients),
    ];
    let block = |(title, counts): &(&'static str, &Vec<Count>)| -> Block {
        let order = (app.sort(), app.filter.as_str());
        let (heading, rows) = table::lines(&panes::names(title), counts, view, order, width);
        iter::once(heading).chain(rows).collect()
    };
    let blocks: Vec<Block> = lists.iter().map(block).collect();
    let below = Rect {
        y: area.y.saturating_add(1),
        height: area.height.saturating_sub(1),
        ..area
    };
    blocks::draw(&blocks, below, across, app.scroll, canvas)
}
