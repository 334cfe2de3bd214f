//! What a service manager hears of threads that are stuck (`WatchdogSec=`).
#![cfg(target_arch = "x86_64")]

use std::{thread, time::Duration};

use lab::debugger::Held;

use super::{Place, manager::Manager, ready};
use crate::threads::thread_named;

/// Longer than a thread takes until it counts as stuck.
const LIMIT: Duration = Duration::from_secs(40);

const ALIVE: &str = "WATCHDOG=1";

#[test]
fn the_service_manager_hears_no_sign_of_life_while_an_essential_thread_is_stuck() {
    let Some(place) = Place::new("the_service_manager_hears_no_sign_of_life") else {
        return;
    };
    let manager = Manager::new();
    let mut server = ready(manager.start(&place.run()));
    manager.wait_for(ALIVE);
    {
        let _held = Held::new(thread_named(server.pid(), "forward-0"));
        let stuck = "the forward-0 thread has made no progress";
        server.wait_for(stuck, LIMIT).unwrap();
        manager.forget();
        // It comes once a second otherwise.
        thread::sleep(Duration::from_secs(4));
        assert!(!manager.has_heard(ALIVE));
    }
    let again = "the forward-0 thread makes progress again";
    server.wait_for(again, LIMIT).unwrap();
    manager.forget();
    manager.wait_for(ALIVE);
    // One without which queries are answered.
    let _held = Held::new(thread_named(server.pid(), "observer"));
    let stuck = "the observer thread has made no progress";
    server.wait_for(stuck, LIMIT).unwrap();
    manager.forget();
    manager.wait_for(ALIVE);
}
