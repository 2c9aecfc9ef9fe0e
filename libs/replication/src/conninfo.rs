//! Where a server is and how to log in, parsed from `postgres://…` or `key=value` text.
//!
//! The two forms and their keys are those of libpq ("Connection Strings" in Postgres's manual),
//! cut to what a replication client needs. Unknown keys are errors. The password never shows in
//! `Display` or `Debug`. Environment variables, password files and service files are not read.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Port of a Postgres server when none is given.
pub const DEFAULT_PORT: u16 = 5432;
/// Most hosts in one connection string.
pub const MAX_HOSTS: usize = 16;
/// Wait for a connection when `connect_timeout` is not given.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const KEYS: [&str; 11] = [
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "sslmode",
    "sslrootcert",
    "connect_timeout",
    "target_session_attrs",
];

/// How a server is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A host name or IP address.
    Tcp(String),
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// One server of the host list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Name, IP address or socket directory.
    pub address: Address,
    /// TCP port, or the number in the socket's file name.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(h) if h.contains(':') => write!(f, "[{h}]:{}", self.port),
            Address::Tcp(h) => write!(f, "{h}:{}", self.port),
            Address::Unix(d) => write!(f, "{}/.s.PGSQL.{}", d.display(), self.port),
        }
    }
}

/// Whether and how the connection is encrypted. Sockets in the file system never are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it; the certificate is not checked. Also stands for `allow`.
    #[default]
    Prefer,
    /// Always; the certificate is checked against `sslrootcert` if that is given.
    Require,
    /// Always; the certificate must chain to `sslrootcert`.
    VerifyCa,
    /// Always; the certificate must chain to `sslrootcert` and name the host.
    VerifyFull,
}

impl SslMode {
    /// The value of `sslmode`.
    pub const fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// A parsed connection string.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// Servers in the order to try. Never empty.
    pub hosts: Vec<Host>,
    /// Role to log in as.
    pub user: String,
    /// Its password, if given.
    pub password: Option<String>,
    /// Database; the user's name if not given.
    pub dbname: String,
    /// Name shown by the server and matched against `synchronous_standby_names`.
    pub application_name: Option<String>,
    /// Command-line options for the server process, such as `-c wal_sender_timeout=30s`.
    pub options: Option<String>,
    /// Encryption.
    pub sslmode: SslMode,
    /// PEM file with the certificates to trust.
    pub sslrootcert: Option<PathBuf>,
    /// Wait for one host, from the first packet to a completed login.
    pub connect_timeout: Duration,
}

/// A text is not a connection string. Never contains the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Neither of the two forms.
    #[error(
        "not a connection string: expected postgres://user@host:port/database or key=value pairs: {0}"
    )]
    Syntax(&'static str),
    /// A key nobody knows.
    #[error("unknown connection parameter {key:?}{}", nearest.map(|n| format!(", did you mean {n:?}?")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        key: String,
        /// A known key that differs in at most two letters.
        nearest: Option<&'static str>,
    },
    /// A value that does not fit its key.
    #[error("invalid value for connection parameter {key:?}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// A key that must be there is not.
    #[error("the connection string lacks {0:?}")]
    Missing(&'static str),
}

