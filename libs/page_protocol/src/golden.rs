//! Bytes of every message, as `docs/format/page-service.md` gives them.

use crate::message::{Answer, Echo, Header, Query, Relation, Request, Response, Version};
use crate::startup::Packet;
use crate::{Command, Startup, backend, frame, frontend::Frontend};
use bytes::BytesMut;
use types::{Lsn, PAGE_SIZE};

const T: &str = "7c4a1f9e3bd6470c8f3e21a65bd2e980";
const L: &str = "f08c4e9a2d5f76b1e3a7c2d8910f4b3e";
const REL: Relation = Relation {
    spc: 1663,
    db: 5,
    rel: 16396,
    fork: 0,
};
const LSNS: &str = "FF FF FF FF FF FF FF FF 00 00 00 00 01 A2 B3 C8";
const REL_HEX: &str = "00 00 06 7F 00 00 00 05 00 00 40 0C 00";

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace([' ', '\n'], "")).unwrap()
}

fn request(version: Version, id: u64, query: Query) -> Request {
    let reqid = match version {
        Version::V2 => 0,
        Version::V3 => (4242 << 32) | id,
    };
    let header = Header {
        reqid,
        request_lsn: Lsn::MAX,
        not_modified_since: Lsn(0x1A2_B3C8),
    };
    Request { header, query }
}

fn framed_request(version: Version, request: &Request) -> Vec<u8> {
    let mut buf = BytesMut::new();
    frame::put(&mut buf, b'd', |b| request.encode(version, b));
    let (_, body) = frame::split(&buf, 1 << 20).unwrap().unwrap();
    assert_eq!(&Request::decode(version, body).unwrap(), request);
    buf.to_vec()
}

fn framed_response(version: Version, request: &Request, answer: &Answer<'_>) -> Vec<u8> {
    let mut buf = BytesMut::new();
    frame::put(&mut buf, b'd', |b| answer.encode(version, request, b));
    let (_, body) = frame::split(&buf, 1 << 20).unwrap().unwrap();
    let response = Response::decode(version, body).unwrap();
    assert_eq!(&response.answer, answer);
    assert!(response.matches(request));
    assert_eq!(response.echo.is_some(), version == Version::V3);
    if let Some(Echo::Request(echo)) = &response.echo {
        assert_eq!(echo, request);
    }
    buf.to_vec()
}

fn built(build: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut buf = BytesMut::new();
    build(&mut buf);
    buf.to_vec()
}

#[test]
fn startup_packets() {
    let ssl = hex("00 00 00 08 04 D2 16 2F");
    assert_eq!(built(|b| Packet::Ssl.encode(b)), ssl);
    assert_eq!(Packet::decode(&ssl), Ok(Some((Packet::Ssl, 8))));
    let bytes = hex(
        "00 00 00 6A 00 03 00 00 75 73 65 72 00 63 6C 6F 75 64 5F 61 64 6D 69 6E 00
         64 61 74 61 62 61 73 65 00 63 6C 6F 75 64 5F 61 64 6D 69 6E 00
         6F 70 74 69 6F 6E 73 00 2D 63 20 6E 65 6F 6E 2E 63 6F 6D 70 75 74 65
         5F 6D 6F 64 65 3D 70 72 69 6D 61 72 79 00
         61 70 70 6C 69 63 61 74 69 6F 6E 5F 6E 61 6D 65 00 34 32 34 32 00 00",
    );
    let (packet, size) = Packet::decode(&bytes).unwrap().unwrap();
    assert_eq!(size, bytes.len());
    assert_eq!(built(|b| packet.encode(b)), bytes);
    let Packet::Startup(startup) = packet else {
        panic!("not a startup")
    };
    assert_eq!(startup.get("user"), Some("cloud_admin"));
    assert_eq!(startup.application_name(), Some("4242"));
    assert_eq!(startup.compute_mode(), Some("primary"));
    assert_eq!(Startup::default().compute_mode(), None);
}

