//! On which interfaces the program is loaded with the tier, and may answer.

use crate::{
    config::{Config, TierMode},
    tier::TierSettings,
    xdp::{AttachMode, Interface, TierSize},
};

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

/// The tier's size on an interface.
///
/// # Errors
/// Why it is off there.
pub(in crate::server) fn tier_size(
    config: &Config,
    interface: &Interface,
) -> Result<TierSize, String> {
    config.allows_tier(&interface.driver().unwrap_or_default())?;
    Ok(settings(config).size())
}

/// Whether the program, as it is attached, may answer.
///
/// # Errors
/// Why not.
pub(super) fn allows(mode: TierMode, attached: &AttachMode) -> Result<(), String> {
    match attached {
        AttachMode::Generic { .. } if mode == TierMode::Auto => Err(
            "the program is in generic mode; --tier on, if it is to answer all the same".to_owned(),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generic_mode_is_left_out_unless_it_is_asked_for() {
        let generic = AttachMode::Generic { why: String::new() };
        assert!(allows(TierMode::Auto, &generic).is_err());
        assert!(allows(TierMode::Auto, &AttachMode::Native).is_ok());
        assert!(allows(TierMode::On, &generic).is_ok());
    }
}
