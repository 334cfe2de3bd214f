//! The status page in a real browser, with the documents of an imagined server: ordinary ones, odd ones, and
//! none.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use lab::{Availability, Browser, Heimdall, Sample, ScriptedUpstream, StatusServer, by_label};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../src/http/page.html");
const VIEWS: [&str; 4] = ["overview", "configuration", "doctor", "values"];
const SAMPLE: Sample = Sample {
    interfaces: 1,
    queues: 4,
    uptime: 100,
};
/// Ends in an error and, if it were markup, would run a script.
const MARKUP: &str = r#"<img src=x onerror="window.owned = true">"#;

/// The page of a server, in a browser that listens to its events.
struct Viewer {
    server: StatusServer,
    browser: Browser,
}

impl Viewer {
    /// `None`: there is no browser on this machine.
    fn open(test: &str) -> Option<Self> {
        let available = Browser::available(test);
        available.then(|| Self::with(&Sample::configuration(), &Sample::findings()))
    }

    fn with(configuration: &Value, findings: &Value) -> Self {
        let server = StatusServer::start(PAGE).unwrap();
        server.set("/config.json", configuration);
        server.set("/doctor.json", findings);
        let browser = Browser::open(&server.url()).unwrap();
        let mut viewer = Self { server, browser };
        viewer.wait_for("source.readyState === EventSource.OPEN");
        viewer
    }

    /// Sends documents of these seconds and waits until the page has them.
    fn show(&mut self, sample: Sample, seconds: impl IntoIterator<Item = u32>) {
        for uptime in seconds {
            let document = Sample { uptime, ..sample }.document();
            self.send(&document);
        }
    }

    fn send(&mut self, document: &Value) {
        self.server.send(document);
        let uptime = document.get("uptime").cloned().unwrap_or_default();
        self.wait_for(&format!(
            "newest && (newest.doc.uptime ?? null) === {uptime}"
        ));
    }

    fn wait_for(&mut self, condition: &str) {
        wait_for(&mut self.browser, condition);
    }

    fn value(&mut self, expression: &str) -> Value {
        value(&mut self.browser, expression)
    }