#[test]
fn handshake_and_command_messages() {
    for (built, golden) in [
        (
            built(backend::authentication_cleartext),
            "52 00 00 00 08 00 00 00 03",
        ),
        (
            built(backend::authentication_ok),
            "52 00 00 00 08 00 00 00 00",
        ),
        (
            built(|b| backend::parameter_status(b, "client_encoding", "UTF8")),
            "53 00 00 00 19 63 6C 69 65 6E 74 5F 65 6E 63 6F 64 69 6E 67 00 55 54 46 38 00",
        ),
        (
            built(|b| backend::parameter_status(b, "integer_datetimes", "on")),
            "53 00 00 00 19 69 6E 74 65 67 65 72 5F 64 61 74 65 74 69 6D 65 73 00 6F 6E 00",
        ),
        (
            built(|b| backend::parameter_status(b, "server_version", "14.1")),
            "53 00 00 00 18 73 65 72 76 65 72 5F 76 65 72 73 69 6F 6E 00 31 34 2E 31 00",
        ),
        (built(backend::ready_for_query), "5A 00 00 00 05 49"),
        (
            built(backend::copy_both_response),
            "57 00 00 00 07 00 00 00",
        ),
        (built(backend::copy_out_response), "48 00 00 00 07 00 00 00"),
        (built(backend::copy_done), "63 00 00 00 04"),
        (
            built(backend::command_complete),
            "43 00 00 00 0D 53 45 4C 45 43 54 20 31 00",
        ),
        (
            built(|b| backend::error_response(b, "08006", "reconnect")),
            "45 00 00 00 1E 53 45 52 52 4F 52 00 43 30 38 30 30 36 00 4D 72 65 63 6F 6E 6E 65 63 74 00 00",
        ),
        (
            built(|b| backend::error_response(b, "57P01", "shutdown")),
            "45 00 00 00 1D 53 45 52 52 4F 52 00 43 35 37 50 30 31 00 4D 73 68 75 74 64 6F 77 6E 00 00",
        ),
        (
            built(|b| backend::row_description(b, &["valid_until"])),
            "54 00 00 00 24 00 01 76 61 6C 69 64 5F 75 6E 74 69 6C 00 00 00 00 00 00 00 00 00 00 19 FF FF FF FF FF FF 00 00",
        ),
        (
            built(|b| backend::data_row(b, &[Some(b"1760000000000")])),
            "44 00 00 00 17 00 01 00 00 00 0D 31 37 36 30 30 30 30 30 30 30 30 30 30",
        ),
        (
            built(|b| backend::data_row(b, &[None])),
            "44 00 00 00 0A 00 01 FF FF FF FF",
        ),
        (built(|b| Frontend::Terminate.encode(b)), "58 00 00 00 04"),
        (
            built(|b| Frontend::Password(b"aa.bb.cc").encode(b)),
            "70 00 00 00 0D 61 61 2E 62 62 2E 63 63 00",
        ),
    ] {
        assert_eq!(built, hex(golden), "{golden}");
    }
    let text = format!("pagestream_v3 {T} {L}");
    let query = built(|b| Frontend::Query(text.as_bytes()).encode(b));
    assert_eq!(query.len(), 85);
    assert!(query.starts_with(&hex(
        "51 00 00 00 54 70 61 67 65 73 74 72 65 61 6D 5F 76 33 20 37 63"
    )));
    assert!(query.ends_with(&hex("34 62 33 65 00")));
    assert_eq!(text.parse::<Command>().unwrap().to_string(), text);
}

#[test]
fn page_requests_and_responses() {
    let page: [u8; PAGE_SIZE] = std::array::from_fn(|at| (at % 251) as u8);
    let query = Query::GetPage { rel: REL, block: 7 };

    let v2 = request(Version::V2, 1, query.clone());
    let bytes = framed_request(Version::V2, &v2);
    assert_eq!(
        bytes,
        hex(&format!("64 00 00 00 26 02 {LSNS} {REL_HEX} 00 00 00 07"))
    );
    assert_eq!(bytes.len(), 39);
    let response = framed_response(Version::V2, &v2, &Answer::Page(&page));
    assert_eq!(response.len(), 8198);
    assert_eq!(response, [&hex("64 00 00 20 05 66")[..], &page].concat());
    let error = framed_response(Version::V2, &v2, &Answer::Error("Read error".into()));
    assert_eq!(
        error,
        hex("64 00 00 00 10 67 52 65 61 64 20 65 72 72 6F 72 00")
    );

    let v3 = request(Version::V3, 1, query);
    let echo = format!("00 00 10 92 00 00 00 01 {LSNS}");
    let bytes = framed_request(Version::V3, &v3);
    assert_eq!(
        bytes,
        hex(&format!("64 00 00 00 2E 02 {echo} {REL_HEX} 00 00 00 07"))
    );
    assert_eq!(bytes.len(), 47);
    let response = framed_response(Version::V3, &v3, &Answer::Page(&page));
    assert_eq!(response.len(), 8239);
    let head = hex(&format!("64 00 00 20 2E 66 {echo} {REL_HEX} 00 00 00 07"));
    assert_eq!(response, [&head[..], &page].concat());
    let error = framed_response(Version::V3, &v3, &Answer::Error("Read error".into()));
    let head = format!("64 00 00 00 28 67 {echo} 52 65 61 64 20 65 72 72 6F 72 00");
    assert_eq!(error, hex(&head));
}

