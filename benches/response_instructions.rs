//! Takes responses of each kind in, as often as its argument says, and nothing else: for counting
//! instructions (docs/benchmarks.md). Arguments: the number of a kind, how often, and `rewritten` for the
//! response with a record before the others that is left out. Without arguments, lists the kinds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{env, hint::black_box};

use benches::responses::{self, with_a_record_to_leave_out};
use heimdall_user::dns::{Answer, ResponseReader, TtlLimits};

fn main() {
    let responses = responses::all();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (kind, times, msg): (usize, usize, _) = match &arguments[..] {
        [kind, times] => {
            let kind = kind.parse().unwrap();
            (kind, times.parse().unwrap(), responses[kind].msg.clone())
        }
        [kind, times, rewritten] if rewritten == "rewritten" => {
            let kind = kind.parse().unwrap();
            let msg = with_a_record_to_leave_out(&responses[kind]);
            (kind, times.parse().unwrap(), msg)
        }
        _ => {
            for (number, response) in responses.iter().enumerate() {
                println!("{number} {} ({} octets)", response.kind, response.msg.len());
            }
            return;
        }
    };
    let response = &responses[kind];
    let limits = TtlLimits::default();
    let (mut reader, mut answer) = (ResponseReader::default(), Answer::default());
    for _ in 0..times {
        let msg = black_box(&msg);
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
