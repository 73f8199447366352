//! The frame of `top`: what stands where. Draws from the model only, so that a test backend shows the same as a terminal.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use serde_json::Value;

use super::Model;
use super::watch;
use crate::ctl::values::{bytes, list, number, text, uptime};

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const QUIET: Style = Style::new().fg(Color::DarkGray);
const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red);
const CARE: Style = Style::new().fg(Color::Yellow);
/// Columns of the curves at most.
const CURVES: u16 = 60;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let peers = list(&model.info, "peer_list");
    let streams = list(&model.info, "conn_list");
    let rows = |n: usize| u16::try_from(n.max(1)).unwrap_or(u16::MAX).saturating_add(2);
    let [head, peers_at, streams_at, plugins_at, events_at, foot] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(rows(peers.len()).min(10)),
        Constraint::Length(rows(streams.len()).min(12)),
        Constraint::Length(rows(model.plugins.len()).min(10)),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, head, model);
    peer_table(frame, peers_at, peers);
    stream_table(frame, streams_at, streams, model);
    plugin_table(frame, plugins_at, &model.plugins);
    events(frame, events_at, model);
    footer(frame, foot, model);
}

fn header(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let i = &model.info;
    let registered = match (i.get("registered"), number(i, "node_id")) {
        (Some(Value::Bool(false)), _) | (_, 0) => Span::styled("not registered", CARE),
        _ => Span::styled("registered", GOOD),
    };
    let visibility = if i["public"] == Value::Bool(true) { "public" } else { "private" };
    let first = Line::from(vec![
        Span::styled(format!("pilot {} ", text(i, "address")), HEAD),
        Span::raw(format!("{} ", text(i, "hostname"))),
        registered,
        Span::raw(format!(", {visibility}, up {}", uptime(i["uptime_secs"].as_f64().unwrap_or(0.0)))),
    ]);
    let second = Line::from(format!(
        "sent {} ({}/s)  received {} ({}/s)",
        bytes(number(i, "bytes_sent")),
        bytes(model.rates.0 as u64),
        bytes(number(i, "bytes_recv")),
        bytes(model.rates.1 as u64),
    ));
    let waiting = match number(i, "handshake_pending_count") {
        0 => Span::styled("no trust requests", QUIET),
        1 => Span::styled("1 trust request waits: pilotctl pending", CARE),
        n => Span::styled(format!("{n} trust requests wait: pilotctl pending"), CARE),
    };
    let third = Line::from(vec![Span::raw(format!("{} ports bound  ", number(i, "ports"))), waiting]);
    // The curves stand where the line above them ends early, and only where there is room.
    let [facts, curves] = Layout::horizontal([Constraint::Min(76), Constraint::Max(CURVES)]).areas(area);
    frame.render_widget(Paragraph::new(vec![first, second, third]), facts);
    if curves.width >= 16 {
        curve(frame, Rect { height: 1, ..curves }, "sent", model.history.iter().map(|r| r.0).collect());
        let below = Rect { y: curves.y + 1, height: 1, ..curves };
        curve(frame, below, "received", model.history.iter().map(|r| r.1).collect());
    }
}

/// One line: a name and its last rates, scaled to the highest of them.
fn curve(frame: &mut Frame<'_>, area: Rect, name: &'static str, rates: Vec<u64>) {
    let [label, at] = Layout::horizontal([Constraint::Length(9), Constraint::Min(4)]).areas(area);
    frame.render_widget(Paragraph::new(name).style(QUIET), label);
    let skip = rates.len().saturating_sub(usize::from(at.width));
    frame.render_widget(Sparkline::default().data(&rates[skip..]).style(Style::new().fg(Color::Cyan)), at);
}

fn block(title: String) -> Block<'static> {
    Block::new().title(Span::styled(title, HEAD.fg(Color::Cyan)))
}

/// A column: its head, its width (the last one takes what is left), and whether it holds numbers.
struct Column(&'static str, u16, bool);

/// Cells in the order of the columns; those of numbers are set to the right.
fn table(columns: &[Column], title: String, rows: Vec<Vec<Styled>>) -> Table<'static> {
    let widths = columns.iter().enumerate().map(|(i, Column(_, width, _))| match i + 1 == columns.len() {
        true => Constraint::Min(*width),
        false => Constraint::Length(*width),
    });
    let set = |line: Line<'static>, Column(_, _, number): &Column| {
        Cell::new(if *number { line.right_aligned() } else { line })
    };
    let head: Vec<Cell<'_>> = columns.iter().map(|c| set(Line::from(c.0), c)).collect();
    let rows = rows.into_iter().map(|cells| {
        let cells = cells.into_iter().zip(columns);
        Row::new(cells.map(|((text, style), c)| set(Line::styled(text, style), c)).collect::<Vec<_>>())
    });
    let rows: Vec<Row<'_>> = rows.collect();
    Table::new(rows, widths).header(Row::new(head).style(QUIET)).block(block(title)).column_spacing(1)
}

/// A cell's text and how it looks.
type Styled = (String, Style);

fn plain(text: impl Into<String>) -> Styled {
    (text.into(), Style::new())
}

/// A table's title: how many rows there are, and how many of them are seen when that is not all.
fn counted(name: &str, rows: usize, area: Rect) -> String {
    match usize::from(area.height.saturating_sub(2)) {
        seen if seen < rows => format!("{name} ({rows}, {seen} shown)"),
        _ => format!("{name} ({rows})"),
    }
}

/// Texts of others, with control characters as blanks.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn mark(value: &Value) -> Styled {
    match value {
        Value::Bool(true) => ("yes".to_owned(), GOOD),
        _ => ("no".to_owned(), QUIET),
    }
}

