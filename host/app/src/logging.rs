//! The host's log: one line per event on standard error, text or JSON, in the shape that scripts of the Go peer read
//! (cli.md section 3, "Logs"). Installed once by the binary, before anything else happens.

use std::fmt;
use std::sync::OnceLock;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use crate::config::LogConfig;

/// The level in force, to be changed while the host runs.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Something else that listens to events and spans.
pub type BoxedLayer = Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync>;

/// Installs the writer, and beside it `other`, which sees everything whatever the log level. A second call is ignored
/// (tests).
pub fn init(config: &LogConfig, other: Option<BoxedLayer>) {
    let (filter, level) = reload::Layer::new(EnvFilter::builder().parse_lossy(&config.level));
    // Set once; the second call's writer is not installed either.
    let _ = LEVEL.set(level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = lines.event_format(Lines { json: config.json }).with_filter(filter);
    let mut layers: Vec<BoxedLayer> = vec![lines.boxed()];
    layers.extend(other);
    let _ = tracing_subscriber::registry().with(layers).try_init();
    tracing::debug!(level = config.level, "log level");
}

/// Changes the level (a `tracing` filter text that the configuration has checked). Does nothing without [`init`].
pub fn set_level(level: &str) {
    let Some(handle) = LEVEL.get() else { return };
    match handle.reload(EnvFilter::builder().parse_lossy(level)) {
        Ok(()) => tracing::debug!(level, "log level"),
        Err(error) => tracing::warn!(%error, "the log level could not be changed"),
    }
}

/// `time=... level=INFO msg="..." key=value`, or the same as one JSON object.
struct Lines {
    json: bool,
}

/// Collects an event's fields as text pairs.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: Vec<(String, String)>,
}

impl tracing::field::Visit for Fields {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.pairs.push((name.to_owned(), value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| {
            c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\') || (!c.is_ascii() && c.is_alphanumeric())
        });
    if plain { text.to_owned() } else { format!("{text:?}") }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut w: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(span) = ctx.lookup_current()
            && let Some(extra) = span.extensions().get::<FormattedFields<N>>()
            && !extra.is_empty()
        {
            fields.pairs.push((span.name().to_owned(), extra.to_string()));
        }
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        let level = event.metadata().level();
        if self.json {
            let mut line = serde_json::Map::new();
            line.insert("time".into(), time.into());
            line.insert("level".into(), level.to_string().into());
            line.insert("msg".into(), fields.message.into());
            line.extend(fields.pairs.into_iter().map(|(k, v)| (k, v.into())));
            return writeln!(w, "{}", serde_json::Value::Object(line));
        }
        write!(w, "time={time} level={level} msg={}", quoted_message(&fields.message))?;
        for (k, v) in &fields.pairs {
            write!(w, " {k}={}", quoted(v))?;
        }
        writeln!(w)
    }
}

/// Messages are always quoted unless they are one plain word, as `key=value` readers expect.
fn quoted_message(text: &str) -> String {
    if text.contains(' ') { format!("{text:?}") } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_when_needed() {
        assert_eq!(quoted("0:0000.0000.0001"), "0:0000.0000.0001");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("a=b"), "\"a=b\"");
        assert_eq!(quoted("line\nbreak"), "\"line\\nbreak\"");
    }
}
