//! A server on AF_XDP: what it answers, and what becomes of it when its interface changes.

use std::{
    cell::Cell,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lab::{Heimdall, Kdig, Knot, Lab, SERVER_V4, SERVER_V6, UPSTREAM, sum};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::load::{self, Load};
use crate::{
    questions::{self, QUESTIONS},
    stop::Stop,
    vm::{
        Plan,
        machine::{Nic, QUEUES},
        report::Reporter,
    },
};

/// Beside [`QUESTIONS`].
const MORE: &str = "
v6 example.com AAAA = NOERROR 2001:db8::1
v4 n1.example.com AAAA = NOERROR
v6 text.example.com TXT +bufsize=1232 = NOERROR \"one\" \"two\"
v4 _dns._udp.example.com SRV +nsid = NOERROR 0 5 53 ns
v4 nowhere.example.com MX +dnssec = NXDOMAIN";

/// How long a load lasts.
const TIME: Duration = Duration::from_secs(4);
/// How many of a load's queries may be lost.
const MAX_LOSS: f64 = 0.001;
/// System calls that send replies, for each reply under load.
const MAX_SENDS: f64 = 0.2;
/// How long it may take until AF_XDP answers again: a NIC's link takes some seconds, an emulated processor its time, and where
/// AF_XDP serves some queues only it takes several questions.
const LIMIT: Duration = Duration::from_secs(60);

/// An address that the server gets while it runs.
const ADDED: &str = "10.53.0.77";

pub(super) fn run(reporter: &mut Reporter, lab: &Lab, plan: &Plan, program: &Path) -> Option<()> {
    let _knot = reporter.step("upstream", || Knot::upstream(lab))?;
    let mode = if plan.zero_copy { "zero-copy" } else { "copy" };
    let added = plan.nic.added_pairs();
    let start = |tier, queues| Server::start(lab, program, mode, tier, [queues, added]);

    let mut server = reporter.step("start", || start("off", QUEUES))?;
    reporter.check("mode", || server.settle());
    reporter.check("questions", || server.questions());
    let under_load = reporter.step("load", || server.load())?;
    reporter.check("nothing lost", || under_load.losses());
    reporter.check("send calls", || under_load.send_calls());
    reporter.check("frames", || server.settle());
    reporter.check("link down and up", || server.flap());
    reporter.check("fewer queues", || server.change_queues(1));
    reporter.check("as many queues", || server.change_queues(QUEUES));
    reporter.check("MTU 1400", || server.change_mtu("1400"));
    reporter.check("MTU 1500", || server.change_mtu("1500"));
    reporter.check("address added", || server.add_address());
    reporter.check("kill -9", || server.kill());
    drop(server);

    reporter.step("one queue", || set_queues(lab, 1))?;
    let server = reporter.step("start after kill -9", || start("off", 1))?;
    reporter.check("mode after kill -9", || server.settle());
    reporter.check("more queues", || server.change_queues(QUEUES));
    drop(server);

    reporter.step("two queues", || set_queues(lab, QUEUES))?;
    let server = reporter.step("start with the hot tier", || start("on", QUEUES))?;
    reporter.check("mode with the hot tier", || server.settle());
    reporter.check("questions with the hot tier", || server.questions());
    let under_load = reporter.step("load with the hot tier", || server.load())?;
    reporter.check("nothing lost with the hot tier", || under_load.losses());
    // virtio_net drops what the program sends back in zero-copy mode.
    let has_tier = !plan.zero_copy || plan.nic == Nic::Igb;
    reporter.check("answers of the hot tier", || server.tier(has_tier));
    reporter.check("frames with the hot tier", || server.settle());
    if added > 0 {
        drop(server);
        // One more pair than leaves as many as processors.
        let few = QUEUES + 1;
        reporter.step("few pairs to spare", || set_queues(lab, few))?;
        let start = || Server::start(lab, program, mode, "off", [few, 0]);
        let server = reporter.step("start with few pairs to spare", start)?;
        reporter.check("mode with few pairs to spare", || server.settle());
        reporter.check("questions with few pairs to spare", || server.questions());
        drop(server);
        reporter.step("two queues again", || set_queues(lab, QUEUES))?;
    }
    Some(())
}

/// Sets how many queues the server's NIC has.
pub(super) fn set_queues(lab: &Lab, number: usize) -> Result<String> {
    lab::run(
        lab.on_server("ethtool")
            .args(["-L", "eth0", "combined", &number.to_string()]),
    )
}

/// How many it has. virtio_net has more while an XDP program is attached, and receives on all.
fn current_queues(lab: &Lab) -> Result<usize> {
    let channels = lab::run(lab.on_server("ethtool").args(["-l", "eth0"]))?;
    let number = channels
        .lines()
        .filter_map(|line| line.strip_prefix("Combined:"))
        .next_back();
    Ok(number.context("no channels")?.trim().parse()?)
}

/// Waits until both NICs have a carrier.
pub(super) fn wait_for_carrier(lab: &Lab) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let links = [
            lab.client_ip("link show dev eth0")?,
            lab.server_ip("link show dev eth0")?,
        ];
        if links.iter().all(|link| link.contains("LOWER_UP")) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "no carrier: {links:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A running server, and how it is to be served.
struct Server<'a> {
    lab: &'a Lab,
    heimdall: Heimdall,
    mode: &'static str,
    /// Names that were asked for once.
    asked: Cell<u32>,
    /// Queues that are to be served.
    queues: Cell<usize>,
    /// Those that the driver adds for the XDP program: the sockets answer what arrives there.
    added: usize,
}

