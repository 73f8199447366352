//! `top`: a live view of the daemon. This file asks and counts; `view` draws; a thread of its own reads the keyboard.
//!
//! Everything comes over the local socket, once a second: the info object, the plugins, the events since the last look.
//! Rates are differences between two looks.

mod view;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use clap::Args;
use pilot_net::ipc::Client;
use pilot_wire::ipc::Request;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Outcome, watch};
use crate::ctl::context::Context;
use crate::ctl::fail::Failure;
use crate::ctl::out::Report;
use crate::ctl::values::{duration, list, number};

/// Events kept on the screen.
const EVENTS: usize = 200;
/// Looks whose rates are kept for the curves.
const HISTORY: usize = 120;

/// `top`
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// How often to look.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
    interval: Duration,
    /// Print one frame as text and end.
    #[arg(long)]
    once: bool,
    /// Columns of that frame.
    #[arg(long, default_value_t = 100, requires = "once", value_parser = clap::value_parser!(u16).range(40..=400))]
    width: u16,
    /// Rows of that frame.
    #[arg(long, default_value_t = 36, requires = "once", value_parser = clap::value_parser!(u16).range(12..=200))]
    height: u16,
}

/// What is shown.
#[derive(Debug, Default)]
struct Model {
    info: Value,
    plugins: Vec<Value>,
    events: VecDeque<Value>,
    /// Where the next question about events starts.
    after: Option<u64>,
    looked: Option<Instant>,
    /// Bytes per second of the node: sent, received.
    rates: (f64, f64),
    /// The same of earlier looks, the latest last.
    history: VecDeque<(u64, u64)>,
    /// Rates of each stream.
    streams: HashMap<u64, (f64, f64)>,
    paused: bool,
    /// Why the last look failed.
    trouble: Option<String>,
}

impl Model {
    /// Looks once.
    async fn look(&mut self, ctx: &Context, client: &Client) -> Result<(), Failure> {
        let info = client.json(&Request::Info).await?;
        let plugins = ctx.host(client, "plugins", json!({})).await?.unwrap_or_default();
        let mut ask = json!({ "limit": if self.after.is_some() { 256 } else { 50 } });
        if let Some(after) = self.after {
            ask["after"] = after.into();
        }
        // A daemon of others has no events to tell; the rest is still worth seeing.
        let events = watch::page(ctx, client, ask).await.unwrap_or_default();
        self.after = events["next"].as_u64().or(self.after);
        self.events.extend(list(&events, "events").iter().cloned());
        let surplus = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..surplus);
        self.count(&info);
        self.plugins = list(&plugins, "plugins").to_vec();
        self.info = info;
        Ok(())
    }

    fn count(&mut self, info: &Value) {
        let now = Instant::now();
        let Some(seconds) = self.looked.replace(now).map(|before| (now - before).as_secs_f64()) else {
            return;
        };
        if seconds < 0.001 {
            return;
        }
        let both = |old: &Value, new: &Value| {
            let rate = |key| number(new, key).saturating_sub(number(old, key)) as f64 / seconds;
            (rate("bytes_sent"), rate("bytes_recv"))
        };
        self.rates = both(&self.info, info);
        self.history.push_back((self.rates.0 as u64, self.rates.1 as u64));
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
        let before: HashMap<u64, &Value> =
            list(&self.info, "conn_list").iter().map(|c| (number(c, "id"), c)).collect();
        self.streams = list(info, "conn_list")
            .iter()
            .map(|c| {
                let id = number(c, "id");
                (id, before.get(&id).map_or((0.0, 0.0), |old| both(old, c)))
            })
            .collect();
    }

    fn json(&self) -> Value {
        json!({
            "node_id": self.info["node_id"],
            "peers": self.info["peer_list"],
            "connections": self.info["conn_list"],
            "plugins": self.plugins,
            "events": self.events,
            "sent_bytes_per_second": self.rates.0,
            "received_bytes_per_second": self.rates.1,
        })
    }
}

pub(crate) async fn top(ctx: &Context, args: Top) -> Outcome {
    let client = ctx.connect().await?;
    let mut model = Model::default();
    model.look(ctx, &client).await?;
    if args.once {
        let mut terminal = Terminal::new(TestBackend::new(args.width, args.height))
            .map_err(|e| Failure::internal(e.to_string()))?;
        terminal.draw(|frame| view::draw(frame, &model)).map_err(|e| Failure::internal(e.to_string()))?;
        return Ok(Report::new(model.json(), view::as_text(terminal.backend().buffer())));
    }
    if ctx.out.json() || !ctx.out.screen() {
        return Err(Failure::invalid("top needs a terminal")
            .hint("for scripts: pilotctl top --once --json, pilotctl events --follow --json"));
    }
    // From here on the terminal is in raw mode; the library puts it back, also when something panics.
    let mut terminal = ratatui::init();
    let outcome =
        live(ctx, client, args.interval.max(Duration::from_millis(100)), &mut terminal, model).await;
    ratatui::restore();
    outcome.map(|()| Report::silent(0))
}

/// What the keyboard asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Pause,
    Redraw,
}

fn keyboard() -> mpsc::Receiver<Key> {
    let (tx, rx) = mpsc::channel(16);
    // Reading the terminal blocks; the thread ends with the process or when nobody listens any more.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Key(key) if key.is_press() => match (key.code, key.modifiers) {
                    (KeyCode::Char('q') | KeyCode::Esc, _) => Key::Quit,
                    (KeyCode::Char('c'), KeyModifiers::CONTROL) => Key::Quit,
                    (KeyCode::Char('p' | ' '), _) => Key::Pause,
                    _ => continue,
                },
                Event::Resize(..) => Key::Redraw,
                _ => continue,
            };
            if tx.blocking_send(key).is_err() {
                return;
            }
        }
    });
    rx
}

async fn live(
    ctx: &Context,
    mut client: Client,
    interval: Duration,
    terminal: &mut DefaultTerminal,
    mut model: Model,
) -> Result<(), Failure> {
    let mut keys = keyboard();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        terminal
            .draw(|frame| view::draw(frame, &model))
            .map_err(|e| Failure::internal(format!("cannot draw: {e}")))?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Key::Quit) | None => return Ok(()),
                Some(Key::Pause) => model.paused = !model.paused,
                Some(Key::Redraw) => {}
            },
            _ = ticks.tick(), if !model.paused => {
                // A daemon that restarts comes back into view by itself.
                if client.is_closed() && let Ok(fresh) = ctx.connect().await {
                    (client, model.after) = (fresh, None);
                }
                model.trouble = model.look(ctx, &client).await.err().map(|f| f.message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_between_two_looks() {
        let mut model = Model {
            info: json!({ "bytes_sent": 1000, "bytes_recv": 0, "conn_list": [
                { "id": 1, "bytes_sent": 10, "bytes_recv": 0 }
            ] }),
            looked: Some(Instant::now() - Duration::from_secs(2)),
            ..Model::default()
        };
        model.count(&json!({ "bytes_sent": 3000, "bytes_recv": 500, "conn_list": [
            { "id": 1, "bytes_sent": 210, "bytes_recv": 0 }, { "id": 2, "bytes_sent": 9, "bytes_recv": 0 }
        ] }));
        assert!((model.rates.0 - 1000.0).abs() < 5.0 && (model.rates.1 - 250.0).abs() < 2.0);
        assert!((model.streams[&1].0 - 100.0).abs() < 1.0);
        assert_eq!(model.streams[&2], (0.0, 0.0), "a new stream has no rate yet");
    }
}
