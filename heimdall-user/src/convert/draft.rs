//! Settings that are being made, each with the statements that it comes from, and the statements that have no counterpart.

use std::{
    collections::{BTreeMap, HashSet},
    iter, mem,
    path::{self, Path, PathBuf},
};

use super::{
    ConvertError, NameList, Rejection,
    lines::{Lines, Note, Part},
    source::{Statement, on_one_line},
    values,
};
use crate::config::Zone;

/// Items that a check may reject before that is an error.
const MAX_REJECTED: usize = 500;

/// Resolvers that the error names if all are left out.
const MAX_LEFT_OUT: usize = 8;

/// Tables in the order in which they are written; the first is the top of the file.
const TABLES: [&str; 11] = [
    "",
    "cache",
    "forward",
    "socket",
    "metrics",
    "dnstap",
    "query-log",
    "tls",
    "access",
    "cookies",
    "identity",
];

/// The last one, which can be the longest.
const LOCAL: &str = "local";

/// Settings that are being made.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    remarks: Vec<String>,
    settings: BTreeMap<Key, Setting>,
    /// By the zone.
    routes: BTreeMap<String, Route>,
    /// Zones that have the resolvers of all other names.
    like_others: Vec<(Zone, Statement)>,
    /// Whether the configuration says where it listens.
    listens: bool,
    /// By what their names get.
    lists: BTreeMap<&'static str, NameList>,
    lost: Vec<Note>,
    unneeded: Vec<Note>,
    /// Resolvers of `lost`, each with its statement.
    left_out: Vec<String>,
    /// The first statement that keeps clients out, and cannot be converted.
    lets_in: Option<ConvertError>,
}

/// A table, and a key in it.
type Key = (&'static str, &'static str);

/// A value, or the items of a list.
#[derive(Debug)]
struct Setting {
    is_list: bool,
    items: Vec<Item>,
    /// The items of a list.
    known: HashSet<String>,
}

/// A value in TOML.
#[derive(Clone, Debug)]
struct Item {
    toml: String,
    from: Option<Statement>,
}