    fn text(&mut self, expression: &str) -> String {
        self.value(expression)
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn view(&mut self, name: &str) {
        self.value(&format!("location.hash = '{name}'"));
        self.wait_for(&format!(
            "view === '{name}' && !document.getElementById('view-{name}').hidden"
        ));
    }

    /// The rows of the table with this title: the text of each cell, in lines.
    fn rows(&mut self, title: &str) -> Vec<Vec<String>> {
        let rows = self.value(&format!(
            "[...document.querySelector('table[aria-label=\"{title}\"] tbody').rows].map(row => [...row.cells].map(cell => cell.innerText))"
        ));
        serde_json::from_value(rows).unwrap()
    }

    fn first_cells(&mut self, title: &str) -> Vec<String> {
        let rows = self.rows(title);
        rows.into_iter()
            .map(|row| row[0].lines().next().unwrap_or_default().to_owned())
            .collect()
    }

    fn assert_no_problems(&mut self) {
        let problems = self.browser.problems().unwrap();
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}

fn wait_for(browser: &mut Browser, condition: &str) {
    let condition = format!("Boolean({condition})");
    let waited = browser.wait_for(&condition);
    waited.unwrap_or_else(|error| panic!("{error:#}"));
}

fn value(browser: &mut Browser, expression: &str) -> Value {
    let value = browser.evaluate(expression);
    value.unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn the_page_is_one_file_without_markup_from_scripts() {
    for forbidden in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        // Attributes that a policy with hashes forbids.
        " style=",
        " onclick=",
        " onerror=",
        // From elsewhere.
        "https://",
        "//cdn",
        "@import",
        "url(",
        "src=",
    ] {
        assert!(!PAGE.contains(forbidden), "{forbidden}");
    }
    // Names of namespaces, which nothing is fetched from.
    let others = PAGE.replace("http://www.w3.org/2000/svg", "");
    assert!(!others.contains("http://"));
}

#[test]
fn the_overview_shows_what_the_document_has() {
    let Some(mut viewer) = Viewer::open("the_overview_shows_what_the_document_has") else {
        return;
    };
    viewer.wait_for("document.getElementById('state').dataset.state === 'wait'");
    viewer.show(SAMPLE, [100, 101]);
    viewer.wait_for("document.getElementById('state-text').textContent === 'Live'");

    let received = |uptime| {
        let document = Sample { uptime, ..SAMPLE }.document();
        let workers = document["workers"].as_array().unwrap().iter();
        workers
            .map(|worker| worker["received"].as_u64().unwrap())
            .sum::<u64>()
    };
    let rate = received(101) - received(100);
    let xdp = format!("{},{:03}/s", rate / 1000, rate % 1000);
    let tiles = viewer.text("document.getElementById('tiles').innerText");
    for part in [
        "Queries",
        "/s",
        &xdp,
        "UDP\n",
        "Hit ratio",
        "98.",
        "%",
        "11.5",
        "µs",
        "34.5",
        "ms",
        "2 of 3 usable",
    ] {
        assert!(tiles.contains(part), "{part}: {tiles}");
    }
    let queues = viewer.rows("Queues");
    assert_eq!(queues.len(), 4, "{queues:?}");
    assert_eq!(
        queues[3][..4],
        ["eth0:3", "3", "zero-copy", "running"],
        "{queues:?}"
    );
    let rate: f64 = queues[3][4].replace(',', "").parse().unwrap();
    assert!((8_000.0..22_000.0).contains(&rate), "{queues:?}");

    // What is zero is left out.
    assert_eq!(
        viewer.first_cells("Dropped, by reason"),
        ["Response", "Bad checksum"]
    );
    assert_eq!(
        viewer.first_cells("Lost before a worker saw them"),
        Vec::<String>::new()
    );
    assert!(
        viewer
            .text("document.body.innerText")
            .contains("None since the start.")
    );
    let upstreams = viewer.rows("Upstreams");
    assert_eq!(
        upstreams[0][..3],
        ["9.9.9.9:53", "up", "8.41 ms"],
        "{upstreams:?}"
    );
    assert_eq!(upstreams[2][..2], ["[2620:fe::fe]:53", "failed"]);
    assert_eq!(
        viewer.rows("Popular names")[0][..2],
        ["www.example.com.", "7.1 %"]
    );
    assert_eq!(
        viewer.first_cells("Busiest clients")[2],
        "2001:db8:20:4::/64"
    );
    assert_eq!(
        viewer.first_cells("Queries by type")[..3],
        ["A", "AAAA", "HTTPS"]
    );
    assert!(
        viewer
            .first_cells("Packets, by the XDP program’s verdict")
            .contains(&"Not served".to_owned())
    );
    let process = viewer.rows("Process");
    let fact = |title: &str| {
        process
            .iter()
            .find(|row| row[0] == title)
            .map(|row| row[1].as_str())
    };
    assert_eq!(fact("Version"), Some("0.1.0, b1cd257"));
    assert_eq!(fact("Up for"), Some("1 min 41 s"));
    assert_eq!(fact("Resident memory"), Some("659 MiB"));
    assert!(fact("CPU").unwrap().ends_with("% of a core"), "{process:?}");
    assert_eq!(fact("Log lines lost"), None);

    // A click sorts, another one the other way round.
    let sort = "[...document.querySelectorAll('table[aria-label=Queues] thead button')][4].click()";
    viewer.value(sort);
    let falling = viewer.first_cells("Queues");
    viewer.value(sort);
    let rising = viewer.first_cells("Queues");
    assert_eq!(rising, falling.iter().rev().cloned().collect::<Vec<_>>());
    assert_ne!(rising, ["eth0:0", "eth0:1", "eth0:2", "eth0:3"]);
    assert_eq!(
        viewer.text("document.querySelector('[aria-sort]').textContent"),
        "Queries/s"
    );

    // The chart tells its values to a pointer and to keys.
    viewer.show(SAMPLE, 102..110);
    viewer.value("document.querySelector('svg').focus()");
    viewer.browser.press("ArrowLeft").unwrap();
    let readout = viewer.text("document.querySelector('.feet').innerText");
    let parts = readout
        .lines()
        .nth(1)
        .and_then(|readout| readout.split_once(": queries "));
    assert!(
        parts.is_some_and(|(_, rate)| rate.ends_with("/s")),
        "{readout}"
    );
    viewer.assert_no_problems();
}

#[test]
fn latencies_are_of_the_last_seconds() {
    let Some(mut viewer) = Viewer::open("latencies_are_of_the_last_seconds") else {
        return;
    };
    let tile = "document.querySelectorAll('#tiles .value')[2].innerText";
    let mut send = |uptime, pid, latency: Value| {
        let mut document = Sample { uptime, ..SAMPLE }.document();
        document["pid"] = json!(pid);
        document["latency"]["hits"] = latency;
        viewer.send(&document);
        (viewer.text(tile), viewer.rows("Latency"))
    };
    let fast = json!({ "count": 1000, "mean_us": 10, "p50_us": 10, "p99_us": 10, "max_us": 10, "buckets": [[10, 1000]] });
    let slow = json!({
        "count": 1100, "mean_us": 20, "p50_us": 10, "p99_us": 200, "max_us": 15_000_000,
        "buckets": [[10, 1000], [50, 60], [200, 39], [null, 1]],
    });
    let (p99, rows) = send(100, 1, fast.clone());
    assert_eq!(p99, "10.0 µs");
    assert_eq!(rows[0][0], "Hits\nsince the start");
    let (p99, rows) = send(101, 1, slow.clone());
    assert_eq!(p99, "200 µs");
    let last: Vec<_> = rows[0].iter().map(String::as_str).collect();
    assert_eq!(
        last,
        [
            "Hits\nlast 10 s",
            "120 µs",
            "50.0 µs",
            "200 µs",
            "200 µs",
            "15.0 s",
            "15.0 s"
        ]
    );
    assert_eq!(
        rows[1][..3],
        ["Hits\nsince the start", "20.0 µs", "10.0 µs"]
    );
    // Nothing in the last ten seconds.
    send(111, 1, slow.clone());
    let (p99, rows) = send(112, 1, slow.clone());
    assert_eq!(
        (p99.trim(), rows[0][0].as_str()),
        ("–", "Hits\nsince the start")
    );
    // Another server's times are not compared with this one's.
    let (p99, _) = send(1, 2, slow);
    assert_eq!(p99, "200 µs");
    // A version without buckets.
    let mut plain = fast;
    plain.as_object_mut().unwrap().remove("buckets");
    let (p99, rows) = send(2, 2, plain);
    assert_eq!(
        (p99.as_str(), rows[0][0].as_str()),
        ("10.0 µs", "Hits\nsince the start")
    );
    viewer.assert_no_problems();
}

#[test]
fn settings_values_and_findings_can_be_searched_and_copied() {
    let Some(mut viewer) = Viewer::open("settings_values_and_findings_can_be_searched_and_copied")
    else {
        return;
    };
    viewer.show(SAMPLE, [100, 101]);
    // Told in every view, before the findings are opened.
    viewer.wait_for("document.getElementById('doctor-count').textContent === '1 bad'");

    viewer.view("configuration");
    viewer.wait_for("settings.rows.size > 10");
    let rows = viewer.rows("Configuration in force");
    assert!(rows.contains(&vec![
        "listen".to_owned(),
        "192.0.2.53:53, [2001:db8::53]:53".to_owned()
    ]));
    assert!(rows.contains(&vec![
        "forward.client-subnet".to_owned(),
        "not set".to_owned()
    ]));
    assert!(rows.contains(&vec!["access.refuse".to_owned(), "none".to_owned()]));
    viewer.browser.press("/").unwrap();
    for key in ["c", "a", "c", "h", "e"] {
        viewer.browser.press(key).unwrap();
    }
    let found = viewer.first_cells("Configuration in force");
    assert!(
        found.iter().all(|key| key.contains("cache")) && found.len() == 4,
        "{found:?}"
    );

    viewer.view("values");
    viewer.value("document.getElementById('values-search').value = 'eth0:2 hits'; render(true)");
    assert_eq!(viewer.first_cells("All values"), ["workers[eth0:2].hits"]);

    viewer.view("doctor");
    viewer.wait_for("document.querySelectorAll('.finding').length === 4");
    let order = viewer
        .value("[...document.querySelectorAll('.finding strong')].map(check => check.textContent)");
    assert_eq!(
        order,
        json!(["vlan-offload", "rss-hash", "kernel", "bpf-jit"])
    );
    assert_eq!(
        viewer.value("document.getElementById('doctor-good').open"),
        json!(false)
    );
    // The clipboard may be refused; then the command is selected, ready to be copied by the user.
    viewer.value(
        "window.said = []; new MutationObserver(() => said.push(document.querySelector('.fix button').textContent)) \
         .observe(document.querySelector('.fix button'), { childList: true })",
    );
    viewer.value("document.querySelector('.fix button').click()");
    viewer.wait_for("['Copied', 'Press Ctrl+C'].includes(said[0]) && said[1] === 'Copy'");
    viewer.value("Object.defineProperty(navigator, 'clipboard', { value: undefined })");
    viewer.value("document.querySelectorAll('.fix button')[1].click()");
    viewer.wait_for("getSelection().toString() === 'ethtool -N eth0 rx-flow-hash udp4 sdfn'");

    // What cannot be loaded says why; what is there stays.
    viewer.assert_no_problems();
    viewer.server.set_availability(Availability::Refusing);
    viewer.value("loadDoctor()");
    viewer.wait_for("document.getElementById('doctor-about').textContent.includes('503')");
    assert_eq!(
        viewer.value("document.querySelectorAll('.finding').length"),
        json!(4)
    );
}

/// Replaces every text in a document.
fn with_markup(value: &Value) -> Value {
    match value {
        Value::String(_) => json!(MARKUP),
        Value::Array(items) => items.iter().map(with_markup).collect(),
        Value::Object(fields) => {
            let named = |(name, value): (&String, &Value)| (name.clone(), with_markup(value));
            let mut fields: serde_json::Map<_, _> = fields.iter().map(named).collect();
            fields.insert(MARKUP.to_owned(), json!(1));
            Value::Object(fields)
        }
        other => other.clone(),
    }
}

#[test]
fn markup_in_names_stays_text() {
    if !Browser::available("markup_in_names_stays_text") {
        return;
    }
    let mut findings = with_markup(&Sample::findings());
    findings[0]["level"] = json!("bad");
    let mut viewer = Viewer::with(&with_markup(&Sample::configuration()), &findings);
    for uptime in [100, 101] {
        viewer.send(&with_markup(&Sample { uptime, ..SAMPLE }.document()));
    }
    for view in VIEWS {
        viewer.view(view);
        let shown =
            format!("document.getElementById('view-{view}').textContent.includes('<img src=x')");
        viewer.wait_for(&shown);
    }
    assert_eq!(
        viewer.value("document.querySelectorAll('img').length"),
        json!(0)
    );
    assert_eq!(viewer.value("window.owned ?? null"), Value::Null);
    viewer.assert_no_problems();
    // If a script made markup of a name after all, the browser would refuse.
    let refused = viewer.browser.evaluate("document.body.innerHTML = '<b>'");
    assert!(refused.is_err(), "{refused:?}");
}

/// Documents that each lack a value, or have one of another type in its place.
fn variations(document: &Value) -> Vec<Value> {
    let mut pointers = Vec::new();
    collect(document, String::new(), &mut pointers);
    let mut all = Vec::new();
    for pointer in pointers {
        for odd in [json!(null), json!("odd"), json!([null, 1]), json!({})] {
            let mut varied = document.clone();
            *varied.pointer_mut(&pointer).unwrap() = odd;
            all.push(varied);
        }
        let mut lacking = document.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match lacking.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.remove(name)),
            Value::Array(items) => drop(items.remove(name.parse().unwrap())),
            _ => unreachable!(),
        }
        all.push(lacking);
    }
    all
}

