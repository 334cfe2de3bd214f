//! A panic on the screen, in a real terminal.
#![allow(clippy::unwrap_used)]

use std::{env, process::Command, thread, time::Duration};

/// Environment variable of this test's child process.
const CHILD: &str = "HEIMDALL_TOP_PANICS";

/// Panics while it has the terminal, in a process of its own.
#[test]
fn child() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let _ = super::with_terminal(|terminal| -> anyhow::Result<()> {
        terminal.draw(|frame| frame.render_widget("on the screen", frame.area()))?;
        panic!("on purpose");
    });
}

#[test]
fn a_panic_restores_the_terminal() {
    let tmux = |arguments: &[&str]| {
        let mut tmux = Command::new("tmux");
        tmux.args([
            "-L",
            &format!("heimdall-panic-{}", std::process::id()),
            "-f",
            "/dev/null",
        ]);
        tmux.args(arguments).output()
    };
    let program = env::current_exe().unwrap();
    let module = module_path!().split_once("::").unwrap().1;
    let command = format!(
        "{CHILD}=1 {} --exact {module}::child --nocapture; stty -a; echo DONE; sleep 60",
        program.display()
    );
    let started = tmux(&["new-session", "-d", "-x", "100", "-y", "50", &command]);
    let Ok(started) = started else {
        assert!(env::var_os("CI").is_none(), "tmux is missing");
        println!("SKIPPED a_panic_restores_the_terminal: tmux is missing");
        return;
    };
    assert!(started.status.success(), "{started:?}");
    let text = |arguments: &[&str]| String::from_utf8(tmux(arguments).unwrap().stdout).unwrap();
    let mut screen = String::new();
    for _ in 0..600 {
        screen = text(&["capture-pane", "-p"]);
        if screen.contains("DONE") {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let state = text(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
    tmux(&["kill-server"]).unwrap();
    assert!(screen.contains("on purpose"), "{screen}");
    assert!(
        screen.contains(" icanon") && screen.contains(" echo "),
        "{screen}"
    );
    assert!(!screen.contains("on the screen"), "{screen}");
    assert_eq!(state, "0 1\n", "{screen}");
}
