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
    /// The packet as it is now, of which the verifier knows nothing yet. It forgets what it knew when a helper changes
    /// the length; and behind a loop, whose rounds have checked more or less, a new one spares it a path for each
    /// number of rounds. So the addresses are loaded each time.
    #[inline(always)]
    pub(super) fn of(ctx: &XdpContext) -> Self {
        let ctx = ctx.ctx;
        // SAFETY: it is the program's context.
        let start = unsafe { ptr::read_volatile(&raw const (*ctx).data) };
        // SAFETY: as above.
        let end = unsafe { ptr::read_volatile(&raw const (*ctx).data_end) };
        Self {
            start: start as usize,
            end: end as usize,
        }
    }

    #[inline(always)]
    pub(super) fn len(self) -> usize {
        self.end - self.start
    }

    /// The frame from `offset` on, for an offset that varies. It leaves out no check that follows from checks of
    /// other parts.
    #[inline(always)]
    pub(super) fn from(self, offset: usize) -> Self {
        let start = opaque(self.start + offset);
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

/// A number of which the compiler does not know how it is related to others: it can neither leave out a check that
/// follows from others, nor make one check of two, both of which the verifier would not see through.
#[inline(always)]
pub(super) fn opaque(mut number: usize) -> usize {
    // SAFETY: it changes nothing. Without an instruction, two lines would have one offset in the object's BTF, which
    // the kernel refuses.
    unsafe {
        asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
    }
    number
}

/// What is read and written whole.
pub(super) trait Number: Copy {}

impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
