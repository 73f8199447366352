//! `policy`, `managed`, `member-tags`: a network's rules at this daemon and its members' tags at the registry (ipc.md
//! section 12).

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pilot_wire::ipc::{ManagedRequest, Request};
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::{Cell, Out, Report, row};
use crate::ctl::registry::administer;
use crate::ctl::values::{list, local_time, number, text};

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
    /// Try a document: what it would do, rule by rule. Nothing is put in force
    #[command(after_help = TEST_HELP)]
    Test {
        #[command(flatten)]
        document: Given,
        /// What happens: connect, dial, datagram, join, leave, cycle; or one JSON object with the member `type`, which is
        /// that, and the rest as --context has it.
        #[arg(long, value_name = "EVENT")]
        event: String,
        /// What it happens to: NAME=VALUE, or one JSON object. May be repeated.
        #[arg(long, value_name = "NAME=VALUE")]
        context: Vec<String>,
    },
    /// Whether a document would be accepted
    Validate {
        #[command(flatten)]
        document: Given,
    },
}

/// Shown below `policy test --help`.
const TEST_HELP: &str = "\
What the context leaves out is filled in as for an unknown peer, and listed as assumed.
Example: pilotctl policy test gate.json --event connect --context port=22 --context peer_tags=ops,eu
Exit code: 0 for allow and for events without a verdict, 1 for deny or a document that is refused.";

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

/// The same for commands that put nothing in force; the file needs no flag there.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Given {
    /// The document: a file, or `-` for standard input.
    #[arg(value_name = "DOC")]
    path: Option<PathBuf>,
    /// The same as a flag.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The JSON itself.
    #[arg(long, value_name = "JSON")]
    inline: Option<String>,
}

impl Given {
    fn text(self) -> Result<String, Failure> {
        match (self.path.or(self.file), self.inline) {
            (Some(path), _) => read(&path),
            (None, inline) => Ok(inline.unwrap_or_default()),
        }
    }
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
        Policy::Test { document, event, context } => {
            let (event, mut about) = happening(&event)?;
            about.extend(self::context(&context)?);
            let answer = explain(ctx, document.text()?, &event, about).await?;
            return Ok(explained(&ctx.out, answer));
        }
        Policy::Validate { document } => {
            let document = document.text()?;
            let parsed: Value = serde_json::from_str(&document).unwrap_or_default();
            let mut answer = explain(ctx, document, "", Map::new()).await?;
            let rules = list(&answer, "rules");
            let events = rules.iter().map(|rule| (text(rule, "on").to_owned(), true.into()));
            let events: Map<String, Value> = events.collect();
            let (count, s) = (rules.len(), if rules.len() == 1 { "" } else { "s" });
            let text = format!("valid: {count} rule{s}, default {}", text(&answer, "default_verdict"));
            if let Some(members) = answer.as_object_mut() {
                members.insert("version".to_owned(), parsed["version"].clone());
                members.insert("events".to_owned(), events.into());
            }
            return Ok(Report::new(answer, text));
        }
        Policy::Set { net, document, admin_token } => {
            let text = match (document.file, document.inline) {
                (Some(path), _) => read(&path)?,
                (None, inline) => inline.unwrap_or_default(),
            };
            let document: Value = serde_json::from_str(&text)
                .map_err(|e| Failure::invalid(format!("the policy is not JSON: {e}")))?;
            // Here, before anybody else has to refuse it; a daemon of others cannot be asked.
            match explain(ctx, text.clone(), "", Map::new()).await {
                Err(failure) if failure.code != code::UNAVAILABLE => return Err(failure),
                _ => {}
            }
            let token =
                admin_token.or_else(|| ctx.setting("PILOT_ADMIN_TOKEN", "admin_token")).unwrap_or_default();
            // The registry first, so that every member's daemon gets it; that takes an administrator.
            if !token.is_empty() {
                let params = json!({ "network_id": net, "expr_policy": text, "admin_token": token });
                administer(ctx, "set_expr_policy", params).await?;
            } else {
                ctx.out.remark(
                    "without an admin token the registry is left alone: only this daemon takes the policy",
                );
            }
            let request =
                ManagedRequest::PolicySet { network: net, token, document: document.to_string().into() };
            let answer = ctx.connect().await?.json(&Request::Managed(request)).await?;
            let line = format!("the policy of network {net} is in force");
            return Ok(Report::new(answer, line));
        }
    };
    ask(ctx, request).await
}

