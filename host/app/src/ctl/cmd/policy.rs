//! `policy`, `managed`, `member-tags`: a network's rules at this daemon and its members' tags at the registry (ipc.md
//! section 12).

use std::path::PathBuf;

use clap::{Args, Subcommand};
use pilot_wire::ipc::{ManagedRequest, Request};
use serde_json::Value;

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::Report;

/// `policy ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// The policy in force at this daemon
    Get {
        /// The network.
        #[arg(long, value_name = "ID")]
        net: u16,
    },
    /// Replace the policy in force at this daemon
    Set {
        /// The network.
        #[arg(long, value_name = "ID")]
        net: u16,
        #[command(flatten)]
        document: Document,
        /// Admin token [env: PILOT_ADMIN_TOKEN].
        #[arg(long, value_name = "TOKEN")]
        admin_token: Option<String>,
    },
}

/// A policy document.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Document {
    /// Read it from a file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The JSON itself.
    #[arg(long, value_name = "JSON")]
    inline: Option<String>,
}

/// `managed ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Managed {
    /// State of the engine
    Status {
        /// The network; 0 means the first engine.
        #[arg(long, default_value_t = 0, value_name = "ID")]
        net: u16,
    },
    /// Peers in order
    Rankings {
        /// The network; 0 means the first engine.
        #[arg(long, default_value_t = 0, value_name = "ID")]
        net: u16,
    },
    /// Run a cycle now
    Cycle {
        /// The network; 0 means the first engine.
        #[arg(long, default_value_t = 0, value_name = "ID")]
        net: u16,
        /// Other tools ask for it; accepted.
        #[arg(long, hide = true)]
        force: bool,
    },
    /// Compare the engine's peers with the registry now
    Reconcile {
        /// The network; 0 means the first engine.
        #[arg(long, default_value_t = 0, value_name = "ID")]
        net: u16,
    },
    /// Score a peer
    Score {
        /// The network.
        #[arg(long, value_name = "ID")]
        net: u16,
        /// The peer.
        #[arg(long, value_name = "PEER")]
        node: String,
        /// Added to its score.
        #[arg(long, allow_hyphen_values = true)]
        delta: i32,
        /// What it is about.
        #[arg(long, default_value = "")]
        topic: String,
    },
}

/// `member-tags ...`
#[derive(Debug, Subcommand)]
pub(crate) enum MemberTags {
    /// Show them
    Get {
        /// The network.
        #[arg(long, value_name = "ID")]
        net: u16,
        /// One member; all when absent.
        #[arg(long, value_name = "PEER")]
        node: Option<String>,
    },
    /// Replace a member's tags
    Set {
        /// The network.
        #[arg(long, value_name = "ID")]
        net: u16,
        /// The member.
        #[arg(long, value_name = "PEER")]
        node: String,
        /// Separated by commas; empty clears them.
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
    },
}

pub(crate) async fn policy(ctx: &Context, command: Policy) -> Outcome {
    let request = match command {
        Policy::Get { net } => ManagedRequest::PolicyGet { network: net },
        Policy::Set { net, document, admin_token } => {
            let text = match (document.file, document.inline) {
                (Some(path), _) => std::fs::read_to_string(&path).map_err(|e| {
                    Failure::new(code::IO_ERROR, format!("cannot read {}: {e}", path.display()))
                })?,
                (None, inline) => inline.unwrap_or_default(),
            };
            let document: Value = serde_json::from_str(&text)
                .map_err(|e| Failure::invalid(format!("the policy is not JSON: {e}")))?;
            let token =
                admin_token.or_else(|| ctx.setting("PILOT_ADMIN_TOKEN", "admin_token")).unwrap_or_default();
            ManagedRequest::PolicySet { network: net, token, document: document.to_string().into() }
        }
    };
    ask(ctx, request).await
}

pub(crate) async fn managed(ctx: &Context, command: Managed) -> Outcome {
    let request = match command {
        Managed::Status { net } => ManagedRequest::Status { network: net },
        Managed::Rankings { net } => ManagedRequest::Rankings { network: net },
        Managed::Cycle { net, .. } => ManagedRequest::Cycle { network: net },
        Managed::Reconcile { net } => ManagedRequest::Reconcile { network: net },
        Managed::Score { net, node, delta, topic } => {
            ManagedRequest::Score { network: net, node: self::node(ctx, &node).await?, delta, topic }
        }
    };
    ask(ctx, request).await
}

pub(crate) async fn member_tags(ctx: &Context, command: MemberTags) -> Outcome {
    let request = match command {
        MemberTags::Get { net, node: None } => ManagedRequest::MemberTagsGet { network: net, node: 0 },
        MemberTags::Get { net, node: Some(node) } => {
            ManagedRequest::MemberTagsGet { network: net, node: self::node(ctx, &node).await? }
        }
        MemberTags::Set { net, node, tags } => {
            let tags = tags.into_iter().filter(|t| !t.is_empty()).collect();
            ManagedRequest::MemberTagsSet { network: net, node: self::node(ctx, &node).await?, tags }
        }
    };
    ask(ctx, request).await
}

async fn node(ctx: &Context, name: &str) -> Result<u32, Failure> {
    let client = ctx.connect().await?;
    Ok(ctx.target(&client, name).await?.addr.node)
}

async fn ask(ctx: &Context, request: ManagedRequest) -> Outcome {
    let answer = ctx.connect().await?.json(&Request::Managed(request)).await?;
    Ok(Report::plain(answer))
}
