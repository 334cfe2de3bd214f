//! A writer of snapshots that is killed, at many moments, leaves the existing snapshot as it was.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use heimdall_user::{
    cache::Record,
    dns::{Answer, answer::AnswerFields},
    snapshot::{Snapshot, Writer},
};

/// Environment variable with the path to which this test's child process writes.
const PATH: &str = "HEIMDALL_SNAPSHOT_TO_WRITE";
const RECORDS: u32 = 20_000;
const KILLS: u64 = 250;

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Records of one generation, which is their age.
fn records(generation: u32) -> Vec<u8> {
    let answer = Answer::new(&AnswerFields {
        counts: [1, 0, 0],
        body: b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\x0a\x01\x02\x03",
        ttl_offsets: &[6],
        ttl: 3600,
        ..AnswerFields::default()
    });
    let mut octets = Vec::new();
    for number in 0..RECORDS {
        let label = format!("n{number}");
        let mut question = vec![label.len() as u8];
        question.extend_from_slice(label.as_bytes());
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        Record {
            question: &question,
            flags: 0,
            age: generation,
            answer: answer.as_ref(),
        }
        .append_to(&mut octets);
    }
    octets
}

/// The generation of the snapshot, which has to be complete.
fn generation(path: &Path) -> u32 {
    let snapshot = Snapshot::open(path, unix_now()).unwrap().unwrap();
    let ages: Vec<u32> = snapshot
        .contents()
        .records()
        .map(|record| record.age)
        .collect();
    assert_eq!(ages.len(), RECORDS as usize);
    assert!(ages.iter().all(|age| *age == ages[0]));
    ages[0]
}

/// Writes one snapshot after the other until it is killed.
#[test]
fn child() {
    let Some(path) = env::var_os(PATH).map(PathBuf::from) else {
        return;
    };
    let mut next = if path.exists() {
        generation(&path) + 1
    } else {
        0
    };
    println!("writing");
    loop {
        let records = records(next);
        let mut writer = Writer::create(&path, unix_now(), 0).unwrap();
        for part in records.chunks(50_000) {
            writer.append(part, 0).unwrap();
        }
        writer.append(&[], RECORDS.into()).unwrap();
        writer.finish().unwrap();
        next += 1;
    }
}

#[test]
fn a_killed_writer_leaves_the_last_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.snapshot");
    let new = directory.path().join("cache.snapshot.new");
    let mut last = None;
    let mut in_the_middle = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("writing")));
        // Moments all over the writing of one snapshot and of the next.
        thread::sleep(Duration::from_micros(kill * 7919 % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        in_the_middle += u32::from(new.exists());
        if last.is_some() || path.exists() {
            let now = generation(&path);
            assert!(last.is_none_or(|last| now >= last), "{last:?}, {now}");
            last = Some(now);
        }
    }
    assert!(last.is_some_and(|last| last > 0), "{last:?}");
    assert!(in_the_middle > 20, "{in_the_middle} of {KILLS}");
    assert!(fs::read_dir(directory.path()).unwrap().count() <= 2);
}
