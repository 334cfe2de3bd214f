//! Hand-overs: any octets may come from what listens on the control socket.

use heimdall_user::handover::replay;

/// Longest input: less than a socket's buffer.
const MAX: usize = 1 << 14;

/// Any octets end a take-over, or are a hand-over with no more connections than lines.
pub fn handover(octets: &[u8]) {
    let octets = &octets[..octets.len().min(MAX)];
    let lines = octets.iter().filter(|octet| **octet == b'\n').count();
    match replay(octets) {
        Ok(adopted) => assert!(adopted <= lines),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}
