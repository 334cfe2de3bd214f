//! Whole frames. `UPDATE=1` writes them to `frames`, to be looked at.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{env, fs, path::Path};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};
use serde_json::{Value, json};

use super::{app::Next, *};
use crate::cli::view::testing::{document, readings};

fn app(pane: Pane) -> App {
    let mut app = App::new(Options {
        interval: Duration::from_secs(2),
        pane,
        is_interactive: true,
        has_color: true,
    });
    for reading in readings() {
        app.update(Ok(reading));
    }
    app
}

/// With rates that rise and fall for some minutes.
fn with_history(pane: Pane) -> App {
    let mut app = app(pane);
    let mut more = 0;
    for times in 102..240 {
        more += (times % 30) * (times % 50) * 30;
        let mut document = document(times);
        let received = document["sockets"]["udp_received"].as_u64().unwrap() + more;
        document["sockets"]["udp_received"] = json!(received);
        app.update(Ok(Reading::new(document)));
    }
    app
}

fn press(app: &mut App, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            '→' => KeyCode::Right,
            '←' => KeyCode::Left,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            key => KeyCode::Char(key),
        };
        assert_eq!(app.key(KeyEvent::new(code, KeyModifiers::NONE)), Next::GoOn);
    }
}

/// The frame as it is on a terminal of this size.
fn terminal(app: &mut App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut furthest = 0;
    let drawn = terminal.draw(|frame| {
        furthest = draw::draw(app, frame.area(), frame.buffer_mut());
    });
    drawn.unwrap();
    app.drawn(furthest);
    terminal
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    draw::text(terminal(app, width, height).backend().buffer())
}

#[test]
fn frames_are_as_they_were_looked_at() {
    let frames = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/top/frames");
    for pane in Pane::ALL {
        for (width, height) in [(80, 24), (40, 12), (120, 40), (200, 60)] {
            let file = format!("{}-{width}x{height}.txt", pane.title().to_lowercase());
            let frame = screen(&mut with_history(pane), width, height);
            assert_eq!(frame.lines().count(), usize::from(height));
            assert!(
                frame
                    .lines()
                    .all(|line| line.chars().count() <= usize::from(width))
            );
            if env::var_os("UPDATE").is_some_and(|update| update == "1") {
                fs::create_dir_all(&frames).unwrap();
                fs::write(frames.join(file), frame).unwrap();
                continue;
            }
            let expected = fs::read_to_string(frames.join(&file)).unwrap();
            let command = "UPDATE=1 cargo test -p heimdall-user --lib top::";
            assert_eq!(
                frame, expected,
                "\n{file}: if it is to look so: {command}\n{frame}"
            );
        }
    }
}

#[test]
fn any_size_and_any_document_can_be_drawn() {
    let none = [
        json!({}),
        json!(null),
        json!({ "workers": [{}], "upstreams": [{}], "popular": {} }),
    ];
    for pane in Pane::ALL {
        let mut full = app(pane);
        for (width, height) in [
            (1, 1),
            (3, 2),
            (20, 5),
            (39, 7),
            (61, 9),
            (300, 100),
            (80, 1),
        ] {
            screen(&mut full, width, height);
        }
        for document in &none {
            let mut empty = App::new(full.options);
            screen(&mut empty, 80, 24);
            empty.update(Ok(Reading::new(document.clone())));
            empty.update(Ok(Reading::new(document.clone())));
            screen(&mut empty, 80, 24);
        }
    }
}

#[test]
fn names_of_clients_do_not_reach_the_terminal_as_they_are() {
    let mut document = document(1);
    let evil = "\x1b]0;title\x07\u{9b}31m\r\nx";
    fn poison(value: &mut Value, evil: &str) {
        match value {
            Value::String(text) => *text = evil.to_owned(),
            Value::Array(items) => items.iter_mut().for_each(|item| poison(item, evil)),
            Value::Object(fields) => fields.values_mut().for_each(|field| poison(field, evil)),
            _ => {}
        }
    }
    poison(&mut document, evil);
    for pane in Pane::ALL {
        let mut app = App::new(app(pane).options);
        app.update(Ok(Reading::new(document.clone())));
        app.update(Err(evil.to_owned()));
        let frame = screen(&mut app, 200, 60);
        assert!(frame.contains("\\027]0;title"), "{frame}");
        assert!(
            !frame.contains(|c: char| c.is_control() && c != '\n'),
            "{frame:?}"
        );
    }
}

