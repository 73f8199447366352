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
    let third = Line::from(format!(
        "ports {}  trust requests {}",
        number(i, "ports"),
        number(i, "handshake_pending_count")
    ));
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

fn table<'a, const N: usize>(
    head: [&'static str; N],
    widths: [u16; N],
    title: String,
    rows: Vec<Row<'a>>,
) -> Table<'a> {
    // The last column takes what is left.
    let widths = widths.iter().enumerate().map(|(i, w)| match i + 1 == N {
        true => Constraint::Min(*w),
        false => Constraint::Length(*w),
    });
    Table::new(rows, widths).header(Row::new(head).style(QUIET)).block(block(title)).column_spacing(1)
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

fn mark(value: &Value) -> Cell<'static> {
    match value {
        Value::Bool(true) => Cell::new("yes").style(GOOD),
        _ => Cell::new("no").style(QUIET),
    }
}

fn peer_table(frame: &mut Frame<'_>, area: Rect, peers: &[Value]) {
    let rows = peers.iter().map(|p| {
        let path = match text(p, "path") {
            "" if p["relay"] == Value::Bool(true) => "relay",
            "" => "direct",
            named => named,
        };
        let style = if path == "direct" { GOOD } else { CARE };
        let rtt = p.get("rtt_ms").and_then(Value::as_f64).map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        Row::new(vec![
            Cell::new(number(p, "node_id").to_string()),
            Cell::new(clean(path)).style(style),
            Cell::new(rtt),
            mark(&p["encrypted"]),
            mark(&p["authenticated"]),
            Cell::new(clean(text(p, "endpoint"))),
        ])
    });
    let title = counted("Peers", peers.len(), area);
    let head = ["NODE", "PATH", "RTT", "ENC", "AUTH", "ENDPOINT"];
    frame.render_widget(table(head, [8, 8, 10, 4, 5, 10], title, rows.collect()), area);
}

fn stream_table(frame: &mut Frame<'_>, area: Rect, streams: &[Value], model: &Model) {
    let rates = |c: &Value| model.streams.get(&number(c, "id")).copied().unwrap_or_default();
    // The busiest first: with many streams only they are seen.
    let mut streams: Vec<&Value> = streams.iter().collect();
    streams.sort_by_key(|c| {
        let (up, down) = rates(c);
        (std::cmp::Reverse((up + down) as u64), number(c, "id"))
    });
    let rows = streams.iter().map(|c| {
        let (up, down) = rates(c);
        let resent = number(c, "retransmits");
        Row::new(vec![
            Cell::new(number(c, "id").to_string()),
            Cell::new(number(c, "local_port").to_string()),
            Cell::new(format!("{}:{}", clean(text(c, "remote_addr")), number(c, "remote_port"))),
            Cell::new(clean(text(c, "state"))),
            Cell::new(format!("{}/s", bytes(up as u64))),
            Cell::new(format!("{}/s", bytes(down as u64))),
            Cell::new(format!("{} ms", number(c, "srtt_ms"))),
            Cell::new(resent.to_string()).style(if resent > 0 { CARE } else { QUIET }),
        ])
    });
    let title = counted("Streams", streams.len(), area);
    let head = ["ID", "PORT", "REMOTE", "STATE", "UP", "DOWN", "RTT", "RESENT"];
    frame.render_widget(table(head, [6, 6, 23, 12, 12, 12, 8, 6], title, rows.collect()), area);
}

fn plugin_table(frame: &mut Frame<'_>, area: Rect, plugins: &[Value]) {
    let rows = plugins.iter().map(|p| {
        let state = text(p, "state");
        let style = if matches!(state, "running" | "started") { GOOD } else { BAD };
        Row::new(vec![
            Cell::new(clean(text(p, "name"))),
            Cell::new(clean(text(p, "version"))),
            Cell::new(clean(state)).style(style),
            Cell::new(number(p, "faults").to_string()),
            Cell::new(clean(text(p, "reason"))),
        ])
    });
    let title = counted("Plugins", plugins.len(), area);
    let head = ["NAME", "VERSION", "STATE", "FAULTS", "REASON"];
    frame.render_widget(table(head, [16, 9, 10, 7, 10], title, rows.collect()), area);
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
