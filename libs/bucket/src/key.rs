//! Which keys are allowed: those that mean the same in every kind of bucket.

/// Longest key in bytes, as in S3.
pub const MAX_KEY: usize = 1024;
/// End of the names of files a local bucket is writing; no key ends so.
pub const TEMPORARY_SUFFIX: &str = ".___temp";

/// Says what is wrong with a key.
pub(crate) fn check(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("the key is empty");
    }
    if key.ends_with(TEMPORARY_SUFFIX) {
        return Err("the key ends like a temporary file");
    }
    check_elements(key, key)
}

/// Says what is wrong with a prefix: an unfinished key, or nothing at all.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), &'static str> {
    // The last element is unfinished: `..` may become `..x`, but a directory it must not be.
    match prefix.rsplit_once('/') {
        Some((directory, _)) => check_elements(prefix, directory),
        None => check_elements(prefix, "x"),
    }
}

fn check_elements(whole: &str, elements: &str) -> Result<(), &'static str> {
    if whole.len() > MAX_KEY {
        return Err("the key is longer than 1024 bytes");
    }
    if whole.contains(['\0', '\\']) {
        return Err("the key contains a NUL or a backslash");
    }
    if elements.split('/').any(|e| matches!(e, "" | "." | "..")) {
        return Err("the key has an empty, `.` or `..` element");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_would_leave_a_directory_are_refused() {
        for good in [
            "a",
            "a/b",
            "tenants/x-0104/index_part.json-00000001",
            ".a/..b",
            "a b",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "../a",
            "a/.",
            "a\0",
            "a\\b",
            "a.___temp",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&"a".repeat(1025)).is_err());
        for good in ["", "a", "a/", "a/b", "a/."] {
            assert_eq!(check_prefix(good), Ok(()), "{good}");
        }
        for bad in ["/", "/a", "../", "a/../", "a//", "\0"] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
    }
}
