//! The DNS part of [dnsmasq.conf](https://thekelleys.org.uk/dnsmasq/docs/dnsmasq-man.html).

mod notes;
mod records;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    ConvertError, Draft, resolv_conf,
    source::{Reader, Statement},
    values::{self, Transport, reverse_zone, upstream, zoned},
};
use crate::answer::local::LocalData;
use notes::{BY_ITSELF, note};
use records::{Record, records};

/// Lines of all files together.
const MAX_LINES: usize = 2_000_000;

/// Where dnsmasq reads the resolvers of the host.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The hosts file that it reads.
const HOSTS: &str = "/etc/hosts";

const BY_INTERFACE: &str =
    "give the addresses of the interface in `listen`; `interface` has AF_XDP serve it";

const AS_WRITTEN: &str =
    "names of hosts files are served as they are written: give them their domain there";

/// What was read so far.
struct Dnsmasq {
    lines: usize,
    port: Option<(u16, Statement)>,
    addresses: Vec<(IpAddr, Option<String>, Statement)>,
    resolv_conf: Option<PathBuf>,
    hosts: bool,
    files: Vec<(PathBuf, Statement)>,
    records: Vec<(Record, Statement)>,
    /// Of local records without one, in seconds.
    local_ttl: Option<(String, Statement)>,
    expand_hosts: Option<Statement>,
    domains: Vec<Statement>,
    /// Zones that have the resolvers of all other names.
    exempt: Vec<(crate::config::Zone, Statement)>,
}

pub(super) fn convert(
    path: &Path,
    text: &str,
    reader: &mut Reader<'_>,
    draft: &mut Draft,
) -> Result<(), ConvertError> {
    let mut dnsmasq = Dnsmasq {
        lines: 0,
        port: None,
        addresses: Vec::new(),
        resolv_conf: Some(RESOLV_CONF.into()),
        hosts: true,
        files: Vec::new(),
        records: Vec::new(),
        local_ttl: None,
        expand_hosts: None,
        domains: Vec::new(),
        exempt: Vec::new(),
    };
    dnsmasq.read(path, text, reader, draft)?;
    dnsmasq.finish(reader, draft)
}

