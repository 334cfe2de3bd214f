//! The alert rules and the dashboard of `deploy/`, with a real Prometheus that scrapes a real server.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, UPSTREAM, run};
use serde_json::Value;

use crate::{client::Settings, http::get, lab, metrics::METRICS, program};

/// The alert rules.
const RULES: [&str; 2] = ["prometheus-alerts.yml", "prometheus-fleet.yml"];

/// On the lab's client.
const PROMETHEUS: &str = "10.53.0.2:9090";

/// How long Prometheus may take to start, and to have scraped often enough.
const TIMEOUT: Duration = Duration::from_secs(60);

fn deploy(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("deploy").join(file)
}

/// A Prometheus in the client's namespace, which scrapes the server each second.
fn prometheus(lab: &Lab, directory: &Path) -> Process {
    let rules = RULES.map(deploy);
    let config = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n\
         rule_files: {rules:?}\n\
         scrape_configs:\n  - job_name: heimdall\n    static_configs: [{{ targets: [{METRICS:?}] }}]\n"
    );
    let path = directory.join("prometheus.yml");
    fs::write(&path, config).unwrap();
    run(Command::new("promtool")
        .arg("check")
        .arg("config")
        .arg(&path))
    .unwrap();
    let mut command = lab.on_client("prometheus");
    command
        .arg(format!("--config.file={}", path.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("data").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"));
    let mut process = Process::start(&mut command).unwrap();
    process
        .wait_for("Server is ready to receive web requests", TIMEOUT)
        .unwrap();
    process
}

/// The answer of Prometheus' API, which has to succeed.
fn api(lab: &Lab, path: &str) -> Value {
    let response = get(lab, PROMETHEUS, &format!("/api/v1/{path}"), "");
    assert_eq!(response.status, 200, "{path}: {}", response.body);
    response.json()["data"].clone()
}

/// How many series a query has.
fn series(lab: &Lab, query: &str) -> usize {
    let encoded: String = query.bytes().map(|octet| format!("%{octet:02x}")).collect();
    let data = api(lab, &format!("query?query={encoded}"));
    data["result"].as_array().unwrap().len()
}

/// The expression of a rule, with comparisons that keep all series instead of those that make it fire. It has no
/// series if the labels of its operands do not match: then the rule never fires.
fn unfiltered(rule: &str) -> String {
    // Prometheus writes spaces around operators, and none in label matchers.
    let comparisons = ["==", "!=", "<", ">", "<=", ">="];
    let words = rule.split_whitespace().map(|word| {
        let modifier = if comparisons.contains(&word) {
            " bool"
        } else {
            ""
        };
        format!("{word}{modifier}")
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The metrics that a query reads.
fn metrics(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let known = |word: &&str| {
        *word == "up" || word.starts_with("heimdall_") || word.starts_with("process_")
    };
    words.filter(known).collect()
}

/// Each query of the dashboard, with values for its variables.
fn dashboard() -> Vec<String> {
    let text = fs::read_to_string(deploy("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| {
            let query = target["expr"].as_str().unwrap();
            query
                .replace("$__rate_interval", "10s")
                .replace("$instance", ".*")
        })
        .collect()
}

#[test]
fn each_query_of_the_rules_and_the_dashboard_has_data() {
    let Some(lab) = lab("each_query_of_the_rules_and_the_dashboard_has_data") else {
        return;
    };
    let checked = run(Command::new("promtool")
        .args(["check", "rules"])
        .args(RULES.map(deploy)))
    .unwrap();
    assert!(checked.contains("SUCCESS"), "{checked}");
    let _knot = Knot::upstream(&lab).unwrap();
    let tls = crate::dot::Files::new();
    let flags = tls.flags();
    let anycast = Settings::new(
        "[anycast]\naddress = [\"203.0.113.53\"]\ninterface = \"lo\"\nannounce-after = 0\n",
    );
    let mut arguments = vec!["--upstream", UPSTREAM, "--metrics-listen", METRICS];
    arguments.extend(["--config", anycast.path(), "--listen", "203.0.113.53:53"]);
    arguments.extend(flags.iter().map(String::as_str));
    let heimdall = Heimdall::on_xdp(&lab, program(), &arguments).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let prometheus = prometheus(&lab, directory.path());

    let server = format!("@{SERVER_V4}");
    let end = Instant::now() + TIMEOUT;
    let mut number = 0;
    while series(
        &lab,
        "count_over_time(up{job=\"heimdall\"}[1m]) >= 6 and up == 1 and min_over_time(heimdall_anycast_announced[3s]) == 1",
    ) == 0
    {
        assert!(Instant::now() < end, "{}", prometheus.output());
        number += 1;
        for name in [
            "example.com".to_owned(),
            format!("n{number}.example.com"),
            "no.example.com".to_owned(),
        ] {
            Kdig::ask(&lab, &[&server, &name]).unwrap();
            Kdig::ask(&lab, &[&server, &name, "AAAA", "+tcp"]).unwrap();
        }
        thread::sleep(Duration::from_millis(200));
    }
    let empty = |query: &str| series(&lab, query) == 0;
    let queries = dashboard();
    assert!(queries.len() > 30, "only {} queries", queries.len());
    for query in &queries {
        assert!(!metrics(query).is_empty(), "{query}");
        assert!(!empty(query), "no data: {query}");
    }
    // An alert has data while it fires; what it reads has always some.
    let groups = api(&lab, "rules");
    let rules: Vec<&Value> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(rules.len() >= 10, "{groups}");
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        let query = rule["query"].as_str().unwrap();
        // A busy machine may be as slow as the rule says.
        if !query.contains("_latency_") {
            assert_eq!(rule["state"], "inactive", "{rule}");
        }
        for metric in metrics(query) {
            assert!(!empty(metric), "{metric}: {query}");
        }
        let unfiltered = unfiltered(query);
        assert!(unfiltered.contains(" bool "), "{query}");
        assert!(!empty(&unfiltered), "never fires: {unfiltered}");
        let annotations = rule["annotations"].as_object().unwrap();
        assert!(annotations.contains_key("summary") && annotations.contains_key("description"));
    }

    // What that check is for: only one of these has the label `holder`, so their sum has no series.
    let mismatched = "sum by (job, instance) (rate(heimdall_forwarder_queue_full_total[5m]) \
                      + rate(heimdall_forwarder_shed_lookups_total{holder=\"oldest\"}[5m])) > 0";
    assert!(empty(&unfiltered(mismatched)));

    // One that fires: the server is gone.
    drop(heimdall);
    let end = Instant::now() + TIMEOUT;
    while empty("ALERTS{alertname=\"HeimdallDown\"}") {
        assert!(Instant::now() < end, "{}", prometheus.output());
        thread::sleep(Duration::from_millis(200));
    }
}

/// What three servers report in half an hour, a value a minute in the notation of promtool, and the alerts that fire at its end.
struct Fleet {
    job: &'static str,
    /// Whether each can be scraped.
    up: [&'static str; 3],
    /// The digests of the settings.
    digests: [&'static str; 3],
    announced: [&'static str; 3],
    /// Of the third server, how often it has announced and withdrawn.
    changes: &'static str,
    alerts: &'static [&'static str],
}

/// A series of a server that cannot be scraped any more: it is stale at once.
const GONE: &str = "1x15 stale";

impl Fleet {
    const HEALTHY: Self = Self {
        job: "heimdall",
        up: ["1x30"; 3],
        digests: ["a"; 3],
        announced: ["1x30"; 3],
        changes: "1x30",
        alerts: &[],
    };

    fn series(&self) -> String {
        let mut series = Vec::new();
        for (server, ((up, digest), announced)) in self
            .up
            .iter()
            .zip(self.digests)
            .zip(self.announced)
            .enumerate()
        {
            let of = format!("job={:?},instance=\"{server}\"", self.job);
            series.push((format!("up{{{of}}}"), *up));
            // What cannot be scraped has no other series.
            if up.starts_with('1') {
                let scraped = if *up == "1x30" { *up } else { GONE };
                series.push((format!("heimdall_build_info{{{of}}}"), scraped));
                let config = format!("heimdall_config_info{{{of},digest={digest:?}}}");
                series.push((config, scraped));
                series.push((format!("heimdall_anycast_announced{{{of}}}"), announced));
            }
        }
        let changes = format!(
            "heimdall_anycast_changes_total{{job={:?},instance=\"2\"}}",
            self.job
        );
        series.push((changes, self.changes));
        // Something else that cannot be scraped is no matter of these rules.
        series.push(("up{job=\"other\",instance=\"0\"}".to_owned(), "0x30"));
        let lines = series.iter();
        lines
            .map(|(series, values)| {
                format!("      - {{ series: '{series}', values: '{values}' }}\n")
            })
            .collect()
    }
}

#[test]
fn the_rules_for_several_servers_fire_when_they_should() {
    let cases = [
        Fleet::HEALTHY,
        // A reload that reaches them one after the other.
        Fleet {
            digests: ["a", "a", "b"],
            alerts: &["HeimdallSettingsDiffer"],
            ..Fleet::HEALTHY
        },
        // One is drained for an upgrade, for two minutes.
        Fleet {
            announced: ["1x30", "1x30", "1x25 0x1 1x5"],
            changes: "1x25 2x1 3x5",
            ..Fleet::HEALTHY
        },
        Fleet {
            announced: ["1x30", "1x30", "1x15 0x15"],
            alerts: &["HeimdallNotAnnounced"],
            ..Fleet::HEALTHY
        },
        // One is withdrawn, another one dead.
        Fleet {
            up: ["1x30", "0x30", "1x30"],
            announced: ["1x30", "1x30", "1x15 0x15"],
            alerts: &[
                "HeimdallDown",
                "HeimdallFewAnnounced",
                "HeimdallNotAnnounced",
            ],
            ..Fleet::HEALTHY
        },
        // The same of another job.
        Fleet {
            job: "dns-eu",
            up: ["1x30", "1x15 0x15", "1x30"],
            announced: ["1x30", GONE, "1x15 0x15"],
            alerts: &[
                "HeimdallDown",
                "HeimdallFewAnnounced",
                "HeimdallNotAnnounced",
            ],
            ..Fleet::HEALTHY
        },
        // All are dead.
        Fleet {
            up: ["1x15 0x15"; 3],
            announced: [GONE; 3],
            alerts: &[
                "HeimdallDown",
                "HeimdallFewAnnounced",
                "HeimdallNoneAnnounced",
            ],
            ..Fleet::HEALTHY
        },
        Fleet {
            job: "dns-eu",
            up: ["1x15 0x15"; 3],
            announced: [GONE; 3],
            alerts: &[
                "HeimdallDown",
                "HeimdallFewAnnounced",
                "HeimdallNoneAnnounced",
            ],
            ..Fleet::HEALTHY
        },
        // They have no service addresses any more.
        Fleet {
            announced: [GONE; 3],
            ..Fleet::HEALTHY
        },
        Fleet {
            announced: ["0x30"; 3],
            alerts: &[
                "HeimdallFewAnnounced",
                "HeimdallNoneAnnounced",
                "HeimdallNotAnnounced",
            ],
            ..Fleet::HEALTHY
        },
        Fleet {
            changes: "0+1x30",
            alerts: &["HeimdallAnnouncementFlaps"],
            ..Fleet::HEALTHY
        },
    ];
    let mut tests = format!(
        "rule_files: {:?}\nevaluation_interval: 1m\ntests:\n",
        RULES.map(deploy)
    );
    for fleet in &cases {
        tests.push_str("  - interval: 1m\n    input_series:\n");
        tests.push_str(&fleet.series());
        tests.push_str(
            "    promql_expr_test:\n      - eval_time: 29m\n        \
             expr: 'group by (alertname) (ALERTS{alertstate=\"firing\"})'\n        exp_samples:\n",
        );
        for alert in fleet.alerts {
            let labels = format!("{{alertname={alert:?}}}");
            tests.push_str(&format!("          - {{ labels: '{labels}', value: 1 }}\n"));
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet-test.yml");
    fs::write(&path, tests).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["test", "rules"]).arg(path);
    if let Err(error) = promtool.output() {
        assert!(std::env::var_os("CI").is_none(), "promtool: {error}");
        eprintln!("SKIPPED: the_rules_for_several_servers: promtool: {error}");
        return;
    }
    run(&mut promtool).unwrap();
}