/// A measured value, or a dash where nothing was measured.
fn measured(value: &Value, show: impl Fn(f64) -> String) -> Styled {
    value.as_f64().map_or(("-".to_owned(), QUIET), |value| plain(show(value)))
}

fn peer_table(frame: &mut Frame<'_>, area: Rect, peers: &[Value]) {
    let rows = peers.iter().map(|p| {
        let path = match text(p, "path") {
            "" if p["relay"] == Value::Bool(true) => "relay",
            "" => "direct",
            named => named,
        };
        let lossy = p["loss"].as_f64().is_some_and(|loss| loss >= 0.01);
        let loss = measured(&p["loss"], |loss| format!("{:.1} %", loss * 100.0));
        vec![
            plain(number(p, "node_id").to_string()),
            (clean(path), if path == "direct" { GOOD } else { CARE }),
            measured(&p["rtt_ms"], |ms| format!("{ms:.1} ms")),
            if lossy { (loss.0, CARE) } else { loss },
            measured(&p["last_heard_ms"], |ms| format!("{:.1} s", ms / 1000.0)),
            mark(&p["encrypted"]),
            mark(&p["authenticated"]),
            plain(clean(text(p, "endpoint"))),
        ]
    });
    let columns = [
        Column("NODE", 7, true),
        Column("PATH", 8, false),
        Column("RTT", 9, true),
        Column("LOSS", 7, true),
        Column("SILENT", 8, true),
        Column("ENC", 4, false),
        Column("AUTH", 5, false),
        Column("ENDPOINT", 10, false),
    ];
    frame.render_widget(table(&columns, counted("Peers", peers.len(), area), rows.collect()), area);
}

fn stream_table(frame: &mut Frame<'_>, area: Rect, streams: &[Value], model: &Model) {
    let rates = |c: &Value| model.streams.get(&number(c, "id")).copied().unwrap_or_default();
    // The busiest first: with many streams only they are seen.
    let mut streams: Vec<&Value> = streams.iter().collect();
    streams.sort_by_key(|c| {
        let (up, down) = rates(c);
        (std::cmp::Reverse((up + down) as u64), number(c, "id"))
    });
    let rate = |rate: f64| (bytes(rate as u64), if rate < 1.0 { QUIET } else { Style::new() });
    let rows = streams.iter().map(|c| {
        let (up, down) = rates(c);
        let resent = number(c, "retransmits");
        vec![
            plain(number(c, "id").to_string()),
            plain(number(c, "local_port").to_string()),
            plain(format!("{}:{}", clean(text(c, "remote_addr")), number(c, "remote_port"))),
            plain(clean(text(c, "state"))),
            rate(up),
            rate(down),
            plain(format!("{} ms", number(c, "srtt_ms"))),
            (resent.to_string(), if resent > 0 { CARE } else { QUIET }),
        ]
    });
    let columns = [
        Column("ID", 7, true),
        Column("PORT", 5, true),
        Column("REMOTE", 23, false),
        Column("STATE", 11, false),
        Column("UP/s", 10, true),
        Column("DOWN/s", 10, true),
        Column("RTT", 8, true),
        Column("RESENT", 6, true),
        // What is left, so that the numbers stand together.
        Column("", 0, false),
    ];
    frame.render_widget(table(&columns, counted("Streams", streams.len(), area), rows.collect()), area);
}

fn plugin_table(frame: &mut Frame<'_>, area: Rect, plugins: &[Value]) {
    let rows = plugins.iter().map(|p| {
        let (state, faults) = (text(p, "state"), number(p, "faults"));
        let runs = match p["pid"].as_u64() {
            Some(pid) => format!("{} {pid}", text(p, "isolation")),
            None => text(p, "isolation").to_owned(),
        };
        vec![
            plain(clean(text(p, "name"))),
            plain(clean(text(p, "version"))),
            (clean(state), if matches!(state, "running" | "started") { GOOD } else { BAD }),
            plain(clean(&runs)),
            (faults.to_string(), if faults > 0 { CARE } else { QUIET }),
            plain(clean(text(p, "reason"))),
        ]
    });
    let columns = [
        Column("NAME", 16, false),
        Column("VERSION", 9, false),
        Column("STATE", 11, false),
        Column("RUNS", 15, false),
        Column("FAULTS", 6, true),
        Column("REASON", 10, false),
    ];
    frame.render_widget(table(&columns, counted("Plugins", plugins.len(), area), rows.collect()), area);
}

fn events(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let room = usize::from(area.height.saturating_sub(1));
    let skip = model.events.len().saturating_sub(room);
    let lines = model.events.iter().skip(skip).map(|e| {
        let time = text(e, "time").get(11..19).unwrap_or_default();
        Line::from(vec![
            Span::styled(format!("{time} "), QUIET),
            Span::styled(format!("{} ", clean(text(e, "topic"))), HEAD),
            Span::raw(watch::members(&e["payload"])),
        ])
    });
    let shown = Paragraph::new(lines.collect::<Vec<_>>()).block(block("Events".to_owned()));
    frame.render_widget(shown, area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let line = match (&model.trouble, model.paused) {
        (Some(trouble), _) => Line::styled(clean(trouble), BAD),
        (None, true) => Line::styled("paused   p goes on   q ends", CARE),
        (None, false) => Line::styled("q ends   p pauses", QUIET),
    };
    frame.render_widget(Paragraph::new(line), area);
}

/// A frame as lines of text, without trailing blanks.
pub(super) fn as_text(buffer: &Buffer) -> String {
    let area = buffer.area;
    let lines = (area.top()..area.bottom()).map(|y| {
        let line: String = (area.left()..area.right()).map(|x| buffer[(x, y)].symbol()).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}
