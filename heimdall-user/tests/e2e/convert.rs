//! `heimdall convert`: settings that are made of another server's configuration answer like that server.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

use lab::{Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, UPSTREAM};

use crate::{lab, program, real_upstreams::unbound};

/// A question.
type Question = (&'static str, &'static str);

const UNBOUND: &str = unbound!(
    r#"
    interface: SERVER
    access-control: 10.53.0.0/24 allow
    cache-max-ttl: 600
    local-zone: "lan." static
    local-data: "printer.lan. IN A 192.168.1.9"
    local-data: 'note.lan. 60 IN TXT "a  b" "c"'
    local-data: "extra.example.com. IN A 192.0.2.77"
    local-data-ptr: "192.168.1.9 printer.lan"
    local-zone: "bad.example.com" always_nxdomain
    local-zone: "ads.example.com" always_null
    local-zone: "closed.example.com" refuse
forward-zone:
    name: "."
    forward-addr: UPSTREAM
forward-zone:
    name: "wild.example.com"
    forward-addr: UPSTREAM
"#
);

const DNSMASQ: &str = "
listen-address=SERVER
bind-interfaces
user=root
pid-file
no-resolv
no-hosts
server=UPSTREAM
server=/wild.example.com/UPSTREAM
local=/lan/
host-record=printer.lan,192.168.1.9
txt-record=note.lan,\"a  b\",c
cname=files.lan,printer.lan
host-record=extra.example.com,192.0.2.77
address=/bad.example.com/
address=/ads.example.com/0.0.0.0
";

/// What both serve.
const QUESTIONS: [Question; 16] = [
    ("printer.lan", "A"),
    ("printer.lan", "AAAA"),
    ("other.lan", "A"),
    ("note.lan", "TXT"),
    ("9.1.168.192.in-addr.arpa", "PTR"),
    ("extra.example.com", "A"),
    ("bad.example.com", "A"),
    ("x.bad.example.com", "AAAA"),
    ("ads.example.com", "A"),
    ("x.ads.example.com", "A"),
    ("n7.example.com", "A"),
    ("www.example.com", "A"),
    ("example.com", "MX"),
    ("text.example.com", "TXT"),
    ("x.wild.example.com", "A"),
    ("missing.example.com", "A"),
];

#[test]
fn converted_settings_answer_like_unbound() {
    let more = [
        ("localhost", "A"),
        ("closed.example.com", "A"),
        ("ads.example.com", "AAAA"),
    ];
    answers_alike(
        "converted_settings_answer_like_unbound",
        "/usr/sbin/unbound",
        &["-d", "-p", "-c"],
        &UNBOUND.replace("UPSTREAM", &UPSTREAM.replace(':', "@")),
        &more,
    );
}

#[test]
fn converted_settings_answer_like_dnsmasq() {
    answers_alike(
        "converted_settings_answer_like_dnsmasq",
        "/usr/sbin/dnsmasq",
        &["--keep-in-foreground", "-C"],
        &DNSMASQ.replace("UPSTREAM", &UPSTREAM.replace(':', "#")),
        &[("files.lan", "A")],
    );
}

