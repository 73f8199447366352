//! `events` and `--watch`: what happens, while it happens.

use std::time::Duration;

use clap::Args;
use pilot_net::ipc::Client;
use serde_json::{Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::{Out, Report};
use crate::ctl::values::{list, number, text};

/// How long the daemon may hold one question while nothing happens.
const HOLD: Duration = Duration::from_secs(20);

/// `events`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pilotctl events --topic 'tunnel.*'\n  pilotctl events --follow --json | jq .topic"
)]
pub(crate) struct Events {
    /// Go on with what happens from now on, one line each; ends with Ctrl-C or after --count.
    #[arg(long, short)]
    follow: bool,
    /// Only this topic; `tunnel.*` means everything below `tunnel`.
    #[arg(long, default_value = "*", value_name = "PATTERN")]
    topic: String,
    /// How many of the past.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=256))]
    limit: u32,
    /// With --follow: stop after this many; 0 goes on for ever.
    #[arg(long, default_value_t = 0, value_name = "N")]
    count: u64,
}

/// One page of the daemon's recent events.
pub(crate) async fn page(ctx: &Context, client: &Client, params: Value) -> Result<Value, Failure> {
    ctx.host(client, "events", params).await?.ok_or_else(|| {
        Failure::new(code::UNAVAILABLE, "this daemon keeps no events")
            .hint("a webhook receives them: pilotctl set-webhook <url>")
    })
}

/// One event for people: local time, topic, the payload's members.
pub(crate) fn line(out: &Out, event: &Value) -> String {
    let time = text(event, "time").parse::<jiff::Timestamp>().map_or_else(
        |_| text(event, "time").to_owned(),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
    );
    format!("{}  {}  {}", out.dim(&time), out.bold(text(event, "topic")), members(&event["payload"]))
}

/// `key=value` pairs of a payload, control characters shown as blanks.
pub(crate) fn members(payload: &Value) -> String {
    let pairs = payload.as_object().into_iter().flatten().map(|(key, value)| match value {
        Value::String(text) if !text.contains([' ', '"']) && !text.is_empty() => format!("{key}={text}"),
        other => format!("{key}={other}"),
    });
    let text = pairs.collect::<Vec<_>>().join(" ");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) async fn events(ctx: &Context, args: Events) -> Outcome {
    let client = ctx.connect().await?;
    let out = &ctx.out;
    let past = match args.limit {
        0 => {
            let newest = page(ctx, &client, json!({ "topic": args.topic, "limit": 1 })).await?;
            json!({ "events": [], "next": newest["next"] })
        }
        limit => page(ctx, &client, json!({ "topic": args.topic, "limit": limit })).await?,
    };
    if !args.follow {
        let lines: Vec<_> = list(&past, "events").iter().map(|e| line(out, e)).collect();
        let shown = if lines.is_empty() { "no events".to_owned() } else { lines.join("\n") };
        let total = lines.len();
        return Ok(Report::new(json!({ "events": past["events"], "total": total }), shown));
    }
    let mut seen = 0;
    let mut batch = past;
    loop {
        match number(&batch, "missed") {
            0 => {}
            n => out.remark(&out.yellow(&format!("{n} events were missed"))),
        }
        for event in list(&batch, "events") {
            out.line(event, &line(out, event));
            seen += 1;
            if args.count > 0 && seen >= args.count {
                return Ok(Report::silent(0));
            }
        }
        let ask = json!({
            "after": batch["next"], "topic": args.topic, "wait_ms": u64::try_from(HOLD.as_millis()).unwrap_or(0),
        });
        batch = page(ctx, &client, ask).await?;
    }
}
