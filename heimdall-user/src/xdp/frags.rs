//! Packets in several buffers, as they are received where the MTU is large.
//!
//! On such an interface drivers take only programs that are loaded with BPF_F_XDP_HAS_FRAGS, and with another one they
//! keep the MTU from being raised. aya and libbpf set the flag by the name of the program's section, which is `xdp.frags`.
//! Kernels before Linux 5.18 refuse it: for them the name is changed.
//!
//! See <https://docs.ebpf.io/linux/program-type/BPF_PROG_TYPE_XDP/#xdp-fragments>.

use std::borrow::Cow;

use aya::util::KernelVersion;
use heimdall_ebpf::OBJECT;

/// The name of the section, as it is in the object's table of names, and the same room with the name that sets no flag.
const WITH: &[u8; 10] = b"xdp.frags\0";
const WITHOUT: &[u8; 10] = b"xdp\0\0\0\0\0\0\0";

/// Whether this kernel has the flag. One into which it was ported back counts as its own version: there the program serves
/// what an older kernel lets it.
pub(super) fn supported() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0))
}

/// The program's object, with the flag or without it.
pub(super) fn object(frags: bool) -> Cow<'static, [u8]> {
    if frags {
        return Cow::Borrowed(OBJECT);
    }
    let mut object = OBJECT.to_vec();
    for at in 0..object.len() {
        // The relocations' section and the debugging information have the name, too.
        if let Some(name) = object.get_mut(at..at + WITH.len())
            && name == WITH
        {
            name.copy_from_slice(WITHOUT);
        }
    }
    Cow::Owned(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_name_and_the_other_one_does_not() {
        let has_name = |object: &[u8]| object.windows(WITH.len()).any(|octets| octets == WITH);
        assert!(has_name(&object(true)));
        assert!(!has_name(&object(false)));
    }
}
