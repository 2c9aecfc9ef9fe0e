//! The classes of failure a client of the page service can tell apart, with their SQLSTATEs and
//! texts (`docs/format/page-service.md`, "Errors").

/// SQLSTATE of a lost or to-be-reopened connection.
pub const CONNECTION_FAILURE: &str = "08006";
/// SQLSTATE of a message that breaks the protocol.
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// SQLSTATE of a server that is stopping.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// SQLSTATE of everything else.
pub const INTERNAL_ERROR: &str = "XX000";

/// Causes kept of an error chain.
const MAX_CAUSES: usize = 16;

/// Why a command, or a whole pagestream, failed. A failure of one page is not this: it is an
/// in-band [`crate::Answer::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer is gone, or waiting for a tenant timed out; the client should try again.
    #[error("{0}")]
    Disconnected(String),
    /// The client should connect again, perhaps elsewhere. Ends the connection.
    #[error("reconnect requested")]
    Reconnect,
    /// The server, tenant or timeline is stopping. Ends the connection.
    #[error("shutting down")]
    Shutdown,
    /// No such tenant, shard or timeline here.
    #[error("not found: {0}")]
    NotFound(String),
    /// The token does not allow this.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// Anything else.
    #[error("{}", join(.message, .causes))]
    Other {
        /// The outermost error.
        message: String,
        /// What caused it, outermost first.
        causes: Vec<String>,
    },
}

fn join(message: &str, causes: &[String]) -> String {
    let mut text = message.to_owned();
    for cause in causes {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

impl Error {
    /// An error of class "anything else" without causes.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::Other {
            message: message.into(),
            causes: Vec::new(),
        }
    }

    /// An error of class "anything else" with the causes that `error` names (at most 16).
    pub fn chain(error: &dyn std::error::Error) -> Error {
        let causes = std::iter::successors(error.source(), |e| e.source());
        Error::Other {
            message: error.to_string(),
            causes: causes.take(MAX_CAUSES).map(ToString::to_string).collect(),
        }
    }

    /// The five-character code sent to the client.
    pub const fn sqlstate(&self) -> &'static str {
        match self {
            Error::Disconnected(_) | Error::Reconnect => CONNECTION_FAILURE,
            Error::Shutdown => ADMIN_SHUTDOWN,
            Error::NotFound(_) | Error::Unauthorized(_) | Error::Other { .. } => INTERNAL_ERROR,
        }
    }

    /// Text in reply to a simple Query and inside a pagestream.
    pub fn simple_text(&self) -> String {
        match self {
            Error::Disconnected(text) => text.clone(),
            Error::Reconnect => "reconnect".to_owned(),
            Error::Shutdown => "shutdown".to_owned(),
            Error::NotFound(_) => "not found".to_owned(),
            Error::Unauthorized(_) => "JWT authentication error".to_owned(),
            Error::Other { message, causes } => join(message, causes),
        }
    }

    /// Text in reply to Execute and to `lease lsn`.
    pub fn extended_text(&self) -> String {
        match self {
            Error::Disconnected(text) => text.clone(),
            Error::Reconnect => "Server requested reconnect".to_owned(),
            Error::Shutdown => "Shutting down".to_owned(),
            Error::NotFound(detail) => format!("Not found: {detail}"),
            Error::Unauthorized(detail) => format!("Unauthorized: {detail}"),
            Error::Other { message, .. } => message.clone(),
        }
    }

    /// True if the connection ends with this error after a simple Query or in a pagestream.
    pub const fn ends_connection(&self) -> bool {
        matches!(self, Error::Reconnect | Error::Shutdown)
    }

    /// True for a reply to which the stock client reacts by connecting again at once, without
    /// back-off; the driver paces those.
    pub const fn invites_retry(&self) -> bool {
        matches!(
            self,
            Error::Reconnect | Error::NotFound(_) | Error::Unauthorized(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn texts_differ_between_simple_and_extended_form() {
        let cause = "x".parse::<u8>().unwrap_err();
        let error = Error::chain(&Outer(cause.clone()));
        assert_eq!(error.simple_text(), format!("outer: {cause}"));
        assert_eq!(error.extended_text(), "outer");
        assert_eq!(error.sqlstate(), "XX000");
        let missing = Error::NotFound("tenant 1".into());
        assert_eq!(missing.simple_text(), "not found");
        assert_eq!(missing.extended_text(), "Not found: tenant 1");
        assert!(Error::Reconnect.ends_connection() && !missing.ends_connection());
    }
}
