//! An XDP program on the client's interface, so that it receives what the server sends with XDP_TX.
//!
//! A veth wakes its peer after XDP_TX only if the peer has a program (`veth_xdp_flush`); without one the frame
//! waits for the next packet that is sent in another way. The program is that of the load generator `clients`, which
//! passes all packets as long as no socket is registered with it.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{
        Xdp,
        xdp::{XdpLink, XdpMode},
    },
};
use clients_ebpf::PROGRAM;

/// The object that `cargo xtask ebpf` builds.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../benches/clients-ebpf/clients.bpf.o"
));

/// Attaches the program to an interface in the thread's namespace, for as long as the link exists.
pub(crate) fn attach(interface: &str) -> Result<XdpLink> {
    let mut ebpf = Ebpf::load(OBJECT)?;
    let program = ebpf.program_mut(PROGRAM).context("no XDP program")?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    let attached = program.attach(interface, XdpMode::Driver);
    let id = attached.with_context(|| format!("cannot attach an XDP program to {interface}"))?;
    Ok(program.take_link(id)?)
}
