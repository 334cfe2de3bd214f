//! On which interfaces the program is loaded with the tier.

use crate::{
    config::{Config, TierConfig, TierMode},
    tier::TierSettings,
    xdp::{AttachMode, Interface, TierSize},
};

/// What the settings say of the tier.
#[derive(Clone, Debug)]
pub(in crate::server) struct TierPlan {
    tier: TierConfig,
    settings: TierSettings,
    /// A setting that does not go with it.
    obstacle: Option<&'static str>,
}

/// The tier's size.
pub(super) fn settings(config: &Config) -> TierSettings {
    TierSettings {
        entries: config.tier.entries,
    }
}

/// The driver of a veth.
pub(super) const VETH: &str = "veth";

/// A driver that drops what a program sends back (XDP_TX) while the packet is in an AF_XDP socket's frame: it wants room
/// for its own header in front of it (`__virtnet_xdp_xmit_one`, drivers/net/virtio_net.c), and the kernel's copy of such
/// a packet has none (`xdp_convert_zc_to_xdp_frame`, net/core/xdp.c). Seen on Linux 7.3.
pub(super) const VIRTIO: &str = "virtio_net";

impl TierPlan {
    pub(in crate::server) fn new(config: &Config) -> Self {
        Self {
            tier: config.tier.clone(),
            settings: settings(config),
            obstacle: config.tier_observer(),
        }
    }

    /// Whether the settings turn it off.
    pub(super) fn is_off(&self) -> bool {
        self.tier.mode == TierMode::Off || self.settings.entries == 0
    }

    /// Whether an interface may have it.
    pub(in crate::server) fn is_possible(&self) -> bool {
        !self.is_off() && self.obstacle.is_none()
    }

    /// Its size on an interface.
    ///
    /// # Errors
    /// Why it is off there.
    pub(in crate::server) fn size(&self, interface: &Interface) -> Result<TierSize, String> {
        if self.is_off() {
            return Err("by the settings".to_owned());
        }
        if let Some(obstacle) = self.obstacle {
            return Err(obstacle.to_owned());
        }
        if !self.tier.suits(&interface.driver().unwrap_or_default()) {
            return Err(
                "a veth's peer takes the XDP program's replies only if it has a program, too; --tier on, if it has"
                    .to_owned(),
            );
        }
        Ok(self.settings.size())
    }

    /// Whether the program, as it is attached, may answer.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn allows(&self, attached: &AttachMode) -> Result<(), String> {
        match attached {
            AttachMode::Generic { .. } if self.tier.mode == TierMode::Auto => Err(
                "the program is in generic mode; --tier on, if it is to answer all the same"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::{Flags, Host};

    fn plan(text: &str) -> TierPlan {
        let host = Host {
            control: Some("/run/heimdall/control.sock".into()),
            ..Host::default()
        };
        let text = format!("upstream = [\"192.0.2.53\"]\n{text}");
        TierPlan::new(&Config::from_text(&Flags::default(), &text, &host).unwrap())
    }

    #[test]
    fn what_samples_the_queries_of_workers_keeps_it_off() {
        assert_eq!(plan("").obstacle, None);
        let log = plan("[query-log]\nsample = \"1/100\"");
        assert!(log.obstacle.unwrap().contains("query log"));
        let output = "[dnstap]\noutput = \"unix:/run/dnstap.sock\"\n";
        assert!(plan(output).obstacle.unwrap().contains("dnstap"));
        let upstream = format!("{output}messages = [\"forwarder-query\"]");
        assert_eq!(plan(&upstream).obstacle, None);
    }

    #[test]
    fn the_settings_turn_it_off() {
        assert!(!plan("").is_off());
        assert!(plan("[tier]\nentries = 0").is_off());
        assert!(plan("[tier]\nmode = \"off\"").is_off());
    }

    #[test]
    fn generic_mode_is_left_out_unless_it_is_asked_for() {
        let generic = AttachMode::Generic { why: String::new() };
        assert!(plan("").allows(&generic).is_err());
        assert!(plan("").allows(&AttachMode::Native).is_ok());
        assert!(plan("[tier]\nmode = \"on\"").allows(&generic).is_ok());
    }
}
