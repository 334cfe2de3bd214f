//! What pages the caches are in, in words.

use std::fs;

use tracing::info;

use crate::{cache::Cache, config::Size};

/// Where the kernel says whether it gives huge pages by itself (admin-guide/mm/transhuge).
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Says what memory a cache of so many octets got.
pub(super) fn say(cache: &Cache, bytes: usize) {
    let size = Size(bytes);
    if cache.is_in_reserved_pages() {
        info!("caches: {size} a thread, in huge pages that were set aside");
    } else if fs::read_to_string(TRANSPARENT).is_ok_and(|text| !text.contains("[never]")) {
        info!("caches: {size} a thread, in transparent huge pages");
    } else {
        info!(
            "caches: {size} a thread, in plain pages: every look-up costs a little more; `echo \
             madvise > {TRANSPARENT}` lets the kernel give huge ones"
        );
    }
}
