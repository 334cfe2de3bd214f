//! Values that are written as text, alike in the file and in flags.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use super::Problem;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// An interface, and which of its receive queues to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The interface's name.
    pub name: String,
    /// Queues, counted from 0. `None`: all that it has.
    pub queues: Option<BTreeSet<u32>>,
}

impl FromStr for InterfaceConfig {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let (name, queues) = match text.split_once(':') {
            Some((name, queues)) => (name, Some(parse_queues(queues)?)),
            None => (text, None),
        };
        // What the kernel takes as a name: dev_valid_name() in net/core/dev.c.
        let valid = !name.is_empty()
            && name.len() < libc::IFNAMSIZ
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c.is_whitespace());
        if !valid {
            return Err(Problem::Interface(text.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            queues,
        })
    }
}

impl fmt::Display for InterfaceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (i, queue) in self.queues.iter().flatten().enumerate() {
            write!(f, "{}{queue}", if i == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

/// Reads `0`, `0-3` or `0,2,4-7`.
fn parse_queues(text: &str) -> Result<BTreeSet<u32>, Problem> {
    /// Queues that a range may go up to: more than any NIC has.
    const MAX_QUEUE: u32 = 4095;
    let number = |digits: &str| {
        let number = digits.parse().ok().filter(|&queue| queue <= MAX_QUEUE);
        number.ok_or_else(|| Problem::Queues(text.to_owned()))
    };
    let mut queues = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(Problem::Queues(text.to_owned()));
        }
        for queue in first..=last {
            if !queues.insert(queue) {
                return Err(Problem::QueueTwice(queue));
            }
        }
    }
    Ok(queues)
}

/// An address and port to answer on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr(pub SocketAddr);

impl FromStr for ListenAddr {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self(address)),
            _ => Err(Problem::Listen(text.to_owned())),
        }
    }
}

/// The address and port of a resolver to ask; the port is 53 unless given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamAddr(pub SocketAddr);

impl FromStr for UpstreamAddr {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let bare = text.parse::<IpAddr>().map(|ip| (ip, DNS_PORT).into());
        match text.parse::<SocketAddr>().or(bare) {
            Ok(address) if address.port() != 0 => Ok(Self(address)),
            _ => Err(Problem::Upstream(text.to_owned())),
        }
    }
}

/// What carries the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// AF_XDP on the interfaces where it works, kernel sockets beside it and otherwise.
    #[default]
    Auto,
    /// AF_XDP on every interface, or do not start.
    Xdp,
    /// Kernel sockets only.
    Socket,
}

impl FromStr for Backend {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        match text {
            "auto" => Ok(Self::Auto),
            "xdp" => Ok(Self::Xdp),
            "socket" => Ok(Self::Socket),
            _ => Err(Problem::Backend(text.to_owned())),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Socket => "socket",
        })
    }
}

/// A number of octets, written as such or with K, M or G for powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
        let shift = match text.get(digits.len()..) {
            Some("") => 0,
            Some("k" | "K") => 10,
            Some("m" | "M") => 20,
            Some("g" | "G") => 30,
            _ => return Err(Problem::Size(text.to_owned())),
        };
        digits
            .parse::<usize>()
            .ok()
            .filter(|_| !digits.starts_with('+'))
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| Problem::Size(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [(30, "G"), (20, "M"), (10, "K")]
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size like 67108864 or \"64M\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                usize::try_from(number)
                    .map(Size)
                    .map_err(|_| E::custom(Problem::Size(number.to_string())))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}
