#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use lab::Scratch;
use proptest::prelude::*;

use super::*;
use crate::{
    cache::Record,
    dns::{Answer, TtlLimits},
};

const NOW: u64 = 1_800_000_000;
const ORIGIN: u64 = 7;

/// A record of a name, with an answer of a CNAME and an A record.
fn record(number: u32) -> Vec<u8> {
    let label = format!("n{number}");
    let mut question = vec![label.len() as u8];
    question.extend_from_slice(label.as_bytes());
    question.extend_from_slice(b"\x07example\0\0\x01\0\x01");
    let mut msg = b"\0\x01\x81\x80\0\x01\0\x02\0\0\0\0".to_vec();
    msg.extend_from_slice(&question);
    msg.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x06\x03web\xc0\x0c");
    msg.extend_from_slice(b"\x03web\xc0\x0c\0\x01\0\x01\0\0\0\x64\0\x04\xc0\0\x02\x01");
    let answer = Answer::from_response(&msg, &question, 0, &TtlLimits::default()).unwrap();
    let mut octets = Vec::new();
    Record {
        question: &question,
        flags: (number % 4) as u8,
        age: number,
        answer: answer.as_ref(),
    }
    .append_to(&mut octets);
    octets
}

fn write(path: &Path, records: u32, now: u64) -> u64 {
    let mut writer = Writer::create(path, now, ORIGIN).unwrap();
    for number in 0..records {
        writer.append(&record(number), 1).unwrap();
    }
    writer.finish().unwrap()
}

/// A path for a snapshot.
fn scratch() -> Scratch {
    Scratch::new("cache.snapshot")
}

/// Where a snapshot is while it is written.
fn new_path(scratch: &Scratch) -> PathBuf {
    scratch.path.with_file_name("cache.snapshot.new")
}

fn problem(octets: &[u8]) -> Option<Problem> {
    Contents::read(octets, NOW).err()
}

#[test]
fn a_snapshot_in_memory_round_trips_and_cannot_be_changed() {
    let mut writer = MemoryWriter::create(NOW, ORIGIN).unwrap();
    for number in 0..500 {
        writer.append(&record(number), 1).unwrap();
    }
    let written = writer.finish().unwrap();
    for _ in 0..2 {
        // The offset of a duplicate is that of the original.
        let snapshot = Snapshot::from_memory(written.try_clone().unwrap(), NOW + 9).unwrap();
        let contents = snapshot.contents();
        assert_eq!((contents.count(), contents.away()), (500, 9));
        assert_eq!(contents.origin(), Some(ORIGIN));
        assert_eq!(contents.records().count(), 500);
    }
    let file = fs::File::from(written);
    assert!(file.set_len(64).is_err() && file.set_len(1 << 20).is_err());
}

proptest! {
    /// Each clock counts whole seconds of a phase of its own. Times in milliseconds.
    #[test]
    fn no_copy_of_an_answer_has_more_time_left(
        phases in [0u64..1000; 3],
        received in 0u64..10_000,
        kept in 0u64..10_000,
        away in 0u64..10_000,
        later in 0u64..10_000,
    ) {
        let [writer, system, reader] =
            phases.map(|phase| move |time: u64| ((time + phase) / 1000) as u32);
        let written = received + kept;
        let restored = written + away;
        let age = writer(written) - writer(received);
        let file = MemoryWriter::create(system(written).into(), ORIGIN)?.finish()?;
        let snapshot = Snapshot::from_memory(file, system(restored).into()).unwrap();
        let begin = 1000 + reader(restored) - (age + snapshot.contents().elapsed());
        let now = restored + later;
        // What is told to clients, against the seconds that have passed.
        let told = 1000 + reader(now) - begin;
        let passed = ((now - received) / 1000) as u32;
        prop_assert!((passed..=passed + 5).contains(&told), "{told} s told of {passed} s");
    }
}

#[test]
fn a_snapshot_round_trips() {
    let scratch = scratch();
    assert!(Snapshot::open(&scratch.path, NOW).unwrap().is_none());
    for count in [0, 1, 500] {
        let octets = write(&scratch.path, count, NOW);
        let metadata = fs::metadata(&scratch.path).unwrap();
        assert_eq!(metadata.len(), octets);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(!new_path(&scratch).exists());
        let snapshot = Snapshot::open(&scratch.path, NOW + 77).unwrap().unwrap();
        let contents = snapshot.contents();
        assert_eq!((contents.count(), contents.away()), (count.into(), 77));
        assert_eq!(contents.origin(), Some(ORIGIN));
        let mut octets = Vec::new();
        for (number, record) in contents.records().enumerate() {
            assert_eq!(record.age, number as u32);
            record.append_to(&mut octets);
        }
        assert_eq!(octets, (0..count).flat_map(record).collect::<Vec<_>>());
    }
}

