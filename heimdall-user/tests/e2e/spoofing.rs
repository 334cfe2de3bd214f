//! An attacker who does not see packets, but sends as many forged responses as the machine can, while queries are out; and
//! how much there is to guess.

use std::{
    collections::BTreeSet,
    env,
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use fastrand::Rng;
use hickory_proto::rr::RecordType;
use lab::{CLIENT_V4, Frames, Heimdall, Lab, SERVER_V4, ScriptedUpstream, Step, by_label, message};

use crate::{
    client::{DnsClient, NOTHING},
    lab, program,
};

/// The upstream, in the client's namespace, so that forged responses come as its own do.
const PORT: u16 = 5301;

/// The kernel's default range of local ports.
const PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// Forged responses, if the environment variable `FORGERIES` has no other number.
const FORGERIES: u64 = 200_000;

/// Names that are asked for at a time: each has a query out nearly all the time.
const VICTIMS: usize = 8;

/// Frames of a system call.
const BATCH: usize = 256;

/// A server with this upstream.
fn heimdall(lab: &Lab) -> Heimdall {
    let upstream = format!("{CLIENT_V4}:{PORT}");
    Heimdall::on_sockets(lab, program(), &["--upstream", &upstream]).unwrap()
}

/// The name that a victim asks for; names of all numbers have the same length.
fn name(victim: usize, number: u64) -> String {
    format!("v{victim}n{number:08}.example")
}

/// A frame with a forged response to a victim's question, without a UDP checksum, and where its destination port, its ID and the
/// number in its name are.
struct Forgery {
    frame: Vec<u8>,
    port: usize,
    id: usize,
    number: usize,
}

impl Forgery {
    fn new(macs: [u8; 12], victim: usize) -> Self {
        let query = message::query(0, &name(victim, 0), RecordType::A);
        let dns = message::address(&query, 300, [192, 0, 2, 66]);
        let [to, from] = [&macs[..6], &macs[6..]].map(|mac| mac.try_into().unwrap());
        let [source, destination] = [CLIENT_V4, SERVER_V4].map(|text| {
            let address: Ipv4Addr = text.parse().unwrap();
            address.octets()
        });
        let builder = PacketBuilder::ethernet2(from, to)
            .ipv4(source, destination, 64)
            .udp(PORT, 0);
        let mut frame = Vec::new();
        builder.write(&mut frame, &dns).unwrap();
        let udp = 14 + 20;
        frame[udp + 6..udp + 8].fill(0);
        let prefix = format!("v{victim}n").len();
        Self {
            frame,
            port: udp + 2,
            id: udp + 8,
            number: udp + 8 + 12 + 1 + prefix,
        }
    }

    fn guess(&mut self, random: &mut Rng, number: u64) {
        let port = random.u16(PORTS).to_be_bytes();
        let id = random.u16(..).to_be_bytes();
        self.frame[self.port..self.port + 2].copy_from_slice(&port);
        self.frame[self.id..self.id + 2].copy_from_slice(&id);
        let digits = format!("{number:08}");
        self.frame[self.number..self.number + 8].copy_from_slice(digits.as_bytes());
    }
}

#[test]
fn forged_responses_are_not_accepted() {
    let Some(lab) = lab("forged_responses_are_not_accepted") else {
        return;
    };
    let forgeries = env::var("FORGERIES").map_or(FORGERIES, |text| text.parse().unwrap());
    let address = format!("{CLIENT_V4}:{PORT}");
    // Slow over UDP: each query waits for nearly a second. Over TCP one would have to wait for the other.
    let upstream = ScriptedUpstream::in_client_with_script(&lab, &address, |query| {
        let wait = Duration::from_millis(if query.tcp { 0 } else { 800 });
        [vec![Step::Wait(wait)], by_label(query)].concat()
    })
    .unwrap();
    let heimdall = heimdall(&lab);
    let current: [AtomicU64; VICTIMS] = Default::default();
    let over = AtomicBool::new(false);
    let (took, replies) = thread::scope(|scope| {
        let victims: Vec<_> = (0..VICTIMS)
            .map(|victim| {
                let (lab, over, current) = (&lab, &over, &current[victim]);
                scope.spawn(move || {
                    let client = DnsClient::v4(lab);
                    let mut replies = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let number = current.load(Ordering::Relaxed);
                        replies.push(client.udp(&format!("{} A rd", name(victim, number))));
                        current.store(number + 1, Ordering::Relaxed);
                    }
                    replies
                })
            })
            .collect();
        let took = attack(&lab, forgeries, &current);
        over.store(true, Ordering::Relaxed);
        let replies: Vec<String> = (victims.into_iter())
            .flat_map(|victim| victim.join().unwrap())
            .collect();
        (took, replies)
    });
    let rejected = heimdall.stats().unwrap()["forwarder"]["rejected"].clone();
    println!(
        "{forgeries} forged responses in {took:.1?}, {:.0} a second; {} queries answered, {} of {} over TCP; rejected {rejected}",
        forgeries as f64 / took.as_secs_f64(),
        replies.len(),
        upstream.received().iter().filter(|query| query.tcp).count(),
        upstream.received().len()
    );
    for reply in &replies {
        assert!(
            reply.starts_with("NOERROR ") && reply.contains("A 192.0.2.1"),
            "{reply}"
        );
        assert!(!reply.contains("192.0.2.66"), "accepted: {reply}");
    }
    assert!(replies.len() >= VICTIMS);
    assert!(upstream.received().len() >= replies.len());
    // Some met a socket that was open.
    assert!(rejected["id"].as_u64() > Some(0), "{rejected}");
}

