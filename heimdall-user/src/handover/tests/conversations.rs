//! Recorded hand-overs, played against the code of both sides: what a program in use would not understand fails here. It needs
//! another version ([`VERSION`]), and another recording beside these.

use std::collections::VecDeque;

use data_encoding::BASE64;

use super::*;
use crate::handover::wire::{VERSION, Wire};

/// The newest version's.
const RECORDED: &str = include_str!("version-1.txt");
const LATER_SUCCESSOR: &str = include_str!("later-successor.txt");
const LATER_PREDECESSOR: &str = include_str!("later-predecessor.txt");
const EARLIER_PREDECESSOR: &str = include_str!("earlier-predecessor.txt");

/// A line of a conversation.
#[derive(Debug, PartialEq)]
enum Line {
    OfSuccessor(String),
    OfPredecessor(String),
}

/// The lines of a recording, in which the predecessor has this process ID.
fn lines(recording: &str) -> Vec<Line> {
    let pid = process::id().to_string();
    let spoken = recording.lines().filter(|line| !line.starts_with('#'));
    let line = |line: &str| match line.split_once(' ') {
        Some(("→", text)) => Line::OfSuccessor(text.to_owned()),
        Some(("←", text)) => Line::OfPredecessor(text.replace("PID", &pid)),
        _ => panic!("{line}"),
    };
    spoken.map(line).collect()
}

/// How many descriptors are beside a line of the predecessor.
fn descriptors(line: &str) -> usize {
    let message: Value = serde_json::from_str(line).unwrap();
    match message["descriptors"].as_array() {
        Some(names) => names.len(),
        None => usize::from(message["connection"].is_object()),
    }
}

/// Plays the successor to a server, which has to answer as recorded.
fn play_successor(recording: &str) {
    let scratch = scratch();
    let (server, _client) = server();
    let (_control, thread) = predecessor(&scratch.path, server, || false);
    let mut stream = UnixStream::connect(&scratch.path).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    for line in lines(recording) {
        match line {
            Line::OfSuccessor(text) => writeln!(stream, "{text}").unwrap(),
            Line::OfPredecessor(text) => {
                let mut reply = String::new();
                replies.read_line(&mut reply).unwrap();
                assert_eq!(reply.trim_end(), text);
            }
        }
    }
    let (server, outcome) = thread.join().unwrap();
    outcome.unwrap();
    assert_eq!(server.asked, ["sockets", "workers"]);
}

/// Plays the predecessor to a successor, which has to ask as recorded. Returns what that got, and the connections.
fn play_predecessor(recording: &str) -> (Inheritance, Vec<Connection>) {
    let scratch = scratch();
    let listener = UnixListener::bind(&scratch.path).unwrap();
    let mut lines: VecDeque<Line> = lines(recording).into();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut requests = BufReader::new(stream.try_clone().unwrap());
        let mut wire = Wire::new(stream).unwrap();
        let file = tempfile::tempfile().unwrap();
        while let Some(line) = lines.pop_front() {
            match line {
                Line::OfSuccessor(text) => {
                    let mut request = String::new();
                    requests.read_line(&mut request).unwrap();
                    assert_eq!(request.trim_end(), text);
                }
                Line::OfPredecessor(text) => {
                    let beside = vec![file.as_fd(); descriptors(&text)];
                    wire.send_octets(format!("{text}\n").as_bytes(), &beside)
                        .unwrap();
                }
            }
        }
    });
    let (inheritance, mut remote) = connect(&scratch.path);
    let mut adopted = Vec::new();
    remote
        .sockets_are_served(&mut |connection| adopted.push(connection))
        .unwrap();
    remote.programs_are_replaced().unwrap();
    remote.finish().unwrap();
    thread.join().unwrap();
    (inheritance, adopted)
}

#[test]
fn the_predecessor_answers_as_recorded() {
    play_successor(RECORDED);
}

#[test]
fn the_successor_asks_as_recorded_and_understands_the_answers() {
    for recording in [RECORDED, LATER_PREDECESSOR] {
        let (inheritance, adopted) = play_predecessor(recording);
        assert_eq!((inheritance.sockets.len(), inheritance.links.len()), (2, 1));
        assert!(inheritance.cache.is_some());
        assert!(inheritance.control.is_some() && inheritance.metrics.is_some());
        assert_eq!(inheritance.state.cookie_key, Some([9; 16]));
        let unread: Vec<_> = adopted.iter().map(|one| &one.unread[..]).collect();
        assert_eq!(unread, [b"\0\x1dunread"]);
    }
}

#[test]
fn a_successor_that_says_more_is_answered_as_one_of_this_version() {
    play_successor(LATER_SUCCESSOR);
}

#[test]
fn a_predecessor_that_says_less_is_taken_over_from() {
    let (inheritance, adopted) = play_predecessor(EARLIER_PREDECESSOR);
    assert_eq!(inheritance.sockets.len(), 2);
    assert!(inheritance.links.is_empty() && inheritance.cache.is_none());
    assert_eq!(inheritance.state, State::default());
    assert!(adopted.is_empty());
}

#[test]
fn the_recording_is_of_the_newest_version_and_has_what_the_documentation_shows() {
    let newest = format!("{{\"command\":\"take-over\",\"version\":{VERSION}}}");
    assert_eq!(lines(RECORDED)[0], Line::OfSuccessor(newest));
    // What goes back and forth, without what differs from server to server.
    let kind = |line: &str| {
        let (sender, text) = line.split_once(' ').unwrap();
        let text = text.split("\":").next().unwrap();
        format!("{sender} {text}")
    };
    let shown = include_str!("../../../../docs/control.md").lines();
    let shown = shown.map(str::trim_start);
    let shown = shown.skip_while(|line| !line.contains("take-over") || !line.starts_with('→'));
    let shown = shown.filter(|line| line.starts_with("→ {") || line.starts_with("← {"));
    let recorded = RECORDED.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(
        shown.map(kind).collect::<Vec<_>>(),
        recorded.map(kind).collect::<Vec<_>>()
    );
    assert_eq!(BASE64.encode(b"\0\x1dunread"), "AB11bnJlYWQ=");
}