/// A route.
#[derive(Debug)]
pub(super) struct Route {
    from: Statement,
    upstreams: Vec<Item>,
    /// Other keys, and their values in TOML.
    options: Vec<(&'static str, Item)>,
}

/// A finished conversion.
#[derive(Debug)]
pub struct Outcome {
    /// The settings.
    pub text: String,
    /// Statements that do something which Heimdall will not do.
    pub lost: usize,
    /// Statements that need no counterpart.
    pub unneeded: usize,
    pub(crate) lists: Vec<NameList>,
    /// Why the check rejects it all the same, on this host.
    pub rejected: Option<String>,
}

/// Gathering.
impl Draft {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            remarks: Vec::new(),
            settings: BTreeMap::new(),
            routes: BTreeMap::new(),
            like_others: Vec::new(),
            listens: false,
            lists: BTreeMap::new(),
            lost: Vec::new(),
            unneeded: Vec::new(),
            left_out: Vec::new(),
            lets_in: None,
        }
    }

    /// Says something at the top of the file.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Sets a key, `key` or `table.key`, in place of what it was before.
    pub(super) fn set(
        &mut self,
        key: &'static str,
        value: impl Into<toml::Value>,
        from: &Statement,
    ) {
        self.setting(key, false).items = vec![Item::new(value, Some(from))];
    }

    /// Adds an item to a list, unless it has it.
    pub(super) fn push(
        &mut self,
        key: &'static str,
        value: impl Into<toml::Value>,
        from: Option<&Statement>,
    ) {
        let item = Item::new(value, from);
        let setting = self.setting(key, true);
        if setting.known.insert(item.toml.clone()) {
            setting.items.push(item);
        }
    }

    /// Whether a key has a value.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.settings.contains_key(&split(key))
    }

    fn setting(&mut self, key: &'static str, is_list: bool) -> &mut Setting {
        self.settings.entry(split(key)).or_insert_with(|| Setting {
            is_list,
            items: Vec::new(),
            known: HashSet::new(),
        })
    }

    /// The route of a zone, which a statement is about.
    pub(super) fn route(&mut self, zone: &Zone, from: &Statement) -> &mut Route {
        let route = self.routes.entry(zone.to_string());
        route.or_insert_with(|| Route {
            from: from.clone(),
            upstreams: Vec::new(),
            options: Vec::new(),
        })
    }

    /// Gives a zone the resolvers of all other names.
    pub(super) fn route_as_all_others(&mut self, zone: &Zone, from: &Statement) {
        self.like_others.push((zone.clone(), from.clone()));
    }

    /// Gives a zone the resolvers that it would have if no route answered by itself.
    pub(super) fn route_as_above(&mut self, zone: &Zone, from: &Statement) {
        let name = zone.to_string();
        let mut names = iter::once(name.as_str()).chain(values::above(&name));
        let upstreams = names.find_map(|name| {
            let upstreams = &self.routes.get(name)?.upstreams;
            (!upstreams.is_empty()).then(|| upstreams.clone())
        });
        match upstreams {
            Some(upstreams) => self.route(zone, from).upstreams = upstreams,
            None => self.route_as_all_others(zone, from),
        }
    }

    /// Has a zone answer by itself. The resolvers that it had are not asked.
    pub(super) fn answer(&mut self, zone: &Zone, answer: &'static str, from: &Statement) {
        let route = self.route(zone, from);
        route.set("answer", answer, from);
        let unused = mem::take(&mut route.upstreams);
        self.not_asked(unused);
    }

    fn not_asked(&mut self, upstreams: Vec<Item>) {
        for from in upstreams.into_iter().filter_map(|item| item.from) {
            self.unneeded(&from, "its zone is answered without a resolver");
        }
    }

    /// Says that the configuration names where it listens: if none of that is left, Heimdall is not to listen everywhere.
    pub(super) fn listens(&mut self) {
        self.listens = true;
    }

    /// Puts a name, and those below it, on the blocklist with this action. Whether it can be on one.
    pub(super) fn block(&mut self, action: &'static str, name: &str, from: &Statement) -> bool {
        let list = self.lists.entry(action);
        list.or_insert_with(|| NameList::new(action, from))
            .add(name)
    }

    /// Ends the conversion in an error: the statement keeps clients out, and no `access.KEY` can be made of it.
    pub(super) fn lets_in(&mut self, from: &Statement, key: &'static str, why: &str) {
        let error = || ConvertError::LetsIn {
            statement: from.to_string(),
            key,
            why: why.to_owned(),
        };
        self.lets_in.get_or_insert_with(error);
    }

    /// Notes a statement that does something which Heimdall will not do.
    pub(super) fn lost(&mut self, from: &Statement, why: impl Into<String>) {
        let why = on_one_line(&why.into());
        self.lost.push(Note {
            from: from.clone(),
            why,
        });
    }

    /// The same of a resolver: if there is no other, the error names it.
    pub(super) fn leave_out(&mut self, from: &Statement, why: impl Into<String>) {
        let why = why.into();
        if self.left_out.len() < MAX_LEFT_OUT {
            self.left_out.push(format!("{from}: {}", on_one_line(&why)));
        }
        self.lost(from, why);
    }

    /// Notes a statement that needs no counterpart.
    pub(super) fn unneeded(&mut self, from: &Statement, why: impl Into<String>) {
        let why = on_one_line(&why.into());
        self.unneeded.push(Note {
            from: from.clone(),
            why,
        });
    }
}

impl Route {
    pub(super) fn upstream(&mut self, upstream: String, from: &Statement) {
        let item = Item::new(upstream, Some(from));
        if !self.upstreams.iter().any(|other| other.toml == item.toml) {
            self.upstreams.push(item);
        }
    }

    /// Sets another key.
    pub(super) fn set(
        &mut self,
        key: &'static str,
        value: impl Into<toml::Value>,
        from: &Statement,
    ) {
        self.options.retain(|(other, _)| *other != key);
        self.options.push((key, Item::new(value, Some(from))));
    }
}

impl Item {
    fn new(value: impl Into<toml::Value>, from: Option<&Statement>) -> Self {
        Self {
            toml: value.into().to_string(),
            from: from.cloned(),
        }
    }
}

/// The table of a key, and the key in it.
fn split(key: &'static str) -> Key {
    key.split_once('.').unwrap_or(("", key))
}