/// Raw values by key, before they are interpreted.
#[derive(Default)]
struct Pairs(Vec<(&'static str, String)>);

impl Pairs {
    fn set(&mut self, key: &str, value: String) -> Result<(), ParseError> {
        let Some(known) = KEYS.into_iter().find(|k| *k == key) else {
            let nearest = KEYS.into_iter().find(|k| distance(k, key) <= 2);
            return Err(ParseError::UnknownKey {
                key: key.chars().take(64).collect(),
                nearest,
            });
        };
        if value.contains('\0') {
            return Err(ParseError::Value {
                key: known,
                expected: "text without NUL",
            });
        }
        self.0.retain(|(k, _)| *k != known);
        self.0.push((known, value));
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.as_str())
            .filter(|v| !v.is_empty())
    }
}

/// Edit distance of two short texts.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((y, diagonal), above) in b.chars().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or(0);
            next.push(
                (diagonal + usize::from(x != y))
                    .min(above + 1)
                    .min(left + 1),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

impl FromStr for Conninfo {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Conninfo, ParseError> {
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"));
        let pairs = match rest {
            Some(rest) => parse_url(rest)?,
            None => parse_pairs(text)?,
        };
        interpret(&pairs)
    }
}

fn decode(text: &str) -> Result<String, ParseError> {
    let bad = || ParseError::Syntax("malformed percent-encoding");
    for (i, _) in text.match_indices('%') {
        let digits = text.get(i + 1..i + 3).ok_or_else(bad)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
    }
    Ok(percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| bad())?
        .into_owned())
}

fn parse_url(rest: &str) -> Result<Pairs, ParseError> {
    let mut pairs = Pairs::default();
    let (rest, query) = match rest.split_once('?') {
        Some((r, q)) => (r, Some(q)),
        None => (rest, None),
    };
    let (authority, path) = match rest.split_once('/') {
        Some((a, p)) => (a, Some(p)),
        None => (rest, None),
    };
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((login, hosts)) => {
            let (user, password) = match login.split_once(':') {
                Some((u, p)) => (u, Some(p)),
                None => (login, None),
            };
            pairs.set("user", decode(user)?)?;
            if let Some(p) = password {
                pairs.set("password", decode(p)?)?;
            }
            hosts
        }
    };
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = if let Some(bracketed) = host.strip_prefix('[') {
            let (name, after) = bracketed
                .split_once(']')
                .ok_or(ParseError::Syntax("'[' without ']'"))?;
            let port = match after.strip_prefix(':') {
                Some(p) => p,
                None if after.is_empty() => "",
                None => return Err(ParseError::Syntax("text behind ']'")),
            };
            (name, port)
        } else {
            host.rsplit_once(':').unwrap_or((host, ""))
        };
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    pairs.set("host", names.join(","))?;
    if ports.iter().any(|p| !p.is_empty()) {
        pairs.set("port", ports.join(","))?;
    }
    if let Some(path) = path {
        pairs.set("dbname", decode(path)?)?;
    }
    for parameter in query.unwrap_or("").split('&').filter(|p| !p.is_empty()) {
        let (key, value) = parameter
            .split_once('=')
            .ok_or(ParseError::Syntax("a URL parameter without '='"))?;
        pairs.set(&decode(key)?, decode(value)?)?;
    }
    Ok(pairs)
}

fn parse_pairs(text: &str) -> Result<Pairs, ParseError> {
    let mut pairs = Pairs::default();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(ParseError::Syntax("a key without '='"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => {
                    value.push(chars.next().ok_or(ParseError::Syntax("'\\' at the end"))?)
                }
                Some('\'') if quoted => break,
                None if quoted => return Err(ParseError::Syntax("an unclosed quote")),
                None => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
            }
        }
        pairs.set(&key, value)?;
    }
}

fn interpret(pairs: &Pairs) -> Result<Conninfo, ParseError> {
    let user = pairs
        .get("user")
        .ok_or(ParseError::Missing("user"))?
        .to_owned();
    let sslmode = match pairs.get("sslmode") {
        None => SslMode::default(),
        Some("disable") => SslMode::Disable,
        Some("allow" | "prefer") => SslMode::Prefer,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(_) => {
            return Err(ParseError::Value {
                key: "sslmode",
                expected: "disable, allow, prefer, require, verify-ca or verify-full",
            });
        }
    };
    let connect_timeout = match pairs.get("connect_timeout") {
        None => DEFAULT_CONNECT_TIMEOUT,
        Some(t) => match t.parse::<u32>() {
            Ok(s) if s > 0 => Duration::from_secs(u64::from(s)),
            _ => {
                return Err(ParseError::Value {
                    key: "connect_timeout",
                    expected: "seconds, at least 1",
                });
            }
        },
    };
    if !matches!(pairs.get("target_session_attrs"), None | Some("any")) {
        return Err(ParseError::Value {
            key: "target_session_attrs",
            expected: "any",
        });
    }
    Ok(Conninfo {
        hosts: hosts(pairs)?,
        password: pairs.get("password").map(str::to_owned),
        dbname: pairs.get("dbname").unwrap_or(&user).to_owned(),
        user,
        application_name: pairs.get("application_name").map(str::to_owned),
        options: pairs.get("options").map(str::to_owned),
        sslmode,
        sslrootcert: pairs.get("sslrootcert").map(PathBuf::from),
        connect_timeout,
    })
}

