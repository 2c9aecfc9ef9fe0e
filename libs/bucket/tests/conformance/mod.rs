//! What every bucket promises, as one suite.

use bucket::{Body, Bucket, ETag, Kind, PutMode};
use bytes::Bytes;
use std::path::Path;

/// Runs everything in an empty bucket; `scratch` is a directory for local files.
pub async fn run(b: &dyn Bucket, scratch: &Path) {
    objects_are_read_back(b, scratch).await;
    missing_objects_are_not_found(b, scratch).await;
    ranges_are_exact(b).await;
    files_are_stored_whole(b, scratch).await;
    conditions_hold(b).await;
    copies_are_objects_of_their_own(b).await;
    listings_are_those_of_a_flat_name_space(b).await;
    deletion_is_idempotent(b).await;
    keys_outside_the_bucket_are_refused(b).await;
}

async fn put(b: &dyn Bucket, key: &str, body: impl Into<Bytes>) -> ETag {
    b.put(key, Body::Bytes(body.into()), PutMode::Overwrite)
        .await
        .unwrap()
}

async fn objects_are_read_back(b: &dyn Bucket, scratch: &Path) {
    for size in [0usize, 1, 4096, 300_000] {
        let key = format!("read/back/{size}");
        let body: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        let etag = put(b, &key, body.clone()).await;
        let object = b.get(&key).await.unwrap();
        assert_eq!(object.body, body);
        assert_eq!(object.etag, etag);
        let meta = b.head(&key).await.unwrap();
        assert_eq!(
            (meta.size, meta.etag, meta.key),
            (size as u64, Some(etag.clone()), key.clone())
        );
        assert_eq!(meta.last_modified, object.last_modified);

        let file = scratch.join("download");
        std::fs::write(&file, b"longer rubbish that must disappear".repeat(20_000)).unwrap();
        let done = b.download(&key, &file).await.unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), body);
        assert_eq!(
            (done.size, done.crc32c),
            (size as u64, types::crc32c::of(&body))
        );
    }
    let first = put(b, "read/over", "one").await;
    let second = put(b, "read/over", "two").await;
    assert_ne!(first, second);
    assert_eq!(b.get("read/over").await.unwrap().body, "two");
}

async fn missing_objects_are_not_found(b: &dyn Bucket, scratch: &Path) {
    put(b, "missing/dir/object", "x").await;
    for key in ["missing/nothing", "nowhere/at/all"] {
        is_missing(b, key, scratch).await;
    }
}

/// Directories are not objects, and objects not directories. The S3 server of the tests keeps
/// objects in files and gets this wrong.
pub async fn directories_are_not_objects(b: &dyn Bucket, scratch: &Path) {
    put(b, "missing/dir/object", "x").await;
    for key in ["missing/dir", "missing/dir/object/below"] {
        is_missing(b, key, scratch).await;
    }
}

async fn is_missing(b: &dyn Bucket, key: &str, scratch: &Path) {
    let errors = [
        b.get(key).await.map(|_| ()).unwrap_err(),
        b.get_range(key, 0..1).await.map(|_| ()).unwrap_err(),
        b.head(key).await.map(|_| ()).unwrap_err(),
        b.download(key, &scratch.join("missing"))
            .await
            .map(|_| ())
            .unwrap_err(),
    ];
    for e in errors {
        assert_eq!(e.kind(), Kind::NotFound, "{e}");
        assert!(e.to_string().contains(key), "{e}");
        assert!(e.to_string().contains(e.operation().name()), "{e}");
    }
}

