//! The one error type of the plain face. Kinds are numbers across the border, so a new kind never breaks the layout.

use std::fmt;

/// Shorthand used by every fallible method.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for code that decides; the message is for people and for peers that match texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything else; read the message.
    Other,
    /// The other side of the border panicked; the object should not be used again.
    Panicked,
    /// The method is not available on this host or plugin (older treaty, part not built in).
    Unsupported,
    /// The caller's argument is wrong.
    Invalid,
    /// Nothing by that name, id or address.
    NotFound,
    /// The name or port is taken.
    AlreadyExists,
    /// A policy, the trust gate or a capability refused.
    Denied,
    /// A deadline passed.
    TimedOut,
    /// The stream, listener, subscription or daemon is closed.
    Closed,
    /// The peer answered with a refusal.
    Refused,
    /// A bounded queue is full; back off and retry.
    Busy,
    /// The registry cannot be reached or answered with an error.
    Registry,
    /// The operating system said no.
    Io,
}

impl ErrorKind {
    /// The number that crosses the border. Never renumber.
    pub const fn code(self) -> u32 {
        match self {
            ErrorKind::Other => 0,
            ErrorKind::Panicked => 1,
            ErrorKind::Unsupported => 2,
            ErrorKind::Invalid => 3,
            ErrorKind::NotFound => 4,
            ErrorKind::AlreadyExists => 5,
            ErrorKind::Denied => 6,
            ErrorKind::TimedOut => 7,
            ErrorKind::Closed => 8,
            ErrorKind::Refused => 9,
            ErrorKind::Busy => 10,
            ErrorKind::Registry => 11,
            ErrorKind::Io => 12,
        }
    }

    /// The inverse of [`code`](Self::code); unknown numbers become [`ErrorKind::Other`].
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => ErrorKind::Panicked,
            2 => ErrorKind::Unsupported,
            3 => ErrorKind::Invalid,
            4 => ErrorKind::NotFound,
            5 => ErrorKind::AlreadyExists,
            6 => ErrorKind::Denied,
            7 => ErrorKind::TimedOut,
            8 => ErrorKind::Closed,
            9 => ErrorKind::Refused,
            10 => ErrorKind::Busy,
            11 => ErrorKind::Registry,
            12 => ErrorKind::Io,
            _ => ErrorKind::Other,
        }
    }
}

/// An error with a kind for code and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// Builds an error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into() }
    }

    /// [`ErrorKind::Other`].
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other, message)
    }

    /// [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::new(ErrorKind::Io, e.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Error::new(ErrorKind::Invalid, e.to_string())
    }
}
