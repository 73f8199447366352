//! Administration at the registry: keys, audit log, blueprints, identity providers, exports, directory (cli.md section 2,
//! "Networks, policy, administration"). Each command is one registry operation; its answer is printed as it comes.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::{Report, row};
use crate::ctl::registry::administer;
use crate::ctl::values::{list, number, text};

/// `audit`
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only entries of this network.
    #[arg(long, alias = "network", value_name = "ID")]
    net: Option<u16>,
    /// At most this many, newest first.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// `provision`
#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// The blueprint, a JSON file.
    #[arg(value_name = "FILE")]
    blueprint: PathBuf,
}

/// `deprovision`
#[derive(Debug, Args)]
pub(crate) struct Deprovision {
    /// The network.
    network: u16,
}

/// `idp ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Idp {
    /// The identity provider in use
    Get,
    /// Replace it
    Set {
        /// oidc, saml, webhook, entra_id or ldap.
        #[arg(long = "type", value_name = "TYPE")]
        kind: String,
        /// Where it is.
        #[arg(long)]
        url: String,
        /// Issuer.
        #[arg(long)]
        issuer: Option<String>,
        /// Client id.
        #[arg(long)]
        client_id: Option<String>,
        /// Tenant id.
        #[arg(long)]
        tenant_id: Option<String>,
        /// Domain.
        #[arg(long)]
        domain: Option<String>,
    },
}

/// `audit-export ...`
#[derive(Debug, Subcommand)]
pub(crate) enum AuditExport {
    /// Where audit entries go
    Get,
    /// Send them somewhere
    Set {
        /// json, splunk_hec or syslog_cef.
        #[arg(long, value_name = "FORMAT")]
        format: String,
        /// Where to.
        #[arg(long, value_name = "URL")]
        endpoint: String,
        /// Its token.
        #[arg(long)]
        token: Option<String>,
        /// Index.
        #[arg(long)]
        index: Option<String>,
        /// Source.
        #[arg(long)]
        source: Option<String>,
    },
    /// Send them nowhere
    Disable,
}

/// `directory-sync`
#[derive(Debug, Args)]
pub(crate) struct DirectorySync {
    /// The network.
    #[arg(long, value_name = "ID")]
    net: u16,
    /// The directory: a JSON file with a list of entries.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Remove members that the directory does not list.
    #[arg(long)]
    remove_unlisted: bool,
}

/// `directory-status`, `provision-status`
#[derive(Debug, Args)]
pub(crate) struct OfNetwork {
    /// The network.
    #[arg(long, value_name = "ID")]
    net: Option<u16>,
}

/// `external-id ...`
#[derive(Debug, Subcommand)]
pub(crate) enum ExternalId {
    /// The identity behind a node
    Get {
        /// Address, node number or host name.
        node: String,
    },
    /// Bind an external id to a node
    Set {
        /// Address, node number or host name.
        node: String,
        /// The id; empty removes it.
        id: String,
    },
}

/// `key-info`
#[derive(Debug, Args)]
pub(crate) struct KeyInfo {
    /// Address, node number or host name; this node when absent.
    node: Option<String>,
}

/// `key-expiry`
#[derive(Debug, Args)]
pub(crate) struct KeyExpiry {
    /// When this node's key ends, RFC 3339; `never` for no date.
    #[arg(value_name = "TIME")]
    expires_at: String,
}

fn read_json(path: &std::path::Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::new(code::IO_ERROR, format!("cannot read {}: {e}", path.display())))?;
    serde_json::from_str(&text).map_err(|e| Failure::invalid(format!("{} is not JSON: {e}", path.display())))
}

/// Members that have a value.
fn given(pairs: &[(&str, &Option<String>)]) -> Map<String, Value> {
    let some = pairs.iter().filter_map(|(k, v)| v.as_ref().map(|v| ((*k).to_owned(), v.as_str().into())));
    some.collect()
}

async fn passed_on(ctx: &Context, operation: &str, params: Value) -> Outcome {
    Ok(Report::sheet(&ctx.out, administer(ctx, operation, params).await?))
}