#[test]
fn every_truncation_and_every_changed_bit_is_found() {
    let scratch = scratch();
    write(&scratch.path, 3, NOW);
    let whole = fs::read(&scratch.path).unwrap();
    assert_eq!(problem(&whole), None);
    for len in 0..whole.len() {
        let problem = problem(&whole[..len]).unwrap();
        let foreign = problem == Problem::Foreign;
        assert!(foreign == (len < MAGIC.len()), "{len}: {problem}");
    }
    for bit in 0..8 * whole.len() {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(problem(&changed).is_some(), "bit {bit}");
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(matches!(problem(&longer), Some(Problem::Length { .. })));
    fs::write(&scratch.path, &longer).unwrap();
    let error = Snapshot::open(&scratch.path, NOW).unwrap_err().to_string();
    let lengths = format!("{} octets and has {}", whole.len(), longer.len());
    assert!(error.contains(&lengths), "{error}");
    assert_eq!(problem(b"#!/bin/sh"), Some(Problem::Foreign));
    let mut other = whole;
    other[8] = 1;
    assert_eq!(problem(&other), Some(Problem::Version(1)));
}

/// What others do to the file after it was read changes nothing, and a file of another kind is not
/// read beyond its header.
#[test]
fn a_snapshot_that_is_open_does_not_depend_on_its_file() {
    let scratch = scratch();
    write(&scratch.path, 500, NOW);
    let snapshot = Snapshot::open(&scratch.path, NOW).unwrap().unwrap();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&scratch.path)
        .unwrap();
    file.set_len(10).unwrap();
    assert_eq!(snapshot.contents().records().count(), 500);
    // 1 TiB, sparse.
    file.set_len(1 << 40).unwrap();
    let error = Snapshot::open(&scratch.path, NOW).unwrap_err();
    assert!(matches!(error, SnapshotError::Bad { .. }), "{error}");
    fs::write(&scratch.path, "#!/bin/sh").unwrap();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&scratch.path)
        .unwrap();
    file.set_len(1 << 40).unwrap();
    let error = Snapshot::open(&scratch.path, NOW).unwrap_err();
    assert!(matches!(error, SnapshotError::Foreign { .. }), "{error}");
}

/// A file that was truncated or extended is recognized by its length.
#[test]
fn the_length_of_the_file_is_reported() {
    let scratch = scratch();
    let octets = write(&scratch.path, 5, NOW);
    for len in [octets - 1, octets + 1000] {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&scratch.path)
            .unwrap();
        file.set_len(len).unwrap();
        let error = Snapshot::open(&scratch.path, NOW).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{octets} octets and has {len}")),
            "{error}"
        );
    }
}

#[test]
fn snapshots_from_the_future_are_rejected() {
    let scratch = scratch();
    write(&scratch.path, 1, NOW + 60);
    let snapshot = Snapshot::open(&scratch.path, NOW).unwrap().unwrap();
    assert_eq!(snapshot.contents().away(), 0);
    write(&scratch.path, 1, NOW + 61);
    let error = Snapshot::open(&scratch.path, NOW).unwrap_err().to_string();
    assert!(error.contains("61 s in the future"), "{error}");
    write(&scratch.path, 1, 0);
    let snapshot = Snapshot::open(&scratch.path, NOW).unwrap().unwrap();
    assert_eq!(snapshot.contents().away(), NOW as u32);
}

#[test]
fn an_unfinished_snapshot_leaves_the_old_one() {
    let scratch = scratch();
    write(&scratch.path, 2, NOW);
    let old = fs::read(&scratch.path).unwrap();
    // As a killed writer leaves it.
    fs::write(new_path(&scratch), vec![1; 1 << 20]).unwrap();
    let mut writer = Writer::create(&scratch.path, NOW, ORIGIN).unwrap();
    writer.append(&record(9), 1).unwrap();
    let unfinished = fs::read(new_path(&scratch)).unwrap();
    assert_eq!(problem(&unfinished), Some(Problem::Foreign));
    drop(writer);
    assert!(!new_path(&scratch).exists());
    assert_eq!(fs::read(&scratch.path).unwrap(), old);
}

#[test]
fn files_that_cannot_be_written_or_read() {
    let scratch = scratch();
    let nowhere = scratch.path.join("x");
    let error = Writer::create(&nowhere, NOW, ORIGIN).unwrap_err();
    assert!(matches!(error, SnapshotError::Unwritable { .. }), "{error}");
    assert!(Snapshot::open(&nowhere, NOW).unwrap().is_none());
    let directory = scratch.path.parent().unwrap();
    let error = Snapshot::open(directory, NOW).unwrap_err();
    assert!(matches!(error, SnapshotError::Unreadable { .. }), "{error}");
    // A directory has the name.
    fs::create_dir(&scratch.path).unwrap();
    let error = Writer::create(&scratch.path, NOW, ORIGIN).unwrap().finish();
    assert!(matches!(error, Err(SnapshotError::Unwritable { .. })));
    assert!(!new_path(&scratch).exists());
    let full = Path::new("/dev/full");
    assert!(matches!(
        Snapshot::open(full, NOW),
        Err(SnapshotError::Unreadable { .. })
    ));
}

#[test]
fn records_that_a_cache_may_not_hold_are_found() {
    let good = record(1);
    let question = 12 + 12..;
    let sound = |octets: &[u8]| {
        let mut rest = octets;
        Record::take(&mut rest).map(|record| record.is_sound())
    };
    assert_eq!(sound(&good), Some(true));
    let with = |at: usize, octet: u8| {
        let mut bad = good.clone();
        bad[at] = octet;
        sound(&bad)
    };
    assert_eq!(with(12, 3), Some(false), "the name's end");
    let flat = 12 + 16;
    assert_eq!(question.start, 24);
    assert_eq!(with(flat + 9, 1), Some(false), "one record less");
    assert_eq!(with(flat + 9, 3), Some(false), "one record more");
    assert_eq!(with(flat + 18 + 1, 0xff), Some(false), "a pointer forward");
    assert_eq!(with(flat + 18 + 11, 7), Some(false), "a longer record");
    assert_eq!(with(good.len() - 1, 9), Some(false), "a TTL elsewhere");
    assert_eq!(with(flat + 15, 1), Some(true), "authentic");
    assert_eq!(with(flat + 15, 2), Some(false), "stale");
    assert_eq!(with(flat + 15, 4), Some(false), "truncated");
    assert_eq!(with(0, 200), None, "the length");
    assert_eq!(with(8, 200), None, "the question's length");
}
