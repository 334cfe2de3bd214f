//! [resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html), the C library's list of resolvers.

use std::{path::Path, sync::Arc};

use super::{
    Draft,
    source::Statement,
    values::{Transport, upstream, zoned},
};

/// What only programs on the host itself do with names.
const OF_THE_CLIENT: &str = "clients add domains to names by themselves, before they ask";

pub(super) fn convert(path: &Path, text: &str, draft: &mut Draft) {
    let path: Arc<Path> = path.into();
    let mut use_tcp = false;
    let mut servers = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_end();
        let mut words = line.split_ascii_whitespace();
        let statement = Statement::new(&path, number, line);
        match words.next() {
            None => {}
            Some(word) if word.starts_with(['#', ';']) => {}
            Some("nameserver") => servers.push((words.next().unwrap_or_default(), statement)),
            Some("options") => {
                for option in words {
                    use_tcp |= option == "use-vc";
                    convert_option(option, &statement, draft);
                }
            }
            Some("search" | "domain") => draft.unneeded(&statement, OF_THE_CLIENT),
            Some("sortlist") => {
                draft.lost(&statement, "addresses stay in the order in which they come");
            }
            Some(_) => draft.lost(&statement, "it is not known"),
        }
    }
    for (server, statement) in servers {
        nameserver(server, use_tcp, &statement, draft);
    }
}

/// The lines `nameserver` of a file in this format, which another configuration names.
pub(super) fn nameservers(path: &Path, text: &str, draft: &mut Draft) {
    let path: Arc<Path> = path.into();
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("nameserver") {
            let statement = Statement::new(&path, number, line);
            nameserver(words.next().unwrap_or_default(), false, &statement, draft);
        }
    }
}

fn nameserver(server: &str, use_tcp: bool, statement: &Statement, draft: &mut Draft) {
    let Some((address, interface)) = zoned(server) else {
        return draft.leave_out(statement, "it is no address");
    };
    if address.is_loopback() || address.is_unspecified() {
        let why = "that is a server on this host, whose place Heimdall may take; `resolvectl dns` shows whom \
                   systemd-resolved asks";
        return draft.leave_out(statement, why);
    }
    let transport = match use_tcp {
        true => Transport::Tcp,
        false => Transport::Udp,
    };
    match upstream(transport, address, 53, interface) {
        Ok(upstream) => draft.push("upstream", upstream, Some(statement)),
        Err(why) => draft.leave_out(statement, why),
    }
}

fn convert_option(option: &str, statement: &Statement, draft: &mut Draft) {
    let (name, value) = match option.split_once(':') {
        Some((name, value)) => (name, value.parse::<u32>().ok()),
        None => (option, None),
    };
    match (name, value) {
        ("timeout", Some(seconds)) => {
            let milliseconds = i64::from(seconds.clamp(1, 30)) * 1000;
            draft.set("forward.timeout-ms", milliseconds, statement);
        }
        ("attempts", Some(attempts)) => {
            draft.set(
                "forward.attempts",
                i64::from(attempts.clamp(1, 5)),
                statement,
            );
        }
        ("rotate", _) => draft.set("forward.policy", "round-robin", statement),
        ("trust-ad", _) => draft.set("forward.trust-ad", true, statement),
        ("timeout" | "attempts", None) => draft.lost(statement, "its value cannot be read"),
        ("use-vc", _) => {}
        ("ndots" | "no-tld-query", _) => draft.unneeded(statement, OF_THE_CLIENT),
        _ => draft.unneeded(statement, format!("{name} is for the C library")),
    }
}
