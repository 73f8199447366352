//! `network ...`: the daemon's answers as they come (ipc.md section 11).

use clap::{Args, Subcommand};
use pilot_wire::ipc::{NetworkRequest, Request};
use serde_json::{Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::{Cell, Report, row};
use crate::ctl::registry::administer;
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
        /// Make another node a member (needs the admin token).
        #[arg(long, value_name = "PEER")]
        node_id: Option<String>,
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
    /// Make a network (needs the admin token)
    Create(Box<Create>),
    /// Remove a network (owner or admin token)
    Delete {
        /// The network.
        network: u16,
    },
    /// Give a network another name (owner, administrator or admin token)
    Rename {
        /// The network.
        network: u16,
        /// The new name.
        name: String,
    },
    /// Make a member an administrator (owner)
    Promote {
        /// The network.
        network: u16,
        /// Address, node number or host name.
        node: String,
    },
    /// Make an administrator a plain member (owner)
    Demote {
        /// The network.
        network: u16,
        /// Address, node number or host name.
        node: String,
    },
    /// Remove a member (owner or administrator)
    Kick {
        /// The network.
        network: u16,
        /// Address, node number or host name.
        node: String,
    },
    /// Hand a network over to another member (owner)
    Transfer {
        /// The network.
        network: u16,
        /// Address, node number or host name.
        node: String,
    },
    /// A member's role
    Role {
        /// The network.
        network: u16,
        /// Address, node number or host name; this node when absent.
        node: Option<String>,
    },
    /// Show a network's limits, or change those that are given
    Policy(Limits),
    /// Turn a network's enterprise features on or off (needs the admin token)
    Enterprise {
        /// The network.
        network: u16,
        /// on or off.
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
}

/// `network create`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pilotctl network create --name lab\n  \
              pilotctl network create --name guests --join-rule token --token s3cret\n  \
              pilotctl network create --name club --join-rule invite --enterprise")]
pub(crate) struct Create {
    /// Its name.
    #[arg(long)]
    name: String,
    /// Who may join: open, token or invite.
    #[arg(long, default_value = "open", value_parser = ["open", "token", "invite"])]
    join_rule: String,
    /// What joining asks for, with the rule token.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Roles, invitations, limits and key dates.
    #[arg(long)]
    enterprise: bool,
    /// Its first member and owner; this node when absent.
    #[arg(long, value_name = "PEER")]
    node_id: Option<String>,
    /// Rules of a managed network, JSON.
    #[arg(long, value_name = "JSON", conflicts_with = "rules_file")]
    rules: Option<String>,
    /// The same from a file.
    #[arg(long, value_name = "FILE")]
    rules_file: Option<std::path::PathBuf>,
    /// A token that administrates only this network.
    #[arg(long, value_name = "TOKEN")]
    network_admin_token: Option<String>,
}

/// `network policy`
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// The network.
    network: u16,
    /// Most members; 0 for no limit.
    #[arg(long, value_name = "N")]
    max_members: Option<u16>,
    /// Ports that members may use, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    allowed_ports: Option<Vec<u16>>,
    /// What the network is for.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// Commands that the daemon's own protocol has; everything else is administration at the registry.
pub(crate) async fn run(ctx: &Context, command: Network) -> Outcome {
    if let Some((operation, params)) = administrative(ctx, &command).await? {
        let answer = administer(ctx, operation, params).await?;
        let text = describe(ctx, &command, &answer);
        return Ok(Report::new(answer, text));
    }
    let client = ctx.connect().await?;
    let request = match &command {
        Network::List => NetworkRequest::List,
        Network::Join { network, token, .. } => {
            NetworkRequest::Join { network: *network, token: token.clone() }
        }
        Network::Leave { network } => NetworkRequest::Leave { network: *network },
        Network::Members { network } => NetworkRequest::Members { network: *network },
        Network::Invite { network, node } => {
            NetworkRequest::Invite { network: *network, node: ctx.target(&client, node).await?.addr.node }
        }
        Network::Invites => NetworkRequest::PollInvites,
        Network::Accept { network } => NetworkRequest::Respond { network: *network, accept: true },
        Network::Reject { network } => NetworkRequest::Respond { network: *network, accept: false },
        _ => return Err(Failure::internal("an administrative command has no operation")),
    };
    let answer = client.json(&Request::Network(request)).await;
    let answer = answer.map_err(|error| explained(&command, error.into()))?;
    let text = describe(ctx, &command, &answer);
    Ok(Report::new(answer, text))
}

/// The registry refuses strangers without a reason (registry.md section 2.4): what it may have been, and where to look.
fn explained(command: &Network, failure: Failure) -> Failure {
    if !failure.message.ends_with("request failed") {
        return failure;
    }
    let hint = match command {
        Network::Join { token, .. } if token.is_empty() => {
            "it may not exist, want a --token, or take invited nodes only; see: pilotctl network list, \
             pilotctl network invites"
        }
        Network::Join { .. } => "it may not exist, or want another token; see: pilotctl network list",
        Network::Leave { .. } => "is this node a member of it? see: pilotctl network list",
        Network::Members { .. } => "only its members may see them; join first: pilotctl network join <id>",
        Network::Invite { .. } => {
            "only members of a network invite others, and only to networks with the join rule invite"
        }
        Network::Accept { .. } | Network::Reject { .. } => {
            "no invitation to it waits for this node; see: pilotctl network invites"
        }
        _ => return failure,
    };
    failure.hint(hint)
}

/// The registry operation behind an administrative command.
async fn administrative(ctx: &Context, command: &Network) -> Result<Option<(&'static str, Value)>, Failure> {
    let member = async |operation, network: &u16, node: &str, key: &str| {
        let mut params = json!({ "network_id": network });
        params[key] = super::node(ctx, node).await?.into();
        Ok::<_, Failure>(Some((operation, params)))
    };
    match command {
        Network::Create(args) => {
            let node = match &args.node_id {
                Some(name) => super::node(ctx, name).await?,
                None => super::own_node(ctx).await?,
            };
            let mut params = json!({
                "node_id": node, "name": args.name, "join_rule": args.join_rule, "enterprise": args.enterprise,
                "token": args.token.clone().unwrap_or_default(),
            });
            let rules = match (&args.rules, &args.rules_file) {
                (Some(text), _) => Some(text.clone()),
                (None, Some(path)) => Some(std::fs::read_to_string(path).map_err(|e| {
                    Failure::new(code::IO_ERROR, format!("cannot read {}: {e}", path.display()))
                })?),
                (None, None) => None,
            };
            if let Some(rules) = rules {
                params["rules"] = serde_json::from_str(&rules)
                    .map_err(|e| Failure::invalid(format!("the rules are not JSON: {e}")))?;
            }
            if let Some(token) = &args.network_admin_token {
                params["network_admin_token"] = token.as_str().into();
            }
            Ok(Some(("create_network", params)))
        }
        Network::Join { network, token, node_id: Some(node) } => {
            let node = super::node(ctx, node).await?;
            let params = json!({ "network_id": network, "token": token, "node_id": node, "inviter_id": 0 });
            Ok(Some(("join_network", params)))
        }
        Network::Delete { network } => Ok(Some(("delete_network", json!({ "network_id": network })))),
        Network::Rename { network, name } => {
            Ok(Some(("rename_network", json!({ "network_id": network, "name": name }))))
        }
        Network::Promote { network, node } => member("promote_member", network, node, "target_node_id").await,
        Network::Demote { network, node } => member("demote_member", network, node, "target_node_id").await,
        Network::Kick { network, node } => member("kick_member", network, node, "target_node_id").await,
        Network::Transfer { network, node } => {
            member("transfer_ownership", network, node, "new_owner_id").await
        }
        Network::Role { network, node: Some(node) } => {
            member("get_member_role", network, node, "target_node_id").await
        }
        Network::Role { network, node: None } => {
            let node = super::own_node(ctx).await?;
            Ok(Some(("get_member_role", json!({ "network_id": network, "target_node_id": node }))))
        }
        Network::Policy(limits) => {
            let mut params = json!({ "network_id": limits.network });
            let changes = [
                ("max_members", limits.max_members.map(Value::from)),
                ("allowed_ports", limits.allowed_ports.clone().map(Value::from)),
                ("description", limits.description.clone().map(Value::from)),
            ];
            let mut operation = "get_network_policy";
            for (key, value) in changes {
                if let Some(value) = value {
                    params[key] = value;
                    operation = "set_network_policy";
                }
            }
            Ok(Some((operation, params)))
        }
        Network::Enterprise { network, state } => {
            let params = json!({ "network_id": network, "enterprise": state == "on" });
            Ok(Some(("set_network_enterprise", params)))
        }
        _ => Ok(None),
    }
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
        Network::Join { network, node_id: Some(node), .. } => {
            format!("{node} is a member of network {network} as {}", text(answer, "address"))
        }
        Network::Join { network, .. } => format!("joined network {network} as {}", text(answer, "address")),
        Network::Leave { network } => format!("left network {network}"),
        Network::Invite { network, node } => match text(answer, "status") {
            "already_invited" => format!("{node} was invited to network {network} before"),
            _ => format!("{node} is invited to network {network}"),
        },
        Network::Accept { network } => format!("accepted: this node is a member of network {network}"),
        Network::Reject { network } => format!("declined the invitation to network {network}"),
        Network::Create(args) => {
            format!(
                "made network {} ({})",
                ctx.out.bold(&number(answer, "network_id").to_string()),
                args.name
            )
        }
        Network::Delete { network } => format!("network {network} is gone"),
        Network::Rename { network, name } => format!("network {network} is now called {name}"),
        Network::Promote { network, node } => format!("{node} is an administrator of network {network}"),
        Network::Demote { network, node } => format!("{node} is a plain member of network {network}"),
        Network::Kick { network, node } => format!("{node} is no longer a member of network {network}"),
        Network::Transfer { network, node } => format!("{node} owns network {network}"),
        Network::Role { network, .. } => format!("{} of network {network}", text(answer, "role")),
        Network::Enterprise { network, state } => {
            format!("enterprise features of network {network} are {state}")
        }
        Network::Policy(limits) => {
            let ports: Vec<String> = list(answer, "allowed_ports").iter().map(ToString::to_string).collect();
            ctx.out.facts(&[
                ("Network", limits.network.to_string()),
                ("Description", text(answer, "description").to_owned()),
                (
                    "Members",
                    match number(answer, "max_members") {
                        0 => "any number".to_owned(),
                        n => format!("at most {n}"),
                    },
                ),
                ("Ports", if ports.is_empty() { "all".to_owned() } else { ports.join(", ") }),
            ])
        }
    }
}
