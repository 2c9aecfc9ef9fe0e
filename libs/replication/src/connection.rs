//! One logged-in connection to a walsender.
//!
//! [`Connection::connect`] tries the hosts of a [`Conninfo`] in order. A command that was abandoned
//! half-way (its future dropped) leaves the connection [`Error::Busy`]; everything else can follow
//! on it, also after a server error.

use crate::conninfo::{Address, Conninfo, Host, SslMode};
use crate::error::Error;
use crate::tls;
use crate::wire::{Incoming, Transport, Wire, server_error, violation};
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{
    DataRowBody, ErrorResponseBody, Message, RowDescriptionBody,
};
use postgres_protocol::message::frontend;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use types::PgMajor;
use types::pg::Unsupported;

/// Most rows [`Connection::query`] returns.
pub const MAX_ROWS: usize = 10_000;
/// Most bytes of values [`Connection::query`] returns.
pub const MAX_RESULT_BYTES: usize = 16 << 20;
/// Most settings a server may report about itself at login.
const MAX_PARAMETERS: usize = 256;
/// Wait for the answer to one command that is not a stream.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What the server should be ready for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// `replication=true`: replication commands only.
    Physical,
    /// `replication=database`: SQL and replication commands.
    Database,
    /// SQL only; needs no walsender and no REPLICATION privilege.
    Sql,
}

/// A logged-in connection.
pub struct Connection {
    pub(crate) wire: Wire,
    mode: Mode,
    host: Host,
    parameters: BTreeMap<String, String>,
    process_id: i32,
    busy: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("host", &format_args!("{}", self.host))
            .field("mode", &self.mode)
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

/// The answer to a query: text values, NULL as `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Column names.
    pub columns: Vec<String>,
    /// One vector of values for each row.
    pub rows: Vec<Row>,
}

/// One row of text values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row(pub Vec<Option<String>>);

impl Row {
    /// The value of a column by position; an error if the column is missing or NULL.
    pub fn text(&self, column: usize) -> Result<&str, Error> {
        self.opt(column)
            .ok_or_else(|| Error::Protocol(format!("column {column} is missing or NULL")))
    }

    /// The value of a column by position; `None` if the column is missing or NULL.
    pub fn opt(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }

    /// A column that must hold a value of type `T`.
    pub fn parse<T: std::str::FromStr>(&self, column: usize) -> Result<T, Error> {
        let text = self.text(column)?;
        text.parse().map_err(|_| {
            let cut: String = text.chars().take(64).collect();
            Error::Protocol(format!("column {column} has unexpected value {cut:?}"))
        })
    }
}

impl Rows {
    /// The only row.
    pub fn single(self) -> Result<Row, Error> {
        let count = self.rows.len();
        match self.rows.into_iter().next() {
            Some(row) if count == 1 => Ok(row),
            _ => Err(Error::Protocol(format!(
                "one row expected, {count} received"
            ))),
        }
    }
}

impl Connection {
    /// Logs in to the first host that lets us; each gets `conninfo.connect_timeout`. If none does,
    /// the last host's error is returned.
    pub async fn connect(conninfo: &Conninfo, mode: Mode) -> Result<Connection, Error> {
        let mut last = Error::Closed;
        for host in &conninfo.hosts {
            match Self::connect_to(conninfo, host, mode).await {
                Ok(c) => return Ok(c),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Logs in to one host.
    pub async fn connect_to(
        conninfo: &Conninfo,
        host: &Host,
        mode: Mode,
    ) -> Result<Connection, Error> {
        let limit = conninfo.connect_timeout;
        match tokio::time::timeout(limit, Box::pin(login(conninfo, host, mode))).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                what: "connecting",
                limit,
            }),
        }
    }

    /// What the connection can do.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The host that answered.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Process id of the server's process for this connection, as in `pg_stat_replication`.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// A setting the server reports at login, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's major version.
    pub fn major(&self) -> Result<PgMajor, Error> {
        let version = self.parameter("server_version").unwrap_or("");
        let digits: String = version
            .chars()
            .take_while(char::is_ascii_digit)
            .take(9)
            .collect();
        let number: u32 = digits.parse().map_err(|_| Unsupported(0))?;
        Ok(PgMajor::try_from(number)?)
    }

