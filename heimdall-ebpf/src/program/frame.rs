//! The packet's octets, within the bounds that the verifier wants to see checked.

use core::{arch::asm, ptr};

use aya_ebpf::programs::XdpContext;

/// The packet, between the two addresses that the kernel gives.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The packet as it is now. After a helper that changes its length, the verifier forgets what it knew of an
    /// older one.
    #[inline(always)]
    pub(super) fn of(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    #[inline(always)]
    pub(super) fn len(self) -> usize {
        self.end - self.start
    }

    /// The frame from `offset` on, for an offset that varies. The compiler does not know how its start is related to
    /// this one's, so it leaves out no check that follows from others: the verifier would not see that.
    #[inline(always)]
    pub(super) fn from(self, offset: usize) -> Self {
        let mut start = self.start + offset;
        // SAFETY: it changes nothing. Without an instruction, two lines would have one offset in the object's BTF, which
        // the kernel refuses.
        unsafe {
            asm!("{0} = {0}", inout(reg) start, options(pure, nomem, nostack, preserves_flags));
        }
        Self { start, ..self }
    }

    /// The address of the `T` at `offset`, if the frame has its octets. The comparison has the form that the
    /// verifier accepts as a bounds check.
    #[inline(always)]
    fn at<T>(self, offset: usize) -> Option<*mut T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        Some(at as *mut T)
    }

    /// The `N` octets at `offset`, if the frame has them.
    #[inline(always)]
    pub(super) fn header<'a, const N: usize>(self, offset: usize) -> Option<&'a [u8; N]> {
        // SAFETY: the `N` octets lie within the packet, which nothing else writes while the program runs, and which
        // the program itself writes after its last use of a header; octets have no alignment and no invalid value.
        self.at::<[u8; N]>(offset).map(|at| unsafe { &*at })
    }

    /// The number at `offset`, in memory order.
    #[inline(always)]
    pub(super) fn load<T: Number>(self, offset: usize) -> Option<T> {
        // SAFETY: its octets lie within the packet; a number has no invalid value.
        self.at::<T>(offset)
            .map(|at| unsafe { ptr::read_unaligned(at) })
    }

    /// Sets the number at `offset`, in memory order. `None`: the frame has no room for it.
    #[inline(always)]
    pub(super) fn store<T: Number>(self, offset: usize, value: T) -> Option<()> {
        // SAFETY: its octets lie within the packet, to which no reference is alive.
        self.at::<T>(offset)
            .map(|at| unsafe { ptr::write_unaligned(at, value) })
    }
}

/// What is read and written whole.
pub(super) trait Number: Copy {}

impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