fn collect(value: &Value, pointer: String, into: &mut Vec<String>) {
    let children: Vec<_> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, value)| (i.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    for (name, value) in children {
        let pointer = format!("{pointer}/{name}");
        into.push(pointer.clone());
        collect(value, pointer, into);
    }
}

#[test]
fn fields_may_be_missing_or_of_another_type() {
    let Some(mut viewer) = Viewer::open("fields_may_be_missing_or_of_another_type") else {
        return;
    };
    let sample = Sample {
        queues: 1,
        ..SAMPLE
    };
    let varied = variations(&sample.document());
    assert!(varied.len() > 700, "{}", varied.len());
    // The list of all values does not depend on what a field is for.
    for (view, step) in [("overview", 1), ("values", 9)] {
        viewer.view(view);
        let some: Vec<_> = varied.iter().step_by(step).collect();
        for documents in some.chunks(50) {
            for varied in documents {
                viewer.server.send(varied);
            }
            viewer.show(sample, [200]);
        }
        for text in ["", "{", "null", "[]", "7", "{}"] {
            viewer.server.send_text(text);
        }
        viewer.show(sample, [201]);
        viewer.assert_no_problems();
    }
    viewer.view("overview");
    assert_eq!(viewer.rows("Queues").len(), 1);

    // Sections that a version does not have are not shown, and the rest is.
    let mut document = Sample {
        uptime: 202,
        ..sample
    }
    .document();
    let fields = document.as_object_mut().unwrap();
    fields.retain(|name, _| ["sockets", "uptime"].contains(&name.as_str()));
    viewer.send(&document);
    let text = viewer.text("document.getElementById('view-overview').innerText");
    assert!(text.contains("Kernel sockets"), "{text}");
    for absent in [
        "Queues",
        "Upstreams",
        "Popular names",
        "Latency",
        "Forwarder",
        "Interfaces",
    ] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    viewer.server.set("/config.json", &json!([1, null]));
    viewer.server.set("/doctor.json", &json!({ "odd": [null] }));
    viewer.view("configuration");
    viewer.view("doctor");
    viewer.wait_for("document.getElementById('doctor-about').textContent.startsWith('0 bad')");
    viewer.server.set(
        "/doctor.json",
        &json!([null, 3, {}, { "level": 7, "check": [], "fix": {} }]),
    );
    viewer.value("loadDoctor()");
    viewer.wait_for("document.querySelectorAll('.finding').length === 2");
    viewer.assert_no_problems();
}

