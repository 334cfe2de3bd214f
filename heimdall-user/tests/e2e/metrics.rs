//! Metrics, health and the documents of the status page, over HTTP.

use std::{
    io::Write,
    net::TcpStream,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Lab, ScriptedUpstream, UPSTREAM, sum};
use serde_json::{Value, json};

use crate::{
    client::{DnsClient, Settings},
    http::{connect, get},
    lab, program,
    recover::wait_for,
};

/// Where they are served: on the lab's server.
pub(crate) const METRICS: &str = "10.53.0.1:9453";

/// A server on AF_XDP with the lab's upstream.
fn heimdall(lab: &Lab) -> Heimdall {
    let arguments = ["--upstream", UPSTREAM, "--metrics-listen", METRICS];
    Heimdall::on_xdp(lab, program(), &arguments).unwrap()
}

/// What `promtool check metrics` says of a page: nothing, if it is good.
fn promtool(page: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot run promtool; is Debian's package prometheus installed?");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(page.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    format!("{}{}", output.status, String::from_utf8_lossy(&said))
}

/// The value of a sample.
fn sample(page: &str, name: &str) -> Option<f64> {
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The numbers of a document, with the names of the objects that they are in.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, u64)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                leaves(value, &format!("{path}/{key}"), found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(item, path, found)),
        value => found.extend(value.as_u64().map(|count| (path.to_owned(), count))),
    }
}