    /// Runs one command and collects its last row set. At most [`MAX_ROWS`] and
    /// [`MAX_RESULT_BYTES`], within [`COMMAND_TIMEOUT`].
    pub async fn query(&mut self, query: &str) -> Result<Rows, Error> {
        match tokio::time::timeout(COMMAND_TIMEOUT, self.query_unlimited(query)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                what: "the answer to a command",
                limit: COMMAND_TIMEOUT,
            }),
        }
    }

    async fn query_unlimited(&mut self, query: &str) -> Result<Rows, Error> {
        self.send(query)?;
        let mut result = Rows::default();
        let mut size = 0usize;
        let mut failure = None;
        loop {
            match self.message().await {
                Ok(Message::RowDescription(b)) => {
                    result = Rows {
                        columns: columns(&b)?,
                        rows: Vec::new(),
                    };
                    size = 0;
                }
                Ok(Message::DataRow(b)) => {
                    size = size.saturating_add(b.buffer().len());
                    let over = if result.rows.len() >= MAX_ROWS {
                        Some((MAX_ROWS, "rows"))
                    } else if size > MAX_RESULT_BYTES {
                        Some((MAX_RESULT_BYTES, "bytes"))
                    } else {
                        None
                    };
                    match over {
                        None => result.rows.push(row(&b)?),
                        Some((limit, unit)) => {
                            let query = query.chars().take(64).collect();
                            return Err(Error::ResultTooLarge { query, limit, unit });
                        }
                    }
                }
                Ok(Message::CommandComplete(_) | Message::EmptyQueryResponse) => {}
                Ok(Message::ReadyForQuery(_)) => {
                    self.busy = false;
                    return failure.map_or(Ok(result), Err);
                }
                Ok(_) => return Err(unexpected("in the answer to a query")),
                Err(e @ Error::Server(_)) => failure = Some(e),
                // A FATAL error is followed by the end of the connection.
                Err(e) => return Err(failure.unwrap_or(e)),
            }
        }
    }

    /// Queues a command whose answer the caller reads with [`Connection::message`] up to and
    /// including ReadyForQuery, which it reports with [`Connection::done`].
    pub(crate) fn send(&mut self, query: &str) -> Result<(), Error> {
        if self.busy {
            return Err(Error::Busy);
        }
        tracing::debug!(host = %self.host, query, "replication command");
        frontend::query(query, self.wire.outbox())?;
        self.busy = true;
        Ok(())
    }

    pub(crate) fn done(&mut self) {
        self.busy = false;
    }

    /// The next message except notices and changed settings. ErrorResponse is an error.
    pub(crate) async fn message(&mut self) -> Result<Message, Error> {
        match self.incoming().await? {
            Incoming::Message(m) => Ok(m),
            Incoming::CopyBoth => Err(unexpected("CopyBothResponse")),
        }
    }

    /// As [`Connection::message`], with CopyBothResponse.
    pub(crate) async fn incoming(&mut self) -> Result<Incoming, Error> {
        loop {
            match self.wire.next().await? {
                Incoming::Message(Message::ErrorResponse(b)) => return Err(refusal(&b)),
                Incoming::Message(Message::NoticeResponse(b)) => {
                    let notice = server_error(b.fields())?;
                    tracing::debug!(host = %self.host, "{notice}");
                }
                Incoming::Message(Message::ParameterStatus(b)) => {
                    set_parameter(&mut self.parameters, text(b.name())?, text(b.value())?)?;
                }
                Incoming::Message(Message::NotificationResponse(_)) => {}
                other => return Ok(other),
            }
        }
    }

    /// Says goodbye. Dropping the connection does as well, without the courtesy.
    pub async fn close(mut self) -> Result<(), Error> {
        frontend::terminate(self.wire.outbox());
        self.wire.flush().await
    }
}

pub(crate) fn refusal(body: &ErrorResponseBody) -> Error {
    match server_error(body.fields()) {
        Ok(e) => Error::Server(Box::new(e)),
        Err(e) => e,
    }
}

pub(crate) fn unexpected(what: &str) -> Error {
    Error::Protocol(format!("unexpected message: {what}"))
}

fn text(t: io::Result<&str>) -> Result<String, Error> {
    t.map(str::to_owned).map_err(violation)
}

fn set_parameter(
    map: &mut BTreeMap<String, String>,
    name: String,
    value: String,
) -> Result<(), Error> {
    if map.len() >= MAX_PARAMETERS && !map.contains_key(&name) {
        return Err(Error::Protocol(format!(
            "more than {MAX_PARAMETERS} settings reported"
        )));
    }
    map.insert(name, value);
    Ok(())
}

fn columns(body: &RowDescriptionBody) -> Result<Vec<String>, Error> {
    body.fields()
        .map(|f| Ok(f.name().to_owned()))
        .collect()
        .map_err(violation)
}

/// Decodes a row of text values.
pub(crate) fn row(body: &DataRowBody) -> Result<Row, Error> {
    let mut values = Vec::new();
    let mut ranges = body.ranges();
    while let Some(range) = ranges.next().map_err(violation)? {
        values.push(match range {
            None => None,
            Some(r) => {
                let bytes = body
                    .buffer()
                    .get(r)
                    .ok_or_else(|| Error::Protocol("row value out of range".into()))?;
                Some(String::from_utf8_lossy(bytes).into_owned())
            }
        });
    }
    Ok(Row(values))
}

