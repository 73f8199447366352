//! The commands, one file for each subject: its arguments and what it does.

pub(super) mod admin;
pub(super) mod daemon;
pub(super) mod events;
pub(super) mod file;
pub(super) mod mailbox;
pub(super) mod message;
pub(super) mod names;
pub(super) mod net;
pub(super) mod network;
pub(super) mod plugins;
pub(super) mod policy;
pub(super) mod probe;
pub(super) mod raw;
pub(super) mod setup;
pub(super) mod sign;
pub(super) mod status;
pub(super) mod top;
pub(super) mod trust;
pub(super) mod watch;

use super::cli::Command;
use pilot_wire::ipc::Request;

use super::context::{Context, literal};
use super::fail::Failure;
use super::out::Report;
use super::values::number;

/// How a command ends.
pub(super) type Outcome = Result<Report, Failure>;

/// Carries a command out.
pub(super) async fn run(ctx: &Context, command: Command) -> Outcome {
    match command {
        Command::Daemon(c) => daemon::run(ctx, c).await,
        Command::Info => status::info(ctx).await,
        Command::Health => status::health(ctx).await,
        Command::Plugins(c) => plugins::run(ctx, c).await,
        Command::Peers(c) => status::peers(ctx, c).await,
        Command::Connections => status::connections(ctx).await,
        Command::Disconnect(c) => status::disconnect(ctx, c).await,
        Command::Handshake(c) => trust::handshake(ctx, c).await,
        Command::Pending => trust::pending(ctx).await,
        Command::Approve(c) => trust::approve(ctx, c).await,
        Command::Reject(c) => trust::reject(ctx, c).await,
        Command::Trust(c) => trust::trust(ctx, c).await,
        Command::Untrust(c) => trust::untrust(ctx, c).await,
        Command::PreferDirect(c) => trust::prefer_direct(ctx, c).await,
        Command::SendMessage(c) => message::run(ctx, c).await,
        Command::SendFile(c) => file::run(ctx, c).await,
        Command::Inbox(c) => mailbox::inbox(ctx, c).await,
        Command::Received(c) => mailbox::received(ctx, c).await,
        Command::Ping(c) => probe::ping(ctx, c).await,
        Command::Traceroute(c) => probe::traceroute(ctx, c).await,
        Command::Bench(c) => probe::bench(ctx, c).await,
        Command::Connect(c) => raw::connect(ctx, c).await,
        Command::Send(c) => raw::send(ctx, c).await,
        Command::Recv(c) => raw::recv(ctx, c).await,
        Command::Listen(c) => raw::listen(ctx, c).await,
        Command::Dgram(c) => raw::dgram(ctx, c).await,
        Command::Subscribe(c) => events::subscribe(ctx, c).await,
        Command::Publish(c) => events::publish(ctx, c).await,
        Command::Broadcast(c) => raw::broadcast(ctx, c).await,
        Command::Find(c) => names::find(ctx, c).await,
        Command::Lookup(c) => names::lookup(ctx, c).await,
        Command::SetHostname(c) => names::set_hostname(ctx, c.hostname).await,
        Command::ClearHostname => names::set_hostname(ctx, String::new()).await,
        Command::SetPublic => names::set_visibility(ctx, true).await,
        Command::SetPrivate => names::set_visibility(ctx, false).await,
        Command::SetTags(c) => names::set_tags(ctx, c.tags).await,
        Command::ClearTags => names::set_tags(ctx, Vec::new()).await,
        Command::SetWebhook(c) => names::set_webhook(ctx, c.url).await,
        Command::ClearWebhook => names::set_webhook(ctx, String::new()).await,
        Command::RotateKey => names::rotate_key(ctx).await,
        Command::Deregister => names::deregister(ctx).await,
        Command::Network(c) => network::run(ctx, c).await,
        Command::Policy(c) => policy::policy(ctx, c).await,
        Command::Managed(c) => policy::managed(ctx, c).await,
        Command::MemberTags(c) => policy::member_tags(ctx, c).await,
        Command::SignRequest(c) => sign::sign(ctx, c).await,
        Command::VerifyRequest(c) => sign::verify(ctx, c).await,
        Command::Audit(c) => admin::audit(ctx, c).await,
        Command::Provision(c) => admin::provision(ctx, c).await,
        Command::Deprovision(c) => admin::deprovision(ctx, c).await,
        Command::Idp(c) => admin::idp(ctx, c).await,
        Command::AuditExport(c) => admin::audit_export(ctx, c).await,
        Command::ProvisionStatus(c) => admin::of_network(ctx, "get_provision_status", c).await,
        Command::DirectorySync(c) => admin::directory_sync(ctx, c).await,
        Command::DirectoryStatus(c) => admin::of_network(ctx, "directory_status", c).await,
        Command::ExternalId(c) => admin::external_id(ctx, c).await,
        Command::KeyInfo(c) => admin::key_info(ctx, c).await,
        Command::KeyExpiry(c) => admin::key_expiry(ctx, c).await,
        Command::Net(c) => net::run(ctx, *c).await,
        Command::Top(c) => top::top(ctx, c).await,
        Command::Events(c) => watch::events(ctx, c).await,
        Command::Register => names::register(ctx).await,
        Command::Verify(c) => sign::verify_badge(ctx, c).await,
        Command::Recovery(c) => sign::recovery(ctx, c).await,
        Command::Quickstart => Ok(setup::quickstart(ctx)),
        Command::Man(c) => setup::man(c),
        Command::Init(c) => setup::init(ctx, c),
        Command::Config(c) => setup::config(ctx, c),
        Command::Context(c) => setup::context(c),
        Command::Completions(c) => Ok(setup::completions(&c)),
        Command::Version => Ok(setup::version()),
    }
}

/// The number of a node that the command line names.
async fn node(ctx: &Context, name: &str) -> Result<u32, Failure> {
    if let Some(addr) = literal(name) {
        return Ok(addr.node);
    }
    let client = ctx.connect().await?;
    Ok(ctx.target(&client, name).await?.addr.node)
}

/// This node's own number.
async fn own_node(ctx: &Context) -> Result<u32, Failure> {
    let info = ctx.connect().await?.json(&Request::Info).await?;
    match u32::try_from(number(&info, "node_id")) {
        Ok(node) if node > 0 => Ok(node),
        _ => Err(Failure::connection("this node is not registered yet")
            .hint("see whether the registry can be reached: pilotctl info")),
    }
}