impl Dnsmasq {
    fn read(
        &mut self,
        path: &Path,
        text: &str,
        reader: &mut Reader<'_>,
        draft: &mut Draft,
    ) -> Result<(), ConvertError> {
        let shared: Arc<Path> = path.into();
        for (number, line) in (1..).zip(text.lines()) {
            self.lines += 1;
            if self.lines > MAX_LINES {
                return Err(ConvertError::TooMuch {
                    path: path.to_owned(),
                    what: "2,000,000 lines",
                });
            }
            let line = without_comment(line);
            if line.is_empty() {
                continue;
            }
            let statement = Statement::new(&shared, number, &line);
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key.trim_end(), value.trim_start()),
                None => (line.as_str(), ""),
            };
            match key {
                "conf-file" => {
                    let path = value.split(',').next().unwrap_or_default();
                    let included = reader.include(Path::new(path), |reader, path, text| {
                        self.read(path, text, reader, draft)
                    })?;
                    if let Err(why) = included {
                        draft.lost(&statement, why);
                    }
                }
                "conf-dir" => {
                    let (directory, endings) = value.split_once(',').unwrap_or((value, ""));
                    let included = match files_of(directory.trim_end(), endings, reader) {
                        Ok(paths) if paths.is_empty() => {
                            draft.unneeded(&statement, "it has no file that dnsmasq reads");
                            continue;
                        }
                        Ok(paths) => reader.include_all(paths, |reader, path, text| {
                            self.read(path, text, reader, draft)
                        })?,
                        Err(why) => Err(why),
                    };
                    if let Err(why) = included {
                        draft.lost(&statement, why);
                    }
                }
                _ => self.statement(key, value, &statement, draft),
            }
        }
        Ok(())
    }

    fn statement(&mut self, key: &str, value: &str, statement: &Statement, draft: &mut Draft) {
        let number = value.parse::<i64>().ok();
        match (key, number) {
            ("port", Some(0)) => {
                draft.listens();
                draft.lost(statement, "this dnsmasq serves no DNS");
            }
            ("port", Some(port @ 1..=65_535)) => self.port = Some((port as u16, statement.clone())),
            ("listen-address", _) => {
                draft.listens();
                for address in value.split(',').map(str::trim) {
                    match zoned(address) {
                        Some((address, zone)) => {
                            let zone = zone.map(str::to_owned);
                            self.addresses.push((address, zone, statement.clone()));
                        }
                        None => unreadable(statement, draft),
                    }
                }
            }
            ("interface" | "except-interface" | "auth-server", _) => {
                if key != "auth-server" {
                    draft.listens();
                }
                draft.lost(statement, BY_INTERFACE);
            }
            ("server" | "local", _) => self.server(value, statement, draft),
            ("rev-server", _) => rev_server(value, statement, draft),
            ("address", _) => self.address(value, statement, draft),
            ("no-resolv", _) => {
                self.resolv_conf = None;
                draft.unneeded(statement, BY_ITSELF);
            }
            ("resolv-file", _) => self.resolv_conf = Some(value.into()),
            ("no-hosts", _) => {
                self.hosts = false;
                draft.unneeded(statement, BY_ITSELF);
            }
            ("addn-hosts", _) => self.files.push((value.into(), statement.clone())),
            ("hostsdir", _) => draft.lost(
                statement,
                "name the files in `local.hosts`; a reload reads them again",
            ),
            ("host-record" | "cname" | "ptr-record" | "txt-record" | "mx-host" | "srv-host", _) => {
                let records = records(key, value).into_iter();
                self.records
                    .extend(records.map(|record| (record, statement.clone())));
            }
            ("local-ttl", Some(0..)) => {
                self.local_ttl = Some((value.to_owned(), statement.clone()))
            }
            ("expand-hosts", _) => self.expand_hosts = Some(statement.clone()),
            ("domain", _) => self.domains.push(statement.clone()),
            ("max-cache-ttl" | "max-ttl", Some(ttl)) => {
                draft.set("cache.max-ttl", ttl.clamp(1, 604_800), statement);
            }
            ("min-cache-ttl", Some(ttl)) => {
                draft.set("cache.min-ttl", ttl.clamp(0, 604_800), statement)
            }
            ("no-negcache", _) => draft.set("cache.max-negative-ttl", 0, statement),
            ("use-stale-cache", _) => {
                let age = number.unwrap_or(86_400).clamp(0, 604_800);
                draft.set(
                    "cache.stale-max-age",
                    if age == 0 { 604_800 } else { age },
                    statement,
                );
            }
            ("edns-packet-max", Some(size)) => {
                draft.set("max-udp-size", size.clamp(512, 4096), statement);
            }
            ("strict-order", _) => draft.set("forward.policy", "sequential", statement),
            ("all-servers", _) => {
                draft.set("forward.policy", "fastest", statement);
                draft.set("forward.hedge", 50, statement);
            }
            ("proxy-dnssec", _) => draft.set("forward.trust-ad", true, statement),
            ("log-queries", _) => draft.set("query-log.sample", "1/1", statement),
            ("cache-size", _) => {
                draft.unneeded(
                    statement,
                    "the cache is bounded by memory: `cache.size` holds far more",
                );
            }
            _ => note(key, statement, draft),
        }
    }

    /// `server=` and `local=`: the resolvers of all names or of some, or none.
    fn server(&mut self, value: &str, statement: &Statement, draft: &mut Draft) {
        let (domains, server) = domains(value);
        let (server, source) = match server.split_once('@') {
            Some((server, source)) => (server, Some(source)),
            None => (server, None),
        };
        if source.is_some() {
            draft.lost(statement, "no address or interface is chosen to ask from");
        }
        let resolver = match server {
            "" | "#" => None,
            server => match resolver(server) {
                Ok(resolver) => Some(resolver),
                Err(Some(why)) => return draft.lost(statement, why),
                Err(None) => return unreadable(statement, draft),
            },
        };
        if let (true, Some(resolver)) = (domains.is_empty(), &resolver) {
            return draft.push("upstream", resolver.as_str(), Some(statement));
        }
        if domains.is_empty() {
            return unreadable(statement, draft);
        }
        for domain in domains {
            let zone = match zone_of(domain) {
                Ok(zone) => zone,
                Err(why) => {
                    draft.lost(statement, why);
                    continue;
                }
            };
            match (&resolver, server) {
                (Some(resolver), _) => draft
                    .route(&zone, statement)
                    .upstream(resolver.clone(), statement),
                (None, "#") => self.exempt.push((zone, statement.clone())),
                (None, _) => draft
                    .route(&zone, statement)
                    .set("answer", "nxdomain", statement),
            }
        }
    }

    /// `address=`: an address for all names of some domains, or none.
    fn address(&mut self, value: &str, statement: &Statement, draft: &mut Draft) {
        let (domains, address) = domains(value);
        if domains.is_empty() {
            return unreadable(statement, draft);
        }
        let given = address.parse::<IpAddr>().ok();
        let is_null = address == "#" || given.is_some_and(|address| address.is_unspecified());
        for domain in domains {
            let domain = domain.strip_prefix('.').unwrap_or(domain);
            let listed = match (address, is_null) {
                ("", _) => draft.block("nxdomain", domain, statement),
                (_, true) => draft.block("null", domain, statement),
                _ => {
                    if let (Some(address), Ok(_)) = (given, zone_of(domain)) {
                        let record = Record::of_address(domain, address, None);
                        self.records.push((record, statement.clone()));
                    }
                    draft.lost(
                        statement,
                        "the address is of this name only, not of names below it",
                    );
                    true
                }
            };
            if !listed {
                draft.lost(statement, "this is no name that a blocklist can have");
            }
        }
    }

    /// Makes records, and says what is true of hosts files only if there are any.
    fn local_data(&self, draft: &mut Draft) {
        let ttl = self.local_ttl.as_ref().map(|(ttl, _)| ttl.as_str());
        for (record, statement) in &self.records {
            local(record.text(ttl), statement, draft);
        }
        let has_hosts = self.hosts || !self.files.is_empty();
        match &self.local_ttl {
            Some((_, statement)) if has_hosts => {
                draft.lost(statement, "names of hosts files have a TTL of 300 s");
            }
            Some((_, statement)) => draft.unneeded(statement, "the records have it"),
            None => {}
        }
        let expands = self.expand_hosts.is_some() && has_hosts;
        for statement in self.expand_hosts.iter().chain(&self.domains) {
            match expands {
                true => draft.lost(statement, AS_WRITTEN),
                false => draft.unneeded(statement, "no names of hosts files are completed by it"),
            }
        }
    }

    fn finish(self, reader: &mut Reader<'_>, draft: &mut Draft) -> Result<(), ConvertError> {
        self.local_data(draft);
        let port = self.port.as_ref().map_or(53, |(port, _)| *port);
        for (address, zone, statement) in &self.addresses {
            let listen = values::listen(*address, port, zone.as_deref());
            draft.push("listen", listen, Some(statement));
        }
        if let (true, Some((port, statement))) = (self.addresses.is_empty(), &self.port) {
            draft.listens();
            for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
                draft.push("listen", values::listen(any, *port, None), Some(statement));
            }
        }
        if let Some(path) = &self.resolv_conf {
            match reader.read(path)? {
                Ok(text) => resolv_conf::nameservers(path, &text, draft),
                Err(why) => draft.remark(format!("dnsmasq takes resolvers from a file, but {why}")),
            }
        }
        let own = self.hosts.then(|| (PathBuf::from(HOSTS), None));
        let files = self
            .files
            .into_iter()
            .map(|(path, from)| (path, Some(from)));
        for (path, from) in own.into_iter().chain(files) {
            draft.push("local.hosts", path.display().to_string(), from.as_ref());
        }
        for (zone, statement) in &self.exempt {
            draft.route_as_all_others(zone, statement);
        }
        Ok(())
    }
}