async fn login(conninfo: &Conninfo, host: &Host, mode: Mode) -> Result<Connection, Error> {
    let mut wire = Wire::new(open(conninfo, host).await?);
    let mut startup = vec![
        ("user", conninfo.user.as_str()),
        ("database", conninfo.dbname.as_str()),
    ];
    match mode {
        Mode::Physical => startup.push(("replication", "true")),
        Mode::Database => startup.push(("replication", "database")),
        Mode::Sql => {}
    }
    startup.push(("client_encoding", "UTF8"));
    if let Some(name) = &conninfo.application_name {
        startup.push(("application_name", name));
    }
    if let Some(options) = &conninfo.options {
        startup.push(("options", options));
    }
    frontend::startup_message(startup, wire.outbox())?;

    let mut connection = Connection {
        wire,
        mode,
        host: host.clone(),
        parameters: BTreeMap::new(),
        process_id: 0,
        busy: false,
    };
    authenticate(&mut connection, conninfo).await?;
    loop {
        match connection.message().await? {
            Message::BackendKeyData(b) => connection.process_id = b.process_id(),
            Message::ReadyForQuery(_) => return Ok(connection),
            _ => return Err(unexpected("during start-up")),
        }
    }
}

/// Opens the socket and, if asked for and agreed, encrypts it.
async fn open(conninfo: &Conninfo, host: &Host) -> Result<Box<dyn Transport>, Error> {
    let failed = |source| Error::Connect {
        target: host.to_string(),
        source,
    };
    let name = match &host.address {
        Address::Unix(_) => {
            let socket = UnixStream::connect(host.to_string())
                .await
                .map_err(failed)?;
            return Ok(Box::new(socket));
        }
        Address::Tcp(name) => name,
    };
    let mut tcp = TcpStream::connect((name.as_str(), host.port))
        .await
        .map_err(failed)?;
    tcp.set_nodelay(true)?;
    if conninfo.sslmode == SslMode::Disable {
        return Ok(Box::new(tcp));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    // Exactly one byte: whatever else an attacker slipped in before encryption goes to the TLS
    // library, which rejects it.
    let refused = |reason: String| Error::Tls {
        target: host.to_string(),
        reason,
    };
    match tcp.read_u8().await {
        Ok(b'S') => Ok(Box::new(
            tls::handshake(tcp, name, conninfo).await.map_err(refused)?,
        )),
        Ok(b'N') if conninfo.sslmode == SslMode::Prefer => Ok(Box::new(tcp)),
        Ok(b'N') => Err(refused(format!(
            "the server does not offer TLS, which sslmode={} demands",
            conninfo.sslmode.as_str()
        ))),
        Ok(_) => Err(refused(
            "the server does not understand the request for TLS".into(),
        )),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Closed),
        Err(e) => Err(e.into()),
    }
}

async fn authenticate(c: &mut Connection, conninfo: &Conninfo) -> Result<(), Error> {
    let no_password = || {
        Error::Authentication(format!(
            "the server asks for the password of role {:?}",
            conninfo.user
        ))
    };
    let password = || {
        conninfo
            .password
            .as_deref()
            .map(str::as_bytes)
            .ok_or_else(no_password)
    };
    let mut scram: Option<ScramSha256> = None;
    let mut scram_proven = false;
    loop {
        match c.message().await? {
            Message::AuthenticationOk => {
                // A server that skips its half of SCRAM may be an impostor.
                if scram.is_some() && !scram_proven {
                    return Err(Error::Authentication(
                        "the server did not prove that it knows the password".into(),
                    ));
                }
                return Ok(());
            }
            Message::AuthenticationCleartextPassword => {
                frontend::password_message(password()?, c.wire.outbox())?;
            }
            Message::AuthenticationMd5Password(b) => {
                let hash =
                    authentication::md5_hash(conninfo.user.as_bytes(), password()?, b.salt());
                frontend::password_message(hash.as_bytes(), c.wire.outbox())?;
            }
            Message::AuthenticationSasl(b) if scram.is_none() => {
                let offers = b
                    .mechanisms()
                    .any(|m| Ok(m == SCRAM_SHA_256))
                    .map_err(violation)?;
                if !offers {
                    return Err(Error::Authentication(
                        "the server offers no SASL mechanism other than unknown ones".into(),
                    ));
                }
                let client = ScramSha256::new(password()?, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, client.message(), c.wire.outbox())?;
                scram = Some(client);
            }
            Message::AuthenticationSaslContinue(b) => {
                let client = scram
                    .as_mut()
                    .ok_or_else(|| unexpected("SASL continuation"))?;
                client.update(b.data()).map_err(sasl)?;
                frontend::sasl_response(client.message(), c.wire.outbox())?;
            }
            Message::AuthenticationSaslFinal(b) => {
                let client = scram
                    .as_mut()
                    .ok_or_else(|| unexpected("SASL final message"))?;
                client.finish(b.data()).map_err(sasl)?;
                scram_proven = true;
            }
            _ => {
                return Err(Error::Authentication(
                    "the server asks for a method other than trust, password, md5 and scram-sha-256".into(),
                ));
            }
        }
    }
}

fn sasl(e: io::Error) -> Error {
    Error::Authentication(format!("SCRAM: {e}"))
}
