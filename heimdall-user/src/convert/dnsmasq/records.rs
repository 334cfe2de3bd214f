//! Records that statements give to names, as in a zone file.

use std::net::IpAddr;

use super::super::values::reverse_name;

/// A record.
#[derive(Debug)]
pub(super) struct Record {
    name: String,
    /// In seconds, if the statement gives it.
    ttl: Option<String>,
    /// Its type and data.
    data: String,
}

impl Record {
    fn new(name: &str, ttl: Option<&str>, data: String) -> Self {
        Self {
            name: name.to_owned(),
            ttl: ttl.map(str::to_owned),
            data,
        }
    }

    /// The record of an address.
    pub(super) fn of_address(name: &str, address: IpAddr, ttl: Option<&str>) -> Self {
        let rtype = if address.is_ipv4() { "A" } else { "AAAA" };
        Self::new(name, ttl, format!("{rtype} {address}"))
    }

    /// As in a zone file. `ttl`: of a record without one.
    pub(super) fn text(&self, ttl: Option<&str>) -> String {
        let Self { name, data, .. } = self;
        match self.ttl.as_deref().or(ttl) {
            Some(ttl) => format!("{name} {ttl} IN {data}"),
            None => format!("{name} IN {data}"),
        }
    }
}

/// The records of a statement; what cannot be one is found when it is read.
pub(super) fn records(key: &str, value: &str) -> Vec<Record> {
    let parts: Vec<&str> = value.split(',').map(str::trim).collect();
    let part = |number: usize| parts.get(number).copied().filter(|part| !part.is_empty());
    match (key, parts.as_slice()) {
        ("host-record", parts) => {
            let is_number = |part: &&&str| part.bytes().all(|octet| octet.is_ascii_digit());
            let ttl = parts.last().filter(is_number).copied();
            let names = parts.iter().filter(|part| part.parse::<IpAddr>().is_err());
            let names = names.filter(|name| Some(**name) != ttl);
            let addresses = parts.iter().filter_map(|part| part.parse::<IpAddr>().ok());
            let of_name = |name: &&str| -> Vec<Record> {
                addresses
                    .clone()
                    .map(|address| Record::of_address(name, address, ttl))
                    .collect()
            };
            names.flat_map(of_name).collect()
        }
        ("cname", [aliases @ .., target, ttl]) if ttl.parse::<u32>().is_ok() => {
            let alias = |alias: &&str| Record::new(alias, Some(ttl), format!("CNAME {target}"));
            aliases.iter().map(alias).collect()
        }
        ("cname", [aliases @ .., target]) => {
            let alias = |alias: &&str| Record::new(alias, None, format!("CNAME {target}"));
            aliases.iter().map(alias).collect()
        }
        ("ptr-record", [name, target]) => {
            let address = name.parse::<IpAddr>().ok();
            let name = address.map_or_else(|| (*name).to_owned(), reverse_name);
            vec![Record::new(&name, None, format!("PTR {target}"))]
        }
        ("txt-record", [name, texts @ ..]) if !texts.is_empty() => {
            let quoted =
                |text: &&str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let texts: Vec<String> = texts.iter().map(quoted).collect();
            vec![Record::new(name, None, format!("TXT {}", texts.join(" ")))]
        }
        ("mx-host", [name, target, ..]) => {
            let preference = part(2).unwrap_or("1");
            vec![Record::new(name, None, format!("MX {preference} {target}"))]
        }
        ("srv-host", [name, target, ..]) => {
            let (port, priority) = (part(2).unwrap_or("1"), part(3).unwrap_or("0"));
            let weight = part(4).unwrap_or("0");
            let data = format!("SRV {priority} {weight} {port} {target}");
            vec![Record::new(name, None, data)]
        }
        _ => Vec::new(),
    }
}