impl<'a> Server<'a> {
    /// Starts one that listens on all addresses, those to come included.
    fn start(
        lab: &'a Lab,
        program: &Path,
        mode: &'static str,
        tier: &str,
        [queues, added]: [usize; 2],
    ) -> Result<Self> {
        // Attaching a program resets the link of some NICs: the carrier is to be there first.
        wait_for_carrier(lab)?;
        let listen = ["0.0.0.0:53", "[::]:53"];
        let arguments = [
            "--upstream",
            UPSTREAM,
            "--cache-size",
            "16M",
            "--tier",
            tier,
        ];
        let server = Self {
            lab,
            heimdall: Heimdall::on_xdp_at(lab, program, &listen, &arguments)?,
            mode,
            asked: Cell::new(0),
            queues: Cell::new(queues),
            added,
        };
        wait_for_carrier(lab)?;
        server.answers(SERVER_V4)?;
        Ok(server)
    }

    /// Waits until the NIC has the queues that it should have, and all are served in the right mode, and looks where the
    /// frames are; a text of it.
    fn settle(&self) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            // Where frames are is brought up to date once a second.
            thread::sleep(Duration::from_millis(1200));
            let stats = self.heimdall.stats()?;
            let queues = queues(&stats);
            let is_served =
                |queue: &&&Value| queue["state"] == "running" && queue["mode"] == self.mode;
            let served = queues.iter().filter(is_served).count();
            let frames = |place: &str| {
                let frames = queues
                    .iter()
                    .filter_map(|queue| queue["frames"][place].as_u64());
                frames.sum::<u64>()
            };
            let (total, missing) = (frames("total"), frames("missing"));
            let (wanted, current) = (self.queues.get(), current_queues(self.lab)?);
            if current == wanted + self.added
                && served == wanted
                && queues.len() == wanted
                && total > 0
                && missing == 0
            {
                return Ok(format!(
                    "{wanted} queues, {}; {total} frames, none missing",
                    self.mode
                ));
            }
            ensure!(
                Instant::now() < end,
                "not {wanted} of {current} queues in {} mode with all of their frames: {queues:#?}\n{}",
                self.mode,
                self.heimdall.process.output()
            );
        }
    }

    /// Asks questions of every kind over UDP and TCP, IPv4 and IPv6.
    fn questions(&self) -> Result<String> {
        let before = on_xdp(&self.heimdall.stats()?);
        let list = format!("{QUESTIONS}{MORE}");
        let ask = |arguments: &[&str]| Kdig::ask(self.lab, arguments);
        questions::ask_all(&list, ask, [SERVER_V4, SERVER_V6], &Stop::on_signals()?)?;
        let truncated = Kdig::ask(
            self.lab,
            &[
                &format!("@{SERVER_V4}"),
                "big.example.com",
                "TXT",
                "+ignore",
            ],
        )?;
        ensure!(
            truncated.flags.contains("tc"),
            "not truncated: {truncated:?}"
        );
        let over_udp = list.lines().filter(|line| !line.contains("+tcp")).count() as u64;
        let answered = on_xdp(&self.heimdall.stats()?) - before;
        let expected = 2 * over_udp + 1;
        ensure!(
            self.is_enough(answered, expected),
            "AF_XDP answered {answered} of {expected}"
        );
        Ok(format!(
            "{} answers, {answered} on AF_XDP",
            2 * list.lines().count() + 1
        ))
    }

    /// Whether AF_XDP has answered all, or a part, where the sockets answer what arrives in some queues.
    fn is_enough(&self, answered: u64, all: u64) -> bool {
        match self.added {
            0 => answered >= all,
            _ => answered > 0,
        }
    }

    /// Puts it under load.
    fn load(&self) -> Result<UnderLoad> {
        let before = self.heimdall.stats()?;
        let load = load::run(self.lab, TIME)?;
        let after = self.heimdall.stats()?;
        let grown = |counter| sum(&after, counter) - sum(&before, counter);
        let answered = on_xdp(&after) - on_xdp(&before);
        ensure!(
            self.is_enough(answered, load.answered),
            "{answered} of {} answered on AF_XDP",
            load.answered
        );
        Ok(UnderLoad {
            load,
            by_workers: grown("answered"),
            sends: grown("tx_wakeups"),
        })
    }

    /// Sets the interface down and up.
    fn flap(&self) -> Result<String> {
        self.lab.server_ip("link set eth0 down")?;
        thread::sleep(Duration::from_secs(1));
        self.lab.server_ip("link set eth0 up")?;
        // The kernel has removed it.
        self.lab
            .server_ip(&format!("-6 addr replace {SERVER_V6}/64 dev eth0 nodad"))?;
        wait_for_carrier(self.lab)?;
        self.answers_again()
    }

    /// Changes the number of queues. The kernel may refuse that while sockets are bound to them.
    fn change_queues(&self, number: usize) -> Result<String> {
        let found = match set_queues(self.lab, number) {
            Ok(_) => {
                self.queues.set(number);
                "accepted".to_owned()
            }
            Err(error) => {
                let text = format!("{error:#}");
                format!(
                    "refused by the kernel ({})",
                    text.lines().last().unwrap_or_default()
                )
            }
        };
        wait_for_carrier(self.lab)?;
        Ok(format!(
            "{found}; {}; {}",
            self.answers(SERVER_V4)?,
            self.settle()?
        ))
    }

    fn change_mtu(&self, mtu: &str) -> Result<String> {
        self.lab.server_ip(&format!("link set eth0 mtu {mtu}"))?;
        wait_for_carrier(self.lab)?;
        self.answers_again()
    }

    /// Adds an address to the interface, asks there, and removes it.
    fn add_address(&self) -> Result<String> {
        self.lab
            .server_ip(&format!("addr add {ADDED}/24 dev eth0"))?;
        let answers = self.answers(ADDED);
        self.lab
            .server_ip(&format!("addr del {ADDED}/24 dev eth0"))?;
        answers
    }

    /// Kills the process, and waits until nothing of it is left.
    fn kill(&mut self) -> Result<String> {
        self.heimdall.process.signal(Signal::SIGKILL)?;
        self.heimdall.process.wait(LIMIT)?;
        let end = Instant::now() + LIMIT;
        while self.lab.has_xdp()? {
            ensure!(
                Instant::now() < end,
                "still attached: {}",
                self.lab.server_link()?
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok("nothing is attached".to_owned())
    }

    /// Waits until the hot tier answers; where there is none, it is said to be off.
    fn tier(&self, expected: bool) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            let before = self.heimdall.stats()?;
            let load = load::run(self.lab, Duration::from_secs(1))?;
            let after = self.heimdall.stats()?;
            let tier = &after["interfaces"][0]["tier"];
            let hits = tier_hits(&after) - tier_hits(&before);
            match expected {
                true if hits > 0 => return Ok(format!("{hits} of {}", load.answered)),
                false if hits == 0 && tier["state"] == "off" => {
                    return Ok(format!("off: {}", tier["reason"]));
                }
                _ => {}
            }
            ensure!(
                Instant::now() < end,
                "{hits} of {}: {tier}\n{}",
                load.answered,
                self.heimdall.process.output()
            );
        }
    }

    /// Waits until AF_XDP answers again, with everything as it was.
    fn answers_again(&self) -> Result<String> {
        let answers = [SERVER_V4, SERVER_V6].map(|server| self.answers(server));
        let [v4, v6] = answers;
        Ok(format!("IPv4 {}, IPv6 {}; {}", v4?, v6?, self.settle()?))
    }

    /// Asks for a name in the cache and for one that was never asked for, until AF_XDP answered both; how long it took.
    fn answers(&self, server: &str) -> Result<String> {
        let start = Instant::now();
        let number = self.asked.replace(self.asked.get() + 1);
        for name in ["n1.example.com", &format!("x{number}.wild.example.com")] {
            loop {
                let before = on_xdp(&self.heimdall.stats()?);
                let arguments = [&format!("@{server}"), name, "A", "+timeout=1"];
                let reply = Kdig::ask(self.lab, &arguments);
                if reply.is_ok() && on_xdp(&self.heimdall.stats()?) > before {
                    break;
                }
                if start.elapsed() > LIMIT {
                    let log = self.heimdall.process.output();
                    let reply = reply.map(|reply| reply.from);
                    bail!("AF_XDP does not answer for {name} at {server}: {reply:?}\n{log}");
                }
            }
        }
        Ok(format!(
            "answered on AF_XDP after {:.1} s",
            start.elapsed().as_secs_f64()
        ))
    }
}

