//! What is shown, and how readings and keys change it.

use std::time::Duration;

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{history::History, panes, table::Sort};
use crate::cli::view::{Reading, View};

/// Longest filter, in characters.
const MAX_FILTER: usize = 64;

/// Rows that the page keys scroll.
const PAGE: usize = 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) interval: Duration,
    pub(super) pane: Pane,
    /// Keys are read. Otherwise one frame is printed.
    pub(super) is_interactive: bool,
    pub(super) has_color: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pane {
    Overview,
    Queues,
    Upstreams,
    Names,
}

impl Pane {
    pub(super) const ALL: [Self; 4] = [Self::Overview, Self::Queues, Self::Upstreams, Self::Names];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Queues => "Queues",
            Self::Upstreams => "Upstreams",
            Self::Names => "Names",
        }
    }

    /// The pane that is `by` positions further on.
    fn step(self, by: usize) -> Self {
        let all = Self::ALL.into_iter().cycle();
        all.skip_while(|pane| *pane != self).nth(by).unwrap_or(self)
    }
}

/// What comes from the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    pub(super) view: View,
    pub(super) queries: History,
    /// Why the server cannot be reached, if it cannot.
    pub(super) lost: Option<String>,
}

/// The state of the program.
#[derive(Debug)]
pub(super) struct App {
    pub(super) options: Options,
    live: Screen,
    /// What is shown while it is paused.
    frozen: Option<Screen>,
    last: Option<Reading>,
    pub(super) pane: Pane,
    sorts: [Sort; Pane::ALL.len()],
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) is_typing: bool,
    pub(super) is_help: bool,
    pub(super) scroll: usize,
    /// The furthest that the last frame could be scrolled.
    furthest: usize,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Quit,
}

impl App {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            live: Screen::default(),
            frozen: None,
            last: None,
            pane: options.pane,
            // The most popular names first.
            sorts: Pane::ALL.map(|pane| Sort {
                column: usize::from(pane == Pane::Names),
                is_reversed: false,
            }),
            filter: String::new(),
            is_typing: false,
            is_help: false,
            scroll: 0,
            furthest: 0,
        }
    }

    /// Takes a reading, or the reason why there is none.
    pub(super) fn update(&mut self, reading: Result<Reading, String>) {
        let now = match reading {
            Ok(now) => now,
            Err(why) => {
                self.live.lost = Some(why);
                return;
            }
        };
        let view = View::new(&now.since(self.last.as_ref()));
        // An average since the start is no rate of a moment.
        if !view.is_since_start {
            self.live.queries.push(view.rate(view.queries.all()));
        }
        self.live.view = view;
        self.live.lost = None;
        self.last = Some(now);
    }

    pub(super) fn screen(&self) -> &Screen {
        self.frozen.as_ref().unwrap_or(&self.live)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// The order of the pane's list.
    pub(super) fn sort(&self) -> Sort {
        let position = self.pane as usize;
        self.sorts.get(position).copied().unwrap_or_default()
    }

    /// A frame was drawn that could be scrolled so far.
    pub(super) fn drawn(&mut self, furthest: usize) {
        self.furthest = furthest;
        self.scroll = self.scroll.min(furthest);
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::GoOn;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Next::Quit,
                _ => Next::GoOn,
            };
        }
        if self.is_help {
            self.is_help = false;
        } else if self.is_typing {
            self.type_filter(key.code);
        } else {
            return self.command(key.code);
        }
        Next::GoOn
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            // Names have no other characters.
            KeyCode::Char(c @ ' '..='~') if self.filter.len() < MAX_FILTER => self.filter.push(c),
            _ => {}
        }
        self.scroll = 0;
    }

    fn command(&mut self, key: KeyCode) -> Next {
        match key {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('?' | 'h') => self.is_help = true,
            KeyCode::Char('p' | ' ') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => Some(self.live.clone()),
                };
            }
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('1') => self.show(Pane::Overview),
            KeyCode::Char('2') => self.show(Pane::Queues),
            KeyCode::Char('3') => self.show(Pane::Upstreams),
            KeyCode::Char('4') => self.show(Pane::Names),
            KeyCode::Tab => self.show(self.pane.step(1)),
            KeyCode::BackTab => self.show(self.pane.step(Pane::ALL.len() - 1)),
            KeyCode::Char('s') | KeyCode::Right => self.sort_by(1),
            KeyCode::Left => self.sort_by(panes::columns(self.pane).saturating_sub(1)),
            KeyCode::Char('r') => {
                if let Some(sort) = self.sorts.get_mut(self.pane as usize) {
                    sort.is_reversed = !sort.is_reversed;
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::PageDown => self.scroll += PAGE,
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = self.furthest,
            _ => {}
        }
        self.scroll = self.scroll.min(self.furthest);
        Next::GoOn
    }

    fn show(&mut self, pane: Pane) {
        if self.pane != pane {
            self.pane = pane;
            self.scroll = 0;
        }
    }

    /// Sorts by the column that is `step` positions further on.
    fn sort_by(&mut self, step: usize) {
        let columns = panes::columns(self.pane);
        if let Some(sort) = self
            .sorts
            .get_mut(self.pane as usize)
            .filter(|_| columns > 0)
        {
            sort.column = (sort.column + step) % columns;
            sort.is_reversed = false;
        }
    }
}
