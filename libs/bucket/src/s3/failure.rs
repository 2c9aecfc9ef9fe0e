//! Sorts the SDK's errors: what kind they are and whether trying again can help.

use crate::error::Kind;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use std::time::Duration;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: Kind,
    /// Another attempt may succeed.
    pub transient: bool,
    pub cause: String,
}

impl Failure {
    const fn new(kind: Kind, transient: bool, cause: String) -> Failure {
        Failure {
            kind,
            transient,
            cause,
        }
    }

    pub fn other(cause: impl Into<String>) -> Failure {
        Failure::new(Kind::Other, false, cause.into())
    }

    pub fn corrupt(cause: impl Into<String>) -> Failure {
        Failure::new(Kind::Corrupt, false, cause.into())
    }

    pub fn precondition(cause: impl Into<String>) -> Failure {
        Failure::new(Kind::Precondition, false, cause.into())
    }

    /// The connection ended early.
    pub fn interrupted(cause: String) -> Failure {
        Failure::new(Kind::Other, true, cause)
    }

    pub fn timeout(limit: Duration) -> Failure {
        Failure::new(Kind::Timeout, true, format!("no answer within {limit:?}"))
    }

    /// An error while a body is read.
    pub fn of_stream(error: aws_sdk_s3::primitives::ByteStreamError) -> Failure {
        let cause = DisplayErrorContext(&error).to_string();
        let kind = if cause.contains("checksum mismatch") {
            Kind::Corrupt
        } else {
            Kind::Other
        };
        Failure::new(kind, true, cause)
    }

    /// An error of a request.
    pub fn of_service<E>(error: SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let cause = DisplayErrorContext(&error).to_string();
        match &error {
            SdkError::TimeoutError(_) => Failure::new(Kind::Timeout, true, cause),
            SdkError::DispatchFailure(d) if d.is_timeout() => {
                Failure::new(Kind::Timeout, true, cause)
            }
            SdkError::DispatchFailure(d) if d.is_user() => Failure::other(cause),
            SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
                Failure::new(Kind::Other, true, cause)
            }
            SdkError::ServiceError(s) => {
                let code = s.err().code().unwrap_or_default();
                Failure::of_code(code, s.raw().status().as_u16(), cause)
            }
            _ => Failure::other(cause),
        }
    }

    /// An error by the store's code and HTTP status; the code counts first.
    pub fn of_code(code: &str, status: u16, cause: String) -> Failure {
        let (kind, transient) = match (code, status) {
            // Not to be taken for a missing object: everything would seem to be gone.
            ("NoSuchBucket", _) => (Kind::Other, false),
            ("PreconditionFailed", _) | (_, 412) => (Kind::Precondition, false),
            ("SlowDown" | "TooManyRequests" | "ThrottlingException" | "Throttling", _)
            | (_, 429) => (Kind::Throttled, true),
            // Two conditional requests met; this one was not done.
            ("ConditionalRequestConflict" | "OperationAborted", _) => (Kind::Throttled, true),
            ("RequestTimeout", _) | (_, 408 | 504) => (Kind::Timeout, true),
            // The content is not what its checksum says; most likely the file is damaged.
            ("BadDigest" | "XAmzContentChecksumMismatch", _) => (Kind::Corrupt, false),
            ("IncompleteBody", _) => (Kind::Other, true),
            ("InvalidRange", _) | (_, 416) => (Kind::Corrupt, false),
            ("NoSuchKey" | "NotFound", _) | (_, 404) => (Kind::NotFound, false),
            (
                "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken",
                _,
            )
            | (_, 401 | 403) => (Kind::Denied, false),
            ("InternalError", _) | (_, 500..) => (
                if status == 503 {
                    Kind::Throttled
                } else {
                    Kind::Other
                },
                true,
            ),
            _ => (Kind::Other, false),
        };
        Failure::new(kind, transient, cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_by_what_they_mean_for_the_caller() {
        for (code, status, kind, transient) in [
            ("NoSuchKey", 404, Kind::NotFound, false),
            ("", 404, Kind::NotFound, false),
            ("NoSuchBucket", 404, Kind::Other, false),
            ("PreconditionFailed", 412, Kind::Precondition, false),
            ("ConditionalRequestConflict", 409, Kind::Throttled, true),
            ("SlowDown", 503, Kind::Throttled, true),
            ("", 503, Kind::Throttled, true),
            ("InternalError", 500, Kind::Other, true),
            ("", 504, Kind::Timeout, true),
            ("AccessDenied", 403, Kind::Denied, false),
            ("InvalidRange", 416, Kind::Corrupt, false),
            ("BadDigest", 400, Kind::Corrupt, false),
            ("IncompleteBody", 400, Kind::Other, true),
            ("MalformedXML", 400, Kind::Other, false),
        ] {
            let f = Failure::of_code(code, status, String::new());
            assert_eq!((f.kind, f.transient), (kind, transient), "{code} {status}");
        }
    }
}
