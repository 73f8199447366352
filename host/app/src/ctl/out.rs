//! Everything the tool prints (cli.md section 1): one JSON line for scripts, tables and sentences for people, colour only
//! where a terminal shows it.
#![allow(clippy::print_stdout, clippy::print_stderr)] // the one place that talks to the terminal

use std::io::{IsTerminal, Write};

use comfy_table::{Attribute, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets};
use pilot_wire::gojson;
use serde_json::{Value, json};

use super::fail::Failure;

/// What a command that succeeded has to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    /// The envelope's `data`; `None` when everything was printed on the way.
    pub data: Option<Value>,
    /// The same for people, without a final newline.
    pub text: String,
    /// Exit code, 0 unless the command's contract says otherwise.
    pub exit: u8,
}

impl Report {
    pub(super) fn new(data: Value, text: impl Into<String>) -> Report {
        Report { data: Some(data), text: text.into(), exit: 0 }
    }

    /// Text only, also with `--json` (version, completions).
    pub(super) fn text(text: impl Into<String>) -> Report {
        Report { data: None, text: text.into(), exit: 0 }
    }

    /// Nothing more to print.
    pub(super) fn silent(exit: u8) -> Report {
        Report { data: None, text: String::new(), exit }
    }

    /// A structure as it came: people see it as indented JSON.
    pub(super) fn plain(data: Value) -> Report {
        let text = serde_json::to_string_pretty(&data).unwrap_or_default();
        Report::new(data, text)
    }

    /// A registry's or daemon's answer, for people as a [sheet](Out::sheet).
    pub(super) fn sheet(out: &Out, data: Value) -> Report {
        let text = out.sheet(&data);
        Report::new(data, text)
    }

    pub(super) fn exit(mut self, exit: u8) -> Report {
        self.exit = exit;
        self
    }
}

/// Where and how to print.
#[derive(Clone, Debug)]
pub(super) struct Out {
    json: bool,
    colour: bool,
    interactive: bool,
}

impl Out {
    /// For the process's own standard streams.
    pub(super) fn terminal() -> Out {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Out {
            json: false,
            colour: std::io::stdout().is_terminal() && !plain,
            interactive: std::io::stderr().is_terminal(),
        }
    }

    #[cfg(test)]
    pub(super) fn plain(json: bool) -> Out {
        Out { json, colour: false, interactive: false }
    }

    pub(super) fn with_json(&self, json: bool) -> Out {
        Out { json, colour: self.colour && !json, interactive: self.interactive && !json }
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Whether a progress bar makes sense.
    pub(super) fn interactive(&self) -> bool {
        self.interactive
    }

    /// Whether standard output is a terminal that can be drawn on.
    pub(super) fn screen(&self) -> bool {
        std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
    }

    /// The end of a successful command.
    pub(super) fn report(&self, report: &Report) {
        match &report.data {
            Some(data) if self.json => self.print(&success(data)),
            _ if report.text.is_empty() => {}
            _ => self.print(&report.text),
        }
    }

    /// The end of a failed one.
    pub(super) fn failure(&self, failure: &Failure) {
        if self.json {
            return self.complain(&failed(failure));
        }
        self.complain(&format!("{} {}", self.red("error:"), failure.message));
        if let Some(hint) = &failure.hint {
            self.complain(&format!("{}  {hint}", self.yellow("hint:")));
        }
    }

    /// One line or block on standard output. A reader that went away (`| head`) is no error.
    pub(super) fn print(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.trim_end_matches('\n').as_bytes()).and_then(|()| out.write_all(b"\n"));
        let _ = out.flush();
    }

    /// One object per line for endless streams.
    pub(super) fn line(&self, data: &Value, text: &str) {
        if self.json {
            self.print(&gojson::to_string(data));
        } else {
            self.print(text);
        }
    }

    /// An empty screen, where there is one.
    pub(super) fn clear(&self) {
        if self.colour {
            self.raw(b"\x1b[H\x1b[2J");
        }
    }

