//! Any bytes at all: decoders answer or refuse, and what was encoded decodes to the same.

use crate::backend::Backend;
use crate::frame;
use crate::frontend::Frontend;
use crate::message::{Answer, Header, MAX_SLRU_PAGES, Query, Relation, Request, Response, Version};
use crate::startup::{Packet, Startup};
use crate::{Command, backend};
use bytes::BytesMut;
use proptest::prelude::*;
use types::{Lsn, PAGE_SIZE};

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V2), Just(Version::V3)]
}

fn relation() -> impl Strategy<Value = Relation> {
    any::<(u32, u32, u32, u8)>().prop_map(|(spc, db, rel, fork)| Relation { spc, db, rel, fork })
}

fn query() -> impl Strategy<Value = Query> {
    prop_oneof![
        relation().prop_map(Query::Exists),
        relation().prop_map(Query::Nblocks),
        (relation(), any::<u32>()).prop_map(|(rel, block)| Query::GetPage { rel, block }),
        any::<u32>().prop_map(|db| Query::DbSize { db }),
        any::<(u8, u32)>().prop_map(|(kind, segment)| Query::GetSlruSegment { kind, segment }),
        (any::<u64>(), ".{0,40}")
            .prop_map(|(batch_key, message)| Query::Test { batch_key, message }),
    ]
}

fn request(version: Version) -> impl Strategy<Value = Request> {
    (any::<u64>(), any::<u64>(), any::<u64>(), query()).prop_map(move |(id, at, since, query)| {
        let reqid = if version == Version::V2 { 0 } else { id };
        let header = Header {
            reqid,
            request_lsn: Lsn(at),
            not_modified_since: Lsn(since),
        };
        Request { header, query }
    })
}

fn tagged() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop_oneof![any::<u8>(), 0u8..5, 100u8..106, Just(99u8), Just(199u8)];
    (tag, prop::collection::vec(any::<u8>(), 0..120)).prop_map(|(tag, mut rest)| {
        rest.insert(0, tag);
        rest
    })
}

