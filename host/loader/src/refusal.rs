//! Why a plugin is not used: a stable code for programs, a sentence with expected and found for people, and one line of
//! what to do.

use std::fmt;
use std::path::PathBuf;

/// Stable reasons. [`as_str`](Code::as_str) is what logs, tests and `--json` output carry; texts may be improved, these
/// may not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The plugins directory does not exist or is not a directory.
    DirMissing,
    /// The plugins directory cannot be read.
    DirUnreadable,
    /// Others than the daemon's user and root could change the directory.
    DirUnsafe,
    /// More files than a host takes.
    TooMany,
    /// A symbolic link, or not a regular file.
    NotAFile,
    /// Others than the daemon's user and root could change the file.
    FileUnsafe,
    /// The file cannot be read.
    FileUnreadable,
    /// The file is empty or larger than a plugin may be.
    Size,
    /// Not an ELF shared library.
    NotElf,
    /// A library without a plugin header.
    NoHeader,
    /// The header is damaged or not a plugin header.
    BadHeader,
    /// Built for another major version of the treaty.
    OtherTreaty,
    /// Built for another machine.
    OtherTarget,
    /// Built with panic=abort.
    PanicAbort,
    /// Two files with the same plugin name.
    DuplicateName,
    /// The configuration wants a signature or an allowed hash, and there is neither.
    NotTrusted,
    /// A signature is wrong or cannot be read.
    BadSignature,
    /// A child process that opened it crashed or hung.
    ProbeFailed,
    /// The system could not open the library.
    OpenFailed,
    /// The library has a header but no root symbol.
    NoRoot,
    /// The interface differs in a way that neither side can make up for.
    OtherLayout,
    /// Header and code name different plugins.
    NameMismatch,
    /// As many libraries are mapped as the configuration allows.
    TooManyCopies,
    /// No file of the directory holds the plugin that was asked for.
    NotFound,
    /// The constructor failed.
    CreateFailed,
    /// `init` failed.
    InitFailed,
    /// `init` did not return in time.
    InitTimeout,
}

impl Code {
    /// The code as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::DirMissing => "dir-missing",
            Code::DirUnreadable => "dir-unreadable",
            Code::DirUnsafe => "dir-unsafe",
            Code::TooMany => "too-many",
            Code::NotAFile => "not-a-file",
            Code::FileUnsafe => "file-unsafe",
            Code::FileUnreadable => "file-unreadable",
            Code::Size => "size",
            Code::NotElf => "not-elf",
            Code::NoHeader => "no-header",
            Code::BadHeader => "bad-header",
            Code::OtherTreaty => "other-treaty",
            Code::OtherTarget => "other-target",
            Code::PanicAbort => "panic-abort",
            Code::DuplicateName => "duplicate-name",
            Code::NotTrusted => "not-trusted",
            Code::BadSignature => "bad-signature",
            Code::ProbeFailed => "probe-failed",
            Code::OpenFailed => "open-failed",
            Code::NoRoot => "no-root",
            Code::OtherLayout => "other-layout",
            Code::NameMismatch => "name-mismatch",
            Code::TooManyCopies => "too-many-copies",
            Code::NotFound => "not-found",
            Code::CreateFailed => "create-failed",
            Code::InitFailed => "init-failed",
            Code::InitTimeout => "init-timeout",
        }
    }

    /// The inverse of [`as_str`](Code::as_str).
    pub fn parse(text: &str) -> Option<Code> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// Every code.
    pub const ALL: &'static [Code] = &[
        Code::DirMissing,
        Code::DirUnreadable,
        Code::DirUnsafe,
        Code::TooMany,
        Code::NotAFile,
        Code::FileUnsafe,
        Code::FileUnreadable,
        Code::Size,
        Code::NotElf,
        Code::NoHeader,
        Code::BadHeader,
        Code::OtherTreaty,
        Code::OtherTarget,
        Code::PanicAbort,
        Code::DuplicateName,
        Code::NotTrusted,
        Code::BadSignature,
        Code::ProbeFailed,
        Code::OpenFailed,
        Code::NoRoot,
        Code::OtherLayout,
        Code::NameMismatch,
        Code::TooManyCopies,
        Code::NotFound,
        Code::CreateFailed,
        Code::InitFailed,
        Code::InitTimeout,
    ];
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One refused file or plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable reason.
    pub code: Code,
    /// The file, or the directory for its own faults.
    pub path: PathBuf,
    /// The plugin's name where it is known.
    pub plugin: Option<String>,
    /// What was found and what was expected.
    pub reason: String,
    /// What to do about it, one line.
    pub remedy: String,
}

impl Refusal {
    pub(crate) fn new(
        code: Code,
        path: impl Into<PathBuf>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Refusal { code, path: path.into(), plugin: None, reason: reason.into(), remedy: remedy.into() }
    }

    pub(crate) fn of(mut self, plugin: &str) -> Self {
        self.plugin = Some(plugin.to_owned());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]; {}", self.path.display(), self.reason, self.code, self.remedy)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_text_of_its_own() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
        assert_eq!(Code::parse("no such code"), None);
    }
}
