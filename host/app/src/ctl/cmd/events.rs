//! `subscribe` and `publish`: the client side of a peer's event stream (dataexchange.md section 9).

use std::time::Duration;

use bytes::{Buf, BytesMut};
use clap::Args;
use pilot_wire::Split;
use pilot_wire::eventstream::{Event, split_event};
use pilot_wire::ports;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::Outcome;
use super::raw::{data_members, open};
use crate::ctl::context::{Context, DIAL_LIMIT};
use crate::ctl::fail::Failure;
use crate::ctl::out::Report;
use crate::ctl::values::{duration, go_duration};

/// `subscribe`
#[derive(Debug, Args)]
#[command(
    after_help = "Example: pilotctl subscribe bob news, and at another node: pilotctl publish bob news --data 'it rains'\n\
              The peer needs a broker, such as the plugin in examples/event-stream."
)]
pub(crate) struct Subscribe {
    /// Address, node number or host name.
    peer: String,
    /// The topic; `*` follows all.
    topic: String,
    /// Stop after this many; 0 goes on for ever.
    #[arg(long, default_value_t = 0, value_name = "N")]
    count: u32,
    /// Stop after this time; 0 goes on for ever.
    #[arg(long, default_value = "0", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
}

/// `publish`
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Address, node number or host name.
    peer: String,
    /// The topic.
    topic: String,
    /// The payload.
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT")]
    data: String,
}

fn frame(topic: &str, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let event = Event { topic: topic.as_bytes(), payload };
    event.encode(&mut out).map_err(|e| Failure::invalid(e.to_string()))?;
    Ok(out)
}

pub(crate) async fn subscribe(ctx: &Context, args: Subscribe) -> Outcome {
    let hello = frame(&args.topic, b"")?;
    let client = ctx.connect().await?;
    let (target, stream) = open(ctx, &client, &args.peer, ports::EVENT_STREAM, DIAL_LIMIT).await?;
    stream.write(hello.into()).await?;
    ctx.out.remark(&format!("following {:?} at {}; end with Ctrl-C", args.topic, target.addr));
    let endless = args.count == 0 && args.timeout.is_zero();
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    let (mut events, mut timed_out) = (Vec::new(), false);
    let mut buffer = BytesMut::new();
    while args.count == 0 || events.len() < args.count as usize {
        let split = split_event(&buffer)
            .map_err(|e| Failure::connection(format!("{} sent no events: {e}", target.addr)))?;
        let (row, text, consumed) = match split {
            Split::Complete { message, consumed } => {
                let topic = String::from_utf8_lossy(message.topic).into_owned();
                let mut row = json!({ "topic": topic });
                if let (Some(row), Value::Object(members)) =
                    (row.as_object_mut(), data_members(message.payload))
                {
                    row.extend(members);
                }
                let text = format!("{}  {}", ctx.out.bold(&topic), String::from_utf8_lossy(message.payload));
                (row, text, consumed)
            }
            Split::Incomplete { .. } => {
                let more = match deadline {
                    Some(at) => match timeout_at(at, stream.read()).await {
                        Ok(more) => more,
                        Err(_) => {
                            timed_out = true;
                            break;
                        }
                    },
                    None => stream.read().await,
                };
                match more {
                    Some(data) => buffer.extend_from_slice(&data),
                    None if endless || events.is_empty() => {
                        return Err(Failure::connection(format!("{} ended the event stream", target.addr)));
                    }
                    None => break,
                }
                continue;
            }
        };
        buffer.advance(consumed);
        if endless || !ctx.out.json() {
            ctx.out.line(&row, &text);
        }
        if !endless {
            events.push(row);
        }
    }
    stream.close().await?;
    let text = match timed_out {
        true => ctx.out.yellow(&format!("no more events within {}", go_duration(args.timeout))),
        false => String::new(),
    };
    Ok(Report::new(json!({ "events": events, "timeout": timed_out }), text))
}

pub(crate) async fn publish(ctx: &Context, args: Publish) -> Outcome {
    // A publisher subscribes first; the broker takes its second frame as the event.
    let mut frames = frame(&args.topic, b"")?;
    frames.extend(frame(&args.topic, args.data.as_bytes())?);
    let client = ctx.connect().await?;
    let (target, stream) = open(ctx, &client, &args.peer, ports::EVENT_STREAM, DIAL_LIMIT).await?;
    stream.write(frames.into()).await?;
    stream.close().await?;
    let data = json!({ "target": target.name, "topic": args.topic, "bytes": args.data.len() });
    Ok(Report::new(
        data,
        format!("{} bytes published on {:?} at {}", args.data.len(), args.topic, target.addr),
    ))
}