#[test]
fn keys_choose_what_is_shown() {
    let mut app = app(Pane::Overview);
    let frame = |app: &mut App| screen(app, 80, 24);
    press(&mut app, "2");
    assert!(frame(&mut app).contains("QUEUE "));
    press(&mut app, "\t");
    assert!(frame(&mut app).contains("UPSTREAM "));
    press(&mut app, "\t\t");
    assert!(frame(&mut app).contains("TRAFFIC"));
    assert_eq!(app.key(KeyEvent::from(KeyCode::BackTab)), Next::GoOn);
    assert!(frame(&mut app).contains("CLIENT"));
    press(&mut app, "?");
    assert!(frame(&mut app).contains("any key closes this"));
    press(&mut app, "x");
    assert!(!frame(&mut app).contains("any key closes this"));
    // Ctrl-C and q quit, whatever is shown.
    press(&mut app, "/");
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.key(control_c), Next::Quit);
    press(&mut app, "\x1b");
    assert_eq!(app.key(KeyEvent::from(KeyCode::Char('q'))), Next::Quit);
}

/// The first words of the rows of a list.
fn first(frame: &str) -> Vec<String> {
    let rows = frame
        .lines()
        .skip(3)
        .map_while(|line| line.split("  ").next());
    rows.take_while(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn lists_are_sorted_and_filtered() {
    let mut app = app(Pane::Queues);
    let names = |app: &mut App| first(&screen(app, 100, 24));
    assert_eq!(names(&mut app), ["eth0:0", "eth0:1", "sockets"]);
    press(&mut app, "r");
    assert_eq!(names(&mut app), ["sockets", "eth0:1", "eth0:0"]);
    // By rate, the highest first.
    press(&mut app, "ssss");
    assert_eq!(names(&mut app), ["eth0:0", "eth0:1", "sockets"]);
    // By state.
    press(&mut app, "←");
    assert_eq!(names(&mut app), ["eth0:1", "eth0:0", "sockets"]);
    press(&mut app, "/SOCK\n");
    assert_eq!(names(&mut app), ["sockets"]);
    assert!(screen(&mut app, 100, 24).contains("/SOCK"));
    press(&mut app, "/ets\u{7f}é nothing\n");
    assert!(screen(&mut app, 100, 24).contains("none matches the filter"));
    press(&mut app, "\x1b");
    assert_eq!(names(&mut app).len(), 3);
    // Each pane has an order of its own: names begin with the most popular.
    press(&mut app, "4");
    assert!(
        screen(&mut app, 100, 24)
            .lines()
            .nth(4)
            .unwrap()
            .starts_with("www.example.com.")
    );
}

#[test]
fn a_long_list_can_be_scrolled() {
    let mut document = document(2);
    let worker = document["workers"][0].clone();
    let queues = (0..64).map(|queue| {
        let mut worker = worker.clone();
        worker["queue"] = json!(queue);
        worker
    });
    document["workers"] = queues.collect();
    let mut app = App::new(app(Pane::Queues).options);
    app.update(Ok(Reading::new(document)));
    let frame = screen(&mut app, 80, 24);
    assert!(frame.contains("1 to 18 of 65"), "{frame}");
    assert!(
        frame.contains("eth0:9 ") && !frame.contains("eth0:20 "),
        "{frame}"
    );
    press(&mut app, "↓↓");
    let frame = screen(&mut app, 80, 24);
    assert!(
        frame.contains("3 to 20 of 65") && !frame.contains("eth0:1 "),
        "{frame}"
    );
    app.key(KeyEvent::from(KeyCode::End));
    press(&mut app, "↓");
    let frame = screen(&mut app, 80, 24);
    assert!(
        frame.contains("48 to 65 of 65") && frame.contains("sockets "),
        "{frame}"
    );
    // Not further than that.
    press(&mut app, "↑");
    assert!(screen(&mut app, 80, 24).contains("47 to 64 of 65"));
    // A terminal that grows shows all of them.
    assert!(!screen(&mut app, 80, 100).contains(" of 65"));
}

#[test]
fn a_pause_keeps_the_frame_and_misses_no_rate() {
    let mut app = app(Pane::Overview);
    press(&mut app, "p");
    let paused = screen(&mut app, 80, 24);
    assert!(paused.contains("PAUSED"));
    for times in 102..105 {
        app.update(Ok(Reading::new(document(times))));
    }
    assert_eq!(screen(&mut app, 80, 24), paused);
    press(&mut app, "p");
    let frame = screen(&mut app, 80, 24);
    assert!(
        frame.contains("over 2 s") && frame.contains("12.0k"),
        "{frame}"
    );
}

#[test]
fn a_server_that_is_lost_is_said_to_be_and_found_again() {
    let mut app = app(Pane::Overview);
    app.update(Err(
        "no server listens on the control socket /run/x".to_owned()
    ));
    let frame = screen(&mut app, 80, 24);
    assert!(frame.contains("SERVER LOST"), "{frame}");
    assert!(frame.contains("no server listens on the control socket /run/x; trying again"));
    // The last rates stay.
    assert!(frame.contains("TRAFFIC"));
    let mut next = document(1);
    next["pid"] = json!(1);
    app.update(Ok(Reading::new(next.clone())));
    let frame = screen(&mut app, 80, 24);
    assert!(
        !frame.contains("LOST") && frame.contains("average since the start"),
        "{frame}"
    );
    assert!(
        frame.contains("up 2 s") && frame.contains("pid 1"),
        "{frame}"
    );
}

#[test]
fn without_colours_only_weights_differ() {
    let colors = |has_color: bool| {
        let mut app = app(Pane::Queues);
        app.options.has_color = has_color;
        let terminal = terminal(&mut app, 80, 24);
        let cells = terminal.backend().buffer().content.iter();
        let mut colors: Vec<Color> = cells.flat_map(|cell| [cell.fg, cell.bg]).collect();
        colors.sort_by_key(|color| format!("{color:?}"));
        colors.dedup();
        colors
    };
    assert_eq!(colors(false), [Color::Reset]);
    assert_eq!(
        colors(true),
        [Color::Cyan, Color::Green, Color::Reset, Color::Yellow]
    );
}

#[test]
fn whether_service_addresses_are_announced_is_shown() {
    let show = |anycast: Value| {
        [Pane::Overview, Pane::Queues].map(|pane| {
            let mut document = document(1);
            document["anycast"] = anycast.clone();
            let mut app = App::new(app(pane).options);
            app.update(Ok(Reading::new(document)));
            screen(&mut app, 80, 24)
        })
    };
    let [overview, queues] = show(json!({ "announced": true, "reason": null }));
    assert!(
        overview.contains("SERVICE ADDRESSES") && overview.contains("announced"),
        "{overview}"
    );
    assert!(
        queues.contains("\nservice addresses announced\n"),
        "{queues}"
    );
    let reason = "no upstream responds: 192.0.2.1:53";
    let [overview, queues] = show(json!({ "announced": false, "reason": reason }));
    assert!(overview.contains("withdrawn"), "{overview}");
    let note = format!("\nservice addresses withdrawn: {reason}\n");
    assert!(queues.contains(&note), "{queues}");
    for frame in show(json!(null)) {
        assert!(
            !frame.to_lowercase().contains("service addresses"),
            "{frame}"
        );
    }
}

#[test]
fn one_frame_has_no_keys() {
    let mut once = app(Pane::Overview);
    once.options.is_interactive = false;
    let frame = frame(&once, (80, 24));
    assert_eq!(frame.lines().count(), 24);
    assert!(
        frame.contains("TRAFFIC") && !frame.contains("quit"),
        "{frame}"
    );
    assert_eq!(size("80x24"), Ok((80, 24)));
    for bad in ["", "80", "80x", "x24", "8x24", "80x4", "80x70000"] {
        assert!(size(bad).is_err(), "{bad}");
    }
}
