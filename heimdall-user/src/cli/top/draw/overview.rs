//! The overview: the queries of the last minutes, and cards.

use std::iter;

use ratatui::{
    layout::Rect,
    widgets::{RenderDirection, Sparkline, Widget},
};

use super::{
    Canvas, Cell, Tone,
    blocks::{self, Block},
};
use crate::cli::{
    top::{app::App, panes::tone_of},
    view::{
        Count, Front, Services, Upstream, View,
        format::{compact, fit, micros, percent, span},
    },
};

/// Seconds that the chart shows at least.
const CHART: f64 = 180.0;

/// The least width of a card.
const CARD: usize = 25;

/// The most cards side by side.
const ACROSS: usize = 4;

/// Columns of a value.
const VALUE: usize = 8;

/// Rows of a list in a card.
const ROWS: usize = 8;

pub(super) fn draw(app: &App, area: Rect, canvas: &mut Canvas<'_>) -> usize {
    let chart = match area.height {
        _ if !app.options.is_interactive => 0,
        0..7 => 0,
        7..16 => 2,
        16..36 => 4,
        _ => 7,
    };
    let above = Rect {
        height: chart,
        ..area
    };
    let below = Rect {
        y: area.y + chart,
        height: area.height - chart,
        ..area
    };
    if chart > 0 {
        draw_chart(app, above, canvas);
    }
    let across = blocks::across(area.width, CARD, ACROSS);
    let width = blocks::width(area.width, across);
    let cards = cards(&app.screen().view);
    let cards: Vec<Block> = cards.into_iter().map(|card| card.lines(width)).collect();
    blocks::draw(&cards, below, across, app.scroll, canvas)
}

/// A heading, and a bar for each moment, the newest to the right.
fn draw_chart(app: &App, area: Rect, canvas: &mut Canvas<'_>) {
    let screen = app.screen();
    let interval = app.options.interval.as_secs_f64();
    let width = usize::from(area.width).max(1);
    let each = (CHART / interval / width as f64).ceil().max(1.0);
    let mut values = screen.queries.means(each as usize);
    values.truncate(width);
    let highest = values.iter().copied().max().unwrap_or_default().max(1);
    let view = &screen.view;
    let heading = [
        Cell::new("QUERIES/s ", Tone::Title),
        Cell::new(compact(view.rate(view.queries.all())), Tone::Plain),
    ];
    let covered = span(width as f64 * each * interval);
    let scale = format!(" last {covered}, highest {}", compact(highest as f64));
    canvas.ends(area, 0, &heading, Cell::new(scale, Tone::Dim));
    let bars = Rect {
        y: area.y + 1,
        height: area.height - 1,
        ..area
    };
    Sparkline::default()
        .data(&values)
        .max(highest)
        .direction(RenderDirection::RightToLeft)
        .style(Tone::Chart.style(canvas.has_color))
        .render(bars, canvas.buffer);
}

/// A small table.
struct Card {
    title: &'static str,
    /// The titles of the values.
    heads: Vec<&'static str>,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    values: Vec<String>,
    tone: Tone,
}

impl Row {
    fn new(name: impl Into<String>, values: impl IntoIterator<Item = String>) -> Self {
        Self {
            name: name.into(),
            values: values.into_iter().collect(),
            tone: Tone::Plain,
        }
    }