proptest! {
    #[test]
    fn requests_survive_a_round_trip(
        (version, request) in version().prop_flat_map(|v| (Just(v), request(v))),
        trailing in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut buf = BytesMut::new();
        request.encode(version, &mut buf);
        let whole = buf.len();
        buf.extend_from_slice(&trailing);
        prop_assert_eq!(&Request::decode(version, &buf).unwrap(), &request);
        for cut in 0..whole {
            prop_assert!(Request::decode(version, &buf[..cut]).is_err());
        }
    }

    #[test]
    fn responses_survive_a_round_trip_and_fill_their_frame(
        (version, request) in version().prop_flat_map(|v| (Just(v), request(v))),
        number in any::<u32>(),
        pages in 0..=MAX_SLRU_PAGES,
        text in "[^\0]{0,40}",
        fails in any::<bool>(),
    ) {
        let page = [number as u8; PAGE_SIZE];
        let segment = vec![number as u8; pages * PAGE_SIZE];
        let answer = match &request.query {
            _ if fails => Answer::Error(text.as_str().into()),
            Query::Exists(_) => Answer::Exists(number % 2 == 0),
            Query::Nblocks(_) => Answer::Nblocks(number),
            Query::GetPage { .. } => Answer::Page(&page),
            Query::DbSize { .. } => Answer::DbSize(i64::from(number) << 20),
            Query::GetSlruSegment { .. } => Answer::SlruSegment(&segment),
            Query::Test { batch_key, message } => {
                Answer::Test { batch_key: *batch_key, message: message.as_str().into() }
            }
        };
        let mut buf = BytesMut::new();
        answer.encode(version, &request, &mut buf);
        let response = Response::decode(version, &buf).unwrap();
        prop_assert!(response.matches(&request));
        prop_assert_eq!(&response.answer, &answer);
        if !fails {
            prop_assert!(Response::decode(version, &buf[..buf.len() - 1]).is_err());
            buf.extend_from_slice(&[0]);
            prop_assert!(Response::decode(version, &buf).is_err());
        }
    }

    #[test]
    fn a_changed_echo_is_noticed(request in request(Version::V3), at in 1usize..25, bit in 0u8..8) {
        let mut buf = BytesMut::new();
        Answer::Error("x".into()).encode(Version::V3, &request, &mut buf);
        buf[at] ^= 1 << bit;
        prop_assert!(!Response::decode(Version::V3, &buf).unwrap().matches(&request));
    }

    #[test]
    fn any_bytes_in_a_pagestream_are_answered_or_refused(version in version(), bytes in tagged()) {
        if let Ok(request) = Request::decode(version, &bytes) {
            let mut buf = BytesMut::new();
            request.encode(version, &mut buf);
            prop_assert!(bytes.starts_with(&buf));
        }
        if let Ok(response) = Response::decode(version, &bytes) {
            prop_assert!(!matches!(response.answer, Answer::Page(_)));
        }
    }

    #[test]
    fn any_message_body_is_decoded_or_refused(
        tag in any::<u8>(),
        body in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..80),
    ) {
        if let Ok(message) = Frontend::decode(tag, &body) {
            let mut buf = BytesMut::new();
            message.encode(&mut buf);
            let (head, body) = frame::split(&buf, 1 << 20).unwrap().unwrap();
            prop_assert_eq!(Frontend::decode(head.tag, body), Ok(message));
        }
        if let Ok(Backend::DataRow(values)) = Backend::decode(tag, &body) {
            let mut buf = BytesMut::new();
            backend::data_row(&mut buf, &values);
            prop_assert!(body.starts_with(&buf[5..]));
        }
    }

    #[test]
    fn any_frame_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..64), limit in 4usize..100) {
        if let Ok(Some(head)) = frame::peek(&bytes, limit) {
            prop_assert!((5..=limit + 1).contains(&head.total));
            let whole = frame::split(&bytes, limit).unwrap();
            prop_assert_eq!(whole.is_some(), head.total <= bytes.len());
        }
    }

    #[test]
    fn any_startup_bytes_are_decoded_or_refused(
        length in 0u8..60,
        code in prop_oneof![Just(0x0003_0000u32), Just(0x04D2_162Fu32), Just(0x04D2_162Eu32), any::<u32>()],
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(b'c'), Just(b'-'), any::<u8>()], 0..60),
    ) {
        let bytes = [&[0, 0, 0, length][..], &code.to_be_bytes(), &body].concat();
        if let Ok(Some((packet, size))) = Packet::decode(&bytes) {
            prop_assert_eq!(size, usize::from(length));
            if let Packet::Startup(startup) = packet {
                prop_assert!(startup.compute_mode().is_none_or(|mode| !mode.contains(' ')));
                let mut buf = BytesMut::new();
                Packet::Startup(startup).encode(&mut buf);
                prop_assert_eq!(&buf[..], &bytes[..size]);
            }
        }
    }

    #[test]
    fn startup_options_never_disturb(options in "[-c =a-z. ]{0,40}") {
        let startup = Startup {
            version: 0,
            parameters: vec![("options".into(), options.clone())],
        };
        if let Some(value) = startup.option("a") {
            let joined = format!("a={value}");
            prop_assert!(options.contains(&joined));
        }
    }

    #[test]
    fn any_text_is_a_command_or_refused(
        verb in prop_oneof![
            Just("basebackup"), Just("fullbackup"), Just("lease lsn"), Just("pagestream_v3"), Just("set"), Just("x")
        ],
        rest in prop::collection::vec(
            prop_oneof![
                Just("7c4a1f9e3bd6470c8f3e21a65bd2e980".to_owned()),
                Just("0/8".to_owned()), Just("--gzip".to_owned()), Just("latest".to_owned()), ".{0,20}"
            ], 0..6),
    ) {
        let text = format!("{verb} {}", rest.join(" "));
        match text.parse::<Command>() {
            Ok(Command::Set) => prop_assert!(verb == "set"),
            Ok(command) => prop_assert_eq!(command.to_string().parse(), Ok(command)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
