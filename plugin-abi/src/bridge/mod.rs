//! Adapters between the plain traits of [`crate::api`] and their ffi-safe mirrors in [`crate::abi`], both ways for each
//! trait. Used by the export macro on the plugin's side and by [`crate::host`] on the host's; nobody else needs it.
//!
//! *Lending* wraps one of our objects for the other side: each call runs inside [`guard::catch`], so a panic here
//! becomes an error there, never a dead process. *Adopting* wraps an object of theirs as a plain `Arc<dyn Trait>`: an
//! error of a method that cannot fail in the plain trait becomes the safe answer (`false`, nothing, empty), which for
//! every gate and trust check means "deny".
//!
//! A call that goes well is two indirect calls, one through the plain trait and one through the border's table, and three
//! comparisons: the rest is inlined into the two functions behind them, and everything about errors is out of line. Of
//! the `bare_...` methods ([`abi::Daemon`], [`abi::HandshakeService`]) the second one is a jump. `scripts/bench abi`
//! measures both kinds.

mod bus;
mod daemon;
mod future;
mod plugin;
mod policy;
mod services;
mod stream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use abi_stable::std_types::{RErr, ROk, ROption, RString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::abi::{self, AbiError, AbiResult, Asked, Held};
use crate::guard;
use crate::host::Supervisor;
use crate::{Error, ErrorKind, Result};

/// A plain trait object that can cross.
pub(crate) trait Border {
    /// Its ffi-safe form.
    type Ffi;
    /// Wraps one of our objects for the other side.
    fn lend(self: Arc<Self>, link: &Link) -> Self::Ffi;
    /// Wraps an object of the other side for us.
    fn adopt(object: Self::Ffi, link: &Link) -> Arc<Self>;
}

/// Implements [`Border`] for `dyn api::$name` with the name that `#[sabi_trait]` generates.
///
/// With `asked`, it is one that has `bare_...` methods.
macro_rules! border {
    ($name:ident, $arc:ident) => {
        crate::bridge::border!($name, $arc, |object, _link| object);
    };
    ($name:ident, $arc:ident, asked) => {
        crate::bridge::border!($name, $arc, |object, link| link.asked(object));
    };
    ($name:ident, $arc:ident, |$object:ident, $link:ident| $held:expr) => {
        impl crate::bridge::Border for dyn crate::api::$name {
            type Ffi = crate::abi::$arc;

            fn lend(self: std::sync::Arc<Self>, link: &crate::bridge::Link) -> Self::Ffi {
                crate::api::$name::cross(self, crate::bridge::Crossing(link.clone()))
            }

            fn adopt($object: Self::Ffi, $link: &crate::bridge::Link) -> std::sync::Arc<Self> {
                std::sync::Arc::new(crate::bridge::Remote { object: $held, link: $link.clone() })
            }
        }
    };
}
pub(crate) use border;

/// What [`crossing!`] methods take: only this crate can make one, so only this crate can call them.
#[doc(hidden)]
pub struct Crossing(Link);

/// The hidden method of each plain trait that wraps an object for the other side. Its default body is compiled once for
/// every type that implements the trait, so the wrapper knows the type: between the border and the author's code there
/// is no `dyn` left.
macro_rules! crossing {
    ($object:ident, $arc:ident) => {
        #[doc(hidden)]
        fn cross(self: std::sync::Arc<Self>, how: crate::bridge::Crossing) -> crate::abi::$arc
        where
            Self: 'static,
        {
            let local = crate::bridge::Local::new(self, how);
            crate::abi::$object::from_ptr(
                abi_stable::std_types::RArc::new(local),
                abi_stable::sabi_trait::TD_Opaque,
            )
        }
    };
}
pub(crate) use crossing;

/// Who is on the other side. The host watches each plugin; a plugin trusts its host, and knows where to say that it
/// panicked.
#[derive(Clone, Default)]
pub(crate) struct Link {
    /// The other side has failed. Never so of a host; read before every call, so it is here on both sides.
    failed: Arc<AtomicBool>,
    watched: Option<Arc<Supervisor>>,
    host: Option<Arc<HostEnd>>,
}

/// The host as the adapters of one plugin instance reach it: from before `init` until after `shutdown`. The host holds
/// what the plugin registered and the plugin's objects hold this, so it must not keep the daemon for longer.
#[derive(Default)]
pub(crate) struct HostEnd(RwLock<Option<Arc<Host>>>);

/// The host as a plugin holds it.
pub(crate) type Host = Remote<Asked<abi::DaemonArc>>;

impl Link {
    /// The host's end: panics of the plugin are noted, and a failed plugin is not called again.
    pub(crate) fn to_plugin(supervisor: Arc<Supervisor>) -> Self {
        Link { failed: supervisor.failed(), watched: Some(supervisor), host: None }
    }