async fn ranges_are_exact(b: &dyn Bucket) {
    let body: Vec<u8> = (0..=255).collect();
    put(b, "range", body.clone()).await;
    for (from, to) in [(0, 256), (0, 1), (255, 256), (17, 99), (5, 5), (256, 256)] {
        assert_eq!(
            b.get_range("range", from..to).await.unwrap(),
            body[from as usize..to as usize]
        );
    }
    for (from, to) in [(0, 257), (255, 300), (256, 257), (1000, 1001), (300, 300)] {
        let e = b.get_range("range", from..to).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt, "{from}..{to}: {e}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
    let reversed = b.get_range("range", 9..3).await.unwrap_err();
    assert_eq!(reversed.kind(), Kind::Corrupt);
}

async fn files_are_stored_whole(b: &dyn Bucket, scratch: &Path) {
    let path = scratch.join("upload");
    let body: Vec<u8> = (0..2_000_000u32).map(|i| (i / 3) as u8).collect();
    std::fs::write(&path, &body).unwrap();
    let len = body.len() as u64;
    for crc32c in [None, Some(types::crc32c::of(&body))] {
        let file = Body::File {
            path: path.clone(),
            len,
            crc32c,
        };
        b.put("file/object", file, PutMode::Overwrite)
            .await
            .unwrap();
        assert_eq!(b.get("file/object").await.unwrap().body, body);
    }
    let short = Body::File {
        path: path.clone(),
        len: len + 1,
        crc32c: None,
    };
    let e = b
        .put("file/short", short, PutMode::Overwrite)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    let gone = Body::File {
        path: scratch.join("gone"),
        len,
        crc32c: None,
    };
    let e = b
        .put("file/gone", gone, PutMode::Overwrite)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Other, "{e}");
    for key in ["file/short", "file/gone"] {
        assert_eq!(b.head(key).await.unwrap_err().kind(), Kind::NotFound);
    }
}

/// A wrong checksum is noticed. The S3 server of the tests keeps the object all the same.
pub async fn damaged_uploads_are_refused(b: &dyn Bucket, scratch: &Path) {
    let path = scratch.join("damaged");
    std::fs::write(&path, b"what was written").unwrap();
    let file = Body::File {
        path,
        len: 16,
        crc32c: Some(types::crc32c::of(b"what was meant..")),
    };
    let e = b
        .put("file/damaged", file, PutMode::Overwrite)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
}

/// What was refused is not there.
pub async fn damaged_uploads_leave_nothing(b: &dyn Bucket, scratch: &Path) {
    damaged_uploads_are_refused(b, scratch).await;
    let left = b.head("file/damaged").await.unwrap_err();
    assert_eq!(left.kind(), Kind::NotFound);
}

async fn conditions_hold(b: &dyn Bucket) {
    let absent = |v: &'static str| b.put("cas", Body::Bytes(v.into()), PutMode::IfAbsent);
    let matching = |v: &'static str, e: &ETag| {
        b.put("cas", Body::Bytes(v.into()), PutMode::IfMatch(e.clone()))
    };
    let refused =
        |r: Result<ETag, bucket::Error>| assert_eq!(r.unwrap_err().kind(), Kind::Precondition);

    refused(matching("never", &ETag("\"0123\"".into())).await);
    let one = absent("one").await.unwrap();
    refused(absent("never").await);
    assert_eq!(b.get("cas").await.unwrap().body, "one");
    let two = matching("two", &one).await.unwrap();
    assert_ne!(one, two);
    refused(matching("never", &one).await);
    let read = b.get("cas").await.unwrap();
    assert_eq!((read.body, &read.etag), ("two".into(), &two));
    matching("three", &read.etag).await.unwrap();
    let gone = b.head("cas").await.unwrap().etag.unwrap();
    b.delete(&["cas".into()]).await.unwrap();
    refused(matching("never", &gone).await);
    absent("again").await.unwrap();
}

async fn copies_are_objects_of_their_own(b: &dyn Bucket) {
    let original = "copy/from here/ü+1";
    put(b, original, "one").await;
    put(b, "copy/there", "something else").await;
    // Twice, as after an answer that was lost.
    for _ in 0..2 {
        b.copy(original, "copy/there").await.unwrap();
        assert_eq!(b.get("copy/there").await.unwrap().body, "one");
    }
    put(b, original, "two").await;
    assert_eq!(b.get("copy/there").await.unwrap().body, "one");
    b.copy(original, "copy/new/one").await.unwrap();
    b.delete(&[original.to_owned()]).await.unwrap();
    assert_eq!(b.get("copy/new/one").await.unwrap().body, "two");
    let e = b.copy(original, "copy/there").await.unwrap_err();
    assert_eq!(
        (e.kind(), e.operation()),
        (Kind::NotFound, bucket::Operation::Copy)
    );
    assert_eq!(b.get("copy/there").await.unwrap().body, "one");
}