#[test]
fn a_restart_is_told_and_makes_no_rates() {
    let Some(mut viewer) = Viewer::open("a_restart_is_told_and_makes_no_rates") else {
        return;
    };
    let queries = "document.querySelector('#tiles .value').innerText";
    viewer.show(SAMPLE, [100, 101]);
    assert!(viewer.text(queries).ends_with("/s"));
    let mut first = Sample {
        uptime: 2,
        ..SAMPLE
    }
    .document();
    first["pid"] = json!(4712);
    first["build"]["version"] = json!("0.2.0");
    viewer.send(&first);
    let notice = viewer.text("document.getElementById('notice').innerText");
    assert!(
        notice.contains("restarted at") && notice.contains("version 0.2.0 now: reload"),
        "{notice}"
    );
    assert_eq!(viewer.text(queries).trim(), "–");
    let mut second = Sample {
        uptime: 3,
        ..SAMPLE
    }
    .document();
    second["pid"] = json!(4712);
    second["build"]["version"] = json!("0.2.0");
    viewer.send(&second);
    assert!(viewer.text(queries).ends_with("/s"));
    assert_ne!(
        viewer.text("document.querySelector('.restart').getAttribute('d')"),
        ""
    );
    viewer.value("document.getElementById('notice-close').click()");
    assert_eq!(
        viewer.value("document.getElementById('notice').hidden"),
        json!(true)
    );

    // Versions that tell neither process nor uptime: counts that fall.
    let document = |uptime| {
        let mut document = Sample { uptime, ..SAMPLE }.document();
        let fields = document.as_object_mut().unwrap();
        fields.retain(|name, _| !["pid", "started", "uptime", "time"].contains(&name.as_str()));
        document
    };
    for uptime in [300, 301, 9] {
        viewer.server.send(&document(uptime));
    }
    viewer.wait_for("!document.getElementById('notice').hidden");
    assert_eq!(viewer.text(queries).trim(), "–");

    // A worker that starts again has an empty cache, which is no restart of the server.
    viewer.value("document.getElementById('notice-close').click()");
    viewer.show(SAMPLE, [400]);
    let mut document = Sample {
        uptime: 401,
        ..SAMPLE
    }
    .document();
    document["workers"][0]["cache"]["insertions"] = json!(0);
    viewer.send(&document);
    assert_eq!(
        viewer.value("document.getElementById('notice').hidden"),
        json!(true)
    );
    viewer.assert_no_problems();
}

