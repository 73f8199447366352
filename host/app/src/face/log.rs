//! Log lines of plugins on their way to the host's log: the plugin's name is added, the pace kept, the size bounded, and
//! the last ones kept for `pilotctl plugins logs`.

use serde_json::{Map, Value};
use tracing::Level;

use super::plugins::Record;

/// Longest plugin text that reaches the log, bytes.
const CLIP: usize = 8 << 10;

/// The start of a text that may come from a plugin.
pub(super) fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(CLIP.min(text.len()))]
}

fn to_level(level: u8) -> Level {
    match level {
        0 | 1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

impl Record {
    /// Whether the host's log would take a line of this level now. All plugin lines share one target in the host, so its
    /// level decides.
    pub(super) fn log_enabled(&self, level: u8) -> bool {
        match to_level(level) {
            Level::ERROR => tracing::enabled!(target: "plugin", Level::ERROR),
            Level::WARN => tracing::enabled!(target: "plugin", Level::WARN),
            Level::INFO => tracing::enabled!(target: "plugin", Level::INFO),
            Level::DEBUG => tracing::enabled!(target: "plugin", Level::DEBUG),
            Level::TRACE => tracing::enabled!(target: "plugin", Level::TRACE),
        }
    }

    /// One line, unless the plugin writes too many: those are counted, and their number is the next line.
    pub(super) fn log(&self, level: u8, target: &str, message: &str, fields: &Map<String, Value>) {
        if !self.log_lines.take() {
            return;
        }
        self.say_suppressed();
        let extra = if fields.is_empty() { String::new() } else { Value::Object(fields.clone()).to_string() };
        // Cut-off JSON is still worth a look for people.
        let fields = (!extra.is_empty()).then(|| clip(&extra));
        self.emit(to_level(level), clip(target), clip(message), fields);
    }

    /// Says how many lines were dropped since this was said last.
    pub(super) fn say_suppressed(&self) {
        let suppressed = self.log_lines.suppressed();
        if suppressed > 0 {
            let text = format!(
                "suppressed {suppressed} lines of plugin \"{0}\" (more than {1} a second; \
                 [plugins.settings.{0}.capabilities] log_lines_per_second)",
                self.name,
                self.log_lines.rate()
            );
            self.emit(Level::WARN, "host", &text, None);
        }
    }

    fn emit(&self, level: Level, at: &str, message: &str, fields: Option<&str>) {
        let plugin = self.name.as_str();
        self.keep_line(word(level), at, message, fields);
        macro_rules! emit {
            ($level:expr) => {
                match fields {
                    Some(f) => tracing::event!(target: "plugin", $level, plugin, at, fields = %f, "{message}"),
                    None => tracing::event!(target: "plugin", $level, plugin, at, "{message}"),
                }
            };
        }
        match level {
            Level::ERROR => emit!(Level::ERROR),
            Level::WARN => emit!(Level::WARN),
            Level::INFO => emit!(Level::INFO),
            Level::DEBUG => emit!(Level::DEBUG),
            Level::TRACE => emit!(Level::TRACE),
        }
    }
}