async fn listings_are_those_of_a_flat_name_space(b: &dyn Bucket) {
    let keys = [
        "l/a",
        "l/a-0102/x",
        "l/ab/t/1/i",
        "l/ab/t/2/i",
        "l/ab/t/2/j",
        "l/ab/x",
        "l/b/y",
    ];
    for key in keys {
        put(b, key, key).await;
    }
    let list = async |prefix: &str, delimiter| {
        let l = b.list(prefix, delimiter).await.unwrap();
        assert!(l.objects.iter().all(|o| o.size == o.key.len() as u64));
        (
            l.objects.into_iter().map(|o| o.key).collect::<Vec<_>>(),
            l.prefixes,
        )
    };
    for prefix in [
        "l/",
        "l/a",
        "l/ab/",
        "l/ab/t",
        "l/ab/t/2/i",
        "l/none",
        "l/b/y/",
    ] {
        let (objects, prefixes) = list(prefix, false).await;
        let want: Vec<_> = keys.iter().filter(|k| k.starts_with(prefix)).collect();
        assert_eq!(objects.iter().collect::<Vec<_>>(), want, "{prefix}");
        assert!(prefixes.is_empty());
    }
    for (prefix, objects, prefixes) in [
        ("l/", vec!["l/a"], vec!["l/a-0102/", "l/ab/", "l/b/"]),
        ("l/a", vec!["l/a"], vec!["l/a-0102/", "l/ab/"]),
        ("l/ab/t/", vec![], vec!["l/ab/t/1/", "l/ab/t/2/"]),
        ("l/ab/t", vec![], vec!["l/ab/t/"]),
        ("l/ab/t/2/", vec!["l/ab/t/2/i", "l/ab/t/2/j"], vec![]),
        ("l/none", vec![], vec![]),
    ] {
        let (o, p) = list(prefix, true).await;
        assert_eq!((o, p), (owned(&objects), owned(&prefixes)), "{prefix}");
    }
    // What is empty is gone.
    b.delete(&["l/ab/t/1/i".into()]).await.unwrap();
    assert_eq!(list("l/ab/t/", true).await.1, ["l/ab/t/2/"]);
    put(b, "l/ab/t/1/i", "l/ab/t/1/i").await;
    assert_eq!(list("l/ab/t/", true).await.1, ["l/ab/t/1/", "l/ab/t/2/"]);
}

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|k| (*k).to_owned()).collect()
}

async fn deletion_is_idempotent(b: &dyn Bucket) {
    let keys: Vec<String> = (0..30).map(|i| format!("del/{}/{i}", i % 3)).collect();
    for key in keys.iter().step_by(2) {
        put(b, key, "x").await;
    }
    put(b, "del/0/keep", "x").await;
    for _ in 0..2 {
        b.delete(&keys).await.unwrap();
        let left = b.list("del/", false).await.unwrap();
        assert_eq!(
            left.objects
                .iter()
                .map(|o| o.key.as_str())
                .collect::<Vec<_>>(),
            ["del/0/keep"]
        );
    }
    b.delete(&[]).await.unwrap();
}

async fn keys_outside_the_bucket_are_refused(b: &dyn Bucket) {
    for key in [
        "../escape",
        "a/../../escape",
        "/etc/passwd",
        "a//b",
        "",
        ".",
        "x.___temp",
    ] {
        let e = b
            .put(key, Body::Bytes("x".into()), PutMode::Overwrite)
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Other, "{e}");
        assert!(b.get(key).await.is_err());
        assert!(b.delete(&[key.to_owned()]).await.is_err());
    }
    assert!(b.list("../", false).await.is_err());
}
