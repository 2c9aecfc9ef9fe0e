//! Startup, authentication, limits and ends of connections.

use super::*;
use crate::client;
use crate::frontend::Frontend;
use crate::startup::{PROTOCOL_3_0, Packet};
use crate::{backend, frame};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn packets(packets: &[Packet]) -> BytesMut {
    let mut buf = BytesMut::new();
    packets.iter().for_each(|packet| packet.encode(&mut buf));
    buf
}

fn startup() -> Packet {
    Packet::Startup(Startup {
        version: PROTOCOL_3_0,
        parameters: Vec::new(),
    })
}

fn trust_greeting() -> BytesMut {
    let mut buf = BytesMut::new();
    backend::authentication_ok(&mut buf);
    for (name, value) in [
        ("client_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("server_version", "14.1"),
    ] {
        backend::parameter_status(&mut buf, name, value);
    }
    backend::ready_for_query(&mut buf);
    buf
}

/// Sends bytes, closes, and returns all the server says.
async fn converse(io: DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(io);
    // The server may close before it has read everything.
    drop(writer.write_all(bytes).await);
    drop(writer.shutdown().await);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn encryption_is_declined_before_startup() {
    let (io, running) = start();
    let said = converse(io, &packets(&[Packet::Ssl, Packet::Gss, startup()])).await;
    assert_eq!(said, [b"NN", &trust_greeting()[..]].concat());
    assert_eq!(running.closed().await, Closed::Eof);
}

#[tokio::test]
async fn encryption_may_not_be_asked_for_forever() {
    let (io, running) = start();
    assert_eq!(
        converse(io, &packets(&[const { Packet::Ssl }; 9])).await,
        b"NNNN"
    );
    assert!(matches!(running.failed().await, Failure::Negotiation));
}

#[tokio::test]
async fn a_cancel_request_closes_without_a_word() {
    let (io, running) = start();
    assert_eq!(converse(io, &packets(&[Packet::Cancel])).await, b"");
    assert_eq!(running.closed().await, Closed::CancelRequest);
}

#[tokio::test]
async fn other_protocols_are_closed_without_a_word() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xFF; 64],
        &[0x16, 3, 1],
        b"SSH-2.0-x\r\n",
    ] {
        let (io, running) = start();
        assert_eq!(converse(io, bytes).await, b"");
        assert!(matches!(running.failed().await, Failure::Startup(_)));
    }
    let (io, running) = start();
    assert_eq!(converse(io, b"").await, b"");
    assert_eq!(running.closed().await, Closed::Eof);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_starts_is_closed() {
    let (mut io, running) = start();
    io.write_all(&[0, 0, 0]).await.unwrap();
    assert_eq!(running.closed().await, Closed::Idle);
    let (mut io, running) = start_with(Authentication::Token, 4096);
    io.write_all(&packets(&[startup()])).await.unwrap();
    assert_eq!(running.closed().await, Closed::Idle);
}

#[tokio::test]
async fn a_token_opens_the_door() {
    let (io, _running) = start_with(Authentication::Token, 4096);
    let options = Options {
        token: Some("good".into()),
        ..Options::default()
    };
    let mut connection = client::Connection::handshake(io, &options).await.unwrap();
    assert_eq!(
        connection.parameters(),
        [("client_encoding".into(), "UTF8".into())]
    );
    connection
        .query("set x", client::Form::Simple)
        .await
        .unwrap();

    let (io, running) = start_with(Authentication::Token, 4096);
    let options = Options {
        token: Some("bad".into()),
        ..Options::default()
    };
    let refused = client::Connection::handshake(io, &options)
        .await
        .unwrap_err();
    let client::Error::Server(report) = refused else {
        panic!("{refused}")
    };
    assert_eq!(report.message, "JWT authentication error");
    assert!(matches!(running.failed().await, Failure::Authentication(_)));

    let (io, _running) = start_with(Authentication::Token, 4096);
    let refused = client::Connection::handshake(io, &Options::default())
        .await
        .unwrap_err();
    assert!(matches!(refused, client::Error::TokenWanted));
}

#[tokio::test]
async fn anything_but_a_password_is_refused_without_a_word() {
    let (io, running) = start_with(Authentication::Token, 4096);
    let mut bytes = packets(&[startup()]);
    Frontend::Query(b"set x").encode(&mut bytes);
    let mut asked = BytesMut::new();
    backend::authentication_cleartext(&mut asked);
    assert_eq!(converse(io, &bytes).await, asked);
    assert!(matches!(
        running.failed().await,
        Failure::OutOfPlace { tag: b'Q', .. }
    ));
}