/// Asks a server with this configuration, and then Heimdall with what is made of it.
fn answers_alike(
    test: &str,
    server: &'static str,
    arguments: &[&str],
    text: &str,
    more: &[Question],
) {
    let Some(lab) = lab(test) else {
        return;
    };
    if !Path::new(server).exists() {
        assert!(env::var_os("CI").is_none(), "CI has to have {server}");
        eprintln!("SKIPPED {test}: it needs {server}");
        return;
    }
    let _knot = Knot::upstream(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let name = Path::new(server).file_name().unwrap();
    let configuration = directory.path().join(name).with_extension("conf");
    fs::write(&configuration, text.replace("SERVER", SERVER_V4)).unwrap();
    let process =
        Process::start(lab.on_server(server).args(arguments).arg(&configuration)).unwrap();
    let original = ask(&lab, more, &process);
    drop(process);

    let settings = directory.path().join("heimdall.toml");
    let converted = heimdall(&["convert", path(&configuration), "--output", path(&settings)]);
    assert!(converted.status.success(), "{converted:?}");
    let checked = heimdall(&["check", "--config", path(&settings)]);
    assert!(
        checked.status.success(),
        "{checked:?}\n{}",
        fs::read_to_string(&settings).unwrap()
    );
    let arguments = ["--config", path(&settings), "--backend", "socket"];
    let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    assert_eq!(ask(&lab, more, &heimdall.process), original);
}

fn heimdall(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a server gives to each question: the response code, and the records without their TTLs, in the order of their text.
fn ask(lab: &Lab, more: &[Question], process: &Process) -> Vec<(Question, String, Vec<String>)> {
    lab::wait_for_answer(lab, 53, process).unwrap();
    let server = format!("@{SERVER_V4}");
    let without_ttl = |line: &String| {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.remove(1);
        words.join(" ")
    };
    let questions = QUESTIONS.iter().chain(more);
    let answers = questions.map(|question| {
        let reply = Kdig::ask(lab, &[&server, question.0, question.1]).unwrap();
        let mut answer: Vec<String> = reply.answer.iter().map(without_ttl).collect();
        answer.sort();
        (*question, reply.status, answer)
    });
    answers.collect()
}

#[test]
fn convert_says_what_it_does_not_convert_and_keeps_files() {
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("unbound.conf");
    let text = "server:\n  private-address: 10.0.0.0/8\n  local-zone: a.example always_null\n\
                forward-zone:\n  name: .\n  forward-addr: 192.0.2.53\n";
    fs::write(&configuration, text).unwrap();
    let output = directory.path().join("heimdall.toml");
    let stdout = heimdall(&["convert", path(&configuration)]);
    assert!(stdout.status.success(), "{stdout:?}");
    let text = String::from_utf8(stdout.stdout).unwrap();
    assert!(
        text.contains("unbound.conf:2: private-address: 10.0.0.0/8"),
        "{text}"
    );
    let stderr = String::from_utf8(stdout.stderr).unwrap();
    assert!(stderr.contains("Heimdall will not do: 1; "), "{stderr}");
    assert!(!output.exists());

    let arguments = ["convert", path(&configuration), "--output", path(&output)];
    assert!(heimdall(&arguments).status.success());
    let list = directory.path().join("heimdall.null.txt");
    assert_eq!(fs::read_to_string(&list).unwrap(), "a.example\n");
    assert!(
        heimdall(&["check", "--config", path(&output)])
            .status
            .success()
    );
    fs::write(&output, "mine").unwrap();
    let again = heimdall(&arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("--force"),
        "{again:?}"
    );
    assert_eq!(fs::read_to_string(&output).unwrap(), "mine");
    assert!(
        heimdall(&[&arguments[..], &["--force"]].concat())
            .status
            .success()
    );
    assert_ne!(fs::read_to_string(&output).unwrap(), "mine");

    let missing = directory.path().join("none/heimdall.toml");
    let nowhere = heimdall(&["convert", path(&configuration), "--output", path(&missing)]);
    assert_eq!(nowhere.status.code(), Some(1));
    let text = String::from_utf8_lossy(&nowhere.stderr);
    assert!(
        text.contains(path(&missing)) && text.contains("make the directory"),
        "{text}"
    );

    let lua = directory.path().join("dnsdist.conf");
    fs::write(&lua, "newServer('192.0.2.53')\n").unwrap();
    let refused = heimdall(&["convert", path(&lua)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("dnsdist.yml"),
        "{refused:?}"
    );
    let wrong = heimdall(&["convert", path(&lua), "--force"]);
    assert_eq!(wrong.status.code(), Some(2), "--force is for --output");
}
