//! The settings of the policy: `[access]`, `[rate-limit]`, `[cookies]`, `[identity]`, `[local]` and
//! `[[blocklist]]`.

use std::path::PathBuf;

use toml::Spanned;

use super::{
    ConfigError, Place, Problem,
    file::{AccessTable, BlocklistTable, CookiesTable, File, IdentityTable, Key, RateLimitTable},
    resolve::{Source, Sourced},
};
use crate::answer::{
    access::{Access, private},
    blocklist::BlockAction,
    limit::LimitSettings,
    policy::NonRecursive,
    prefix::Prefix,
    special::Exception,
};

/// What the operator has decided about clients and names. Files are named here and read later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Prefixes that may ask.
    pub allow: Vec<Prefix>,
    /// Prefixes that get REFUSED.
    pub refuse: Vec<Prefix>,
    /// Prefixes that get nothing.
    pub drop: Vec<Prefix>,
    /// What queries without RD get.
    pub non_recursive: NonRecursive,
    /// How much a client prefix may ask for.
    pub limit: LimitSettings,
    /// DNS cookies.
    pub cookies: CookieConfig,
    /// What the server tells about itself.
    pub identity: IdentityConfig,
    /// Hosts files.
    pub hosts: Vec<HostsConfig>,
    /// Records in presentation format.
    pub records: Vec<RecordConfig>,
    /// Special zones that are asked upstream all the same. `None`: so are all.
    pub special_names_except: Option<Vec<Exception>>,
    /// The blocklists are also asked for the names that aliases lead to.
    pub blocklist_aliases: bool,
    /// Lists of names that are not answered as the world would; the first has precedence.
    pub blocklists: Vec<BlocklistConfig>,
}

/// How DNS cookies are handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieConfig {
    /// Give and check cookies.
    pub enabled: bool,
    /// Secrets: the first makes cookies, all check them. Empty: random ones, new every day.
    pub secrets: Vec<[u8; 16]>,
    /// Queries a second and thread above which cookies are demanded; 0: never.
    pub demand_above: u32,
}

impl Default for CookieConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            secrets: Vec::new(),
            demand_above: 0,
        }
    }
}

/// What the server tells about itself: at most 255 octets each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityConfig {
    /// For version.bind and version.server.
    pub version: Option<String>,
    /// For id.server, hostname.bind and NSID.
    pub server_id: Option<String>,
}

/// A record that is answered from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordConfig {
    /// In presentation format.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// A hosts file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsConfig {
    /// The file.
    pub file: PathBuf,
    /// Where it is named.
    pub place: Place,
}

/// A list of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlocklistConfig {
    /// The list.
    pub file: PathBuf,
    /// Where it is named.
    pub place: Place,
    /// What its names get.
    pub action: BlockAction,
}

impl PolicyConfig {
    /// Who may ask.
    pub fn access(&self) -> Access {
        Access::new(&self.allow, &self.refuse, &self.drop)
    }
}

pub(super) fn resolve(
    source: &Source<'_>,
    flag: &[Prefix],
    file: &mut File,
) -> Result<PolicyConfig, ConfigError> {
    let mut access = std::mem::take(&mut file.access);
    let non_recursive = match access.non_recursive.take() {
        None => NonRecursive::default(),
        Some(key) => non_recursive(source, key)?,
    };
    let (allow, refuse, drop) = who_may_ask(source, flag, access)?;
    let local = std::mem::take(&mut file.local);
    let hosts = source.items("local.hosts", local.hosts)?;
    let records = source.items("local.records", local.records)?;
    let exceptions = source.list(
        ("", &[]),
        "local.special-names-except",
        local.special_names_except,
    )?;
    let special_names = local.special_names.unwrap_or(true);
    Ok(PolicyConfig {
        allow,
        refuse,
        drop,
        non_recursive,
        limit: limit(source, std::mem::take(&mut file.rate_limit))?,
        cookies: cookies(source, std::mem::take(&mut file.cookies))?,
        identity: identity(source, std::mem::take(&mut file.identity))?,
        hosts: hosts
            .into_iter()
            .map(|item: Sourced<String>| HostsConfig {
                file: item.value.into(),
                place: item.place,
            })
            .collect(),
        records: records
            .into_iter()
            .map(|item| RecordConfig {
                text: item.value,
                place: item.place,
            })
            .collect(),
        special_names_except: special_names
            .then(|| exceptions.into_iter().map(|item| item.value).collect()),
        blocklist_aliases: local.blocklist_aliases.unwrap_or(true),
        blocklists: std::mem::take(&mut file.blocklist)
            .into_iter()
            .map(|table| blocklist(source, table))
            .collect::<Result<_, _>>()?,
    })
}