#[test]
fn a_lost_connection_is_said_and_tried_again() {
    let Some(mut viewer) = Viewer::open("a_lost_connection_is_said_and_tried_again") else {
        return;
    };
    let lost =
        "document.getElementById('state-text').textContent === 'Connection lost, trying again'";
    let live = "document.getElementById('state').dataset.state === 'live'";
    viewer.show(SAMPLE, [100]);
    let mut uptime = 100;
    for availability in [Availability::Gone, Availability::Refusing, Availability::Up] {
        viewer.wait_for(live);
        // A server that is up and sends nothing is lost, too.
        viewer.server.set_availability(availability);
        viewer.wait_for(lost);
        let more = "document.getElementById('state-more').textContent";
        viewer.wait_for(&format!("/values of [0-9]+ s ago/.test({more})"));
        if availability == Availability::Refusing {
            viewer.wait_for(&format!("{more}.includes('refuses')"));
        }
        assert_eq!(viewer.text("document.title"), "Connection lost – Heimdall");
        assert_eq!(viewer.rows("Queues").len(), 4, "the last values stay");
        viewer.server.set_availability(Availability::Up);
        viewer.wait_for("source.readyState === EventSource.OPEN");
        uptime += 10;
        viewer.show(SAMPLE, [uptime]);
        viewer.wait_for(live);
        assert_eq!(viewer.text("document.title"), "Heimdall");
    }
    // The last values before each loss and the first after it are not joined.
    assert!(
        viewer
            .value("samples.filter(sample => sample.gap).length")
            .as_u64()
            >= Some(1)
    );
}

