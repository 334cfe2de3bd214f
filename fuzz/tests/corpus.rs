//! Replays the committed corpus of each target, without the fuzzer.

use std::{fs, path::Path};

#[test]
fn the_corpus_runs_clean() {
    for (name, target) in heimdall_fuzz::TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut count = 0;
        for entry in fs::read_dir(&directory).expect("a corpus").flatten() {
            target(&fs::read(entry.path()).expect("a file"));
            count += 1;
        }
        assert!(count > 0, "{name} has a corpus");
        println!("{name}: {count} inputs");
    }
}
