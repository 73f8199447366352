//! Names and settings that the registry keeps: finding nodes, this node's name, visibility, tags, webhook, key.

use clap::Args;
use pilot_wire::ipc::Request;
use serde_json::{Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::Report;
use crate::ctl::registry;
use crate::ctl::values::{list, number, text};

/// `find`
#[derive(Debug, Args)]
pub(crate) struct Find {
    /// Host name.
    hostname: String,
}

/// `lookup`
#[derive(Debug, Args)]
pub(crate) struct Lookup {
    /// Address, node number or host name.
    node: String,
}

/// `set-hostname`
#[derive(Debug, Args)]
pub(crate) struct SetHostname {
    /// Lower-case letters, digits and hyphens.
    pub(super) hostname: String,
}

/// `set-tags`
#[derive(Debug, Args)]
pub(crate) struct SetTags {
    /// At most three.
    #[arg(required = true)]
    pub(super) tags: Vec<String>,
}

/// `set-webhook`
#[derive(Debug, Args)]
pub(crate) struct SetWebhook {
    /// An http or https address.
    pub(super) url: String,
}

pub(crate) async fn find(ctx: &Context, args: Find) -> Outcome {
    let client = ctx.connect().await?;
    let name = &args.hostname;
    let found = client.json(&Request::ResolveHostname(name.clone())).await.map_err(|error| {
        match error.daemon_text().map(|t| t.contains("not found")) {
            Some(true) => Failure::not_found(format!(
                "cannot find {name:?} \u{2014} hostname not found or no mutual trust"
            ))
            .hint(format!("establish trust first: pilotctl handshake {name} \"reason\"")),
            _ => error.into(),
        }
    })?;
    let public = found["public"] == Value::Bool(true);
    let data = json!({
        "hostname": name, "node_id": found["node_id"], "address": found["address"], "public": public
    });
    let text = ctx.out.facts(&[
        ("Hostname", ctx.out.bold(name)),
        ("Node", number(&found, "node_id").to_string()),
        ("Address", text(&found, "address").to_owned()),
        ("Visibility", if public { "public" } else { "private" }.to_owned()),
    ]);
    Ok(Report::new(data, text))
}

pub(crate) async fn lookup(ctx: &Context, args: Lookup) -> Outcome {
    let client = ctx.connect().await?;
    let node = ctx.target(&client, &args.node).await?.addr.node;
    let Some(found) = registry::lookup(ctx, &client, node).await? else {
        return Err(Failure::connection(
            "this daemon does not pass lookups on, and no registry is configured",
        )
        .hint("set PILOT_REGISTRY to the registry's address"));
    };
    Ok(Report::sheet(&ctx.out, found))
}

pub(crate) async fn set_hostname(ctx: &Context, hostname: String) -> Outcome {
    let answer = ctx.connect().await?.json(&Request::SetHostname(hostname.clone())).await?;
    ctx.save_config(&[("hostname", hostname.as_str().into())])?;
    if hostname.is_empty() {
        return Ok(Report::new(json!({ "hostname": "" }), "this node has no host name any more"));
    }
    let data = json!({ "hostname": hostname, "node_id": answer["node_id"] });
    Ok(Report::new(data, format!("this node is now called {}", ctx.out.bold(&hostname))))
}

pub(crate) async fn set_visibility(ctx: &Context, public: bool) -> Outcome {
    let answer = ctx.connect().await?.json(&Request::SetVisibility(public)).await?;
    let text = match public {
        true => "this node is public: strangers may look it up and connect",
        false => "this node is private: only trusted peers may look it up and connect",
    };
    Ok(Report::new(answer, text))
}

pub(crate) async fn set_tags(ctx: &Context, tags: Vec<String>) -> Outcome {
    if tags.len() > 3 {
        return Err(Failure::invalid(format!("set-tags: maximum 3 tags allowed, got {}", tags.len())));
    }
    let answer = ctx.connect().await?.json(&Request::SetTags(tags)).await?;
    // A registry answers null when there are none.
    let tags: Vec<&Value> = list(&answer, "tags").iter().collect();
    let words: Vec<&str> = tags.iter().filter_map(|t| t.as_str()).collect();
    let text = match words.is_empty() {
        true => "this node has no tags".to_owned(),
        false => format!("tags: {}", words.join(", ")),
    };
    Ok(Report::new(json!({ "node_id": answer["node_id"], "tags": tags }), text))
}

pub(crate) async fn set_webhook(ctx: &Context, url: String) -> Outcome {
    if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Failure::invalid(format!(
            "webhook URL must start with http:// or https://, got {url:?}"
        )));
    }
    // Works without a daemon: the setting is kept for its next start.
    let applied = match ctx.connect().await {
        Ok(client) => {
            client.json(&Request::SetWebhook(url.clone())).await.map_err(|error| {
                match error.daemon_text() {
                    Some(text) if text.contains("URL") => Failure::invalid(text),
                    _ => error.into(),
                }
            })?;
            true
        }
        Err(failure) if failure.code == code::NOT_RUNNING => false,
        Err(failure) => return Err(failure),
    };
    ctx.save_config(&[("webhook", url.as_str().into())])?;
    let what = if url.is_empty() {
        "events are no longer sent anywhere".to_owned()
    } else {
        format!("events go to {url}")
    };
    let when = if applied { "" } else { " from the daemon's next start on" };
    Ok(Report::new(json!({ "webhook": url, "applied": applied }), format!("{what}{when}")))
}

pub(crate) async fn rotate_key(ctx: &Context) -> Outcome {
    let answer =
        ctx.connect().await?.json(&Request::RotateKey).await.map_err(|error| match error.daemon_text() {
            Some(text) if text.contains("unknown command") => {
                Failure::new(code::UNAVAILABLE, "this daemon cannot rotate its key")
            }
            _ => error.into(),
        })?;
    let text = format!("new public key: {}", text(&answer, "public_key"));
    Ok(Report::new(answer, text))
}

pub(crate) async fn deregister(ctx: &Context) -> Outcome {
    let answer = ctx.connect().await?.json(&Request::Deregister).await?;
    Ok(Report::new(answer, "this node has left the registry; it comes back with: pilotctl register"))
}

pub(crate) async fn register(ctx: &Context) -> Outcome {
    let client = ctx.connect().await?;
    let Some(answer) = ctx.host(&client, "register", json!({})).await? else {
        return Err(Failure::new(code::UNAVAILABLE, "this daemon registers by itself only")
            .hint("restart it: pilotctl daemon stop, pilotctl daemon start"));
    };
    let text = format!("registered as node {}, {}", number(&answer, "node_id"), text(&answer, "address"));
    Ok(Report::new(answer, text))
}