#[test]
fn metrics_agree_with_the_statistics_and_promtool_takes_them() {
    let Some(lab) = lab("metrics_agree_with_the_statistics") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    for query in ["a.example A rd", "a.example A rd", "b.example AAAA rd edns"] {
        assert!(client.udp(query).starts_with("NOERROR "));
    }
    assert!(client.tcp("a.example A rd").starts_with("NOERROR "));
    // Counters of a worker are written once a turn, those of the kernel less often.
    wait_for(&heimdall, "counted", |stats| {
        let steered = &stats["interfaces"][0]["verdicts"]["steered"];
        sum(stats, "received") == 3 && sum(stats, "answered") == 3 && steered == 3
    });

    let page = get(&lab, METRICS, "/metrics", "");
    assert!(
        page.head.contains("text/plain; version=0.0.4"),
        "{}",
        page.head
    );
    assert_eq!(promtool(&page.body), "exit status: 0");
    let worker = "worker=\"0\"";
    let queue = format!("{worker},interface=\"{}\",queue=\"0\"", lab.server_if);
    for (name, value) in [
        (format!("heimdall_worker_received_total{{{queue}}}"), 3.0),
        (format!("heimdall_worker_up{{{queue}}}"), 1.0),
        (
            format!("heimdall_cache_hits_total{{front=\"xdp\",{worker}}}"),
            1.0,
        ),
        (
            format!("heimdall_cache_misses_total{{front=\"xdp\",{worker}}}"),
            2.0,
        ),
        (
            format!("heimdall_queries_total{{front=\"xdp\",{worker},type=\"AAAA\"}}"),
            1.0,
        ),
        (
            format!("heimdall_replies_total{{front=\"xdp\",{worker},rcode=\"NOERROR\"}}"),
            3.0,
        ),
        (
            "heimdall_socket_tcp_received_total{thread=\"0\"}".to_owned(),
            1.0,
        ),
        (
            format!(
                "heimdall_xdp_packets_total{{interface=\"{}\",verdict=\"steered\"}}",
                lab.server_if
            ),
            3.0,
        ),
        (
            format!("heimdall_interface_up{{interface=\"{}\"}}", lab.server_if),
            1.0,
        ),
        (
            format!("heimdall_upstream_up{{upstream=\"{UPSTREAM}\"}}"),
            1.0,
        ),
        (
            format!("heimdall_upstream_queries_total{{upstream=\"{UPSTREAM}\",thread=\"0\"}}"),
            2.0,
        ),
        ("heimdall_log_lost_lines_total".to_owned(), 0.0),
    ] {
        assert_eq!(
            sample(&page.body, &name),
            Some(value),
            "{name}:\n{}",
            page.body
        );
    }
    assert!(sample(&page.body, "process_resident_memory_bytes").unwrap() > 1e6);
    // veth's driver counts the drops of each queue.
    let driver = format!(
        "heimdall_interface_driver_losses_total{{interface=\"{}\",counter=\"rx_queue_N_drops\"}}",
        lab.server_if
    );
    assert!(sample(&page.body, &driver).is_some(), "{}", page.body);

    // As OpenMetrics they are the same, and another tool can read them.
    let fields = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let open = get(&lab, METRICS, "/metrics", fields);
    assert!(
        open.head
            .contains("application/openmetrics-text; version=1.0.0")
    );
    assert!(open.body.ends_with("\n# EOF\n"));
    let names = |page: &str| -> Vec<String> {
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect()
    };
    assert_eq!(names(&open.body), names(&page.body));

    // The report has no number that the metrics lack.
    let stats = get(&lab, METRICS, "/stats.json", "").json();
    assert_eq!(stats["backend"], "xdp");
    assert_eq!(stats["upstreams"][0]["state"], "up");
    assert_eq!(stats["upstreams"][0]["queries"], 2);
    assert!(stats["process"]["open_files"].as_u64() > Some(5));
    // A worker wakes up once a second, also between the two.
    let is_same = || {
        let stats = get(&lab, METRICS, "/stats.json", "").json();
        heimdall.stats().unwrap()["workers"] == stats["workers"]
    };
    assert!((0..10).any(|_| is_same()), "{stats:#}");
    let mut fields = Vec::new();
    for part in ["workers", "sockets", "forwarder"] {
        leaves(&stats[part], part, &mut fields);
    }
    let known = |name: &str| {
        let name = name.trim_start_matches("sent_");
        let texts = [
            format!("_{name}_total"),
            format!("_{name}{{"),
            format!("=\"{name}\""),
        ];
        let page = page.body.to_lowercase();
        texts.iter().any(|text| page.contains(text))
    };
    // What the labels say, and a sum.
    let others = [
        "workers/worker",
        "workers/queue",
        "workers/cpu",
        "workers/frames/total",
        "workers/queues/queue",
        "workers/queues/frames/total",
    ];
    for (path, _) in fields {
        let name = path.rsplit('/').next().unwrap();
        assert!(others.contains(&path.as_str()) || known(name), "{path}");
    }
}

#[test]
fn settings_in_force_follow_a_reload() {
    let Some(lab) = lab("settings_in_force_follow_a_reload") else {
        return;
    };
    let text = |refuse: &str| {
        format!(
            "[metrics]\nlisten = {METRICS:?}\n[access]\nrefuse = [{refuse:?}]\n\
             [cookies]\nsecrets = [\"0123456789abcdef0123456789abcdef\"]\n"
        )
    };
    let settings = Settings::new(&text("10.66.0.0/16"));
    let heimdall = settings.on_sockets(&lab);
    let config = get(&lab, METRICS, "/config.json", "");
    assert_eq!(config.json()["access"]["refuse"], json!(["10.66.0.0/16"]));
    assert_eq!(config.json()["upstream"], json!([UPSTREAM]));
    assert!(!config.body.contains("0123456789abcdef"), "{}", config.body);
    settings.write(&text("10.67.0.0/16"));
    assert!(heimdall.reload().unwrap().status.success());
    let config = get(&lab, METRICS, "/config.json", "").json();
    assert_eq!(config["access"]["refuse"], json!(["10.67.0.0/16"]));
    let findings = get(&lab, METRICS, "/doctor.json", "").json();
    let checks = findings
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| &finding["check"]);
    assert!(
        checks.into_iter().any(|check| check == "kernel.version"),
        "{findings}"
    );
    let page = get(&lab, METRICS, "/", "");
    assert!(page.body.starts_with("<!doctype html>"), "{}", page.body);
    let output = heimdall.process.output();
    assert!(output.contains("without authentication"), "{output}");
}

