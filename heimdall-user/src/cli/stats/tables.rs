//! Tables of a period: latencies, upstreams, interfaces, queues, popular names.

use std::iter;

use crate::cli::{
    table::Table,
    view::{
        Count, Latency, View,
        format::{fit, grouped, micros, percent, rate},
    },
};

/// Rows of a list of popular names.
const POPULAR: usize = 10;

/// The longest name in a table.
const NAME_WIDTH: usize = 60;

pub(super) fn tables(view: &View) -> Vec<String> {
    let mut tables = vec![
        latency(view),
        upstreams(view),
        interfaces(view),
        fronts(view),
        queues(view),
    ];
    tables.extend(popular(view));
    tables.retain(|table| !table.is_empty());
    tables
}

/// A title, headings and rows, without the columns in which there is nothing; no text if there are no rows.
fn table<const N: usize>(title: &str, headings: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let is_something = |cell: &String| !["", "-", "0"].contains(&cell.as_str());
    let is_used = |column: &usize| {
        let mut cells = rows.iter().filter_map(|row| row.get(*column));
        cells.any(is_something)
    };
    let used: Vec<usize> = (0..N).filter(is_used).collect();
    let mut table = Table::default();
    for row in iter::once(&headings.map(str::to_owned)).chain(rows) {
        table.row(used.iter().filter_map(|column| row.get(*column).cloned()));
    }
    let mut text = format!("{title}\n");
    for line in table.to_string().lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// A value that may be unknown.
fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// A count, or its rate.
fn number(view: &View, count: u64) -> String {
    if view.is_since_start {
        grouped(count)
    } else {
        rate(view.rate(count))
    }
}

/// The heading of a count, or of its rate.
fn heading(view: &View, what: &str) -> String {
    let unit = if view.is_since_start { "" } else { "/s" };
    format!("{what}{unit}")
}

fn latency(view: &View) -> String {
    let fronts = [
        ("hits", view.latency_of_hits),
        ("misses", view.latency_of_misses),
    ];
    let upstreams = view.upstreams.iter();
    let upstreams = upstreams.map(|upstream| (upstream.address.as_str(), upstream.latency));
    let measured = fronts
        .into_iter()
        .chain(upstreams)
        .filter_map(|(name, latency)| {
            let latency = latency.filter(|latency| *latency != Latency::default())?;
            let [mean, p50, p90, p99, p999, max] =
                latency.list().map(|(_, value)| known(value.map(micros)));
            Some([name.to_owned(), mean, p50, p90, p99, p999, max])
        });
    let rows: Vec<_> = measured.collect();
    table(
        "LATENCY",
        ["of", "mean", "p50", "p90", "p99", "p99.9", "max"],
        &rows,
    )
}

fn upstreams(view: &View) -> String {
    let [queries, timeouts, errors] =
        ["queries", "timeouts", "errors"].map(|what| heading(view, what));
    let headings = [
        "upstream",
        "state",
        "RTT",
        "in flight",
        &queries,
        &timeouts,
        &errors,
    ];
    let upstreams = view.upstreams.iter().map(|upstream| {
        [
            upstream.address.clone(),
            upstream.state.clone(),
            known(upstream.rtt_us.map(micros)),
            grouped(upstream.in_flight),
            number(view, upstream.queries),
            number(view, upstream.timeouts),
            number(view, upstream.errors),
        ]
    });
    let mut text = table("UPSTREAMS", headings, &upstreams.collect::<Vec<_>>());
    for upstream in &view.upstreams {
        if let Some(routes) = upstream.routes_in_words() {
            text.push_str(&format!("  {} routes: {routes}\n", upstream.address));
        }
        if let Some(problem) = &upstream.problem {
            text.push_str(&format!("  {}: {problem}\n", upstream.address));
        }
        if let Some(errors) = upstream.errors_in_words() {
            text.push_str(&format!("  {} errors: {errors}\n", upstream.address));
        }
    }
    text
}

fn interfaces(view: &View) -> String {
    let everywhere = view.tier.as_ref().and_then(|tier| tier.reason.as_ref());
    let interfaces = view.interfaces.iter().map(|interface| {
        let is_on = interface.tier.as_deref() == Some("on");
        let tier_reason = interface.tier_reason.as_ref();
        let tier_reason = tier_reason.or(everywhere.filter(|_| is_on));
        let tier_reason = tier_reason.map(|why| format!("hot tier off: {why}"));
        let why = interface.reason.clone().or(tier_reason);
        [
            interface.name.clone(),
            interface.state.clone(),
            known(interface.attach.clone()),
            known(interface.tier.clone()),
            why.unwrap_or_default(),
        ]
    });
    let headings = ["interface", "state", "XDP", "hot tier", "why"];
    table("INTERFACES", headings, &interfaces.collect::<Vec<_>>())
}

fn fronts(view: &View) -> String {
    let [queries, replies, dropped, lost] =
        ["queries", "replies", "dropped", "lost"].map(|what| heading(view, what));
    let headings = [
        "queue", "core", "mode", "state", &queries, &replies, "hits", &dropped, &lost, "waiting",
        "why",
    ];
    let fronts = view.fronts.iter().map(|front| {
        [
            front.name.clone(),
            known(front.core.map(|core| core.to_string())),
            front.mode.clone(),
            front.state.clone(),
            number(view, front.queries.all()),
            number(view, front.replies.all()),
            known(percent(front.hits, front.hits + front.misses)),
            number(view, front.dropped),
            number(view, front.lost),
            grouped(front.waiting),
            front.reason.clone().unwrap_or_default(),
        ]
    });
    table("QUEUES AND SOCKETS", headings, &fronts.collect::<Vec<_>>())
}

/// The queues of workers that serve several.
fn queues(view: &View) -> String {
    let [received, lost] = ["received", "lost"].map(|what| heading(view, what));
    let headings = [
        "queue",
        "worker",
        "placed by",
        "mode",
        "state",
        &received,
        &lost,
        "why",
    ];
    let queues = view.fronts.iter().flat_map(|front| &front.queues);
    let queues = queues.map(|queue| {
        [
            queue.name.clone(),
            queue.worker.clone(),
            queue.placement.clone(),
            queue.mode.clone(),
            queue.state.clone(),
            number(view, queue.received),
            number(view, queue.lost),
            queue.reason.clone().unwrap_or_default(),
        ]
    });
    table(
        "QUEUES OF SHARED WORKERS",
        headings,
        &queues.collect::<Vec<_>>(),
    )
}

fn popular(view: &View) -> Vec<String> {
    let Some(popular) = &view.popular else {
        return Vec::new();
    };
    let lists = [
        ("name", &popular.names),
        ("type", &popular.types),
        ("client", &popular.clients),
    ];
    let list = |(what, counts): (&str, &Vec<Count>)| {
        let rows = counts.iter().take(POPULAR).map(|one| {
            let share = known(percent(one.count, popular.queries));
            [fit(&one.name, NAME_WIDTH), share]
        });
        let title = format!("POPULAR {}S OF THE LAST MINUTES", what.to_uppercase());
        table(&title, [what, "share"], &rows.collect::<Vec<_>>())
    };
    lists.map(list).into()
}