/// Writing.
impl Draft {
    /// Writes the settings. What `check` rejects is left out and noted: it gets the text, and returns why that is bad and on
    /// which line, if it is a line's fault. `output` is the path that the settings are written to, beside which the
    /// lists will be; without one they are left out.
    ///
    /// # Errors
    /// There is no resolver left to forward to, or a statement that keeps clients out cannot be converted, or the check
    /// rejects it.
    pub fn finish(
        mut self,
        output: Option<&Path>,
        check: &dyn Fn(&str) -> Result<(), Rejection>,
    ) -> Result<Outcome, ConvertError> {
        if let Some(error) = self.lets_in.take() {
            return Err(error);
        }
        self.share_upstreams();
        let (mut rejected, mut is_own) = (None, false);
        for _ in 0..MAX_REJECTED {
            self.lists.retain(|_, list| list.len() > 0);
            self.routes
                .retain(|_, route| !route.upstreams.is_empty() || !route.options.is_empty());
            if !self.has("upstream") && !self.routes.contains_key(".") {
                return Err(ConvertError::NoUpstream {
                    path: self.path,
                    left_out: match self.left_out.as_slice() {
                        [] => String::new(),
                        left_out => format!(" (left out: {})", left_out.join("; ")),
                    },
                });
            }
            if self.listens && !self.has("listen") {
                for own in ["127.0.0.1:53", "[::1]:53"] {
                    self.push("listen", own, None);
                }
                if is_own {
                    break;
                }
                is_own = true;
                self.remark(
                    "It listens at this host's loopback addresses only: this configuration gives no other address for DNS over \
                     UDP and TCP that could be taken. Set `listen` to the addresses that clients ask.",
                );
            }
            let (text, parts) = self.settings_text();
            rejected = None;
            let Err(Rejection { line, why }) = check(&text) else {
                break;
            };
            let mut before = parts.into_iter().rev();
            let part = before.find(|(first, _)| line.is_some_and(|line| *first <= line));
            if let Some((_, part)) = &part {
                self.reject(part, &why)?;
            }
            rejected = Some(why);
            if part.is_none() {
                break;
            }
        }
        Ok(self.outcome(output, rejected))
    }

    /// Gives zones the resolvers of all other names. If all other names are answered without one, `upstream` is left out.
    fn share_upstreams(&mut self) {
        let upstream = split("upstream");
        let all = self.settings.get(&upstream);
        let all = all.map(|setting| setting.items.clone());
        let zones = mem::take(&mut self.like_others);
        let is_used = !zones.is_empty();
        for (zone, from) in zones {
            self.route(&zone, &from).upstreams = all.clone().unwrap_or_default();
        }
        let root = self.routes.get(".").map(|route| route.options.as_slice());
        if root.is_some_and(|options| options.iter().any(|(key, _)| *key == "answer")) {
            let unused = self.settings.remove(&upstream);
            if let (false, Some(unused)) = (is_used, unused) {
                self.not_asked(unused.items);
            }
        }
    }

    /// Takes a part out, which a check has rejected.
    fn reject(&mut self, part: &Part, why: &str) -> Result<(), ConvertError> {
        let (from, what) = match part {
            Part::Setting(key, item) => {
                let setting = self.settings.get_mut(key);
                let items = setting.map(|setting| &mut setting.items);
                let item = items.and_then(|items| take(items, *item));
                if let ("access", key @ ("refuse" | "drop")) = *key {
                    let from = item.and_then(|item| item.from);
                    return Err(ConvertError::LetsIn {
                        statement: from.map(|from| from.to_string()).unwrap_or_default(),
                        key,
                        why: why.to_owned(),
                    });
                }
                match *key {
                    ("tls", "certificate") => self.without_its_pair("key"),
                    ("tls", "key") => self.without_its_pair("certificate"),
                    _ => {}
                }
                (item, key.1)
            }
            Part::Upstream(zone, item) => {
                let route = self.routes.get_mut(zone);
                (
                    route.and_then(|route| take(&mut route.upstreams, *item)),
                    "upstream",
                )
            }
            Part::Route(zone) => {
                let route = self.routes.remove(zone);
                (route.map(|route| Item::new("", Some(&route.from))), "route")
            }
        };
        self.settings.retain(|_, setting| !setting.items.is_empty());
        if let Some(from) = from.and_then(|item| item.from) {
            let why = format!("as `{what}` it is rejected: {why}");
            match what {
                "upstream" => self.leave_out(&from, why),
                _ => self.lost(&from, why),
            }
        }
        Ok(())
    }

