//! `heimdall top`: the running server on a whole screen, again and again.
//!
//! `app` is what is shown and how keys and readings change it, `draw` makes a frame of it, `terminal` is the loop
//! around both. Only the last one waits, or touches a terminal; the others are pure functions, tested on whole frames.

mod app;
mod draw;
mod history;
mod panes;
mod table;
mod terminal;

use std::{
    env,
    io::{self, IsTerminal},
    thread,
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use ratatui::{buffer::Buffer, crossterm, layout::Rect};

use super::{
    args::{ServerArgs, duration},
    print,
    view::Reading,
};
use app::{App, Options, Pane};

const EXAMPLES: &str = "\
Examples:
  heimdall top
  heimdall top --interval 5           over a slow line
  heimdall top --once                 one frame as plain text, for scripts
  heimdall top --once --size 120x40 --pane queues

Keys: q quits, p pauses, ? explains. Tab and 1 to 4 choose the pane: overview, queues, upstreams, names. In
lists, s or an arrow chooses the column to sort by, r reverses, / filters. Rates and latencies are
those of the last interval, popular names those of the last minutes. When the server ends, it says so
and waits for the next one. NO_COLOR=1 in the environment turns colours off.";

/// Show rates, queues, upstreams and popular names on the whole screen
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Top {
    #[command(flatten)]
    server: ServerArgs,

    /// Time between two frames: 1, 500ms, 2min
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = duration)]
    interval: Duration,

    /// The pane to begin with
    #[arg(long, value_enum, default_value_t = Pane::Overview)]
    pane: Pane,

    /// Measure for one interval, print one frame as plain text, and exit
    #[arg(long)]
    once: bool,

    /// Columns and rows of that frame [default: the terminal's, or else 80x24]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size, requires = "once")]
    size: Option<(u16, u16)>,
}

impl Top {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let path = self.server.path()?;
        let mut app = App::new(Options {
            interval: self.interval,
            pane: self.pane,
            is_interactive: !self.once,
            has_color: !self.once && env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        });
        // Without a server there is nothing to begin with.
        app.update(Ok(Reading::ask(&path)?));
        if self.once {
            thread::sleep(self.interval);
            app.update(Ok(Reading::ask(&path)?));
            let size = self.size.unwrap_or_else(terminal_size);
            return print(&frame(&app, size));
        }
        if !io::stdout().is_terminal() {
            bail!("the output is no terminal; --once prints a frame for scripts");
        }
        terminal::run(&mut app, path)
    }
}

fn terminal_size() -> (u16, u16) {
    let size = io::stdout().is_terminal().then(crossterm::terminal::size);
    size.and_then(Result::ok).unwrap_or((80, 24))
}

/// A frame as lines of text.
fn frame(app: &App, (width, height): (u16, u16)) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    draw::draw(app, area, &mut buffer);
    draw::text(&buffer)
}

/// Columns and rows, as `80x24`.
fn size(text: &str) -> Result<(u16, u16), String> {
    let parts = text.split_once('x');
    let size = parts.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    size.filter(|(width, height)| (20..=1000).contains(width) && (5..=1000).contains(height))
        .ok_or_else(|| "give columns and rows, as 80x24, from 20x5 to 1000x1000".to_owned())
}

#[cfg(test)]
mod tests;