    /// The plugin's end, of one instance.
    pub(crate) fn to_host() -> Self {
        Link { host: Some(Arc::default()), ..Link::default() }
    }

    /// From now on the host is told of panics whose answers have no room for them; `None` for "not any more".
    fn tell(&self, daemon: Option<Arc<Host>>) {
        let Some(host) = &self.host else { return };
        let old = std::mem::replace(&mut *host.0.write().unwrap_or_else(PoisonError::into_inner), daemon);
        // Outside of the lock: the last reference may run code of the host.
        drop(old);
    }

    /// An object with `bare_...` methods.
    pub(crate) fn asked<A: abi::Bare>(&self, object: A) -> Asked<A> {
        Asked::new(object, Arc::clone(&self.failed))
    }

    #[inline]
    fn admit(&self) -> Result<()> {
        if self.admits() { Ok(()) } else { Err(self.not_called()) }
    }

    /// As [`admit`](Self::admit), where nobody asks why not.
    #[inline]
    fn admits(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    #[cold]
    fn not_called(&self) -> Error {
        let why = self.watched.as_ref().map(|supervisor| supervisor.not_called());
        why.unwrap_or_else(|| Error::new(ErrorKind::Closed, "the other side has failed"))
    }

    /// A panic of ours was contained and the other side will not see it in the answer.
    #[cold]
    #[inline(never)]
    fn contained(&self, op: &str, text: &str) {
        let host = self.host.as_ref();
        match host.and_then(|h| h.0.read().unwrap_or_else(PoisonError::into_inner).clone()) {
            Some(daemon) => daemon.report_panic(op, &format!("{op} panicked: {text}")),
            None => tracing::error!(op, panic = text, "a call from the other side of the border panicked"),
        }
    }

    /// As [`noted`](Self::noted), for errors that go nowhere.
    #[cold]
    #[inline(never)]
    fn noted_only(&self, op: &str, error: AbiError) {
        drop(self.noted(op, error));
    }

    /// An error of the other side on its way to us; a panic among them makes it a failed one.
    #[cold]
    fn noted(&self, op: &str, error: AbiError) -> Error {
        let error = Error::from(error);
        if error.kind() == ErrorKind::Panicked {
            self.failed(op, error.message());
        }
        error
    }

    /// The other side's panic arrived as an error.
    fn failed(&self, op: &str, message: &str) {
        if let Some(supervisor) = &self.watched {
            supervisor.panicked(op, message);
        }
    }

    /// The other side reported a fault that it contained itself.
    fn reported(&self, op: &str, message: &str) {
        if let Some(supervisor) = &self.watched {
            supervisor.reported(op, message);
        }
    }
}

/// One of our objects as the other side holds it.
pub(crate) struct Local<T: ?Sized> {
    inner: Held<T>,
    link: Link,
}

impl<T: ?Sized> Local<T> {
    pub(crate) fn new(inner: Arc<T>, how: Crossing) -> Self {
        Local { inner: Held::new(inner), link: how.0 }
    }