    /// Takes out what of the table `tls` has no use without its rejected pair.
    fn without_its_pair(&mut self, key: &'static str) {
        let setting = self.settings.remove(&("tls", key));
        let items = setting.into_iter().flat_map(|setting| setting.items);
        for from in items.filter_map(|item| item.from) {
            self.lost(&from, "TLS takes a certificate and its key");
        }
    }

    /// The settings without comments on other statements and without lists, and what begins on which line.
    fn settings_text(&self) -> (String, Vec<(usize, Part)>) {
        let mut lines = Lines::default();
        for table in TABLES {
            self.table(&mut lines, table);
        }
        self.table(&mut lines, LOCAL);
        for (zone, route) in &self.routes {
            lines.blank();
            lines.begin(Part::Route(zone.clone()));
            lines.add("[[route]]", Some(&route.from));
            lines.add(
                &format!("zone = {}", toml::Value::from(zone.as_str())),
                None,
            );
            if !route.upstreams.is_empty() {
                lines.add("upstream = [", None);
                for (item, upstream) in route.upstreams.iter().enumerate() {
                    lines.begin(Part::Upstream(zone.clone(), item));
                    lines.add(&format!("  {},", upstream.toml), upstream.from.as_ref());
                }
                lines.begin(Part::Route(zone.clone()));
                lines.add("]", None);
            }
            for (key, item) in &route.options {
                lines.add(&format!("{key} = {}", item.toml), item.from.as_ref());
            }
        }
        (lines.text, lines.parts)
    }

    fn table(&self, lines: &mut Lines, table: &str) {
        let settings = self.settings.iter();
        let settings = settings.filter(|(key, _)| key.0 == table);
        for (count, (key, setting)) in settings.enumerate() {
            if count == 0 && !table.is_empty() {
                lines.blank();
                lines.add(&format!("[{table}]"), None);
            }
            let name = key.1;
            lines.begin(Part::Setting(*key, 0));
            if !setting.is_list {
                for item in &setting.items {
                    lines.add(&format!("{name} = {}", item.toml), item.from.as_ref());
                }
                continue;
            }
            lines.add(&format!("{name} = ["), None);
            for (at, item) in setting.items.iter().enumerate() {
                lines.begin(Part::Setting(*key, at));
                lines.add(&format!("  {},", item.toml), item.from.as_ref());
            }
            lines.add("]", None);
        }
    }

    fn outcome(self, output: Option<&Path>, rejected: Option<String>) -> Outcome {
        let (settings, _) = self.settings_text();
        let mut text = Lines::default();
        text.comment(&format!(
            "Made by heimdall convert from {}.",
            self.path.display()
        ));
        text.comment("`heimdall check --config FILE` shows which values this file gives. Behind each is the statement that it comes from.");
        for remark in &self.remarks {
            text.blank();
            text.comment(remark);
        }
        text.notes(
            "Statements that do something which Heimdall will not do:",
            &self.lost,
        );
        text.blank();
        text.text.push_str(&settings);
        for list in self.lists.values() {
            text.blank();
            match output {
                Some(output) => {
                    text.add("[[blocklist]]", Some(list.first()));
                    let path = list.path(output);
                    // The server may be started in another directory.
                    let path = path::absolute(&path).unwrap_or(path);
                    let file = toml::Value::from(path.display().to_string());
                    text.add(&format!("file = {file}"), None);
                    text.add(&format!("action = \"{}\"", list.action), None);
                }
                None => text.comment(&format!(
                    "Blocklist, action = \"{}\", names: {}, the first by {}: give --output, and it is written to a file beside that.",
                    list.action,
                    list.len(),
                    list.first()
                )),
            }
        }
        text.notes("Statements that need no counterpart:", &self.unneeded);
        Outcome {
            text: text.text,
            lost: self.lost.len(),
            unneeded: self.unneeded.len(),
            lists: self.lists.into_values().collect(),
            rejected,
        }
    }
}

/// Takes an item out of a list.
fn take(items: &mut Vec<Item>, at: usize) -> Option<Item> {
    (at < items.len()).then(|| items.remove(at))
}