    /// Raw bytes on standard output, for text mode of stream commands.
    pub(super) fn raw(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// Standard error.
    pub(super) fn complain(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// A remark on standard error for people only.
    pub(super) fn remark(&self, text: &str) {
        if !self.json {
            self.complain(text);
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn yellow(&self, text: &str) -> String {
        self.paint("33", text)
    }

    /// An aligned table without lines; columns named in `right` hold numbers.
    pub(super) fn table(&self, head: &[&str], right: &[&str], rows: Vec<Vec<Cell>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(head.iter().map(|h| comfy_table::Cell::new(h).add_attribute(Attribute::Bold)));
        table.add_rows(rows.into_iter().map(|row| row.into_iter().map(Cell::styled)));
        for (column, name) in table.column_iter_mut().zip(head) {
            column.set_padding((0, 2));
            column.set_constraint(ColumnConstraint::ContentWidth);
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let text = table.to_string();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// Aligned `name: value` lines; empty values are left out.
    pub(super) fn facts(&self, rows: &[(&str, String)]) -> String {
        let shown = rows.iter().filter(|(_, value)| !value.is_empty());
        let width = shown.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines = shown.map(|(name, value)| {
            format!("{} {value}", self.dim(&format!("{:<w$}", format!("{name}:"), w = width + 1)))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// An answer that has no layout of its own: a line for each plain member, and below them, indented, what has a
    /// structure. The member `type`, which says what was asked, is left out.
    pub(super) fn sheet(&self, data: &Value) -> String {
        let members = data.as_object().into_iter().flatten().filter(|(name, _)| *name != "type");
        let (mut rows, mut below) = (Vec::new(), Vec::new());
        for (name, value) in members {
            let name = title(name);
            match value {
                Value::Array(items) if items.iter().all(is_plain) && !items.is_empty() => {
                    rows.push((name, items.iter().map(plain).collect::<Vec<_>>().join(", ")));
                }
                Value::Object(members) if !members.is_empty() => below.push((name, value)),
                Value::Array(items) if !items.is_empty() => below.push((name, value)),
                other => rows.push((name, plain(other))),
            }
        }
        let rows: Vec<(&str, String)> =
            rows.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let mut text = self.facts(&rows);
        for (name, value) in below {
            let value = serde_json::to_string_pretty(value).unwrap_or_default();
            text += &format!("\n{}\n  {}", self.dim(&format!("{name}:")), value.replace('\n', "\n  "));
        }
        match text.is_empty() {
            true => "done".to_owned(),
            false => text.trim_start_matches('\n').to_owned(),
        }
    }
}

/// `public_key` as a person would write it.
fn title(name: &str) -> String {
    let mut name = name.replace('_', " ");
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}

fn is_plain(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

/// A value without a structure. Control characters are shown as blanks: much of it was written by others.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Number(number) => number.to_string(),
        Value::Array(_) | Value::Object(_) => "none".to_owned(),
    }
}

/// One cell of a table. Control characters are shown as blanks: much of it was written by others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    text: String,
    colour: Option<Color>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        let text: String = text.into().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Cell { text, colour: None }
    }
}

impl Cell {
    fn coloured(text: &str, colour: Color) -> Cell {
        Cell { colour: Some(colour), ..Cell::from(text) }
    }

    pub(super) fn good(text: &str) -> Cell {
        Cell::coloured(text, Color::DarkGreen)
    }

    pub(super) fn bad(text: &str) -> Cell {
        Cell::coloured(text, Color::DarkRed)
    }

    pub(super) fn dim(text: &str) -> Cell {
        Cell::coloured(text, Color::DarkGrey)
    }

    pub(super) fn yes_no(value: bool) -> Cell {
        if value { Cell::good("yes") } else { Cell::dim("no") }
    }

    fn styled(self) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(self.text);
        match self.colour {
            Some(colour) => cell.fg(colour),
            None => cell,
        }
    }
}

/// A row of [`Cell`]s from anything that becomes one.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::ctl::out::Cell::from($cell)),*] };
}
pub(super) use row;

/// The envelope of a success.
pub(super) fn success(data: &Value) -> String {
    gojson::to_string(&json!({ "data": data, "status": "ok" }))
}

/// The envelope of a failure.
pub(super) fn failed(failure: &Failure) -> String {
    let mut envelope = json!({
        "status": "error", "code": failure.code, "message": failure.message, "error": failure.message
    });
    if let (Some(hint), Some(members)) = (&failure.hint, envelope.as_object_mut()) {
        members.insert("hint".to_owned(), hint.as_str().into());
    }
    gojson::to_string(&envelope)
}
