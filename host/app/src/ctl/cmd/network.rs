//! `network ...`: the daemon's answers as they come (ipc.md section 11).

use clap::Subcommand;
use pilot_wire::ipc::{NetworkRequest, Request};
use serde_json::Value;

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::out::{Cell, Report, row};
use crate::ctl::values::{list, local_time, number, text};

/// `network ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Networks that the registry shows
    List,
    /// Become a member
    Join {
        /// The network.
        network: u16,
        /// Join token.
        #[arg(long, default_value = "", value_name = "TOKEN")]
        token: String,
    },
    /// Give up membership
    Leave {
        /// The network.
        network: u16,
    },
    /// Members of a network
    Members {
        /// The network.
        network: u16,
    },
    /// Invite a node
    Invite {
        /// The network.
        network: u16,
        /// Address, node number or host name.
        node: String,
    },
    /// Invitations for this node
    Invites,
    /// Accept an invitation
    Accept {
        /// The network.
        network: u16,
    },
    /// Decline an invitation
    Reject {
        /// The network.
        network: u16,
    },
}

pub(crate) async fn run(ctx: &Context, command: Network) -> Outcome {
    let client = ctx.connect().await?;
    let request = match &command {
        Network::List => NetworkRequest::List,
        Network::Join { network, token } => NetworkRequest::Join { network: *network, token: token.clone() },
        Network::Leave { network } => NetworkRequest::Leave { network: *network },
        Network::Members { network } => NetworkRequest::Members { network: *network },
        Network::Invite { network, node } => {
            NetworkRequest::Invite { network: *network, node: ctx.target(&client, node).await?.addr.node }
        }
        Network::Invites => NetworkRequest::PollInvites,
        Network::Accept { network } => NetworkRequest::Respond { network: *network, accept: true },
        Network::Reject { network } => NetworkRequest::Respond { network: *network, accept: false },
    };
    let answer = client.json(&Request::Network(request)).await?;
    let text = describe(ctx, &command, &answer);
    Ok(Report::new(answer, text))
}

fn describe(ctx: &Context, command: &Network, answer: &Value) -> String {
    let table = |head: &[&str], right: &[&str], rows: Vec<Vec<Cell>>, none: &str| match rows.is_empty() {
        true => none.to_owned(),
        false => ctx.out.table(head, right, rows),
    };
    match command {
        Network::List => {
            let rows = list(answer, "networks").iter().map(|n| {
                let members = match &n["members"] {
                    Value::Array(members) => members.len().to_string(),
                    Value::Number(count) => count.to_string(),
                    _ => "-".to_owned(),
                };
                row![
                    number(n, "id").to_string(),
                    text(n, "name").to_owned(),
                    text(n, "join_rule").to_owned(),
                    members,
                    Cell::yes_no(n["has_expr_policy"] == Value::Bool(true)),
                ]
            });
            table(
                &["ID", "NAME", "JOIN", "MEMBERS", "POLICY"],
                &["ID", "MEMBERS"],
                rows.collect(),
                "no networks",
            )
        }
        Network::Members { .. } => {
            let rows = list(answer, "nodes").iter().map(|n| {
                let state =
                    if n["offline"] == Value::Bool(true) { Cell::dim("offline") } else { "online".into() };
                row![
                    number(n, "node_id").to_string(),
                    text(n, "hostname").to_owned(),
                    text(n, "address").to_owned(),
                    text(n, "role").to_owned(),
                    state,
                ]
            });
            table(
                &["NODE ID", "HOSTNAME", "ADDRESS", "ROLE", "STATE"],
                &["NODE ID"],
                rows.collect(),
                "no members",
            )
        }
        Network::Invites => {
            let rows = list(answer, "invites").iter().map(|i| {
                let at = local_time(number(i, "timestamp").cast_signed());
                row![number(i, "network_id").to_string(), number(i, "inviter_id").to_string(), at]
            });
            table(
                &["NETWORK", "INVITED BY", "AT"],
                &["NETWORK", "INVITED BY"],
                rows.collect(),
                "no invitations",
            )
        }
        Network::Join { network, .. } => format!("joined network {network} as {}", text(answer, "address")),
        Network::Leave { network } => format!("left network {network}"),
        Network::Invite { network, node } => match text(answer, "status") {
            "already_invited" => format!("{node} was invited to network {network} before"),
            _ => format!("{node} is invited to network {network}"),
        },
        Network::Accept { network } => format!("accepted: this node is a member of network {network}"),
        Network::Reject { network } => format!("declined the invitation to network {network}"),
    }
}
