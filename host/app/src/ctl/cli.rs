//! Every command and flag, defined once: parsing, help and completions follow from here (cli.md section 2). The arguments
//! of a command stand beside its code in `cmd`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use super::cmd::{
    admin, daemon, events, file, mailbox, message, names, net, network, plugins, policy, probe, raw, setup,
    sign, status, top, trust, watch,
};

/// Drives a Pilot daemon over its local socket.
#[derive(Debug, Parser)]
#[command(
    name = "pilotctl",
    version = crate::version::VERSION,
    subcommand_required = true,
    arg_required_else_help = true,
    infer_long_args = false,
    after_help = AFTER_HELP
)]
pub(super) struct Cli {
    /// One JSON line instead of text, wherever this stands on the line.
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    /// Say more on standard error.
    #[arg(long, short, global = true, help_heading = EVERYWHERE)]
    pub verbose: bool,
    /// The daemon's socket [env: PILOT_SOCKET] [default: "socket" in config.json, else the daemon's own default].
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Repeat a command that only looks (info, peers, ...), every 2 s unless told otherwise.
    #[arg(long, global = true, help_heading = EVERYWHERE, num_args = 0..=1, require_equals = true, default_missing_value = "2s", value_name = "INTERVAL", value_parser = super::values::duration)]
    pub watch: Option<Duration>,
    /// With --watch: stop after this many; 0 goes on for ever.
    #[arg(long, global = true, default_value_t = 0, hide = true)]
    pub rounds: u64,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether there is a command of that name.
    pub(super) fn knows(name: &str) -> bool {
        Cli::command().find_subcommand(name).is_some()
    }

    /// The help text of the tool as a whole: what clap would print, with the commands in groups.
    pub(super) fn usage() -> String {
        let mut root = Cli::command();
        let commands = groups(&root);
        let heads = "{about}\n\n{usage-heading} {usage}\n\n";
        root = root
            .help_template(format!("{heads}{commands}\n\n{EVERYWHERE}:\n{{options}}\n\n{{after-help}}\n"));
        root.render_help().to_string()
    }

    /// The longest beginning of these words that names a command, such as `network invite`; empty when there is none.
    pub(super) fn path<'a>(words: impl Iterator<Item = &'a str>) -> String {
        let (root, mut names) = (Cli::command(), Vec::new());
        let mut at = &root;
        for word in words {
            let Some(next) = at.find_subcommand(word) else { break };
            names.push(word);
            at = next;
        }
        names.join(" ")
    }
}

/// Heading of the flags that every command takes.
const EVERYWHERE: &str = "Options of every command";

/// Shown below the help of the tool as a whole.
const AFTER_HELP: &str = "\
Peers are named by address (0:0000.0000.0007), node number (7) or host name.
First steps: pilotctl quickstart. All about one command: pilotctl <COMMAND> --help
Environment: PILOT_SOCKET, PILOT_HOME, PILOT_REGISTRY, PILOT_ADMIN_TOKEN, PILOT_DAEMON_BIN, NO_COLOR.";

/// Where the groups of the help text begin; a group ends where the next one begins.
const GROUPS: [(&str, &str); 7] = [
    ("daemon", "This node"),
    ("handshake", "Trust"),
    ("send-message", "Talking to peers"),
    ("find", "Names, settings and keys at the registry"),
    ("network", "Networks and their administration"),
    ("net", "Clusters for development"),
    ("quickstart", "The tool itself"),
];

