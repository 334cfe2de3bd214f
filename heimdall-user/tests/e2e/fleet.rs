//! Several servers of one service: the same answers at each, told apart by their identifiers, and a digest that shows when their
//! settings drift apart.

use std::{collections::BTreeSet, fs, iter, process::Command};

use fastrand::Rng;
use lab::{Heimdall, Knot, Lab, SERVER_V4, ScriptedUpstream, UPSTREAM, run};

use crate::{
    client::{DnsClient, Settings, TIMEOUT, query},
    http::get,
    lab,
    metrics::METRICS,
    program,
};

/// The address of the second server.
const OTHER: &str = "10.53.0.3";

/// That of a third one.
const THIRD: &str = "10.53.0.4";

fn digest(heimdall: &Heimdall) -> String {
    let stats = heimdall.stats().unwrap();
    stats["config_digest"].as_str().unwrap().to_owned()
}

#[test]
fn servers_with_the_same_settings_answer_alike_and_have_one_digest() {
    let Some(lab) = lab("servers_with_the_same_settings") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    lab.server_ip(&format!("addr add {OTHER}/24 dev {}", lab.server_if))
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lists = ["first", "second"].map(|name| directory.path().join(name));
    let write_lists = |text: &str| lists.iter().for_each(|list| fs::write(list, text).unwrap());
    write_lists("blocked.example\n");
    let [first, second] = [("fra1", &lists[0]), ("ams1", &lists[1])].map(|(name, list)| {
        Settings::new(&format!(
            "upstream = [{UPSTREAM:?}]\n[cookies]\nsecrets = [\"0123456789abcdef0123456789abcdef\"]\n\
             [identity]\nserver-id = {name:?}\n[[blocklist]]\nfile = {list:?}\n"
        ))
    });
    let xdp = ["--config", first.path(), "--metrics-listen", METRICS];
    let fra = Heimdall::on_xdp_at(&lab, program(), &[&format!("{SERVER_V4}:53")], &xdp).unwrap();
    let listen = format!("{OTHER}:53");
    let sockets = [
        "--backend",
        "socket",
        "--listen",
        &listen,
        "--config",
        second.path(),
    ];
    let ams = Heimdall::start(lab.on_server(program()), program(), &sockets).unwrap();
    let clients = [SERVER_V4, OTHER].map(|server| DnsClient::of(&lab, server));

    // Each says who it is.
    let nsid = clients
        .each_ref()
        .map(|client| client.udp("www.example A rd edns option=3:"));
    for (reply, name) in nsid.iter().zip(["fra1", "ams1"]) {
        assert!(reply.ends_with(&format!(" nsid={name}")), "{reply}");
    }
    // A cookie of one is valid at the other: that one returns it, and makes no other.
    let given = clients[0].cookie("0102030405060708");
    assert_eq!(given.len(), 2 * 24);
    assert_eq!(clients[1].cookie(&given), given);

    // One digest, everywhere.
    let same = digest(&fra);
    assert_eq!(same.len(), 16);
    assert_eq!(digest(&ams), same);
    let metrics = get(&lab, METRICS, "/metrics", "").body;
    let line = format!("heimdall_config_info{{digest=\"{same}\"}} 1");
    assert!(metrics.contains(&line), "{metrics}");
    let check = |settings: &Settings| {
        let mut command = Command::new(program());
        run(command.args(["check", "--config", settings.path()])).unwrap()
    };
    assert!(
        check(&second).contains(&format!("answers is {same}.")),
        "{}",
        check(&second)
    );

    // A list that is another one at one of them shows, until that is repaired.
    fs::write(&lists[1], "blocked.example\nother.example\n").unwrap();
    assert_eq!(digest(&ams), same, "not read yet");
    assert!(ams.reload().unwrap().status.success());
    assert_ne!(digest(&ams), same);
    write_lists("blocked.example\nother.example\n");
    assert!(fra.reload().unwrap().status.success());
    assert_eq!(digest(&fra), digest(&ams));
    assert_ne!(digest(&fra), same);
}

/// Servers on sockets at these addresses, and a client of each.
fn servers<'a>(lab: &'a Lab, addresses: &'a [&'static str]) -> Vec<(Heimdall, DnsClient<'a>)> {
    let start = |address: &&'static str| {
        let listen = format!("{address}:53");
        let arguments = [
            "--backend",
            "socket",
            "--upstream",
            UPSTREAM,
            "--listen",
            &listen,
        ];
        let server = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
        (server, DnsClient::of(lab, address))
    };
    addresses.iter().map(start).collect()
}

/// Numbers of the upstream's names, by Zipf's law (s = 1): the popularity of names.
fn zipf(random: &mut Rng) -> impl FnMut() -> usize {
    let add = |sum: &mut f64, rank: usize| {
        *sum += 1.0 / rank as f64;
        Some(*sum)
    };
    let sums: Vec<f64> = (1..=lab::HOSTS).scan(0.0, add).collect();
    let mut random = random.fork();
    move || {
        let point = sums.last().unwrap() * random.f64();
        sums.partition_point(|sum| *sum <= point)
            .min(lab::HOSTS - 1)
    }
}

/// What several servers ask an upstream for the same queries as one does, each query at one of them at random. The names' TTL is
/// longer than the test. With more queries, as docs/scale-out.md shows it:
///
/// ```text
/// HEIMDALL_FLEET_QUERIES=10000 cargo test -p heimdall-user --test e2e -- --nocapture each_server_learns
/// ```
#[test]
fn each_server_learns_names_for_itself() {
    let Some(lab) = lab("each_server_learns_names_for_itself") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    for address in [OTHER, THIRD] {
        lab.server_ip(&format!("addr add {address}/24 dev {}", lab.server_if))
            .unwrap();
    }
    let count = std::env::var("HEIMDALL_FLEET_QUERIES").map_or(2_000, |text| text.parse().unwrap());
    let mut loads = Vec::new();
    for addresses in [
        &[SERVER_V4][..],
        &[SERVER_V4, OTHER],
        &[SERVER_V4, OTHER, THIRD],
    ] {
        let servers = servers(&lab, addresses);
        let mut asked: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); servers.len()];
        // The same names in the same order each time.
        let mut random = Rng::with_seed(53);
        let names: Vec<usize> = iter::repeat_with(zipf(&mut random)).take(count).collect();
        for name in names {
            let one = random.usize(..servers.len());
            asked[one].insert(name);
            let message = query(name as u16, &format!("n{name}.example.com"));
            servers[one].1.udp_octets(&message, TIMEOUT).unwrap();
        }
        let mut load = 0;
        for ((server, _), asked) in servers.iter().zip(asked) {
            let answers = server.stats().unwrap()["forwarder"]["answers"]
                .as_u64()
                .unwrap();
            assert_eq!(answers, asked.len() as u64, "each name once");
            load += answers;
        }
        loads.push(load);
        let share = load as f64 / loads[0] as f64;
        println!(
            "{} servers, {count} queries: {load} upstream queries, {share:.2} times those of one",
            addresses.len()
        );
    }
    assert!(loads[0] < loads[1] && loads[1] < loads[2], "{loads:?}");
    assert!(
        loads[2] < 3 * loads[0],
        "most names are asked for once: {loads:?}"
    );
}