#[test]
fn a_paused_page_stays_as_it_is() {
    let Some(mut viewer) = Viewer::open("a_paused_page_stays_as_it_is") else {
        return;
    };
    let uptime = "document.getElementById('identity').textContent";
    viewer.show(SAMPLE, [100, 101]);
    viewer.browser.press("p").unwrap();
    viewer.wait_for("document.getElementById('state-text').textContent === 'Paused'");
    viewer.show(SAMPLE, [102, 103, 104]);
    assert!(viewer.text(uptime).ends_with("1 min 41 s"));
    // Another view shows the same moment.
    viewer.view("values");
    viewer.value("document.getElementById('values-search').value = 'uptime'; render(true)");
    assert_eq!(viewer.rows("All values")[0][1], "101");
    viewer.browser.press("p").unwrap();
    viewer.wait_for("document.getElementById('state-text').textContent === 'Live'");
    assert!(viewer.text(uptime).ends_with("1 min 44 s"));
    // Charts have no gap.
    assert_eq!(viewer.value("samples.length"), json!(5));
    viewer.assert_no_problems();
}

#[test]
fn many_queues_and_long_names_fit_into_narrow_screens() {
    if !Browser::available("many_queues_and_long_names_fit_into_narrow_screens") {
        return;
    }
    let long = format!("{}.example.", vec!["x".repeat(60); 4].join("."));
    let mut findings = Sample::findings();
    findings[1]["fix"] = json!(long.repeat(3));
    findings[1]["finding"] = json!(long);
    let mut configuration = Sample::configuration();
    configuration["listen"] = vec![json!(long); 20].into();
    let mut viewer = Viewer::with(&configuration, &findings);
    let sample = Sample {
        interfaces: 2,
        queues: 64,
        uptime: 0,
    };
    for uptime in [100, 101] {
        let mut document = Sample { uptime, ..sample }.document();
        document["popular"]["names"][0]["name"] = json!(long);
        document["popular"]["clients"][0]["name"] = json!(long);
        document["upstreams"][0]["address"] = json!(long);
        document["interfaces"][0]["name"] = json!("a-very-long-if0");
        document["workers"][5]["state"] = json!("restarting");
        document["workers"][5]["reason"] = json!(long);
        document["build"]["version"] = json!("0.1.0-with-a-long-suffix+of.the.build.that.made.it");
        viewer.send(&document);
    }
    assert_eq!(viewer.rows("Queues").len(), 128);
    assert!(
        viewer
            .text("document.body.innerText")
            .contains("128 on 2 interfaces, 1 not running")
    );
    for (width, height) in [(360, 640), (768, 1024), (1280, 900), (2560, 1300)] {
        viewer.browser.resize(width, height).unwrap();
        for view in VIEWS {
            viewer.view(view);
            viewer.wait_for("!document.body.innerText.includes('Loading')");
            let wide = viewer.value("document.documentElement.scrollWidth");
            assert!(
                wide.as_u64() <= Some(width.into()),
                "{view} at {width}: {wide}"
            );
        }
    }
    // A long name breaks; it does not push the numbers out of sight.
    viewer.browser.resize(360, 640).unwrap();
    viewer.view("overview");
    let table = "document.querySelector('table[aria-label=\"Popular names\"]').parentNode";
    viewer.wait_for(&format!("{table}.scrollWidth <= {table}.clientWidth"));
    viewer.assert_no_problems();
}

