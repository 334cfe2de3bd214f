//! The part of the settings that decides what queries get, for the digest by which hosts of one service are compared.

use super::{Config, effective::Settings};
use crate::digest::Digester;

/// What may differ from host to host: tables, and keys of other tables.
const OF_THE_HOST: &[&str] = &[
    // Where it serves.
    "interface",
    "listen",
    "listen-tls",
    "anycast",
    "tls",
    "backend",
    "xdp",
    "tier",
    "socket",
    // What it may use.
    "privileges",
    "cache.size",
    "cache.snapshot",
    "cache.snapshot-interval",
    "forward.threads",
    "forward.queue",
    "forward.max-in-flight",
    "stop-timeout",
    // How it is seen.
    "identity.server-id",
    "control",
    "control-group",
    "control-mode",
    "metrics",
    "log",
    "dnstap",
    "query-log",
];

/// Keys of files whose contents count instead of their names.
const FILES: &[&str] = &["local.hosts", "blocklist.file"];

impl Config {
    /// The begun digest of the settings that decide what queries get. The files that they name are to be added: the hosts
    /// files, then the blocklists.
    pub(crate) fn digester(&self) -> Digester {
        let mut digester = Digester::new();
        self.settings.add_to(&mut digester);
        // Of these the text has nothing.
        let secrets = self.cookies.secrets.iter();
        secrets.for_each(|secret| digester.add(secret));
        digester
    }
}

impl Settings {
    fn add_to(&self, digester: &mut Digester) {
        let counts = |key: &str| {
            let table = key.split_once('.').map_or("", |(table, _)| table);
            let listed = |list: &[&str]| list.iter().any(|one| *one == key || *one == table);
            !listed(OF_THE_HOST) && !listed(FILES)
        };
        for setting in self.iter().filter(|setting| counts(&setting.key)) {
            digester.add(setting.key.as_bytes());
            digester.add(setting.value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]

    use super::*;
    use crate::{
        config::{Flags, Host, definition::Section},
        digest::Digest,
    };

    fn digest(text: &str) -> Digest {
        let host = Host {
            control: Some("/run/heimdall/control.sock".into()),
            ..Host::default()
        };
        let text = format!("upstream = [\"192.0.2.2\"]\n{text}");
        let config = Config::from_text(&Flags::default(), &text, &host).unwrap();
        config.digester().finish()
    }

    #[test]
    fn each_line_of_the_lists_is_a_table_or_a_key() {
        let tables = Config::tables();
        for name in OF_THE_HOST.iter().chain(FILES) {
            let known = tables.iter().any(|table| {
                let mut keys = table.definitions.iter().map(|one| one.key);
                table.name == *name
                    || match name.split_once('.') {
                        Some((of, key)) => table.name == of && keys.any(|one| one == key),
                        None => table.name.is_empty() && keys.any(|key| key == *name),
                    }
            });
            assert!(known, "{name}");
        }
    }

    #[test]
    fn what_is_of_the_host_does_not_count() {
        let plain = digest("");
        for text in [
            "interface = [\"eth7\"]\nlisten = [\"192.0.2.1:53\"]\ncontrol = \"/run/other.sock\"\n",
            "[identity]\nserver-id = \"fra1\"\n",
            "[cache]\nsize = \"32M\"\n[forward]\nthreads = 2\n[xdp]\nframes = 4096\n",
            "[metrics]\nlisten = \"9453\"\n[log]\nlevel = \"debug\"\n",
            // The same as what is used without it.
            "[cache]\nmin-ttl = 0\n",
        ] {
            assert_eq!(digest(text), plain, "{text}");
        }
    }

    #[test]
    fn what_decides_answers_counts() {
        let secret = |digit: &str| format!("[cookies]\nsecrets = [\"{}\"]\n", digit.repeat(32));
        let route = "[[route]]\nzone = \"corp\"\nupstream = [\"192.0.2.4\"]\n";
        let list = |action| format!("[[blocklist]]\nfile = \"/a\"\naction = \"{action}\"\n");
        let texts = [
            String::new(),
            "[cache]\nmin-ttl = 3\n".to_owned(),
            "[access]\nallow = [\"10.0.0.0/8\"]\n".to_owned(),
            "[local]\nrecords = [\"a. A 192.0.2.1\"]\n".to_owned(),
            "[identity]\nversion = \"7\"\n".to_owned(),
            "max-udp-size = 1400\n".to_owned(),
            secret("1"),
            secret("2"),
            route.to_owned(),
            list("null"),
            list("refused"),
        ];
        let digests: Vec<Digest> = texts.iter().map(|text| digest(text)).collect();
        for (number, one) in digests.iter().enumerate() {
            let same = digests.iter().position(|other| other == one).unwrap();
            assert_eq!(number, same, "{} {}", texts[number], texts[same]);
        }
        assert_eq!(
            digest(&list("null")),
            digest(&list("null").replace("/a", "/b"))
        );
    }
}