    /// Runs `f` on the object; a panic becomes [`ErrorKind::Panicked`] with `op` in its text.
    #[inline]
    fn guard<R>(&self, op: &str, f: impl FnOnce(&T) -> Result<R>) -> AbiResult<R> {
        match guard::catch(|| f(&self.inner)) {
            Ok(Ok(value)) => ROk(value),
            Ok(Err(error)) => RErr(passed_on(error)),
            Err(text) => RErr(panicked_abi(op, text)),
        }
    }

    /// As [`guard`](Self::guard) for the `bare_...` methods: a panic is `fallback` here, and said elsewhere.
    #[inline]
    fn bare<R>(&self, op: &str, fallback: R, f: impl FnOnce(&T) -> R) -> R {
        match guard::catch(|| f(&self.inner)) {
            Ok(value) => value,
            Err(text) => {
                self.link.contained(op, &text);
                fallback
            }
        }
    }
}

/// An error that our object returned. [`ErrorKind::Panicked`] crosses only for a panic that was caught right here: an
/// author who passes on what a panic of the host looked like to him has not panicked himself.
#[cold]
pub(crate) fn passed_on(error: Error) -> AbiError {
    match error.kind() {
        ErrorKind::Panicked => Error::other(error.message()).into(),
        _ => error.into(),
    }
}

#[cold]
fn panicked_abi(op: &str, text: String) -> AbiError {
    panicked(op, &text).into()
}

/// One of their objects as we hold it.
pub(crate) struct Remote<O> {
    object: O,
    link: Link,
}

impl<O> Remote<O> {
    /// One call, unless the other side has failed before.
    #[inline]
    fn call<R>(&self, op: &str, f: impl FnOnce(&O) -> AbiResult<R>) -> Result<R> {
        self.link.admit()?;
        self.call_always(op, f)
    }

    /// One call, also on a failed plugin: only its shutdown.
    #[inline]
    fn call_always<R>(&self, op: &str, f: impl FnOnce(&O) -> AbiResult<R>) -> Result<R> {
        match f(&self.object) {
            ROk(value) => Ok(value),
            RErr(error) => Err(self.link.noted(op, error)),
        }
    }

    /// As [`call`](Self::call) for methods that cannot fail in the plain trait: an error is the default answer.
    #[inline]
    fn call_or<R>(&self, op: &str, fallback: R, f: impl FnOnce(&O) -> AbiResult<R>) -> R {
        if !self.link.admits() {
            return fallback;
        }
        match f(&self.object) {
            ROk(value) => value,
            RErr(error) => {
                self.link.noted_only(op, error);
                fallback
            }
        }
    }
}

pub(crate) fn panicked(op: &str, text: &str) -> Error {
    Error::new(ErrorKind::Panicked, format!("{op} panicked: {text}"))
}

impl From<Error> for AbiError {
    fn from(e: Error) -> Self {
        AbiError { code: e.kind().code(), message: e.message().into() }
    }
}

impl From<AbiError> for Error {
    fn from(e: AbiError) -> Self {
        Error::new(ErrorKind::from_code(e.code), e.message.into_string())
    }
}

/// Milliseconds, rounded up: a deadline that is not zero must not become zero.
fn to_ms(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000).saturating_add(d.subsec_nanos().div_ceil(1_000_000).into())
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<RString> {
    Ok(RString::from(serde_json::to_string(value)?))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    Ok(serde_json::from_str(text)?)
}

/// A payload map: no text at all for "none", so that nothing is parsed for it.
fn payload_json(payload: Option<&Map<String, Value>>) -> Result<String> {
    Ok(payload.map(serde_json::to_string).transpose()?.unwrap_or_default())
}

fn payload_from_json(text: &str) -> Result<Option<Map<String, Value>>> {
    if text.is_empty() { Ok(None) } else { from_json(text).map(Some) }
}

fn adopt_option<T: Border + ?Sized>(object: ROption<T::Ffi>, link: &Link) -> Option<Arc<T>> {
    object.into_option().map(|o| T::adopt(o, link))
}

#[cfg(test)]
mod tests;
