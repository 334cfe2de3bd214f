//! The tier on one interface: whether it answers there, and what it follows.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::{info, warn};

use super::{
    HotTier,
    plan::{VETH, VIRTIO, allows},
    returned::ReturnCheck,
};
use crate::{
    config::TierConfig,
    packet::SourceFilter,
    xdp::{Interface, Program, Returned, TierMaps, TierSize},
};

/// The tier on one interface.
pub(in crate::server) struct InterfaceTier {
    interface: String,
    /// Its peer may take no replies.
    is_veth: bool,
    /// Its driver sends no replies while a queue is in zero-copy mode.
    is_virtio: bool,
    state: Mutex<State>,
}

enum State {
    /// The program has it, and answers nothing yet.
    Ready(Box<TierMaps>),
    On {
        tier: Arc<HotTier>,
        check: ReturnCheck,
    },
    /// Why it is off.
    Off(String),
}

impl InterfaceTier {
    /// That of a program that was attached, with the size that was asked for, or why none was.
    pub(in crate::server) fn new(
        interface: &Interface,
        settings: &TierConfig,
        size: Result<TierSize, String>,
        program: &mut Program,
    ) -> Self {
        let maps = size.and_then(|_| {
            allows(settings.mode, program.attach_mode())?;
            program.take_tier().ok_or_else(|| {
                let why = program.why_no_tier().unwrap_or("there is none");
                format!("the kernel refuses it: {why}")
            })
        });
        if let Err(why) = &maps
            && !settings.is_off()
        {
            info!("{}: hot tier off: {why}", interface.name);
        }
        let driver = interface.driver();
        Self {
            interface: interface.name.clone(),
            is_veth: driver.as_deref() == Some(VETH),
            is_virtio: driver.as_deref() == Some(VIRTIO),
            state: Mutex::new(match maps {
                Ok(maps) => State::Ready(Box::new(maps)),
                Err(why) => State::Off(why),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the program has it, and answers nothing yet.
    pub(in crate::server) fn is_ready(&self) -> bool {
        matches!(*self.state(), State::Ready(_))
    }

    /// Begins to answer, if the program has the tier. `None`: no interface had it when the server started.
    pub(in crate::server) fn start(&self, tier: Option<&Arc<HotTier>>, mtu: u32) {
        let mut state = self.state();
        if !matches!(*state, State::Ready(_)) {
            return;
        }
        let next = match tier {
            Some(tier) => State::On {
                tier: Arc::clone(tier),
                check: ReturnCheck::default(),
            },
            None => State::Off("no interface had it at the start; restart to have it".to_owned()),
        };
        if let (State::Ready(maps), Some(tier)) = (mem::replace(&mut *state, next), tier) {
            tier.attach(&self.interface, mtu, *maps);
            // If the policy has it off, that has been said.
            if tier.state().why_off().is_none() {
                info!("{}: hot tier on", self.interface);
            }
        }
    }

    /// Takes the interface's MTU, and the senders that no reply may go to.
    pub(in crate::server) fn follow(&self, mtu: u32, senders: &SourceFilter) {
        if let State::On { tier, .. } = &*self.state() {
            tier.set_senders(senders);
            tier.tier.set_mtu(&self.interface, mtu);
        }
    }

    /// Ends it, for this reason, unless it is off already.
    pub(in crate::server) fn stop(&self, why: &str) {
        let mut state = self.state();
        if matches!(*state, State::Off(_)) {
            return;
        }
        let before = mem::replace(&mut *state, State::Off(why.to_owned()));
        if let State::On { tier, .. } = before {
            tier.detach(&self.interface);
        }
    }

    /// Ends it if the driver sends none of its replies now that a queue is in zero-copy mode.
    pub(in crate::server) fn in_zero_copy(&self) {
        if self.is_virtio && !matches!(*self.state(), State::Off(_)) {
            let why = "virtio_net sends no replies of the XDP program in zero-copy mode";
            info!("{}: hot tier off: {why}", self.interface);
            self.stop(why);
        }
    }

    /// Ends it if the peer of a veth takes no replies. To be called about once a second.
    pub(in crate::server) fn check(&self) {
        if !self.is_veth {
            return;
        }
        let lost = match &mut *self.state() {
            State::On { check, .. } => {
                Returned::read(&self.interface).and_then(|now| check.observe(now))
            }
            _ => None,
        };
        if let Some(lost) = lost {
            let why = "the peer of the veth takes no replies of the XDP program";
            warn!(
                "{}: hot tier off: {why}: the last {lost} were lost. The peer needs an XDP program, too; workers \
                 answer until the next start",
                self.interface
            );
            self.stop(why);
        }
    }

    /// `on`, or `off` and why.
    pub(in crate::server) fn report(&self) -> (&'static str, Option<String>) {
        match &*self.state() {
            State::On { tier, .. } => match tier.tier.why_off_on(&self.interface) {
                None => ("on", None),
                why => ("off", why),
            },
            State::Ready(_) => ("off", Some("it is being started".to_owned())),
            State::Off(why) => ("off", Some(why.clone())),
        }
    }
}
