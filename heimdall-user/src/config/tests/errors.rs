//! Bad files and flags.

use super::*;

/// Text of a file, and the one line that it gets.
const BAD: &[(&str, &str)] = &[
    // Not TOML, or not our keys.
    (
        "[forward\n",
        "heimdall.toml:1: unclosed table, expected `]`",
    ),
    (
        "\nbackend = \"a",
        "heimdall.toml:2: invalid basic string, expected `\"`",
    ),
    (
        "backend = \"xdp\"\nbackend = \"xdp\"",
        "heimdall.toml:2: duplicate key",
    ),
    (
        "[forward]\nthread = 3",
        "heimdall.toml:2: key `forward.thread`: there is no such key; did you mean `threads`?",
    ),
    (
        "[xdp]\nspin-us = 10",
        "heimdall.toml:2: key `xdp.spin-us`: there is no such key; `idle` took its place",
    ),
    (
        "[anycast]\naddress = [\"192.0.2.0/24\"]",
        "heimdall.toml:2: key `anycast.address`: \"192.0.2.0/24\" is not a service address; write a unicast address of this service alone, like 192.0.2.53/32 or 2001:db8::53/128",
    ),
    (
        "[anycast]\naddress = [\"fe80::1\"]",
        "heimdall.toml:2: key `anycast.address`: \"fe80::1\" is not a service address; write a unicast address of this service alone, like 192.0.2.53/32 or 2001:db8::53/128",
    ),
    (
        "[anycast]\naddress = [\"192.0.2.54\", \"192.0.2.54/32\"]",
        "heimdall.toml:2: key `anycast.address`: 192.0.2.54/32 is given twice; name it once",
    ),
    (
        "listen = [\"0.0.0.0:53\"]\n[anycast]\naddress = [\"192.0.2.54\", \"2001:db8::53\"]",
        "heimdall.toml:3: key `anycast.address`: nothing answers there; add \"[2001:db8::53]:53\" to `listen`, or listen on a wildcard",
    ),
    (
        "[anycast]\ninterface = \"eth0:1\"",
        "heimdall.toml:2: key `anycast.interface`: \"eth0:1\" has queues, which have no meaning here; write the interface alone",
    ),
    (
        "[anycast]\ninterface = \"a-very-long-name\"",
        "heimdall.toml:2: key `anycast.interface`: \"a-very-long-name\" is not an interface name; write the interface alone, like anycast0",
    ),
    (
        "[anycast]\ndrain-wait = 11",
        "heimdall.toml:2: key `anycast.drain-wait`: 11 is out of range; choose 0 to 10",
    ),
    (
        "[tier]\nmode = \"yes\"",
        "heimdall.toml:2: key `tier.mode`: \"yes\" is none of the choices; write \"auto\", \"on\" or \"off\"",
    ),
    (
        "[tier]\nentries = 65537",
        "heimdall.toml:2: key `tier.entries`: 65537 is out of range; choose 0 to 65536",
    ),
    (
        "control-mode = \"0666\"",
        "heimdall.toml:1: key `control-mode`: \"0666\" is none of the choices; write \"0600\" or \"0660\"",
    ),
    (
        "[log]\nlevel = \"inof\"",
        "heimdall.toml:2: key `log.level`: \"inof\" is no filter: \"inof\" is no level; write error, warn, info, debug or trace, or MODULE=LEVEL, with commas between",
    ),
    (
        "[log]\nformat = \"xml\"",
        "heimdall.toml:2: key `log.format`: \"xml\" is none of the choices; write \"text\" or \"json\"",
    ),
    (
        "listen = \"0.0.0.0:53\"",
        "heimdall.toml:1: key `listen`: \"0.0.0.0:53\" is a string; write a list in [brackets]",
    ),
    (
        "upstream = [\n  \"192.0.2.53\",\n  5,\n]",
        "heimdall.toml:3: key `upstream`: 5 is a whole number; write a string in \"quotes\"",
    ),
    (
        "cache = 5",
        "heimdall.toml:1: key `cache`: 5 is a whole number; write [cache] above its keys",
    ),
    (
        "[forward]\npolicy = \"random\"",
        "heimdall.toml:2: key `forward.policy`: \"random\" is none of the choices; write \"sequential\", \"round-robin\", \"fastest\" or \"hash\"",
    ),
    (
        "[forward]\nhedge = 60",
        "heimdall.toml:2: key `forward.hedge`: 60 is out of range; choose 0 to 50",
    ),
    (
        "[forward]\ntrust-ad = 1",
        "heimdall.toml:2: key `forward.trust-ad`: 1 is a whole number; write true or false",
    ),
    (
        "max-udp-size = \"big\"",
        "heimdall.toml:1: key `max-udp-size`: \"big\" is a string; write a whole number from 512 to 4096",
    ),
    (
        "[dnstap]\noutput = \"/run/dnstap.sock\"",
        "heimdall.toml:2: key `dnstap.output`: \"/run/dnstap.sock\" is neither; write unix:PATH, the socket that a reader listens on, or file:PATH",
    ),
    (
        "[dnstap]\noutput = \"file:\"",
        "heimdall.toml:2: key `dnstap.output`: \"\" is not the path of a file",
    ),
    (
        "[dnstap]\nmessages = [\"client-query\", \"auth-query\"]",
        "heimdall.toml:2: key `dnstap.messages`: \"auth-query\" is none of the choices; write \"client-query\", \"client-response\", \"forwarder-query\" or \"forwarder-response\"",
    ),
    (
        "[query-log]\nsample = \"100\"",
        "heimdall.toml:2: key `query-log.sample`: \"100\" is not a sampling rate; write 1/N, N from 1 to 1000000, like 1/100",
    ),
    (
        "[forwards]\nthreads = 3",
        "heimdall.toml:1: key `forwards`: there is no such key; did you mean `forward`?",
    ),
    (
        "echo = true",
        "heimdall.toml:1: key `echo`: there is no such key; there are `interface`, `listen`, `listen-tls`, `upstream`, `backend`, `control`, `control-group`, `control-mode`, `max-udp-size`, `stop-timeout`, `cache`, `forward`, `socket`, `xdp`, `tier`, `privileges`, `anycast`, `metrics`, `log`, `dnstap`, `query-log`, `route`, `tls`, `access`, `rate-limit`, `cookies`, `identity`, `local`, `blocklist`",
    ),
    (
        "\"\" = 1",
        "heimdall.toml:1: there is no such key; there are `interface`, `listen`, `listen-tls`, `upstream`, `backend`, `control`, `control-group`, `control-mode`, `max-udp-size`, `stop-timeout`, `cache`, `forward`, `socket`, `xdp`, `tier`, `privileges`, `anycast`, `metrics`, `log`, `dnstap`, `query-log`, `route`, `tls`, `access`, `rate-limit`, `cookies`, `identity`, `local`, `blocklist`",
    ),
    (
        "[blocklist]\nfile = \"a\"",
        "heimdall.toml:1: key `blocklist`: the value is a table; write [[blocklist]] above its keys",
    ),
    (
        "[[cache]]\nsize = 1",
        "heimdall.toml:1: key `cache`: the value is a list; write [cache] above its keys",
    ),
    (
        "max-udp-size = 1232.5",
        "heimdall.toml:1: key `max-udp-size`: the value is a number with a fraction; write a whole number from 512 to 4096",
    ),
    (
        "max-udp-size = 99999999999999999999",
        "heimdall.toml:1: key `max-udp-size`: the number is too large for any key",
    ),
    // The metrics.
    (
        "[metrics]\nlisten = \"9453x\"",
        "heimdall.toml:2: key `metrics.listen`: \"9453x\" is not an address and port; write ADDR:PORT, an IPv6 address in [brackets], or a port of 127.0.0.1",
    ),
    (
        "[metrics]\nlisten = \"[::1]:0\"",
        "heimdall.toml:2: key `metrics.listen`: \"[::1]:0\" has port 0; write one from 1 to 65535",
    ),
    (
        "[metrics]\nnames = [\"dns1.example.net:9453\"]",
        "heimdall.toml:2: key `metrics.names`: \"dns1.example.net:9453\" is not a host name; write it without a port, like dns1.example.net",
    ),
    // The policy.
    (
        "[access]\nallow = [\n\"10.0.0.1/8\"]",
        "heimdall.toml:3: key `access.allow`: 10.0.0.1/8 has bits set beyond its length; write 10.0.0.0/8, or the address without a length for one address",
    ),
    (
        "[access]\ndrop = [\"lan\"]",
        "heimdall.toml:2: key `access.drop`: \"lan\" is not a prefix; write ADDR/BITS, like 192.0.2.0/24 or 2001:db8::/32, or ADDR",
    ),
    (
        "upstream = [\"9.9.9.9\"]\n[access]\nallow = [\"10.0.0.0/8\",\n\"0.0.0.0/0\"]",
        "heimdall.toml:4: key `access.allow`: 0.0.0.0/0 is much of the Internet, from where 192.0.2.1:53 can be reached: an open resolver will be used for attacks; name the prefixes of your clients, or set `allow-public = true` in [access] (--allow-public)",
    ),
    (
        "listen = [\"[2001:db8::7]:53\"]\nupstream = [\"9.9.9.9\"]\n[access]\nallow = [\"2000::/3\"]",
        "heimdall.toml:4: key `access.allow`: 2000::/3 is much of the Internet, from where [2001:db8::7]:53 can be reached: an open resolver will be used for attacks; name the prefixes of your clients, or set `allow-public = true` in [access] (--allow-public)",
    ),
    (
        "upstream = [\"9.9.9.9\"]\n[access]\nallow = [\"8.0.0.0/8\", \"9.9.9.0/24\"]",
        "heimdall.toml:3: key `access.allow`: more IPv4 addresses than a /8 has, in sum, are much of the Internet, from where 192.0.2.1:53 can be reached: an open resolver will be used for attacks; name the prefixes of your clients, or set `allow-public = true` in [access] (--allow-public)",
    ),
    (
        "listen = [\"[2001:db8::7]:53\"]\nupstream = [\"9.9.9.9\"]\n[access]\nallow = [\"2001::/16\", \"2002::1\"]",
        "heimdall.toml:4: key `access.allow`: more IPv6 addresses than a /16 has, in sum, are much of the Internet, from where [2001:db8::7]:53 can be reached: an open resolver will be used for attacks; name the prefixes of your clients, or set `allow-public = true` in [access] (--allow-public)",
    ),
    (
        "[access]\nallow-public = \"true\"",
        "heimdall.toml:2: key `access.allow-public`: \"true\" is a string; write true or false",
    ),
    (
        "[privileges]\nsandbox = \"on\"",
        "heimdall.toml:2: key `privileges.sandbox`: \"on\" is none of the choices; write \"auto\", \"require\" or \"off\"",
    ),
    (
        "[access]\nnon-recursive = \"drop\"",
        "heimdall.toml:2: key `access.non-recursive`: \"drop\" is none of the choices; write \"cache\", \"refuse\" or \"forward\"",
    ),
    (
        "[local]\nspecial-names-except = [\n\"test\",\n\"lan\"]",
        "heimdall.toml:4: key `local.special-names-except`: \"lan\" is not a special-use name, and none is below it; write a zone like \"10.in-addr.arpa\"",
    ),
    (
        "[rate-limit]\nresponses-per-second = 100\nburst = 99",
        "heimdall.toml:3: key `rate-limit.burst`: 99 is out of range; choose 100 to 65535",
    ),
    (
        "[cookies]\nsecrets = [\"00\"]",
        "heimdall.toml:2: key `cookies.secrets`: a secret is 32 hexadecimal digits; `openssl rand -hex 16` makes one",
    ),
    (
        "identity.version = \"\"",
        "heimdall.toml:1: key `identity.version`: the text has 0 octets; give it 1 to 255",
    ),
    (
        "[[blocklist]]\nfile = \"a\"\naction = \"drop\"",
        "heimdall.toml:3: key `blocklist.action`: \"drop\" is none of the choices; write \"nxdomain\", \"null\", \"refused\" or \"allow\"",
    ),
    (
        "[[blocklist]]\naction = \"null\"",
        "heimdall.toml:1: key `blocklist`: the key `file` is missing",
    ),
    // Addresses.
    (
        "listen = [\n  \"0.0.0.0:53\",\n  \"10.0.0.1:99999\",\n]",
        "heimdall.toml:3: key `listen`: \"10.0.0.1:99999\" is not an address and port; write ADDR:PORT, an IPv6 address in [brackets]",
    ),
    (
        "listen = [\"10.0.0.1:53\", \"10.0.0.1:53\"]",
        "heimdall.toml:1: key `listen`: 10.0.0.1:53 is given twice; name it once",
    ),
    (
        "listen = [\n  \"127.0.0.1:53\",\n  \"0.0.0.0:53\",\n]",
        "heimdall.toml:2: key `listen`: 127.0.0.1:53 is one of the addresses that 0.0.0.0:53 stands for, and both cannot be bound; name one of the two",
    ),
    (
        "listen = [\"[::]:53\", \"[fe80::1%lo]:53\"]",
        "heimdall.toml:1: key `listen`: [fe80::1%lo]:53 is one of the addresses that [::]:53 stands for, and both cannot be bound; name one of the two",
    ),
    (
        "listen = [\"127.0.0.1:53\",\n\"[::ffff:0.0.0.0]:53\"]",
        "heimdall.toml:1: key `listen`: 127.0.0.1:53 is one of the addresses that 0.0.0.0:53 stands for, and both cannot be bound; name one of the two",
    ),
    (
        "listen-tls = [\"0.0.0.0:853\"]",
        "heimdall.toml:1: key `listen-tls`: TLS needs a certificate and its key; give `certificate` and `key` in [tls] (--tls-certificate, --tls-key)",
    ),
    (
        "listen-tls = [\"0.0.0.0:853\"]\n[tls]\ncertificate = \"/a\"",
        "heimdall.toml:1: key `listen-tls`: TLS needs a certificate and its key; give `certificate` and `key` in [tls] (--tls-certificate, --tls-key)",
    ),
    (
        "listen = [\"0.0.0.0:853\"]\nlisten-tls = [\"[::1]:853\",\n\"127.0.0.1:853\"]",
        "heimdall.toml:3: key `listen-tls`: 127.0.0.1:853 is for TLS, and 0.0.0.0:853 in `listen` has its port; give each a port of its own, usually 853 and 53",
    ),
    (
        "listen-tls = [\"127.0.0.1:853\", \"0.0.0.0:853\"]",
        "heimdall.toml:1: key `listen-tls`: 127.0.0.1:853 is one of the addresses that 0.0.0.0:853 stands for, and both cannot be bound; name one of the two",
    ),
    (
        "listen-tls = [\"192.0.2.7:853\"]\nupstream = [\"tls://192.0.2.7\"]\n[tls]\ncertificate = \"/a\"\nkey = \"/b\"",
        "heimdall.toml:2: key `upstream`: upstream 192.0.2.7:853 is our own listen address 192.0.2.7:853: queries would loop; name another resolver, or listen elsewhere",
    ),
    (
        "[tls]\nkey = \"/etc/\"",
        "heimdall.toml:2: key `tls.key`: \"/etc/\" is not the path of a file",
    ),
    (
        "listen = [\"224.0.0.1:53\"]",
        "heimdall.toml:1: key `listen`: 224.0.0.1:53 is a multicast or broadcast address; name an address of this host",
    ),
    (
        "listen = [\n\"[ff02::53]:53\"]",
        "heimdall.toml:2: key `listen`: [ff02::53]:53 is a multicast or broadcast address; name an address of this host",
    ),
    (
        "upstream = []",
        "heimdall.toml:1: key `upstream`: the list is empty; give a value, or leave the key out if it has a default",
    ),
    (
        "upstream = [\"tls://-@192.0.2.2\"]",
        "heimdall.toml:1: key `upstream`: \"-\" is not a host name; write the name that the certificate of the resolver is for, like dns.example.net",
    ),
    (
        "upstream = [\"tls://192.0.2.2#\"]",
        "heimdall.toml:1: key `upstream`: \"\" is not a pin; write sha256= and the SHA-256 digest of the public key in base64, 44 characters",
    ),
    (
        "upstream = [\"tls://192.0.2.2#sha256=AAAA\"]",
        "heimdall.toml:1: key `upstream`: \"sha256=AAAA\" is not a pin; write sha256= and the SHA-256 digest of the public key in base64, 44 characters",
    ),
    (
        "upstream = [\"dns.example\"]",
        "heimdall.toml:1: key `upstream`: \"dns.example\" is not an address; write ADDR or ADDR:PORT, an IPv6 address with a port in [brackets], and tcp:// before it for TCP only, tls:// or tls://NAME@ for TLS",
    ),
    (
        "upstream = [\"TLS://192.0.2.2\"]",
        "heimdall.toml:1: key `upstream`: \"TLS\" is no transport; write tcp:// or tls://, in lower case, or the address alone for UDP",
    ),
    (
        "upstream = [\"https://dns.example\"]",
        "heimdall.toml:1: key `upstream`: \"https\" is no transport; write tcp:// or tls://, in lower case, or the address alone for UDP",
    ),
    (
        "upstream = [\"192.0.2.2#sha256=AAAA\"]",
        "heimdall.toml:1: key `upstream`: \"192.0.2.2#sha256=AAAA\" has a name (before @) or a pin (after #), which only TLS checks; write tls:// before it, or leave them out",
    ),
    (
        "upstream = [\"tcp://dns.example@192.0.2.2\"]",
        "heimdall.toml:1: key `upstream`: \"tcp://dns.example@192.0.2.2\" has a name (before @) or a pin (after #), which only TLS checks; write tls:// before it, or leave them out",
    ),
    (
        "upstream = [\"tls://192.0.2.2:0\"]",
        "heimdall.toml:1: key `upstream`: \"192.0.2.2:0\" has port 0; write one from 1 to 65535",
    ),
    // Routes.
    (
        "[route]\nzone = \"a\"",
        "heimdall.toml:1: key `route`: the value is a table; write [[route]] above its keys",
    ),
    (
        "[[route]]\nupstream = [\"192.0.2.2\"]",
        "heimdall.toml:1: key `route`: the key `zone` is missing",
    ),
    (
        "[[route]]\nzone = \"a\"\nupstreams = [\"192.0.2.2\"]",
        "heimdall.toml:3: key `route.upstreams`: there is no such key; did you mean `upstream`?",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a..b\"",
        "heimdall.toml:3: key `route.zone`: \"a..b\" is no domain name: empty label; write a zone like \"corp.example\", or \".\" for all other names",
    ),
    (
        "[[route]]\nzone = \"corp example\"",
        "heimdall.toml:2: key `route.zone`: \"corp example\" is no domain name: it has a space; write a zone like \"corp.example\", or \".\" for all other names",
    ),
    (
        "[[route]]\nzone = \"*.corp.example\"",
        "heimdall.toml:2: key `route.zone`: \"*.corp.example\": a route is for all names below its zone without a wildcard; write \"corp.example\"",
    ),
    (
        "[[route]]\nzone = \"*\"",
        "heimdall.toml:2: key `route.zone`: \"*\": a route is for all names below its zone without a wildcard; write \".\"",
    ),
    (
        "[[route]]\nzone = \"10.0.0.0/8\"",
        "heimdall.toml:2: key `route.zone`: \"10.0.0.0/8\" is no domain name, but an address or a prefix; write the zone of its reverse names, like \"10.in-addr.arpa\" for 10.0.0.0/8",
    ),
    (
        "[[route]]\nzone = \"2001:db8::1\"",
        "heimdall.toml:2: key `route.zone`: \"2001:db8::1\" is no domain name, but an address or a prefix; write the zone of its reverse names, like \"10.in-addr.arpa\" for 10.0.0.0/8",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a.example\"\nattempts = 2",
        "heimdall.toml:3: key `route.zone`: the route of a.example has no resolver; give `upstream`, or answer = \"nxdomain\" or \"refused\"",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a.example\"\nanswer = \"refused\"\nupstream = [\"192.0.2.3\"]",
        "heimdall.toml:5: key `route.upstream`: names below a.example are answered without a resolver; leave out `upstream`, or write answer = \"forward\"",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a.example\"\nanswer = \"nxdomain\"\npolicy = \"hash\"",
        "heimdall.toml:5: key `route.policy`: names below a.example are answered without a resolver; leave out `policy`, or write answer = \"forward\"",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a.example\"\nmin-ttl = 5\nanswer = \"nxdomain\"",
        "heimdall.toml:4: key `route.min-ttl`: names below a.example are answered without a resolver; leave out `min-ttl`, or write answer = \"forward\"",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a.example\"\nanswer = \"drop\"",
        "heimdall.toml:4: key `route.answer`: \"drop\" is none of the choices; write \"forward\", \"nxdomain\" or \"refused\"",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"A.example\"\nanswer = \"refused\"\n[[route]]\nzone = \"a.example.\"\nupstream = [\"192.0.2.3\"]",
        "heimdall.toml:6: key `route.zone`: a.example is given twice; name it once",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a\"\nupstream = [\"192.0.2.3\"]\n[[route]]\nzone = \"b\"\nupstream = [\n\"192.0.2.3\",\n\"192.0.2.3:53\"]",
        "heimdall.toml:9: key `route.upstream`: 192.0.2.3:53 is given twice; name it once",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a\"\nupstream = [\"192.0.2.3\",\n\"192.0.2.1\"]",
        "heimdall.toml:5: key `route.upstream`: upstream 192.0.2.1:53 is our own listen address 0.0.0.0:53: queries would loop; name another resolver, or listen elsewhere",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a\"\nupstream = [\"tls://::\"]",
        "heimdall.toml:4: key `route.upstream`: [::]:853 is not a unicast address; name a resolver's address",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[cache]\nmin-ttl = 100\n[[route]]\nzone = \"a\"\nupstream = [\"192.0.2.3\"]\nmax-ttl = 60",
        "heimdall.toml:7: key `route.max-ttl`: min-ttl 100 is above max-ttl 60; lower the one or raise the other",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \"a\"\nattempts = 17",
        "heimdall.toml:4: key `route.attempts`: 17 is out of range; choose 1 to 16",
    ),
    (
        "upstream = [\"192.0.2.2\"]\n[[route]]\nzone = \".\"\nupstream = [\"192.0.2.3\"]",
        "heimdall.toml:3: key `route.zone`: the route of \".\" takes the place of the key `upstream`; leave out one of the two",
    ),
    (
        "# upstream\n[[route]]\nzone = \"a\"\nanswer = \"refused\"",
        "no upstream to forward to; give --upstream ADDR, or the key `upstream` in a file",
    ),
    (
        "upstream = [\"0.0.0.0\"]",
        "heimdall.toml:1: key `upstream`: 0.0.0.0:53 is not a unicast address; name a resolver's address",
    ),
    (
        "upstream = [\"192.0.2.53\",\n\"192.0.2.53:53\"]",
        "heimdall.toml:2: key `upstream`: 192.0.2.53:53 is given twice; name it once",
    ),
    (
        "\n\nupstream = [\"192.0.2.1\"]",
        "heimdall.toml:3: key `upstream`: upstream 192.0.2.1:53 is our own listen address 0.0.0.0:53: queries would loop; name another resolver, or listen elsewhere",
    ),
    (
        "listen = [\"192.0.2.7:53\"]\nupstream = [\"::ffff:192.0.2.7\"]",
        "heimdall.toml:2: key `upstream`: upstream 192.0.2.7:53 is our own listen address 192.0.2.7:53: queries would loop; name another resolver, or listen elsewhere",
    ),
    (
        "\nupstream = [\"fe80::53\"]",
        "heimdall.toml:2: key `upstream`: fe80::53 is link-local and valid on one link only; add its interface, like fe80::53%eth0",
    ),
    (
        "upstream = [\"[fe80::53%nowhere]:5353\"]",
        "heimdall.toml:1: key `upstream`: there is no interface \"nowhere\"; `ip link` lists those of this host",
    ),
    (
        "upstream = [\"fe80::53%4294967295\"]",
        "heimdall.toml:1: key `upstream`: there is no interface \"4294967295\"; `ip link` lists those of this host",
    ),
    (
        "upstream = [\"fe80::53%\"]",
        "heimdall.toml:1: key `upstream`: there is no interface \"\"; `ip link` lists those of this host",
    ),
    (
        "upstream = [\"2001:db8::53%lo\"]",
        "heimdall.toml:1: key `upstream`: 2001:db8::53 is not link-local; leave out the % and what follows it",
    ),
    (
        "upstream = [\"192.0.2.53%lo:53\"]",
        "heimdall.toml:1: key `upstream`: 192.0.2.53 is not link-local; leave out the % and what follows it",
    ),
    (
        "upstream = [\"[fe80::53%lo:53\"]",
        "heimdall.toml:1: key `upstream`: \"[fe80::53%lo:53\" is not an address; write ADDR or ADDR:PORT, an IPv6 address with a port in [brackets], and tcp:// before it for TCP only, tls:// or tls://NAME@ for TLS",
    ),
    (
        "upstream = [\"fe80::53%lo\", \"[fe80::53%1]:53\"]",
        "heimdall.toml:1: key `upstream`: [fe80::53%lo]:53 is given twice; name it once",
    ),
    (
        "upstream = [\"fe80::1%lo\"]",
        "heimdall.toml:1: key `upstream`: upstream [fe80::1%lo]:53 is our own listen address [::]:53: queries would loop; name another resolver, or listen elsewhere",
    ),
    (
        "upstream = [\"192.0.2.53\"]\nlisten = [\"[fe80::1]:53\"]",
        "heimdall.toml:2: key `listen`: fe80::1 is link-local and valid on one link only; add its interface, like fe80::1%eth0",
    ),
    (
        "upstream = [\"192.0.2.53\"]\nlisten = [\"fe80::1%lo\"]",
        "heimdall.toml:2: key `listen`: \"fe80::1%lo\" is not an address and port; write ADDR:PORT, an IPv6 address in [brackets]",
    ),
    (
        "",
        "no upstream to forward to; give --upstream ADDR, or the key `upstream` in a file",
    ),
    // Interfaces and backend.
    (
        "interface = [\"eth0:0-x\"]",
        "heimdall.toml:1: key `interface`: \"0-x\" is not a list of queues; write numbers and ranges, like 0 or 0-3 or 0,2",
    ),
    (
        "interface = [\"eth0:0-3,2\"]",
        "heimdall.toml:1: key `interface`: queue 2 is given twice; name each queue once",
    ),
    (
        "interface = [\"a-very-long-name\"]",
        "heimdall.toml:1: key `interface`: \"a-very-long-name\" is not an interface name; write IF or IF:QUEUES, like eth0 or eth0:0-3",
    ),
    (
        "interface = [\"eth0:0\", \"eth0:1\"]",
        "heimdall.toml:1: key `interface`: interface eth0 is given twice; name it once, with all its queues, like eth0:0,1",
    ),
    (
        "backend = \"dpdk\"",
        "heimdall.toml:1: key `backend`: \"dpdk\" is none of the choices; write \"auto\", \"xdp\" or \"socket\"",
    ),
    (
        "backend = \"xdp\"",
        "heimdall.toml:1: key `backend`: backend xdp needs an interface; give --interface IF, or use backend socket",
    ),
    // Numbers.
    (
        "max-udp-size = 4097",
        "heimdall.toml:1: key `max-udp-size`: 4097 is out of range; choose 512 to 4096",
    ),
    (
        "[cache]\nsize = \"64Q\"",
        "heimdall.toml:2: key `cache.size`: \"64Q\" is not a size; write octets, with K, M or G for powers of 1024, like 64M",
    ),
    (
        "[cache]\nsize = true",
        "heimdall.toml:2: key `cache.size`: true is a boolean; write a size like 67108864 or \"64M\"",
    ),
    (
        "[cache]\nsize = 5",
        "heimdall.toml:2: key `cache.size`: 5 octets are too few for a cache; give at least 262144",
    ),
    (
        "[cache]\nmax-ttl = 60\nmin-ttl = 61",
        "heimdall.toml:3: key `cache.min-ttl`: min-ttl 61 is above max-ttl 60; lower the one or raise the other",
    ),
    (
        "[cache]\nsnapshot = \"/\"",
        "heimdall.toml:2: key `cache.snapshot`: \"/\" is not the path of a file",
    ),
    (
        "[cache]\nsnapshot = \"a/\"",
        "heimdall.toml:2: key `cache.snapshot`: \"a/\" is not the path of a file",
    ),
    (
        "control = \"\"",
        "heimdall.toml:1: key `control`: \"\" is not the path of a file",
    ),
    (
        "control = \"/run/..\"",
        "heimdall.toml:1: key `control`: \"/run/..\" is not the path of a file",
    ),
    (
        "control = \"/run/a\\u0000b\"",
        "heimdall.toml:1: key `control`: \"/run/a\\0b\" is not the path of a file",
    ),
    (
        "\ncontrol = \"/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a23456789/a2345678\"",
        "heimdall.toml:2: key `control`: the path has 109 octets, and that of a Unix socket has at most 107; choose a shorter one",
    ),
    (
        "[cache]\nsnapshot-interval = 0",
        "heimdall.toml:2: key `cache.snapshot-interval`: 0 is out of range; choose 1 to 86400",
    ),
    (
        "[forward]\ntimeout-ms = 0",
        "heimdall.toml:2: key `forward.timeout-ms`: 0 is out of range; choose 10 to 60000",
    ),
    (
        "[xdp]\nframes = 5000",
        "heimdall.toml:2: key `xdp.frames`: 5000 is not a power of two; choose 4096, or twice or half of it",
    ),
    (
        "[xdp]\nworkers = 0",
        "heimdall.toml:2: key `xdp.workers`: 0 is out of range; choose 1 to 256",
    ),
    (
        "[xdp]\nworkers = \"all\"",
        "heimdall.toml:2: key `xdp.workers`: \"all\" is a string; write \"auto\" or 1 to 256",
    ),
    (
        "[xdp]\ncpus = [0,\n 9]",
        "heimdall.toml:3: key `xdp.cpus`: core 9 is outside the CPU affinity mask; choose from 0, 1",
    ),
];