fn hosts(pairs: &Pairs) -> Result<Vec<Host>, ParseError> {
    let names = pairs.get("host").unwrap_or("localhost");
    let names: Vec<&str> = names.split(',').collect();
    if names.len() > MAX_HOSTS {
        return Err(ParseError::Value {
            key: "host",
            expected: "at most 16 hosts",
        });
    }
    let ports: Vec<&str> = pairs.get("port").unwrap_or("").split(',').collect();
    if ports.len() != 1 && ports.len() != names.len() {
        return Err(ParseError::Value {
            key: "port",
            expected: "one port, or one for each host",
        });
    }
    let mut hosts = Vec::with_capacity(names.len());
    for (i, name) in names.into_iter().enumerate() {
        let port = match ports.get(i).or(ports.first()).copied().unwrap_or("") {
            "" => DEFAULT_PORT,
            p => match p.parse::<u16>() {
                Ok(p) if p > 0 => p,
                _ => {
                    return Err(ParseError::Value {
                        key: "port",
                        expected: "a number from 1 to 65535",
                    });
                }
            },
        };
        let address = match name {
            "" => Address::Tcp("localhost".into()),
            n if n.starts_with('/') => Address::Unix(n.into()),
            n => Address::Tcp(n.into()),
        };
        hosts.push(Host { address, port });
    }
    Ok(hosts)
}

/// Characters to encode in any part of a URL.
const ENCODE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b'=')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b']')
    .add(b'<')
    .add(b'>')
    .add(b'\\');

impl Conninfo {
    fn url(&self, password: Option<&str>) -> String {
        let encode = |t: &str| utf8_percent_encode(t, ENCODE).to_string();
        let mut url = format!("postgres://{}", encode(&self.user));
        if let Some(p) = password {
            let _ = write!(url, ":{p}");
        }
        for (i, host) in self.hosts.iter().enumerate() {
            url.push(if i == 0 { '@' } else { ',' });
            let _ = match &host.address {
                Address::Tcp(h) if h.contains(':') => write!(url, "[{h}]:{}", host.port),
                Address::Tcp(h) => write!(url, "{}:{}", encode(h), host.port),
                Address::Unix(d) => write!(url, "{}:{}", encode(&d.to_string_lossy()), host.port),
            };
        }
        let _ = write!(
            url,
            "/{}?sslmode={}",
            encode(&self.dbname),
            self.sslmode.as_str()
        );
        let _ = write!(
            url,
            "&connect_timeout={}",
            self.connect_timeout.as_secs().max(1)
        );
        let root = self
            .sslrootcert
            .as_ref()
            .map(|p| p.to_string_lossy().into_owned());
        let optional = [
            ("application_name", self.application_name.as_deref()),
            ("options", self.options.as_deref()),
            ("sslrootcert", root.as_deref()),
        ];
        for (key, value) in optional {
            if let Some(v) = value {
                let _ = write!(url, "&{key}={}", encode(v));
            }
        }
        url
    }

    /// The connection string with its password, for storage in a protected place.
    pub fn to_url_with_password(&self) -> String {
        let password = self
            .password
            .as_deref()
            .map(|p| utf8_percent_encode(p, ENCODE).to_string());
        self.url(password.as_deref())
    }
}