    /// In another tone if there is something to look at.
    fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

impl Card {
    fn lines(&self, width: usize) -> Block {
        if self.rows.is_empty() {
            return Block::new();
        }
        let heading = line(width, (self.title, Tone::Title), &self.heads, Tone::Dim);
        let row = |row: &Row| {
            let alone = row.values.is_empty();
            let tone = if alone { row.tone } else { Tone::Plain };
            line(width, (&row.name, tone), &row.values, row.tone)
        };
        iter::once(heading)
            .chain(self.rows.iter().map(row))
            .collect()
    }
}

/// A name, and values at the right end.
fn line(
    width: usize,
    (name, tone): (&str, Tone),
    values: &[impl AsRef<str>],
    tone_of_values: Tone,
) -> Vec<Cell> {
    let room = width.saturating_sub(values.len() * VALUE);
    let name = fit(name, room.saturating_sub(1));
    let name = Cell::new(format!("{name:<room$}"), tone);
    let values = values.iter().map(AsRef::as_ref);
    let value = |value: &str| Cell::new(format!("{value:>VALUE$}"), tone_of_values);
    iter::once(name).chain(values.map(value)).collect()
}

fn cards(view: &View) -> Vec<Card> {
    let mut cards = vec![traffic(view), cache(view), latency(view), services(view)];
    cards.extend([
        queues(view),
        forwarder(view),
        upstreams(view),
        dropped(view),
    ]);
    cards.push(parts(view, "REPLIES", &view.rcodes));
    cards.push(parts(view, "TYPES", &view.types));
    if let Some(popular) = &view.popular {
        for (title, list) in [("NAMES", &popular.names), ("CLIENTS", &popular.clients)] {
            let share = |one: &Count| {
                let share = percent(one.count, popular.queries).unwrap_or_default();
                Row::new(one.name.clone(), [share])
            };
            cards.push(Card {
                title,
                heads: vec!["share"],
                rows: list.iter().take(ROWS).map(share).collect(),
            });
        }
    }
    cards
}

fn traffic(view: &View) -> Card {
    let row = |name: &str, queries: u64, replies: u64| {
        Row::new(
            name,
            [queries, replies].map(|count| compact(view.rate(count))),
        )
    };
    let (queries, replies) = (view.queries, view.replies);
    let transports = [
        ("hot tier", queries.tier, replies.tier),
        ("AF_XDP", queries.xdp, replies.xdp),
        ("UDP", queries.udp, replies.udp),
        ("TCP", queries.tcp, replies.tcp),
        ("TLS", queries.tls, replies.tls),
    ];
    let all = row("all", queries.all(), replies.all());
    let is_shown = |(name, ..): &(&str, u64, u64)| match *name {
        "hot tier" => view.tier.is_some(),
        "TLS" => view.serves_tls,
        _ => true,
    };
    let each = transports.into_iter().filter(is_shown);
    let each = each.map(|(name, queries, replies)| row(name, queries, replies));
    Card {
        title: "TRAFFIC",
        heads: vec!["query/s", "reply/s"],
        rows: iter::once(all).chain(each).collect(),
    }
}

fn cache(view: &View) -> Card {
    let rate = |count: u64| compact(view.rate(count));
    let share = percent(view.hits, view.hits + view.misses);
    let tier = view.tier.iter().map(|tier| match tier.state.as_str() {
        "on" => Row::new("in the hot tier", [compact(tier.entries as f64)]),
        state => Row::new("hot tier", [state.to_owned()]).toned(Tone::Warn),
    });
    Card {
        title: "CACHE",
        heads: Vec::new(),
        rows: [
            Row::new("hit ratio", [share.unwrap_or_else(|| "-".to_owned())]),
            Row::new("hits/s", [rate(view.hits)]),
            Row::new("misses/s", [rate(view.misses)]),
            Row::new("entries", [compact(view.cache.entries as f64)]),
            Row::new("evicted/s", [rate(view.cache.evictions)]),
        ]
        .into_iter()
        .chain(tier)
        .collect(),
    }
}

fn latency(view: &View) -> Card {
    let columns = [
        ("hits", view.latency_of_hits),
        ("misses", view.latency_of_misses),
    ];
    let measured: Vec<_> = columns
        .iter()
        .filter_map(|(name, latency)| Some((*name, (*latency)?)))
        .collect();
    let names = measured
        .first()
        .map(|(_, latency)| latency.list().map(|(name, _)| name));
    let row = |(position, name): (usize, &str)| {
        let values = measured.iter().map(|(_, latency)| {
            let value = latency.list().get(position).and_then(|(_, value)| *value);
            value.map_or_else(|| "-".to_owned(), micros)
        });
        Row::new(name, values)
    };
    Card {
        title: "LATENCY",
        heads: measured.iter().map(|(name, _)| *name).collect(),
        rows: names.into_iter().flatten().enumerate().map(row).collect(),
    }
}

/// Whether the service addresses are announced.
fn services(view: &View) -> Card {
    let row =
        |services: &Services| Row::new(services.state.clone(), []).toned(tone_of(&services.state));
    Card {
        title: "SERVICE ADDRESSES",
        heads: Vec::new(),
        rows: view.services.iter().map(row).collect(),
    }
}

/// The busiest queues, and all that do not run.
fn queues(view: &View) -> Card {
    let mut fronts: Vec<_> = view.fronts.iter().collect();
    fronts.sort_by_key(|front| {
        (
            front.state == "running",
            std::cmp::Reverse(front.queries.all()),
        )
    });
    let row = |front: &&Front| {
        let tone = tone_of(&front.state);
        if tone == Tone::Good {
            let hits = percent(front.hits, front.hits + front.misses);
            let rate = compact(view.rate(front.queries.all()));
            return Row::new(
                front.name.clone(),
                [rate, hits.unwrap_or_else(|| "-".to_owned())],
            );
        }
        Row::new(format!("{} {}", front.name, front.state), []).toned(tone)
    };
    let mut rows: Vec<Row> = fronts.iter().take(ROWS).map(row).collect();
    if fronts.len() > ROWS {
        rows.push(Row::new(format!("{} more: key 2", fronts.len() - ROWS), []));
    }
    Card {
        title: "QUEUES",
        heads: vec!["query/s", "hits"],
        rows,
    }
}

fn forwarder(view: &View) -> Card {
    let of = &view.forwarder;
    let rate = |name: &str, count: u64| Row::new(name, [compact(view.rate(count))]);
    let usual = [
        rate("requests", of.requests),
        rate("cached there", of.cache_hits),
        rate("sent", of.sent),
        rate("answers", of.answers),
        Row::new("in flight", [compact(of.in_flight as f64)]),
    ];
    let unusual = [
        ("timeouts", of.timeouts),
        ("errors", of.errors),
        ("stale answers", of.stale),
        ("SERVFAIL", of.servfail),
        ("ended for room", of.shed),
        ("not accepted", of.rejected),
    ];
    let unusual = unusual.into_iter().filter(|(_, count)| *count > 0);
    let unusual = unusual.map(|(name, count)| rate(name, count).toned(Tone::Warn));
    Card {
        title: "FORWARDER",
        heads: vec!["/s"],
        rows: usual.into_iter().chain(unusual).collect(),
    }
}

fn upstreams(view: &View) -> Card {
    let row = |upstream: &Upstream| {
        let tone = tone_of(&upstream.state);
        let value = match (tone, upstream.rtt_us) {
            (Tone::Good, Some(rtt)) => micros(rtt),
            _ => fit(&upstream.state, VALUE - 1),
        };
        Row::new(upstream.address.clone(), [value]).toned(tone)
    };
    Card {
        title: "UPSTREAMS",
        heads: vec!["RTT"],
        rows: view.upstreams.iter().take(ROWS).map(row).collect(),
    }
}

fn dropped(view: &View) -> Card {
    let row =
        |name: String, count: u64| Row::new(name, [compact(view.rate(count))]).toned(Tone::Warn);
    let reasons = view.dropped.iter();
    let mut rows: Vec<Row> = reasons
        .map(|reason| row(reason.name.replace('_', " "), reason.count))
        .collect();
    if view.lost > 0 {
        rows.insert(
            0,
            row("lost by kernel".to_owned(), view.lost).toned(Tone::Bad),
        );
    }
    Card {
        title: "DROPPED",
        heads: vec!["/s"],
        rows,
    }
}

/// Counts with their rates and shares.
fn parts(view: &View, title: &'static str, counts: &[Count]) -> Card {
    let all = counts.iter().map(|one| one.count).sum();
    let row = |one: &Count| {
        let share = percent(one.count, all).unwrap_or_default();
        Row::new(
            one.name.to_uppercase(),
            [compact(view.rate(one.count)), share],
        )
    };
    Card {
        title,
        heads: vec!["/s", "share"],
        rows: counts.iter().take(ROWS).map(row).collect(),
    }
}