#[test]
fn bad_files_get_one_line_with_the_location() {
    for (text, line) in BAD {
        let about_upstreams = text.is_empty() || text.contains("upstream");
        let flags = if about_upstreams {
            Flags::default()
        } else {
            flags(&["--upstream", "192.0.2.53"])
        };
        let error = Config::from_text(&flags, text, &host()).unwrap_err();
        assert_eq!(error.to_string(), *line, "for {text:?}");
    }
}

/// A file may be bad and lack an upstream: what is in it comes first.
#[test]
fn bad_values_are_reported_before_a_missing_upstream() {
    for text in ["max-udp-size = 1", "[xdp]\ncpus = [9]", "backend = \"xdp\""] {
        let error = from_file(text).unwrap_err();
        assert!(error.to_string().starts_with("heimdall.toml:"), "{error}");
    }
}

/// Flags, and the one line that they get.
const BAD_FLAGS: &[(&[&str], &str)] = &[
    (
        &["--upstream", "[::1]:53"],
        "--upstream: upstream [::1]:53 is our own listen address [::]:53: queries would loop; name another resolver, or listen elsewhere",
    ),
    (
        &["--upstream", "192.0.2.53", "--backend", "xdp"],
        "--backend: backend xdp needs an interface; give --interface IF, or use backend socket",
    ),
    (
        &["--upstream", "192.0.2.53", "--cache-size", "1K"],
        "--cache-size: 1024 octets are too few for a cache; give at least 262144",
    ),
    (
        &[
            "--upstream",
            "192.0.2.53",
            "--interface",
            "eth0",
            "--interface",
            "eth0:1",
        ],
        "--interface: interface eth0 is given twice; name it once, with all its queues, like eth0:0,1",
    ),
];

