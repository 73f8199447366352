//! The log bridge: `tracing` events and panics inside a plugin library reach [`Daemon::log`].
//!
//! A plugin has its own copy of `tracing` and its own panic hook, which know nothing of the host's. The adapter calls
//! [`attach`] before `init` and [`detach`] after `shutdown`; authors just use `tracing::info!` and friends. Spans do not
//! cross: pass what correlates as a field.

use std::cell::Cell;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Once, PoisonError, RwLock};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::api::Daemon;

/// Where lines go. A slot rather than a value in the layer, because the subscriber lives until the process ends and
/// must not keep the daemon alive.
static HOST: RwLock<Option<Arc<dyn Daemon>>> = RwLock::new(None);
static INSTALL: Once = Once::new();

/// Sends this library's events and panics to `daemon` from now on.
pub(crate) fn attach(daemon: Arc<dyn Daemon>) {
    replace(Some(daemon));
    INSTALL.call_once(|| {
        // An author may have installed a subscriber of his own; then that one stays.
        let _ = tracing_subscriber::registry().with(HostLog).try_init();
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match host() {
            Some(daemon) => log_panic(daemon.as_ref(), info),
            None => previous(info),
        }));
    });
}

/// Lets go of the daemon; later events are dropped.
pub(crate) fn detach() {
    replace(None);
}

fn replace(new: Option<Arc<dyn Daemon>>) {
    let old = std::mem::replace(&mut *HOST.write().unwrap_or_else(PoisonError::into_inner), new);
    // Outside of the lock: the last reference may run code of the host that logs.
    drop(old);
}

fn host() -> Option<Arc<dyn Daemon>> {
    HOST.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn log_panic(daemon: &dyn Daemon, info: &PanicHookInfo<'_>) {
    let text = crate::guard::text_of(info.payload());
    let mut fields = Map::new();
    if let Some(at) = info.location() {
        fields.insert("location".into(), at.to_string().into());
    }
    fields.insert("thread".into(), std::thread::current().name().unwrap_or("unnamed").into());
    let stack = std::backtrace::Backtrace::capture();
    if stack.status() == std::backtrace::BacktraceStatus::Captured {
        fields.insert("stack".into(), stack.to_string().into());
    }
    daemon.log(level_number(&Level::ERROR), "panic", &format!("panicked: {text}"), &fields);
}

/// The level's number at the border: 1 error .. 5 trace.
fn level_number(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

thread_local! {
    /// A line of this thread is on its way to the host. A plugin that is linked into the host shares the host's `tracing`,
    /// so what the host does with the line would come back here.
    static UNDER_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` unless this thread is inside such an `f` already.
fn once<R>(f: impl FnOnce() -> R) -> Option<R> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            UNDER_WAY.set(false);
        }
    }
    if UNDER_WAY.replace(true) {
        return None;
    }
    let _reset = Reset;
    Some(f())
}

struct HostLog;

impl<S: Subscriber> Layer<S> for HostLog {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The default would ask once and keep the answer, which freezes the host's level at first use.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let asked =
            || host().is_some_and(|d| d.log_enabled(level_number(metadata.level()), metadata.target()));
        once(asked).unwrap_or(false)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(daemon) = host() else { return };
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        once(|| daemon.log(level_number(metadata.level()), metadata.target(), &line.message, &line.fields));
    }
}

/// Collects an event's message and its other fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: Map<String, Value>,
}

impl Line {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}
