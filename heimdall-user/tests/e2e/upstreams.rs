//! Upstreams with a link-local address, over TCP, without it, and asked in random case.

use lab::{CLIENT_V4, Heimdall, Kdig, SERVER_V4, ScriptedUpstream, UPSTREAM};

use crate::{
    client::{DnsClient, Settings},
    lab, program,
};

const FIRST: &str = "127.0.0.1:5301";

#[test]
fn a_link_local_upstream_is_asked_on_its_interface() {
    let Some(lab) = lab("a_link_local_upstream") else {
        return;
    };
    let interface = lab.server_if.as_str();
    let ip = |arguments: &[&str]| {
        let output = lab.on_server("ip").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    ip(&["addr", "add", "fe80::53/64", "dev", interface, "nodad"]);
    let link = ip(&["-o", "link", "show", "dev", interface]);
    let index = link.split(':').next().unwrap();
    let upstream = ScriptedUpstream::start(&lab, &format!("[fe80::53%{index}]:5301")).unwrap();

    let given = format!("[fe80::53%{interface}]:5301");
    let by_index = format!("[fe80::53%{index}]:5301");
    for (count, address) in [&given, &by_index].into_iter().enumerate() {
        let output = lab
            .on_server(program())
            .args(["check", "--upstream", address])
            .output()
            .unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains(&given), "{shown}");

        let _heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", address]).unwrap();
        let got = Kdig::ask(&lab, &[&format!("@{SERVER_V4}"), "plain.example", "A"]).unwrap();
        assert_eq!(got.answer, ["plain.example. 300 IN A 192.0.2.1"]);
        assert_eq!(upstream.queries("plain.example"), count as u64 + 1);
    }
}

#[test]
fn a_truncated_answer_that_tcp_does_not_complete_is_passed_on() {
    let Some(lab) = lab("a_truncated_answer_that_tcp_does_not_complete") else {
        return;
    };
    let _upstream = ScriptedUpstream::with_script(&lab, FIRST, |query| {
        let mut reply = query.msg.clone();
        // QR, TC, RD and RA; the rest of the query stays.
        reply[2..4].copy_from_slice(&[0x83, 0x80]);
        if query.tcp { Vec::new() } else { vec![reply] }
    })
    .unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST]).unwrap();
    let server = format!("@{SERVER_V4}");
    for count in 1..3 {
        let got = Kdig::ask(&lab, &[&server, "large.example", "TXT", "+ignore"]).unwrap();
        assert_eq!(got.status, "NOERROR");
        assert!(got.flags.contains("tc"), "{}", got.flags);
        let forwarder = &heimdall.stats().unwrap()["forwarder"];
        assert_eq!(forwarder["truncated"], count, "it is not cached");
    }
    let got = Kdig::ask(&lab, &[&server, "large.example", "TXT", "+tcp"]).unwrap();
    assert_eq!(got.status, "SERVFAIL", "over TCP there is no larger answer");
}

#[test]
fn clients_get_their_own_letters_whatever_upstreams_are_asked() {
    const NAME: &str = "A-NaMe-WiTh-MaNy-LeTtErS.ExAmPlE";
    let Some(lab) = lab("clients_get_their_own_letters") else {
        return;
    };
    let upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = Settings::new("[forward]\nrandomize-case = true").on_xdp(&lab);
    let client = DnsClient::v4(&lab);
    for name in [NAME, &NAME.to_lowercase(), NAME] {
        let expected = format!("NOERROR qr rd ra | {name}. A | 300 A 192.0.2.1");
        for reply in [
            client.udp(&format!("{name} A rd")),
            client.tcp(&format!("{name} A rd")),
        ] {
            assert!(reply.starts_with(&expected), "{reply}");
        }
    }
    let received = upstream.received();
    assert_eq!(received.len(), 1);
    let asked = &received[0].msg[13..13 + 24];
    assert!(asked.eq_ignore_ascii_case(&NAME.as_bytes()[..24]));
    assert_ne!(asked, &NAME.as_bytes()[..24]);
    let rejected = &heimdall.stats().unwrap()["forwarder"]["rejected"];
    assert_eq!(rejected["case"], 0);
}

/// Connections that were closed keep their ports for a minute: one for each query would soon take all.
#[test]
fn truncated_answers_do_not_run_out_of_ports() {
    const QUERIES: usize = 1_200;
    let Some(lab) = lab("truncated_answers_do_not_run_out_of_ports") else {
        return;
    };
    let narrow = "echo 40000 40999 > /proc/sys/net/ipv4/ip_local_port_range";
    lab::run(lab.on_server("sh").args(["-c", narrow])).unwrap();
    let _upstream = ScriptedUpstream::start(&lab, FIRST).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", FIRST]).unwrap();
    let client = DnsClient::v4(&lab);
    for number in 0..QUERIES {
        let reply = client.udp(&format!("truncate.n{number}.example TXT rd"));
        assert!(reply.starts_with("NOERROR qr tc"), "{number}: {reply}");
    }
    let forwarder = &heimdall.stats().unwrap()["forwarder"];
    assert_eq!(forwarder["sent_tcp"], QUERIES);
    assert_eq!(forwarder["connections_opened"], 1);
    assert_eq!(forwarder["socket_errors"], 0);
    assert_eq!(forwarder["truncated"], 0);
}

/// A connected socket keeps its source address.
#[test]
fn queries_go_on_from_another_address_when_the_old_one_is_removed() {
    const OTHER_V4: &str = "10.53.0.77";
    let Some(lab) = lab("queries_go_on_from_another_address") else {
        return;
    };
    let upstream = format!("{CLIENT_V4}:5301");
    let _upstream = ScriptedUpstream::in_client(&lab, &upstream).unwrap();
    let listen = ["--listen", "0.0.0.0:53", "--backend", "socket"];
    let arguments = [&listen[..], &["--upstream", &upstream]].concat();
    let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    let ask = |server: &str, number: usize| {
        let name = format!("n{number}.example");
        let got = Kdig::ask(&lab, &[&format!("@{server}"), &name, "A", "+retry=0"]).unwrap();
        assert_eq!(
            got.status,
            "NOERROR",
            "{name}: {}",
            heimdall.process.output()
        );
    };
    // So that most sockets of the pool are open.
    for number in 0..40 {
        ask(SERVER_V4, number);
    }
    let interface = &lab.server_if;
    for change in ["add", "del"] {
        let address = if change == "add" { OTHER_V4 } else { SERVER_V4 };
        lab.server_ip(&format!("addr {change} {address}/24 dev {interface}"))
            .unwrap();
    }
    // Linux removes secondary addresses with the primary one, unless it is told to keep them.
    lab.server_ip(&format!("addr replace {OTHER_V4}/24 dev {interface}"))
        .unwrap();
    for number in 100..140 {
        ask(OTHER_V4, number);
    }
    assert_eq!(heimdall.stats().unwrap()["forwarder"]["servfail"], 0);
}
