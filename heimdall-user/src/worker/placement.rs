//! Which worker serves a queue: a function of what is known of the workers' cores and of the queue's.
//!
//! The kernel handles a queue's packets on the core of its interrupt. A worker on the same core finds them in its caches, and
//! needs no other core to be woken; but a core that has all the interrupts must not get all the queues, so none gets
//! more than its share that way. The others go to where the NIC's memory is near, and to where the fewest queues are.

use std::{collections::BTreeSet, fmt};

/// A worker, as far as placement is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// The core that it is pinned to.
    pub(crate) cpu: Option<usize>,
    /// The queues that it has.
    pub(crate) queues: usize,
}

/// The cores that are near a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueCores {
    /// The one that its interrupt is bound to, if it is to one.
    pub(crate) interrupt: Option<usize>,
    /// Those of the NIC's NUMA node. Empty: the host has one, or it is not known.
    pub(crate) node: BTreeSet<usize>,
}

/// Why a queue has its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Placement {
    /// It runs on the core of the queue's interrupt.
    Interrupt,
    /// It runs on the NIC's NUMA node, and had the fewest queues of those that do.
    Node,
    /// It had the fewest queues.
    Load,
}

impl Placement {
    /// Its name in the statistics document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Node => "node",
            Self::Load => "load",
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "its core gets the interrupts",
            Self::Node => "it is on the NIC's NUMA node",
            Self::Load => "it had the fewest queues",
        })
    }
}

/// The number of the worker that each of the queues is to get, and why. Empty without workers.
pub(crate) fn place(workers: &[Load], queues: &[QueueCores]) -> Vec<(usize, Placement)> {
    let mut workers = workers.to_vec();
    let all = workers.iter().map(|worker| worker.queues).sum::<usize>() + queues.len();
    let share = all.div_ceil(workers.len().max(1));
    // Those with an interrupt first: the others fill up what they leave.
    let mut placed: Vec<Option<(usize, Placement)>> = queues
        .iter()
        .map(|queue| {
            let core = queue.interrupt?;
            let fits = |worker: &Load| worker.cpu == Some(core) && worker.queues < share;
            take(&mut workers, fits).map(|number| (number, Placement::Interrupt))
        })
        .collect();
    for (queue, placed) in queues.iter().zip(&mut placed) {
        if placed.is_none() {
            let is_near = |worker: &Load| worker.cpu.is_some_and(|cpu| queue.node.contains(&cpu));
            let chosen = take(&mut workers, is_near).map(|number| (number, Placement::Node));
            *placed = chosen
                .or_else(|| take(&mut workers, |_| true).map(|number| (number, Placement::Load)));
        }
    }
    placed.into_iter().flatten().collect()
}

/// Gives a queue to the worker with the fewest of those that `fits` accepts; its number.
fn take(workers: &mut [Load], fits: impl Fn(&Load) -> bool) -> Option<usize> {
    let fitting = workers.iter_mut().enumerate();
    let (number, worker) = fitting
        .filter(|(_, worker)| fits(worker))
        .min_by_key(|(_, worker)| worker.queues)?;
    worker.queues += 1;
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_cores(cores: &[usize]) -> Vec<Load> {
        let worker = |cpu: &usize| Load {
            cpu: Some(*cpu),
            queues: 0,
        };
        cores.iter().map(worker).collect()
    }

    fn bound_to(cores: &[usize]) -> Vec<QueueCores> {
        let queue = |core: &usize| QueueCores {
            interrupt: Some(*core),
            ..QueueCores::default()
        };
        cores.iter().map(queue).collect()
    }

    fn numbers(placed: &[(usize, Placement)]) -> Vec<usize> {
        placed.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn a_queue_goes_to_the_core_of_its_interrupt() {
        let placed = place(&on_cores(&[2, 3, 4, 5]), &bound_to(&[5, 4, 3, 2]));
        assert_eq!(numbers(&placed), [3, 2, 1, 0]);
        assert!(placed.iter().all(|(_, why)| *why == Placement::Interrupt));
    }

    #[test]
    fn a_core_with_all_interrupts_gets_no_more_than_its_share() {
        let placed = place(&on_cores(&[0, 1]), &bound_to(&[0; 5]));
        assert_eq!(numbers(&placed), [0, 0, 0, 1, 1]);
        assert_eq!(
            placed.iter().map(|(_, why)| *why).collect::<Vec<_>>(),
            [
                Placement::Interrupt,
                Placement::Interrupt,
                Placement::Interrupt,
                Placement::Load,
                Placement::Load
            ]
        );
    }

    #[test]
    fn queues_whose_interrupts_have_no_worker_fill_up_what_the_others_leave() {
        // Core 7 has no worker; the queue of core 1 comes after those.
        let placed = place(&on_cores(&[0, 1]), &bound_to(&[7, 7, 7, 1]));
        assert_eq!(numbers(&placed), [0, 0, 1, 1]);
    }

    #[test]
    fn workers_with_queues_of_another_interface_get_fewer() {
        let mut workers = on_cores(&[0, 1, 2]);
        for (worker, queues) in workers.iter_mut().zip([3, 0, 1]) {
            worker.queues = queues;
        }
        let placed = place(&workers, &vec![QueueCores::default(); 5]);
        assert_eq!(numbers(&placed), [1, 1, 2, 1, 2]);
    }

    #[test]
    fn the_nics_node_comes_before_a_smaller_load() {
        let mut workers = on_cores(&[0, 1, 8, 9]);
        for worker in workers.iter_mut().skip(2) {
            worker.queues = 2;
        }
        let near = QueueCores {
            interrupt: None,
            node: (8..16).collect(),
        };
        let placed = place(&workers, &vec![near; 3]);
        assert_eq!(numbers(&placed), [2, 3, 2]);
        assert!(placed.iter().all(|(_, why)| *why == Placement::Node));
        // No worker is near.
        let far = QueueCores {
            interrupt: None,
            node: (16..24).collect(),
        };
        assert_eq!(place(&workers, &[far]), [(0, Placement::Load)]);
    }

    #[test]
    fn cores_that_are_unknown_are_as_good_as_others() {
        let workers = vec![Load::default(); 2];
        assert_eq!(numbers(&place(&workers, &bound_to(&[0; 4]))), [0, 1, 0, 1]);
        assert_eq!(place(&[], &bound_to(&[0])), []);
    }
}
