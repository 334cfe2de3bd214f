//! `heimdall stats --watch`: rates again and again.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    thread,
    time::Duration,
};

use ratatui::crossterm::terminal;

use super::text::render;
use crate::{
    cli::{
        printed,
        view::{
            Period, Reading, View,
            format::{fit, percent, rate, time_of_day},
        },
    },
    log,
};

/// Lines between two headings.
const LINES: usize = 24;

/// The columns of a line.
const HEADINGS: [&str; 9] = [
    "time",
    "queries/s",
    "replies/s",
    "hits",
    "dropped/s",
    "upstream/s",
    "timeouts/s",
    "errors/s",
    "in flight",
];

/// Prints the rates of each interval until the output is closed.
///
/// # Errors
/// The server cannot be reached at the beginning, or the output cannot be written.
pub(super) fn watch(path: &Path, interval: Duration) -> anyhow::Result<()> {
    let mut before = Reading::ask(path)?;
    let is_terminal = io::stdout().is_terminal();
    let mut is_lost = false;
    for number in 0.. {
        thread::sleep(interval);
        let now = match Reading::ask(path) {
            Ok(now) => now,
            Err(error) => {
                if !is_lost {
                    log::print_error(&format!("heimdall: {error}; trying again"));
                }
                is_lost = true;
                continue;
            }
        };
        is_lost = false;
        let period = now.since(Some(&before));
        let text = if is_terminal {
            screen(&period, terminal::size().unwrap_or((80, 24)))
        } else {
            line(&View::new(&period), number)
        };
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            return printed(Err(error));
        }
        before = now;
    }
    Ok(())
}

/// The text, written over the one before, and cut to the terminal.
fn screen(period: &Period, (width, height): (u16, u16)) -> String {
    let text = render(period);
    let lines: Vec<&str> = text.lines().collect();
    let room = usize::from(height).saturating_sub(1);
    let mut screen = "\x1b[H".to_owned();
    for line in lines.iter().take(room) {
        screen.push_str(&fit(line, width.into()));
        // Clear the rest of the line.
        screen.push_str("\x1b[K\n");
    }
    if lines.len() > room {
        let more = format!("… {} more lines; see heimdall top", lines.len() - room);
        screen.push_str(&fit(&more, width.into()));
        screen.push_str("\x1b[K");
    }
    // Clear the lines below.
    screen + "\x1b[J"
}

/// A line, below the headings if it is time for them.
fn line(view: &View, number: usize) -> String {
    let mut text = String::new();
    let upstream = &view.forwarder;
    let values = [
        time_of_day(view.time),
        rate(view.rate(view.queries.all())),
        rate(view.rate(view.replies.all())),
        percent(view.hits, view.hits + view.misses).unwrap_or_else(|| "-".to_owned()),
        rate(view.rate(view.dropped.iter().map(|reason| reason.count).sum())),
        rate(view.rate(upstream.sent)),
        rate(view.rate(upstream.timeouts)),
        rate(view.rate(upstream.errors)),
        upstream.in_flight.to_string(),
    ];
    if number.is_multiple_of(LINES) {
        text.push_str(&columns(HEADINGS.map(str::to_owned)));
    }
    text.push_str(&columns(values));
    text
}

fn columns<const N: usize>(cells: [String; N]) -> String {
    let cells = cells.map(|cell| format!("{cell:>10}"));
    format!("{}\n", cells.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::testing;

    #[test]
    fn lines_have_headings_now_and_then() {
        let view = View::new(&testing::period());
        let [first, next] = [line(&view, 0), line(&view, 1)];
        assert_eq!(first.lines().count(), 2);
        assert_eq!(first.lines().nth(1), next.lines().next());
        assert_eq!(line(&view, LINES), first);
        assert_eq!(
            next,
            " 22:13:20Z     12,000     11,900     97.5 %        100        320        2.0        0.5         12\n"
        );
    }

    #[test]
    fn a_screen_is_cut_to_the_terminal() {
        let screen = super::screen(&testing::period(), (20, 5));
        let lines: Vec<&str> = screen.split('\n').collect();
        assert_eq!(lines.len(), 5, "{screen}");
        assert!(
            screen.starts_with("\x1b[Hheimdall 0.1.0, bac…\x1b[K\n"),
            "{screen:?}"
        );
        assert!(
            screen.ends_with(" more lines; s…\x1b[K\x1b[J"),
            "{screen:?}"
        );
        assert!(!super::screen(&testing::period(), (300, 300)).contains("more lines"));
    }
}
