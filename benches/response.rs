//! Taking an upstream's response in: `cargo bench -p benches --bench response`.
//!
//! Each kind as it comes, and with a record before the others that is left out, so that they are rewritten.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{hint::black_box, time::Duration};

use benches::responses::{self, with_a_record_to_leave_out};
use criterion::{Criterion, criterion_group, criterion_main};
use heimdall_user::dns::{Answer, ResponseReader, TtlLimits};

fn benches(c: &mut Criterion) {
    let limits = TtlLimits::default();
    let (mut reader, mut answer) = (ResponseReader::default(), Answer::default());
    for response in responses::all() {
        let rewritten = with_a_record_to_leave_out(&response);
        for (how, msg) in [("copied", &response.msg), ("rewritten", &rewritten)] {
            c.bench_function(&format!("{how}/{}", response.kind), |b| {
                b.iter(|| {
                    let (msg, flags) = (black_box(msg), response.flags);
                    let read = reader.read(msg, &response.question, flags, &limits, &mut answer);
                    read.unwrap();
                    black_box(&answer);
                });
            });
        }
    }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    targets = benches
}
criterion_main!(all);