/// The files of a directory that dnsmasq reads. `endings`, of names, are separated by commas: files with one are left out, and
/// if some begin with `*` only those with one of these are read.
fn files_of(directory: &str, endings: &str, reader: &Reader<'_>) -> Result<Vec<PathBuf>, String> {
    let endings = endings.split(',').map(str::trim);
    let endings = endings.filter(|ending| !matches!(*ending, "" | "*"));
    let (wanted, unwanted): (Vec<_>, Vec<_>) = endings.partition(|ending| ending.starts_with('*'));
    let has = |name: &str, ending: &str| name.len() > ending.len() && name.ends_with(ending);
    let pattern = Path::new(&glob::Pattern::escape(directory)).join("*");
    let mut paths = reader.paths(&pattern)?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_backup = name.ends_with('~') || name.starts_with('#') && name.ends_with('#');
        let is_wanted = |ending: &&str| has(&name, ending.strip_prefix('*').unwrap_or(ending));
        !is_backup
            && !name.starts_with('.')
            && (wanted.is_empty() || wanted.iter().any(is_wanted))
            && !unwanted.iter().any(|ending| has(&name, ending))
    });
    Ok(paths)
}

/// A line without what follows a `#` at its beginning or behind a blank, unless that is quoted.
fn without_comment(line: &str) -> String {
    let mut kept = String::new();
    let (mut quoted, mut before) = (false, ' ');
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            '\\' if quoted => kept.extend(letters.next()),
            '#' if !quoted && before.is_whitespace() => break,
            letter => kept.push(letter),
        }
        before = letter;
    }
    kept.trim().to_owned()
}