/// Waits until `/readyz` has this status; its body.
fn wait_for_readiness(lab: &Lab, status: u16, mut meanwhile: impl FnMut()) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let response = get(lab, METRICS, "/readyz", "");
        if response.status == status {
            return response.body;
        }
        assert!(Instant::now() < end, "{response:?}");
        meanwhile();
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn readiness_follows_the_upstream_without_any_client() {
    let Some(lab) = lab("readiness_follows_the_upstream") else {
        return;
    };
    let heimdall = {
        let arguments = ["--upstream", UPSTREAM, "--metrics-listen", METRICS];
        Heimdall::on_sockets(&lab, program(), &arguments).unwrap()
    };
    // Nothing is known against the upstream yet, and a server without clients would never find out.
    assert_eq!(wait_for_readiness(&lab, 200, || ()), "ready\n");
    let client = DnsClient::v4(&lab);
    let mut number = 0;
    let why = wait_for_readiness(&lab, 503, || {
        number += 1;
        client.udp(&format!("n{number}.example A rd"));
    });
    assert_eq!(
        why,
        format!("not ready: no upstream responds: {UPSTREAM}\n")
    );
    assert_eq!(get(&lab, METRICS, "/healthz", "").status, 200);
    assert_eq!(heimdall.stats().unwrap()["upstreams"][0]["state"], "failed");
    // The upstream is back; only the load balancer asks.
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    wait_for_readiness(&lab, 200, || ());
    drop(upstream);
    wait_for_readiness(&lab, 503, || {
        number += 1;
        client.udp(&format!("n{number}.example A rd"));
    });
}

#[test]
fn scrapers_that_never_read_and_200_connections_disturb_nobody() {
    let Some(lab) = lab("scrapers_that_never_read") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    assert!(client.udp("a.example A rd").starts_with("NOERROR "));
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {METRICS}\r\n\r\n");
    let events = request.replace("/metrics", "/events");
    let open = |request: &str| -> TcpStream {
        let mut stream = connect(&lab, METRICS).unwrap();
        // It may have been closed again already.
        let _ = stream.write_all(request.as_bytes());
        stream
    };
    let idle: Vec<_> = (0..200).map(|_| open("")).collect();
    let lazy: Vec<_> = (0..50).map(|_| open(&request)).collect();
    let streams: Vec<_> = (0..20).map(|_| open(&events)).collect();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        assert_eq!(get(&lab, METRICS, "/metrics", "").status, 200);
        for _ in 0..20 {
            assert!(client.udp("a.example A rd").starts_with("NOERROR "));
        }
    }
    let stats = heimdall.stats().unwrap();
    let worker = &stats["workers"][0];
    assert_eq!(worker["received"], worker["answered"], "{worker}");
    assert_eq!(worker["restarts"], 0);
    drop((idle, lazy, streams));
}

#[test]
fn an_address_that_is_taken_stops_the_start() {
    let Some(lab) = lab("an_address_that_is_taken_stops_the_start") else {
        return;
    };
    let _heimdall = heimdall(&lab);
    let mut command = lab.on_server(program());
    command
        .args(["run", "--backend", "socket", "--listen", "127.0.0.1:5399"])
        .args(["--control", "/tmp/heimdall-metrics-taken.sock"])
        .args(["--upstream", UPSTREAM, "--metrics-listen", METRICS]);
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = format!(
        "heimdall: cannot serve metrics on {METRICS}: Address already in use (os error 98); \
         give another `metrics.listen` (--metrics-listen)"
    );
    // Before it is a warning that anyone could read them there.
    assert_eq!(text.lines().last(), Some(expected.as_str()), "{text}");
}