/// The lowest contrast (WCAG 2, section 1.4.3) of text colours against the grounds that they are used on.
const CONTRAST: &str = "(() => {
  const parts = colour => { const probe = document.body.appendChild(document.createElement('i')); probe.style.color = colour;
    const found = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(Number); probe.remove(); return found; };
  const light = colour => { const [r, g, b] = parts(colour).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [high, low] = [light(a), light(b)].sort((a, b) => b - a); return (high + 0.05) / (low + 0.05); };
  return Math.min(...['text', 'quiet', 'accent', 'good', 'warn', 'bad'].flatMap(text => ['ground', 'card'].map(ground => contrast(`var(--${text})`, `var(--${ground})`))));
})()";

#[test]
fn themes_follow_the_system_and_the_button() {
    let Some(mut viewer) = Viewer::open("themes_follow_the_system_and_the_button") else {
        return;
    };
    viewer.show(SAMPLE, [100]);
    let ground = "getComputedStyle(document.body).backgroundColor";
    let (light, dark) = ("rgb(245, 246, 248)", "rgb(15, 19, 24)");
    for (system, colour) in [("light", light), ("dark", dark)] {
        viewer
            .browser
            .prefer("prefers-color-scheme", system)
            .unwrap();
        assert_eq!(viewer.text(ground), colour);
        let contrast = viewer.value(CONTRAST).as_f64().unwrap();
        assert!(contrast >= 4.5, "{system}: {contrast}");
    }
    // The system's is dark now.
    for (theme, colour) in [
        ("light", light),
        ("dark", dark),
        ("system", dark),
        ("light", light),
    ] {
        viewer.browser.press("t").unwrap();
        assert_eq!(
            viewer.text("document.getElementById('theme').textContent"),
            format!("Theme: {theme}")
        );
        assert_eq!(viewer.text(ground), colour);
    }
    // It is kept.
    let url = viewer.server.url();
    viewer.browser.navigate(&url).unwrap();
    viewer.wait_for("newest === null && document.documentElement.dataset.theme === 'light'");

    let moves = "getComputedStyle(document.querySelector('.view')).transitionDuration";
    assert_ne!(viewer.text(moves), "0s");
    viewer
        .browser
        .prefer("prefers-reduced-motion", "reduce")
        .unwrap();
    assert_eq!(viewer.text(moves), "0s");
    viewer.assert_no_problems();
}

