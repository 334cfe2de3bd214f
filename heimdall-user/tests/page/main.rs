//! The status page in a real browser, with the documents of an imagined server: ordinary ones, odd ones, and
//! none.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod connection;
mod content;
mod odd_documents;
mod users;

use lab::{Browser, Sample, StatusServer};
use serde_json::Value;

const PAGE: &str = include_str!("../../src/http/page.html");
const VIEWS: [&str; 4] = ["overview", "configuration", "doctor", "values"];
const SAMPLE: Sample = Sample {
    interfaces: 1,
    queues: 4,
    uptime: 100,
};

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
