//! The check of the return path: names and sizes of the maps in which the program keeps what the kernel's routes say.

/// Name of the program's constant that has it look up the routes to clients. 0: it does not, and the verifier removes
/// the code.
pub const ROUTE_CHECK_GLOBAL: &str = "ROUTE_CHECK";

/// Name of the per-CPU array of routes that were looked up in the last second.
pub const ROUTES_MAP: &str = "ROUTES";

/// Size of [`ROUTES_MAP`], a power of two. Of routes that fall into the same place, the latest one is kept.
pub const MAX_ROUTES: u32 = 4096;

/// Name of the LRU hash map of next hops, with the time at which a packet was last left to the kernel for each.
pub const NEIGHBOURS_MAP: &str = "NEIGHBOURS";

/// Size of [`NEIGHBOURS_MAP`]. The one that was used least recently is evicted first.
pub const MAX_NEIGHBOURS: u32 = 4096;