pub(crate) async fn managed(ctx: &Context, command: Managed) -> Outcome {
    if let Managed::Rankings { net } = command {
        return rankings(ctx, net).await;
    }
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
        MemberTags::Get { net, node: None } => {
            let request = ManagedRequest::MemberTagsGet { network: net, node: 0 };
            let answer = ctx.connect().await?.json(&Request::Managed(request)).await?;
            let mut members: Vec<(u64, &Value)> =
                answer["members"].as_object().map_or_else(Vec::new, |members| {
                    members.iter().map(|(node, tags)| (node.parse().unwrap_or(0), tags)).collect()
                });
            members.sort_by_key(|(node, _)| *node);
            let rows: Vec<_> = members.iter().map(|(n, tags)| row![n.to_string(), words(tags)]).collect();
            let shown = match rows.is_empty() {
                true => "no member has tags".to_owned(),
                false => ctx.out.table(&["NODE ID", "TAGS"], &["NODE ID"], rows),
            };
            return Ok(Report::new(answer, shown));
        }
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

async fn rankings(ctx: &Context, network: u16) -> Outcome {
    let request = Request::Managed(ManagedRequest::Rankings { network });
    let answer = ctx.connect().await?.json(&request).await?;
    let rows = list(&answer, "rankings").iter().map(|r| {
        row![
            number(r, "rank").to_string(),
            number(r, "node_id").to_string(),
            number(r, "score").to_string(),
            text(r, "added_at")
                .parse()
                .map_or("-".to_owned(), |at: jiff::Timestamp| local_time(at.as_second())),
            words(&r["tags"]),
        ]
    });
    let text = match list(&answer, "rankings").is_empty() {
        true => "no peers".to_owned(),
        false => ctx.out.table(
            &["RANK", "NODE ID", "SCORE", "ADDED AT", "TAGS"],
            &["RANK", "NODE ID", "SCORE"],
            rows.collect(),
        ),
    };
    Ok(Report::new(answer, text))
}

/// Tags in one cell.
fn words(tags: &Value) -> String {
    let tags: Vec<&str> = tags.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if tags.is_empty() { "-".to_owned() } else { tags.join(", ") }
}

/// The text of a document; `-` is standard input.
fn read(path: &Path) -> Result<String, Failure> {
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    text.map_err(|e| Failure::new(code::IO_ERROR, format!("cannot read {}: {e}", path.display())))
}

/// `NAME=VALUE` pairs and JSON objects, later ones over earlier ones. The daemon knows the types.
fn context(items: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut context = Map::new();
    for item in items {
        if let Ok(Value::Object(object)) = serde_json::from_str(item) {
            context.extend(object);
            continue;
        }
        let (name, value) = item
            .split_once('=')
            .ok_or_else(|| Failure::invalid(format!("--context {item:?} is neither NAME=VALUE nor JSON")))?;
        context.insert(name.trim().to_owned(), value.into());
    }
    Ok(context)
}

/// `connect`, or `{"type":"connect","port":22}`.
fn happening(event: &str) -> Result<(String, Map<String, Value>), Failure> {
    if !event.trim_start().starts_with('{') {
        return Ok((event.to_owned(), Map::new()));
    }
    let mut members: Map<String, Value> =
        serde_json::from_str(event).map_err(|e| Failure::invalid(format!("--event is not JSON: {e}")))?;
    match members.remove("type") {
        Some(Value::String(kind)) => Ok((kind, members)),
        _ => Err(Failure::invalid("--event: the member \"type\" says what happens, for example \"connect\"")),
    }
}

async fn explain(
    ctx: &Context,
    document: String,
    event: &str,
    context: Map<String, Value>,
) -> Result<Value, Failure> {
    let client = ctx.connect().await?;
    let params = json!({ "document": document, "event": event, "context": context });
    match ctx.host(&client, "policy_explain", params).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Failure::new(code::UNAVAILABLE, "this daemon cannot try policies")),
        // Here the daemon's sentence is about what the person gave us.
        Err(error) => Err(match error.daemon_text() {
            Some(text) => Failure::invalid(text.to_owned()),
            None => error.into(),
        }),
    }
}

/// The walk through the rules, for people; a denial is exit code 1.
fn explained(out: &Out, answer: Value) -> Report {
    let mut rows = Vec::new();
    for rule in list(&answer, "rules") {
        let outcome = match text(rule, "outcome") {
            o @ "match" => Cell::good(o),
            o @ "error" => Cell::bad(o),
            o => o.to_owned().into(),
        };
        let effects =
            list(rule, "directives").iter().map(|d| format!("{} ({})", text(d, "type"), text(d, "effect")));
        let does = match text(rule, "error") {
            "" => effects.collect::<Vec<_>>().join(", "),
            error => error.to_owned(),
        };
        rows.push(row![
            text(rule, "rule").to_owned(),
            text(rule, "on").to_owned(),
            text(rule, "match").to_owned(),
            outcome,
            does
        ]);
    }
    let table = out.table(&["RULE", "ON", "MATCH", "OUTCOME", "DOES"], &[], rows);
    let assumed: Vec<&str> = list(&answer, "assumed").iter().filter_map(Value::as_str).collect();
    let assumed = match assumed.len() {
        0 => String::new(),
        _ => format!("\nassumed: {}", assumed.join(", ")),
    };
    let verdict = text(&answer, "verdict");
    let end = match verdict {
        "" => text(&answer, "because").to_owned(),
        _ => format!("{verdict}: {}", text(&answer, "because")),
    };
    let exit = u8::from(verdict == "deny");
    Report::new(answer.clone(), format!("{table}{assumed}\n{end}")).exit(exit)
}

async fn node(ctx: &Context, name: &str) -> Result<u32, Failure> {
    let client = ctx.connect().await?;
    Ok(ctx.target(&client, name).await?.addr.node)
}

async fn ask(ctx: &Context, request: ManagedRequest) -> Outcome {
    let answer = ctx.connect().await?.json(&Request::Managed(request)).await?;
    Ok(Report::sheet(&ctx.out, answer))
}
