//! Takes responses of each kind in, as often as its argument says, and nothing else: for counting
//! instructions (docs/benchmarks.md). Without an argument, lists the kinds; the first one is the kind
//! with this number.
#![allow(clippy::unwrap_used)]

use std::{env, hint::black_box};

use benches::responses;
use heimdall_user::dns::{Answer, ResponseReader, TtlLimits};

fn main() {
    let responses = responses::all();
    let mut arguments = env::args()
        .skip(1)
        .map(|number| number.parse::<usize>().unwrap());
    let (Some(kind), Some(times)) = (arguments.next(), arguments.next()) else {
        for (number, response) in responses.iter().enumerate() {
            println!("{number} {} ({} octets)", response.kind, response.msg.len());
        }
        return;
    };
    let response = responses.get(kind).unwrap();
    let limits = TtlLimits::default();
    let (mut reader, mut answer) = (ResponseReader::default(), Answer::default());
    for _ in 0..times {
        let msg = black_box(&response.msg);
        reader
            .read(
                msg,
                &response.question,
                response.flags,
                &limits,
                &mut answer,
            )
            .unwrap();
        black_box(&answer);
    }
}