#[tokio::test]
async fn an_oversize_message_is_refused_by_its_head() {
    let (io, running) = start();
    let mut bytes = packets(&[startup()]);
    bytes.extend_from_slice(b"Q\x7F\xFF\xFF\xFF");
    let said = converse(io, &bytes).await;
    let mut expected = trust_greeting();
    let error = frame::Error::Oversize {
        tag: b'Q',
        length: 0x7FFF_FFFF,
        limit: frame::MAX_FRONTEND_LENGTH,
    };
    backend::error_response(&mut expected, "08P01", &error.to_string());
    assert_eq!(said, expected);
    assert!(matches!(running.failed().await, Failure::Protocol(e) if e == error));
}

#[tokio::test]
async fn what_is_not_served_closes_without_a_word() {
    for message in [
        &b"H\0\0\0\x04"[..],
        b"F\0\0\0\x04",
        b"\0",
        b"Q\0\0\0\0",
        b"d\0\0\0\x04",
        b"p\0\0\0\x05\0",
    ] {
        let (io, running) = start();
        let said = converse(io, &[&packets(&[startup()]), message].concat()).await;
        assert_eq!(said, trust_greeting(), "{message:?}");
        let failure = running.failed().await;
        assert!(
            matches!(failure, Failure::Protocol(_) | Failure::OutOfPlace { .. }),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_failed_execute_skips_to_sync() {
    let (io, _running) = start();
    let mut bytes = packets(&[startup()]);
    for message in [
        Frontend::Parse(b"show x"),
        Frontend::Bind,
        Frontend::Execute,
        Frontend::Parse(b"set x"),
        Frontend::Bind,
        Frontend::Execute,
        Frontend::Sync,
        Frontend::Close,
        Frontend::Sync,
        Frontend::Terminate,
    ] {
        message.encode(&mut bytes);
    }
    let mut expected = trust_greeting();
    backend::parse_complete(&mut expected);
    backend::bind_complete(&mut expected);
    backend::error_response(&mut expected, "XX000", "unsupported command show x");
    backend::ready_for_query(&mut expected);
    backend::close_complete(&mut expected);
    backend::ready_for_query(&mut expected);
    assert_eq!(converse(io, &bytes).await, expected);
}

#[tokio::test]
async fn a_stopping_server_leaves_idle_clients_without_a_word() {
    let (mut io, running) = start();
    io.write_all(&packets(&[startup()])).await.unwrap();
    let mut greeting = vec![0; trust_greeting().len()];
    io.read_exact(&mut greeting).await.unwrap();
    running.stop.cancel();
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    assert_eq!(running.closed().await, Closed::ServerStopping);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_in_command_mode_is_closed_without_a_word() {
    let (mut io, running) = start();
    io.write_all(&packets(&[startup()])).await.unwrap();
    let mut said = Vec::new();
    io.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, trust_greeting());
    assert_eq!(running.closed().await, Closed::Idle);
}

/// "Encrypts" by doing nothing.
struct Plaintext;

impl Upgrade<DuplexStream> for Plaintext {
    type Stream = DuplexStream;
    async fn upgrade(&self, io: DuplexStream) -> io::Result<DuplexStream> {
        Ok(io)
    }
}

async fn converse_tls(
    send: &[Packet],
    wait_for: usize,
    then: &[Packet],
) -> (Vec<u8>, Result<Closed, Failure>) {
    let (mut io, far) = tokio::io::duplex(4096);
    let server = tokio::spawn(async move {
        let handler = Fake {
            authentication: Authentication::Trust,
            batches: Arc::default(),
            log: Arc::default(),
        };
        let stop = CancellationToken::new();
        serve_tls(far, &handler, &Config::default(), &stop, Some(&Plaintext)).await
    });
    io.write_all(&packets(send)).await.unwrap();
    let mut first = vec![0; wait_for];
    io.read_exact(&mut first).await.unwrap();
    let rest = converse(io, &packets(then)).await;
    (
        first.into_iter().chain(rest).collect(),
        server.await.unwrap(),
    )
}

#[tokio::test]
async fn tls_is_granted_and_required() {
    let (said, end) = converse_tls(&[Packet::Gss, Packet::Ssl], 2, &[startup()]).await;
    assert_eq!(said, [b"NS", &trust_greeting()[..]].concat());
    assert_eq!(end.unwrap(), Closed::Eof);

    let (said, end) = converse_tls(&[startup()], 0, &[]).await;
    let mut expected = BytesMut::new();
    backend::error_response(&mut expected, "XX000", "must connect with TLS");
    assert_eq!(said, expected);
    assert!(matches!(end.unwrap_err(), Failure::TlsRequired));

    let (said, end) = converse_tls(&[Packet::Ssl, startup()], 0, &[]).await;
    assert_eq!(said, b"");
    assert!(matches!(end.unwrap_err(), Failure::BytesBeforeTls(9)));
}