/// Sends so many forged responses for what the victims ask just now, and gives the time that it took.
fn attack(lab: &Lab, count: u64, current: &[AtomicU64; VICTIMS]) -> Duration {
    let sender = Frames::sender(lab).unwrap();
    let mut forgeries: Vec<Forgery> = (0..BATCH)
        .map(|at| Forgery::new(sender.macs, at % VICTIMS))
        .collect();
    let mut random = Rng::new();
    let begin = Instant::now();
    for _ in 0..count.div_ceil(BATCH as u64) {
        for (at, forgery) in forgeries.iter_mut().enumerate() {
            let number = current[at % VICTIMS].load(Ordering::Relaxed);
            forgery.guess(&mut random, number);
        }
        sender
            .send_all(forgeries.iter().map(|forgery| &forgery.frame[..]))
            .unwrap();
    }
    begin.elapsed()
}

/// The sum of squared deviations from an even distribution, over the expected count (Pearson's chi-squared).
fn chi_squared(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let squares = counts
        .iter()
        .map(|count| (*count as f64 - expected).powi(2));
    squares.sum::<f64>() / expected
}

#[test]
fn ids_and_ports_are_random() {
    const QUERIES: usize = 16_384;
    let Some(lab) = lab("ids_and_ports_are_random") else {
        return;
    };
    let address = format!("{CLIENT_V4}:{PORT}");
    let upstream = ScriptedUpstream::in_client(&lab, &address).unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    for batch in 0..QUERIES / 32 {
        for number in 0..32 {
            client.udp_send(&format!("b{batch}n{number}.example A rd"));
        }
        for _ in 0..32 {
            assert_ne!(client.udp_reply("b.example A rd"), NOTHING);
        }
    }
    drop(heimdall);
    let received = upstream.received();
    let udp: Vec<_> = received.iter().filter(|query| !query.tcp).collect();
    assert!(udp.len() >= QUERIES);
    let ids: Vec<u16> = (udp.iter())
        .map(|query| u16::from_be_bytes([query.msg[0], query.msg[1]]))
        .collect();
    let ports: Vec<u16> = udp.iter().map(|query| query.from.port()).collect();

    // Of 255 degrees of freedom: mean 255, standard deviation 23. That it is above 400 is less likely than one in 10^7.
    let mut distributions = [[0_u64; 256]; 4];
    for pair in ids.windows(2) {
        let next = pair[1].wrapping_sub(pair[0]);
        let octets = [pair[1].to_be_bytes(), next.to_be_bytes()];
        for (distribution, octet) in distributions.iter_mut().zip(octets.concat()) {
            distribution[usize::from(octet)] += 1;
        }
    }
    for distribution in distributions {
        let chi_squared = chi_squared(&distribution);
        assert!(chi_squared < 400.0, "{chi_squared}");
    }

    // Each has 256 to 1,023 queries, or less if it is replaced for its age.
    let distinct: BTreeSet<u16> = ports.iter().copied().collect();
    assert!(distinct.len() > 16, "{distinct:?}");
    assert!(
        distinct.iter().all(|port| PORTS.contains(port)),
        "{distinct:?}"
    );
    // In each quarter of the range some, and none of them much more often than others.
    let mut quarters = [0; 4];
    for port in &distinct {
        quarters[usize::from((port - PORTS.start()) / 7_058).min(3)] += 1;
    }
    assert!(quarters.iter().all(|count| *count > 0), "{distinct:?}");
    let most = distinct
        .iter()
        .map(|port| ports.iter().filter(|other| *other == port).count())
        .max();
    assert!(most < Some(QUERIES / 8), "{most:?}");
    let ids_seen = ids.iter().collect::<BTreeSet<_>>().len();
    println!(
        "{} queries from {} ports, {ids_seen} different IDs, chi-squared of the octets of IDs and of their differences \
         {:.0?} (255 ± 23)",
        udp.len(),
        distinct.len(),
        distributions.map(|distribution| chi_squared(&distribution))
    );
}