#[test]
fn bad_flags_are_named() {
    for (args, line) in BAD_FLAGS {
        let error = Config::from_text(&flags(args), "", &host()).unwrap_err();
        assert_eq!(error.to_string(), *line, "for {args:?}");
    }
}

#[test]
fn routes_and_upstreams_are_bounded() {
    let list = |count: usize| -> String {
        let items = (0..count).map(|n| format!("\"10.9.{}.{}\",", n / 250, n % 250 + 1));
        items.collect()
    };
    let routes = |count: usize, upstreams: usize| -> String {
        let routes = (0..count).map(|n| {
            let first = n * upstreams;
            let list = (first..first + upstreams)
                .map(|n| format!("\"10.{}.{}.{}\",", n / 62_500, n / 250 % 250, n % 250 + 1));
            let (list, answer) = match upstreams {
                0 => (String::new(), "answer = \"refused\"".to_owned()),
                _ => (list.collect(), String::new()),
            };
            let list = if list.is_empty() {
                list
            } else {
                format!("upstream = [{list}]")
            };
            format!("[[route]]\nzone = \"z{n}.example\"\n{answer}\n{list}\n")
        });
        format!("upstream = [\"192.0.2.2\"]\n{}", routes.collect::<String>())
    };
    for (good, bad, line) in [
        (
            routes(4096, 0),
            routes(4097, 0),
            "heimdall.toml:16387: key `route.zone`: there are more than 4096 routes",
        ),
        (
            routes(31, 33),
            routes(32, 32),
            "heimdall.toml:129: key `route.upstream`: there are more than 1024 different resolvers",
        ),
        (
            format!("upstream = [{}]", list(64)),
            format!("upstream = [{}]", list(65)),
            "heimdall.toml:1: key `upstream`: there are more than 64 resolvers in one list",
        ),
    ] {
        assert_eq!(
            from_file(&good).map(drop).map_err(|e| e.to_string()),
            Ok(())
        );
        let error = from_file(&bad).unwrap_err().to_string();
        assert!(error.starts_with(line), "{error}");
    }
}