#[test]
fn other_requests_and_responses() {
    let exists = request(Version::V3, 2, Query::Exists(REL));
    let echo = format!("00 00 10 92 00 00 00 02 {LSNS} {REL_HEX}");
    assert_eq!(
        framed_request(Version::V3, &exists),
        hex(&format!("64 00 00 00 2A 00 {echo}"))
    );
    assert_eq!(
        framed_response(Version::V3, &exists, &Answer::Exists(true)),
        hex(&format!("64 00 00 00 2B 64 {echo} 01"))
    );
    let nblocks = request(Version::V3, 3, Query::Nblocks(REL));
    assert_eq!(
        framed_response(Version::V3, &nblocks, &Answer::Nblocks(45)),
        hex(&format!(
            "64 00 00 00 2E 65 00 00 10 92 00 00 00 03 {LSNS} {REL_HEX} 00 00 00 2D"
        ))
    );
    let nblocks = request(Version::V2, 3, Query::Nblocks(REL));
    assert_eq!(
        framed_response(Version::V2, &nblocks, &Answer::Nblocks(45)),
        hex("64 00 00 00 09 65 00 00 00 2D")
    );
    let db_size = request(Version::V2, 4, Query::DbSize { db: 5 });
    assert_eq!(
        framed_request(Version::V2, &db_size),
        hex(&format!("64 00 00 00 19 03 {LSNS} 00 00 00 05"))
    );
    assert_eq!(
        framed_response(Version::V2, &db_size, &Answer::DbSize(7_675_904)),
        hex("64 00 00 00 0D 68 00 00 00 00 00 75 20 00")
    );
    let slru = request(
        Version::V2,
        5,
        Query::GetSlruSegment {
            kind: 0,
            segment: 0,
        },
    );
    assert_eq!(
        framed_request(Version::V2, &slru),
        hex(&format!("64 00 00 00 1A 04 {LSNS} 00 00 00 00 00"))
    );
    let page = [7u8; PAGE_SIZE];
    assert_eq!(
        framed_response(Version::V2, &slru, &Answer::SlruSegment(&page)),
        [&hex("64 00 00 20 09 69 00 00 00 01")[..], &page].concat()
    );
}

#[test]
fn sizes_behind_the_frame() {
    let page = [0u8; PAGE_SIZE];
    for (query, answer, requests, responses) in [
        (Query::Exists(REL), Answer::Exists(false), (30, 38), (2, 39)),
        (Query::Nblocks(REL), Answer::Nblocks(1), (30, 38), (5, 42)),
        (
            Query::GetPage { rel: REL, block: 1 },
            Answer::Page(&page),
            (34, 42),
            (8193, 8234),
        ),
        (
            Query::DbSize { db: 1 },
            Answer::DbSize(1),
            (21, 29),
            (9, 37),
        ),
        (
            Query::GetSlruSegment {
                kind: 1,
                segment: 1,
            },
            Answer::SlruSegment(&page),
            (22, 30),
            (5 + 8192, 34 + 8192),
        ),
    ] {
        for (version, request_size, response_size) in [
            (Version::V2, requests.0, responses.0),
            (Version::V3, requests.1, responses.1),
        ] {
            let request = request(version, 9, query.clone());
            assert_eq!(framed_request(version, &request).len(), 5 + request_size);
            let response = framed_response(version, &request, &answer);
            assert_eq!(response.len(), 5 + response_size);
        }
    }
}