/// A URL with `***` in place of the password.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url(self.password.as_ref().map(|_| "***")))
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Conninfo {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_url_is_taken_apart_and_decoded() {
        let c = parse(
            "postgresql://me%40x:s%3Aecret%2F@db.example:6000/my%20db?sslmode=verify-full&sslrootcert=%2Fca.pem\
             &application_name=ps&options=-c%20wal_sender_timeout%3D30s&connect_timeout=3",
        );
        assert_eq!(c.user, "me@x");
        assert_eq!(c.password.as_deref(), Some("s:ecret/"));
        assert_eq!(
            c.hosts,
            [Host {
                address: Address::Tcp("db.example".into()),
                port: 6000
            }]
        );
        assert_eq!(c.dbname, "my db");
        assert_eq!(c.sslmode, SslMode::VerifyFull);
        assert_eq!(c.sslrootcert, Some("/ca.pem".into()));
        assert_eq!(c.options.as_deref(), Some("-c wal_sender_timeout=30s"));
        assert_eq!(c.connect_timeout, Duration::from_secs(3));
    }

    #[test]
    fn hosts_may_be_many_bracketed_or_sockets() {
        let c = parse("postgres://u@a,[::1]:7,c:8/d");
        let shown: Vec<String> = c.hosts.iter().map(Host::to_string).collect();
        assert_eq!(shown, ["a:5432", "[::1]:7", "c:8"]);
        assert_eq!(
            parse("postgres://u@%2Ftmp:1/d").hosts[0].to_string(),
            "/tmp/.s.PGSQL.1"
        );
        assert_eq!(
            parse("host=/var/run user=u").hosts[0].to_string(),
            "/var/run/.s.PGSQL.5432"
        );
        assert_eq!(
            parse("postgres://u@/d?host=/tmp&port=9").hosts[0].to_string(),
            "/tmp/.s.PGSQL.9"
        );
        assert_eq!(parse("host=a,b port=9 user=u").hosts[1].to_string(), "b:9");
    }

    #[test]
    fn pairs_know_quotes_and_backslashes() {
        let c =
            parse(r"host = 'a'  user='o\'brien' password=x\ y dbname='' application_name='a b'");
        assert_eq!(c.user, "o'brien");
        assert_eq!(c.password.as_deref(), Some("x y"));
        assert_eq!(c.dbname, "o'brien");
        assert_eq!(c.application_name.as_deref(), Some("a b"));
    }

    #[test]
    fn nonsense_is_named() {
        let cases = [
            (
                "postgres://u@h/d?aplication_name=x",
                "did you mean \"application_name\"?",
            ),
            (
                "postgres://u@h/d?zzz=x",
                "unknown connection parameter \"zzz\"",
            ),
            ("postgres://h/d", "lacks \"user\""),
            ("postgres://u@h:0/d", "from 1 to 65535"),
            ("postgres://u@h:1,i:2,j/d?port=1,2", "one for each host"),
            ("postgres://u@h/d?sslmode=maybe", "verify-full"),
            ("postgres://u%zz@h", "percent-encoding"),
            ("postgres://u%ff@h", "percent-encoding"),
            ("postgres://u%00@h", "without NUL"),
            ("user='x", "unclosed quote"),
            ("user", "without '='"),
            ("connect_timeout=0 user=u", "at least 1"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Conninfo>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn url_round_trips(user in ".{1,12}", password in proptest::option::of(".{1,12}"), dbname in ".{1,12}",
                           host in "[a-z.]{1,12}|/[a-z ]{1,9}", port in 1u16.., name in proptest::option::of(".{1,9}")) {
            prop_assume!(![&user, &dbname].iter().any(|t| t.contains('\0')));
            prop_assume!(![&password, &name].iter().any(|t| t.as_ref().is_some_and(|t| t.contains('\0'))));
            let address = if host.starts_with('/') { Address::Unix(host.into()) } else { Address::Tcp(host) };
            let c = Conninfo {
                hosts: vec![Host { address, port }], user, password, dbname, application_name: name, options: None,
                sslmode: SslMode::Require, sslrootcert: None, connect_timeout: Duration::from_secs(4),
            };
            prop_assert_eq!(&c.to_url_with_password().parse::<Conninfo>().unwrap(), &c);
        }

        #[test]
        fn the_password_is_never_shown(secret in "[a-zA-Z0-9:@/%]{8,20}") {
            let mut c = parse("user=u host=h");
            c.password = Some(secret.clone());
            let encoded = utf8_percent_encode(&secret, ENCODE).to_string();
            for shown in [format!("{c}"), format!("{c:?}"), format!("{c:#?}")] {
                prop_assert!(!shown.contains(&secret) && !shown.contains(&encoded), "{}", shown);
            }
        }

        #[test]
        fn any_text_parses_or_errs(text in ".*") {
            let _ = text.parse::<Conninfo>();
            let _ = format!("postgres://{text}").parse::<Conninfo>();
        }
    }
}
