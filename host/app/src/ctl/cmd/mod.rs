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

use std::pin::Pin;

use super::cli::Command;
use pilot_wire::ipc::Request;

use super::context::{Context, literal};
use super::fail::Failure;
use super::out::Report;
use super::values::number;

/// How a command ends.
pub(super) type Outcome = Result<Report, Failure>;

/// A command at work.
type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// Made outside of [`run`], whose future would else have room for every command at once, and in a build without optimisation
/// its frame too: more than a thread's stack.
fn boxed<'a, F: Future<Output = Outcome> + 'a>(command: impl FnOnce() -> F) -> Running<'a> {
    Box::pin(command())
}

/// Carries a command out.
pub(super) async fn run(ctx: &Context, command: Command) -> Outcome {
    let running: Running<'_> = match command {
        Command::Daemon(c) => boxed(|| daemon::run(ctx, c)),
        Command::Info => boxed(|| status::info(ctx)),
        Command::Health => boxed(|| status::health(ctx)),
        Command::Plugins(c) => boxed(|| plugins::run(ctx, c)),
        Command::Peers(c) => boxed(|| status::peers(ctx, c)),
        Command::Connections => boxed(|| status::connections(ctx)),
        Command::Disconnect(c) => boxed(|| status::disconnect(ctx, c)),
        Command::Handshake(c) => boxed(|| trust::handshake(ctx, c)),
        Command::Pending => boxed(|| trust::pending(ctx)),
        Command::Approve(c) => boxed(|| trust::approve(ctx, c)),
        Command::Reject(c) => boxed(|| trust::reject(ctx, c)),
        Command::Trust(c) => boxed(|| trust::trust(ctx, c)),
        Command::Untrust(c) => boxed(|| trust::untrust(ctx, c)),
        Command::PreferDirect(c) => boxed(|| trust::prefer_direct(ctx, c)),
        Command::SendMessage(c) => boxed(|| message::run(ctx, c)),
        Command::SendFile(c) => boxed(|| file::run(ctx, c)),
        Command::Inbox(c) => boxed(|| mailbox::inbox(ctx, c)),
        Command::Received(c) => boxed(|| mailbox::received(ctx, c)),
        Command::Ping(c) => boxed(|| probe::ping(ctx, c)),
        Command::Traceroute(c) => boxed(|| probe::traceroute(ctx, c)),
        Command::Bench(c) => boxed(|| probe::bench(ctx, c)),
        Command::Connect(c) => boxed(|| raw::connect(ctx, c)),
        Command::Send(c) => boxed(|| raw::send(ctx, c)),
        Command::Recv(c) => boxed(|| raw::recv(ctx, c)),
        Command::Listen(c) => boxed(|| raw::listen(ctx, c)),
        Command::Dgram(c) => boxed(|| raw::dgram(ctx, c)),
        Command::Subscribe(c) => boxed(|| events::subscribe(ctx, c)),
        Command::Publish(c) => boxed(|| events::publish(ctx, c)),
        Command::Broadcast(c) => boxed(|| raw::broadcast(ctx, c)),
        Command::Find(c) => boxed(|| names::find(ctx, c)),
        Command::Lookup(c) => boxed(|| names::lookup(ctx, c)),
        Command::SetHostname(c) => boxed(|| names::set_hostname(ctx, c.hostname)),
        Command::ClearHostname => boxed(|| names::set_hostname(ctx, String::new())),
        Command::SetPublic => boxed(|| names::set_visibility(ctx, true)),
        Command::SetPrivate => boxed(|| names::set_visibility(ctx, false)),
        Command::SetTags(c) => boxed(|| names::set_tags(ctx, c.tags)),
        Command::ClearTags => boxed(|| names::set_tags(ctx, Vec::new())),
        Command::SetWebhook(c) => boxed(|| names::set_webhook(ctx, c.url)),
        Command::ClearWebhook => boxed(|| names::set_webhook(ctx, String::new())),
        Command::RotateKey => boxed(|| names::rotate_key(ctx)),
        Command::Deregister => boxed(|| names::deregister(ctx)),
        Command::Network(c) => boxed(|| network::run(ctx, c)),
        Command::Policy(c) => boxed(|| policy::policy(ctx, c)),
        Command::Managed(c) => boxed(|| policy::managed(ctx, c)),
        Command::MemberTags(c) => boxed(|| policy::member_tags(ctx, c)),
        Command::SignRequest(c) => boxed(|| sign::sign(ctx, c)),
        Command::VerifyRequest(c) => boxed(|| sign::verify(ctx, c)),
        Command::Audit(c) => boxed(|| admin::audit(ctx, c)),
        Command::Provision(c) => boxed(|| admin::provision(ctx, c)),
        Command::Deprovision(c) => boxed(|| admin::deprovision(ctx, c)),
        Command::Idp(c) => boxed(|| admin::idp(ctx, c)),
        Command::AuditExport(c) => boxed(|| admin::audit_export(ctx, c)),
        Command::ProvisionStatus(c) => boxed(|| admin::of_network(ctx, "get_provision_status", c)),
        Command::DirectorySync(c) => boxed(|| admin::directory_sync(ctx, c)),
        Command::DirectoryStatus(c) => boxed(|| admin::of_network(ctx, "directory_status", c)),
        Command::ExternalId(c) => boxed(|| admin::external_id(ctx, c)),
        Command::KeyInfo(c) => boxed(|| admin::key_info(ctx, c)),
        Command::KeyExpiry(c) => boxed(|| admin::key_expiry(ctx, c)),
        Command::Net(c) => boxed(|| net::run(ctx, *c)),
        Command::Top(c) => boxed(|| top::top(ctx, c)),
        Command::Events(c) => boxed(|| watch::events(ctx, c)),
        Command::Register => boxed(|| names::register(ctx)),
        Command::Verify(c) => boxed(|| sign::verify_badge(ctx, c)),
        Command::Recovery(c) => boxed(|| sign::recovery(ctx, c)),
        Command::Quickstart => return Ok(setup::quickstart(ctx)),
        Command::Man(c) => return setup::man(c),
        Command::Init(c) => return setup::init(ctx, c),
        Command::Config(c) => return setup::config(ctx, c),
        Command::Context(c) => return setup::context(c),
        Command::Completions(c) => return Ok(setup::completions(&c)),
        Command::Version => return Ok(setup::version()),
    };
    running.await
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