fn non_recursive(source: &Source<'_>, key: Spanned<String>) -> Result<NonRecursive, ConfigError> {
    let key = source.value("access.non-recursive", key);
    match key.value.as_str() {
        "cache" => Ok(NonRecursive::Cache),
        "refuse" => Ok(NonRecursive::Refuse),
        "forward" => Ok(NonRecursive::Forward),
        _ => Err(key.bad(Problem::NonRecursive(key.value.clone()))),
    }
}

type Prefixes = Vec<Prefix>;

fn who_may_ask(
    source: &Source<'_>,
    flag: &[Prefix],
    table: AccessTable,
) -> Result<(Prefixes, Prefixes, Prefixes), ConfigError> {
    let plain = |items: Vec<Sourced<Prefix>>| items.into_iter().map(|item| item.value).collect();
    let mut allow: Prefixes = plain(source.list(("--allow", flag), "access.allow", table.allow)?);
    if allow.is_empty() {
        allow = private();
    }
    let refuse = plain(source.list(("", &[]), "access.refuse", table.refuse)?);
    let drop = plain(source.list(("", &[]), "access.drop", table.drop)?);
    Ok((allow, refuse, drop))
}

fn limit(source: &Source<'_>, table: RateLimitTable) -> Result<LimitSettings, ConfigError> {
    /// The table counts in 16 bits.
    const MOST: i64 = u16::MAX as i64;
    let default = LimitSettings::default();
    let given = table.responses_per_second;
    let per_second: u16 = source.number("rate-limit.responses-per-second", given, 0, 0, MOST)?;
    let twice = per_second.saturating_mul(2);
    let least = i64::from(per_second);
    let exempt = source.list(("", &[]), "rate-limit.exempt", table.exempt)?;
    Ok(LimitSettings {
        per_second,
        burst: source.number("rate-limit.burst", table.burst, twice, least, MOST)?,
        slip: source.number("rate-limit.slip", table.slip, default.slip, 0, 100)?,
        v4_prefix: source.number(
            "rate-limit.ipv4-prefix",
            table.ipv4_prefix,
            default.v4_prefix,
            0,
            32,
        )?,
        v6_prefix: source.number(
            "rate-limit.ipv6-prefix",
            table.ipv6_prefix,
            default.v6_prefix,
            0,
            64,
        )?,
        exempt: exempt.into_iter().map(|item| item.value).collect(),
    })
}

fn cookies(source: &Source<'_>, table: CookiesTable) -> Result<CookieConfig, ConfigError> {
    let default = CookieConfig::default();
    let secrets = source.items("cookies.secrets", table.secrets)?;
    Ok(CookieConfig {
        enabled: table.enabled.unwrap_or(default.enabled),
        secrets: secrets
            .iter()
            .map(|item| secret(&item.value).ok_or_else(|| item.bad(Problem::Secret)))
            .collect::<Result<_, _>>()?,
        demand_above: source.number(
            "cookies.demand-above",
            table.demand_above,
            default.demand_above,
            0,
            i64::from(u32::MAX),
        )?,
    })
}

/// Reads 32 hexadecimal digits.
fn secret(text: &str) -> Option<[u8; 16]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let octets = pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8))
        .collect::<Option<Vec<u8>>>()?;
    octets.try_into().ok().filter(|_| rest.is_empty())
}

fn identity(source: &Source<'_>, table: IdentityTable) -> Result<IdentityConfig, ConfigError> {
    let text = |name: &str, key: Key<String>| {
        let Some(key) = key else {
            return Ok(None);
        };
        let key: Sourced<String> = source.value(name, key);
        match key.value.len() {
            1..=255 => Ok(Some(key.value)),
            len => Err(key.bad(Problem::Text(len))),
        }
    };
    Ok(IdentityConfig {
        version: text("identity.version", table.version)?,
        server_id: text("identity.server-id", table.server_id)?,
    })
}

fn blocklist(source: &Source<'_>, table: BlocklistTable) -> Result<BlocklistConfig, ConfigError> {
    let action = match table.action {
        None => BlockAction::NxDomain,
        Some(key) => action(source, key)?,
    };
    let file = source.value("blocklist.file", table.file);
    Ok(BlocklistConfig {
        file: file.value.into(),
        place: file.place,
        action,
    })
}

fn action(source: &Source<'_>, key: Spanned<String>) -> Result<BlockAction, ConfigError> {
    let key = source.value("blocklist.action", key);
    match key.value.as_str() {
        "nxdomain" => Ok(BlockAction::NxDomain),
        "null" => Ok(BlockAction::NullAddress),
        "refused" => Ok(BlockAction::Refused),
        "allow" => Ok(BlockAction::Allow),
        _ => Err(key.bad(Problem::Action(key.value.clone()))),
    }
}