/// A load, and what the server counted meanwhile.
struct UnderLoad {
    load: Load,
    /// Replies that workers sent.
    by_workers: u64,
    sends: u64,
}

impl UnderLoad {
    fn losses(&self) -> Result<String> {
        let Load { sent, answered } = self.load;
        let lost = sent - answered;
        ensure!(
            answered > 0 && lost as f64 <= MAX_LOSS * sent as f64,
            "{lost} of {sent} lost"
        );
        Ok(format!("{lost} of {sent}"))
    }

    fn send_calls(&self) -> Result<String> {
        ensure!(self.by_workers > 0, "no worker answered");
        let each = self.sends as f64 / self.by_workers as f64;
        let text = format!(
            "{each:.3} an answer: {} for {}",
            self.sends, self.by_workers
        );
        ensure!(each < MAX_SENDS, "{text}");
        Ok(text)
    }
}

/// The served queues in a document of the server.
fn queues(stats: &Value) -> Vec<&Value> {
    let workers = stats["workers"].as_array().into_iter().flatten();
    workers
        .filter_map(|worker| worker["queues"].as_array())
        .flatten()
        .collect()
}

/// Replies over AF_XDP: of the workers and of the hot tier.
fn on_xdp(stats: &Value) -> u64 {
    sum(stats, "answered") + tier_hits(stats)
}

fn tier_hits(stats: &Value) -> u64 {
    stats["tier"]["hits"].as_u64().unwrap_or_default()
}