/// The commands with their headings, as clap would list them.
fn groups(root: &clap::Command) -> String {
    let shown: Vec<&clap::Command> = root.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    let width = shown.iter().map(|c| c.get_name().len()).max().unwrap_or(0);
    let mut text = String::new();
    for command in shown {
        let name = command.get_name();
        if let Some((_, heading)) = GROUPS.iter().find(|(first, _)| *first == name) {
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}{heading}:\n");
        }
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text += &format!("  {name:<width$}  {about}\n");
    }
    text.trim_end().to_owned()
}

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start, stop or look at the daemon
    #[command(subcommand)]
    Daemon(daemon::Daemon),
    /// State of this node
    Info,
    /// Counters, answered without waiting
    Health,
    /// Plugins of the daemon: list, status, start, stop, reload, logs
    Plugins(plugins::Plugins),
    /// Tunnels to other nodes
    Peers(status::Peers),
    /// Open streams
    Connections,
    /// What happened lately, and what happens
    Events(watch::Events),
    /// A live view of peers, paths, streams, plugins and events
    Top(top::Top),
    /// Close a stream by its id
    Disconnect(status::Disconnect),

    /// Ask a node for trust
    Handshake(trust::Handshake),
    /// Requests that wait for your decision
    Pending,
    /// Approve a request
    Approve(trust::Approve),
    /// Reject a request
    Reject(trust::Reject),
    /// Nodes you trust
    Trust(trust::Trust),
    /// Take trust back
    Untrust(trust::Untrust),
    /// Forget the relay for a peer; the next connection tries the direct path
    PreferDirect(trust::PreferDirect),

    /// Send a message
    SendMessage(message::SendMessage),
    /// Send a file; an interrupted transfer resumes
    SendFile(file::SendFile),
    /// Messages that arrived
    Inbox(mailbox::Inbox),
    /// Files that arrived
    Received(mailbox::Received),
    /// Round trip times through the echo service
    Ping(probe::Ping),
    /// Setup and round trip times on one stream
    Traceroute(probe::Traceroute),
    /// Throughput through the echo service
    Bench(probe::Bench),
    /// Open a stream, send, and print the answer
    Connect(raw::Connect),
    /// Send data to a port and print the answer
    Send(raw::Send),
    /// Receive messages on a port
    Recv(raw::Recv),
    /// Receive datagrams on a port
    Listen(raw::Listen),
    /// Send one datagram
    Dgram(raw::Dgram),
    /// Follow a topic of a peer's event stream
    Subscribe(events::Subscribe),
    /// Publish on a topic of a peer's event stream
    Publish(events::Publish),
    /// Send a datagram to all members of a network (needs the admin token)
    Broadcast(raw::Broadcast),

    /// Find a node by host name
    Find(names::Find),
    /// What the registry knows about a node
    Lookup(names::Lookup),
    /// Set this node's host name
    SetHostname(names::SetHostname),
    /// Remove this node's host name
    ClearHostname,
    /// Let strangers look this node up and connect
    SetPublic,
    /// Only trusted peers may look this node up and connect
    SetPrivate,
    /// Set this node's tags (at most 3)
    SetTags(names::SetTags),
    /// Remove this node's tags
    ClearTags,
    /// Send the daemon's events to a URL
    SetWebhook(names::SetWebhook),
    /// Stop sending events
    ClearWebhook,
    /// Make a new key pair
    RotateKey,
    /// Leave the registry
    Deregister,
    /// Register again, for example after a deregistration
    Register,
    /// What is known about a node's key
    KeyInfo(admin::KeyInfo),
    /// Let this node's key end at a date (members of an enterprise network)
    KeyExpiry(admin::KeyExpiry),

    /// Networks: list, join, leave, members, invitations
    #[command(subcommand)]
    Network(network::Network),
    /// A network's policy
    #[command(subcommand)]
    Policy(policy::Policy),
    /// State of a network's policy engine
    #[command(subcommand)]
    Managed(policy::Managed),
    /// Tags of a network's members
    #[command(subcommand)]
    MemberTags(policy::MemberTags),
    /// The registry's audit log (needs the admin token)
    Audit(admin::Audit),
    /// Make a network from a blueprint (needs the admin token)
    Provision(admin::Provision),
    /// Remove a network that was made from a blueprint
    Deprovision(admin::Deprovision),
    /// What was provisioned (needs the admin token)
    ProvisionStatus(admin::OfNetwork),
    /// The registry's identity provider (needs the admin token)
    #[command(subcommand)]
    Idp(admin::Idp),
    /// Where the registry sends its audit log (needs the admin token)
    #[command(subcommand)]
    AuditExport(admin::AuditExport),
    /// Apply a directory's members and roles to a network (needs the admin token)
    DirectorySync(admin::DirectorySync),
    /// When a directory was applied last (needs the admin token)
    DirectoryStatus(admin::OfNetwork),
    /// External identities of nodes (needs the admin token)
    #[command(subcommand)]
    ExternalId(admin::ExternalId),
    /// Sign a request in this node's name
    SignRequest(sign::SignRequest),
    /// Check a request another node signed
    VerifyRequest(sign::VerifyRequest),
    /// Hand a verification badge to the registry
    Verify(sign::Verify),
    /// Deposit a recovery enrolment at the registry
    #[command(subcommand)]
    Recovery(sign::Recovery),

    /// A cluster of hosts on this machine (needs pilot-host runner serve)
    Net(Box<net::Net>),

    /// The first steps, one after the other
    Quickstart,
    /// Write a first config.json
    Init(setup::Init),
    /// Show or change config.json
    Config(setup::Config),
    /// All commands and error codes as JSON, for agents
    Context(setup::Context),
    /// Print a shell completion script
    Completions(setup::Completions),
    /// Write the manual pages of pilotctl and pilot-host into a directory
    Man(setup::Man),
    /// Print the version
    Version,
}