pub(crate) async fn audit(ctx: &Context, args: Audit) -> Outcome {
    let mut params = json!({ "limit": args.limit });
    if let Some(net) = args.net {
        params["network_id"] = net.into();
    }
    let answer = administer(ctx, "get_audit_log", params).await?;
    let rows: Vec<_> = list(&answer, "entries")
        .iter()
        .map(|e| {
            let subject = |key: &str| match number(e, key).max(number(&e["details"], key)) {
                0 => "-".to_owned(),
                n => n.to_string(),
            };
            row![
                text(e, "timestamp").to_owned(),
                text(e, "action").to_owned(),
                subject("node_id"),
                subject("network_id"),
                match text(e, "details") {
                    "" if e["details"].is_object() => e["details"].to_string(),
                    details => details.to_owned(),
                },
            ]
        })
        .collect();
    let shown = match rows.is_empty() {
        true => "no entries".to_owned(),
        false => ctx.out.table(&["TIME", "ACTION", "NODE", "NETWORK", "DETAILS"], &["NODE", "NETWORK"], rows),
    };
    Ok(Report::new(answer, shown))
}

pub(crate) async fn provision(ctx: &Context, args: Provision) -> Outcome {
    let blueprint = read_json(&args.blueprint)?;
    passed_on(ctx, "provision_network", json!({ "blueprint": blueprint })).await
}

pub(crate) async fn deprovision(ctx: &Context, args: Deprovision) -> Outcome {
    let answer = administer(ctx, "delete_network", json!({ "network_id": args.network })).await?;
    Ok(Report::new(answer, format!("network {} is gone", args.network)))
}

pub(crate) async fn idp(ctx: &Context, command: Idp) -> Outcome {
    match command {
        Idp::Get => passed_on(ctx, "get_idp_config", json!({})).await,
        Idp::Set { kind, url, issuer, client_id, tenant_id, domain } => {
            let mut config = given(&[
                ("issuer", &issuer),
                ("client_id", &client_id),
                ("tenant_id", &tenant_id),
                ("domain", &domain),
            ]);
            config.insert("type".to_owned(), kind.as_str().into());
            config.insert("url".to_owned(), url.as_str().into());
            // The message's own `type` names the operation, so the provider travels as an object, and its kind beside.
            let params = json!({ "idp_type": kind, "url": url, "config": config });
            passed_on(ctx, "set_idp_config", params).await
        }
    }
}

pub(crate) async fn audit_export(ctx: &Context, command: AuditExport) -> Outcome {
    match command {
        AuditExport::Get => passed_on(ctx, "get_audit_export", json!({})).await,
        AuditExport::Set { format, endpoint, token, index, source } => {
            let mut params = given(&[("token", &token), ("index", &index), ("source", &source)]);
            params.insert("format".to_owned(), format.into());
            params.insert("endpoint".to_owned(), endpoint.into());
            passed_on(ctx, "set_audit_export", params.into()).await
        }
        AuditExport::Disable => {
            passed_on(ctx, "set_audit_export", json!({ "format": "", "endpoint": "" })).await
        }
    }
}

pub(crate) async fn directory_sync(ctx: &Context, args: DirectorySync) -> Outcome {
    let entries = match read_json(&args.file)? {
        Value::Object(mut document) if document.contains_key("entries") => {
            document.remove("entries").unwrap_or_default()
        }
        other => other,
    };
    let params =
        json!({ "network_id": args.net, "entries": entries, "remove_unlisted": args.remove_unlisted });
    passed_on(ctx, "directory_sync", params).await
}

pub(crate) async fn of_network(ctx: &Context, operation: &str, args: OfNetwork) -> Outcome {
    let params = args.net.map_or_else(|| json!({}), |net| json!({ "network_id": net }));
    passed_on(ctx, operation, params).await
}

pub(crate) async fn external_id(ctx: &Context, command: ExternalId) -> Outcome {
    match command {
        ExternalId::Get { node } => {
            let node = super::node(ctx, &node).await?;
            passed_on(ctx, "get_identity", json!({ "node_id": node })).await
        }
        ExternalId::Set { node, id } => {
            let node = super::node(ctx, &node).await?;
            passed_on(ctx, "set_external_id", json!({ "node_id": node, "external_id": id })).await
        }
    }
}

pub(crate) async fn key_info(ctx: &Context, args: KeyInfo) -> Outcome {
    let node = match args.node {
        Some(name) => super::node(ctx, &name).await?,
        None => super::own_node(ctx).await?,
    };
    passed_on(ctx, "get_key_info", json!({ "node_id": node })).await
}

pub(crate) async fn key_expiry(ctx: &Context, args: KeyExpiry) -> Outcome {
    let expires_at = match args.expires_at.as_str() {
        "never" => "",
        other => match other.parse::<jiff::Timestamp>() {
            Ok(_) => other,
            Err(_) => {
                return Err(Failure::invalid(format!("key-expiry: {other:?} is no time"))
                    .hint("write it like 2030-01-31T12:00:00Z, or never"));
            }
        },
    };
    passed_on(ctx, "set_key_expiry", json!({ "expires_at": expires_at })).await
}
