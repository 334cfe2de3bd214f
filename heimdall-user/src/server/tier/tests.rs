//! The tier of a server, over maps in ordinary memory.
#![allow(clippy::unwrap_used)]

use std::{
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    answer::{
        cookie::{CookieMaker, Secrets},
        limit::LimitSettings,
        policy::Cookies,
    },
    config::{Flags, Host},
    dns::{Answer, answer::AnswerFields},
    tap::{Observations, TapOptions},
    tier::{Nominator, Offer},
};

const A: &[u8] = b"\x01a\0\0\x01\0\x01";
const B: &[u8] = b"\x01b\0\0\x01\0\x01";

struct Fixture {
    hot: Arc<HotTier>,
    nominator: Nominator,
    config: Config,
    now: u32,
}

impl Fixture {
    fn new() -> Self {
        let host = Host {
            control: Some("/run/heimdall/control.sock".into()),
            ..Host::default()
        };
        let text = "upstream = [\"192.0.2.53\"]\n[tier]\nentries = 8";
        let config = Config::from_text(&Flags::default(), text, &host).unwrap();
        let observations = Arc::new(Observations::new(&TapOptions::default()));
        let cores = CoreFactory::new(&config, Arc::default(), observations);
        let hot = HotTier::start(&config, &cores).unwrap();
        Self {
            nominator: hot.tier.nominator(),
            hot,
            now: cores.clock().now().seconds,
            config,
        }
    }

    fn with_interface() -> Self {
        let fixture = Self::new();
        fixture.attach();
        fixture
    }

    fn attach(&self) {
        let maps = TierMaps::in_memory(plan::settings(&self.config).size());
        self.hot.attach("eth0", 1500, maps);
    }

    /// Offers an answer. Whether offers are taken now.
    fn nominate(&self, question: &[u8]) -> bool {
        let mut taken = false;
        let answer = Answer::new(&AnswerFields {
            counts: [1, 0, 0],
            body: b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x01",
            ttl_offsets: &[6],
            ttl: 300,
            ..AnswerFields::default()
        });
        self.nominator.nominate(self.now, || {
            taken = true;
            Some(Offer {
                question,
                flags: 0,
                answer: answer.as_ref(),
                received: self.now,
                refresh: self.now + 270,
            })
        });
        taken
    }

    fn promote(&self, question: &[u8]) {
        let begun = Instant::now();
        while !self.holds(question) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            self.nominate(question);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn holds(&self, question: &[u8]) -> bool {
        self.hot.contains(question, 0)
    }

    fn set_policy(&self, policy: Policy) {
        self.hot
            .replace_policy(|| self.hot.policy.store(Arc::new(policy)));
    }

    fn why_off(&self) -> Option<String> {
        self.hot.state().why_off().map(str::to_owned)
    }
}

#[test]
fn a_policy_is_replaced_while_nothing_is_answered_or_promoted() {
    let fixture = Fixture::with_interface();
    fixture.promote(A);
    let mut stored = false;
    fixture.hot.replace_policy(|| {
        stored = true;
        assert!(!fixture.holds(A));
        assert!(!fixture.nominate(A), "the old policy's answer");
    });
    assert!(stored && !fixture.holds(A));
    fixture.promote(A);
}

#[test]
fn a_flush_begins_with_the_tier() {
    let fixture = Fixture::with_interface();
    fixture.promote(A);
    fixture.promote(B);
    let flushed = fixture.hot.flush(&Scope::name("A").unwrap(), || {
        assert!(!fixture.holds(A) && fixture.holds(B));
        assert!(!fixture.nominate(A), "a cache may not be flushed yet");
        7
    });
    assert_eq!(flushed, 7);
    assert!(!fixture.holds(A) && fixture.holds(B));
    fixture.promote(A);
    let flushed = fixture.hot.flush(&Scope::All, || {
        assert!(!fixture.holds(A) && !fixture.holds(B));
        assert!(!fixture.nominate(A));
        1
    });
    assert_eq!(flushed, 1);
    fixture.promote(B);
}

#[test]
fn what_workers_count_keeps_it_off() {
    let fixture = Fixture::with_interface();
    assert_eq!(fixture.why_off(), None);
    let cookies = |demand_above| Policy {
        cookies: Some(Cookies {
            maker: CookieMaker::new(Secrets::random()),
            demand_above,
        }),
        ..Policy::default()
    };
    fixture.promote(A);
    fixture.set_policy(cookies(1));
    assert!(fixture.why_off().unwrap().contains("cookies.demand-above"));
    assert!(!fixture.nominate(A));
    let limited = Policy {
        limit: LimitSettings {
            per_second: 1,
            ..LimitSettings::default()
        },
        ..cookies(0)
    };
    fixture.set_policy(limited);
    assert!(fixture.why_off().unwrap().contains("rate-limit"));
    fixture.set_policy(cookies(0));
    assert_eq!(fixture.why_off(), None);
    fixture.promote(A);
}

#[test]
fn it_is_off_without_an_interface() {
    let fixture = Fixture::new();
    assert!(fixture.why_off().unwrap().contains("no interface"));
    fixture.attach();
    assert_eq!(fixture.why_off(), None);
    fixture.hot.detach("eth0");
    assert!(fixture.why_off().unwrap().contains("no interface"));
}