/// Splits `/DOMAIN/DOMAIN/REST`.
fn domains(value: &str) -> (Vec<&str>, &str) {
    let Some(rest) = value.strip_prefix('/') else {
        return (Vec::new(), value);
    };
    match rest.rsplit_once('/') {
        Some((domains, rest)) => (domains.split('/').collect(), rest),
        None => (Vec::new(), value),
    }
}

fn zone_of(domain: &str) -> Result<crate::config::Zone, String> {
    match domain {
        "" => Err("names without a dot are forwarded like others".to_owned()),
        "#" => Err("give the resolvers of all names in `upstream`".to_owned()),
        domain => values::zone(domain.strip_prefix('.').unwrap_or(domain)),
    }
}

/// Reads `ADDR[#PORT]`.
fn resolver(text: &str) -> Result<String, Option<String>> {
    let (address, port) = match text.split_once('#') {
        Some((address, port)) => (address, port.parse().map_err(|_| None)?),
        None => (text, 53),
    };
    let (address, interface) = zoned(address).ok_or(None)?;
    upstream(Transport::Udp, address, port, interface).map_err(Some)
}

/// `rev-server=`: the resolver of the reverse names of a prefix.
fn rev_server(value: &str, statement: &Statement, draft: &mut Draft) {
    let parts = value.split_once(',');
    let parts = parts.and_then(|(prefix, server)| Some((values::prefix(prefix)?, server)));
    let Some((prefix, server)) = parts else {
        return unreadable(statement, draft);
    };
    let Some(zone) = reverse_zone(&prefix) else {
        let why = "a zone of reverse names ends at a dot: give prefixes of 8, 16 or 24 bits";
        return draft.lost(statement, why);
    };
    let server = server.split('@').next().unwrap_or_default();
    match (values::zone(&zone), resolver(server)) {
        (Ok(zone), Ok(resolver)) => draft.route(&zone, statement).upstream(resolver, statement),
        (Err(why), _) | (_, Err(Some(why))) => draft.lost(statement, why),
        (_, Err(None)) => unreadable(statement, draft),
    }
}

/// Adds a record, if it is one.
fn local(record: String, statement: &Statement, draft: &mut Draft) {
    match LocalData::builder().record(&record) {
        Ok(()) => draft.push("local.records", record, Some(statement)),
        Err(error) => draft.lost(statement, error.to_string()),
    }
}

fn unreadable(statement: &Statement, draft: &mut Draft) {
    draft.lost(statement, "its value cannot be read");
}