#[test]
fn keys_and_screen_readers_reach_everything() {
    let Some(mut viewer) = Viewer::open("keys_and_screen_readers_reach_everything") else {
        return;
    };
    viewer.show(SAMPLE, [100, 101]);
    viewer.wait_for("document.getElementById('doctor-count').textContent !== ''");
    let focused = "document.activeElement.textContent.trim()";
    // The first of all is the way past the head; then its buttons and views, each with a visible focus.
    let mut order = Vec::new();
    for _ in 0..8 {
        viewer.browser.press("Tab").unwrap();
        order.push(viewer.text(focused));
        let outline = viewer.text("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "{order:?}");
    }
    let views = ["Overview", "Configuration", "Doctor 1 bad", "All values"];
    let expected = [
        &["Skip to the content", "Pause", "Theme: system", "?"][..],
        &views,
    ]
    .concat();
    assert_eq!(order, expected);
    viewer.browser.press("Enter").unwrap();
    viewer.wait_for("view === 'values'");
    assert_eq!(
        viewer.text("document.querySelector('[aria-current=page]').textContent"),
        "All values"
    );
    for (key, view) in ["1", "2", "3", "4"].into_iter().zip(VIEWS) {
        viewer.browser.press(key).unwrap();
        viewer.wait_for(&format!("view === '{view}'"));
    }
    // Keys are text where one types.
    viewer.browser.press("/").unwrap();
    for key in ["p", "1", "?"] {
        viewer.browser.press(key).unwrap();
    }
    assert_eq!(viewer.text("document.activeElement.value"), "p1?");
    assert_eq!(viewer.text("view"), "values");
    viewer.value("document.activeElement.blur()");
    viewer.browser.press("?").unwrap();
    viewer.wait_for("document.getElementById('help').open");
    viewer.browser.press("p").unwrap();
    viewer.browser.press("Escape").unwrap();
    viewer.wait_for("!document.getElementById('help').open");
    assert_eq!(
        viewer.value("paused"),
        json!(false),
        "the dialog has the keys"
    );

    for (what, number) in [
        ("header", 1),
        ("nav[aria-label]", 1),
        ("main", 1),
        ("footer", 1),
        ("h1", 1),
        // Read out when they change: the state of the connection, and notices.
        ("[role=status]", 2),
        ("[aria-live]", 0),
        ("html[lang=en]", 1),
    ] {
        let found = viewer.value(&format!("document.querySelectorAll('{what}').length"));
        assert_eq!(found, json!(number), "{what}");
    }
    for (what, exceptions) in [
        (
            "tables without a name",
            "[...document.querySelectorAll('main table')].filter(table => !table.getAttribute('aria-label'))",
        ),
        (
            "columns without a head",
            "[...document.querySelectorAll('main thead th')].filter(head => head.scope !== 'col' || !head.textContent)",
        ),
        (
            "rows without a head",
            "[...document.querySelectorAll('tbody tr')].filter(row => row.cells[0].scope !== 'row')",
        ),
        (
            "nameless controls",
            "[...document.querySelectorAll('button, input, svg')].filter(one => !one.textContent && !one.getAttribute('aria-label') && !one.closest('label'))",
        ),
        (
            "numbers that are not right-aligned",
            "[...document.querySelectorAll('td.num')].filter(cell => getComputedStyle(cell).textAlign !== 'right')",
        ),
    ] {
        let found = viewer.value(&format!("{exceptions}.map(element => element.outerHTML)"));
        assert_eq!(found, json!([]), "{what}");
    }
    // The state is set only when it changes: it would be read out each second.
    viewer.value(
        "window.changes = 0; new MutationObserver(() => window.changes++).observe(document.getElementById('state-text'), \
         { childList: true, characterData: true, subtree: true })",
    );
    viewer.show(SAMPLE, 102..106);
    assert_eq!(viewer.value("window.changes"), json!(0));
    viewer.assert_no_problems();
}

/// A port that nobody has now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn against_a_running_server() {
    if !Browser::available("against_a_running_server") {
        return;
    }
    let upstream = ScriptedUpstream::on_loopback("127.0.0.1:0", by_label).unwrap();
    let [listen, page] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let program = Path::new(env!("CARGO_BIN_EXE_heimdall"));
    let start = || {
        let upstream = upstream.address().to_string();
        let socket = [
            "--backend",
            "socket",
            "--listen",
            &listen,
            "--upstream",
            &upstream,
        ];
        let arguments = [
            &socket[..],
            &["--metrics-listen", &page, "--cache-size", "16M"],
        ]
        .concat();
        Heimdall::start(Command::new(program), program, &arguments).unwrap()
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    client.connect(&listen).unwrap();
    let ask = |times: usize| {
        for _ in 0..times {
            client
                .send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01")
                .unwrap();
            assert!(client.recv(&mut [0; 512]).unwrap() > 12);
        }
    };

    let server = start();
    let mut browser = Browser::open(&format!("http://{page}/")).unwrap();
    wait_for(
        &mut browser,
        "document.getElementById('state-text').textContent === 'Live'",
    );
    wait_for(&mut browser, "current.before !== null");
    ask(100);
    wait_for(&mut browser, "value('sockets.udp_received') === 100");
    wait_for(&mut browser, "samples.some(sample => sample.queries > 0)");
    let overview = value(
        &mut browser,
        "document.getElementById('view-overview').innerText",
    );
    let overview = overview.as_str().unwrap();
    for part in [
        "Kernel sockets",
        "UDP queries",
        "NOERROR",
        "Upstreams",
        &upstream.address().to_string(),
        "Version",
    ] {
        assert!(overview.contains(part), "{part}: {overview}");
    }
    value(&mut browser, "location.hash = 'configuration'");
    wait_for(
        &mut browser,
        &format!("configuration?.get('metrics.listen') === '{page}'"),
    );
    value(&mut browser, "location.hash = 'doctor'");
    wait_for(
        &mut browser,
        "/[0-9]+ good/.test(document.getElementById('doctor-about').textContent)",
    );
    let problems = browser.problems().unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    drop(server);
    wait_for(
        &mut browser,
        "document.getElementById('state').dataset.state === 'lost'",
    );
    let _server = start();
    wait_for(
        &mut browser,
        "document.getElementById('notice-text').textContent.includes('restarted')",
    );
    wait_for(
        &mut browser,
        "document.getElementById('state').dataset.state === 'live'",
    );
}
