//! The check before anything is sent to a peer (cli.md section 2, end of "Communication"): trusted peers pass; public ones
//! are asked for trust on the way; a private stranger is not worth dialling, since its daemon would not answer.

use pilot_net::ipc::{Client, ClientError};
use pilot_wire::ipc::{HandshakeRequest, Request};
use serde_json::Value;

use super::context::{Context, Target};
use super::fail::{Failure, code};
use super::registry;

/// How long a public peer gets to answer the request for trust.
const FIRST_WAIT_MS: u32 = 5000;
/// Further looks while another request to the peer is under way, and how long each waits.
const LOOKS: u32 = 8;
const LOOK_MS: u32 = 2000;

/// Passes, or fails with `trust_required`. `auto` asks public peers for trust.
pub(super) async fn check(
    ctx: &Context,
    client: &Client,
    target: &Target,
    auto: bool,
) -> Result<(), Failure> {
    let node = target.addr.node;
    match trusted(client, node, 0).await {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        // An older daemon without this question, or one without the handshake plugin: nobody can tell.
        Err(error) if unanswerable(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let Some(known) = registry::lookup(ctx, client, node).await? else { return Ok(()) };
    if known["public"] != Value::Bool(true) {
        let addr = target.addr;
        return Err(Failure::new(
            code::TRUST_REQUIRED,
            format!("refusing to talk to {addr}: it is private and there is no mutual trust"),
        )
        .hint(format!("run: pilotctl handshake {addr}")));
    }
    if !auto {
        return Ok(());
    }
    ctx.detail(|| format!("{} is public and not trusted yet: asking for trust", target.addr));
    let ask = HandshakeRequest::Request { node, justification: String::new() };
    let answer = match client.json(&Request::Handshake(ask)).await {
        Ok(answer) => answer,
        // A public peer may be dialled without trust; the dial will tell.
        Err(ClientError::Daemon(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut granted = trusted(client, node, FIRST_WAIT_MS).await?;
    if answer["status"] == "in_flight" {
        for _ in 0..LOOKS {
            if granted {
                break;
            }
            granted = trusted(client, node, LOOK_MS).await?;
        }
    }
    Ok(())
}

async fn trusted(client: &Client, node: u32, timeout_ms: u32) -> Result<bool, ClientError> {
    let wait = Request::Handshake(HandshakeRequest::Wait { node, timeout_ms });
    Ok(client.json(&wait).await?["trusted"] == Value::Bool(true))
}

fn unanswerable(error: &ClientError) -> bool {
    error
        .daemon_text()
        .is_some_and(|t| t.contains("unknown sub-command") || t.contains("service not registered"))
}
