//! Servers that are restarted, gone or silent, and a page that is paused.

use std::{
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use lab::{Availability, Browser, Heimdall, Sample, ScriptedUpstream, by_label};
use serde_json::json;

use crate::{SAMPLE, Viewer, value, wait_for};

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
