//! The arguments of `net ...` and what they become.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use pilot_net::control::Start;

use crate::ctl::fail::{Failure, code};

/// `net`
#[derive(Debug, Args)]
#[command(after_help = "A runner must be there: pilot-host runner serve --plugins DIR &\n\
                  Then: pilotctl net start --nodes 3; pilotctl net status; pilotctl net graph;\n\
                  pilotctl --socket $(pilotctl net uris | head -1 | sed s,unix://,,) info;\n\
                  pilotctl net pause node2; pilotctl net snapshot save before --hot; pilotctl net stop.")]
pub(crate) struct Net {
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Where the runner is and who we are.
#[derive(Debug, Args)]
pub(super) struct Reach {
    /// The runner's control port [default: DIR/address, else 127.0.0.1:9999].
    #[arg(long, env = "PILOT_RUNNER", global = true, value_name = "HOST:PORT")]
    pub runner: Option<String>,
    /// Its directory of keys [default: ~/.pilot/runner]; client.key in it is who we are.
    #[arg(long, env = "PILOT_RUNNER_DIR", global = true, value_name = "DIR")]
    pub runner_dir: Option<PathBuf>,
    /// The identity that must answer: a file or the text [default: DIR/runner.pub].
    #[arg(long, global = true, value_name = "FILE|HEX")]
    pub runner_identity: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a cluster and wait until it is healthy
    Start(StartArgs),
    /// End the cluster; the runner stays
    Stop,
    /// The cluster as last seen (with --watch: pushed at every change)
    Status,
    /// The cluster, looked at now
    Health,
    /// Wait until every node that is not paused is healthy
    Wait,
    /// Control endpoints of the nodes that run
    Uris,
    /// The nodes and the paths between them
    Graph {
        /// How it is drawn.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// One more node
    Add(AddArgs),
    /// Take a node out and stop it; its files stay
    Rm {
        /// The node.
        name: String,
    },
    /// Stop a node and start it again, perhaps with another program or other settings
    Restart(RestartArgs),
    /// Suspend a node (SIGSTOP)
    Pause {
        /// The node.
        name: String,
    },
    /// Let a paused node go on
    Resume {
        /// The node.
        name: String,
    },
    /// Make a synthetic peer of a node, which sends what no host would
    Attach {
        /// The node.
        node: String,
    },
    /// Send from a synthetic peer to its node
    #[command(
        after_help = "OP: 0 a raw datagram; 1 a packet in clear; 2 a packet sealed; 3 the same with a right checksum; \
                            4 sealed with the last counter again."
    )]
    Send {
        /// The node.
        node: String,
        /// The peer, as `attach` named it.
        peer: String,
        /// How it is sent, 0 to 4.
        op: u32,
        #[command(flatten)]
        body: Body,
    },
    /// Make overlay networks from blueprints and let nodes join
    Provision {
        /// Blueprints, JSON files.
        #[arg(required = true, value_name = "FILE")]
        blueprints: Vec<PathBuf>,
        /// A node that joins; all of them unless given.
        #[arg(long = "participant", value_name = "NODE")]
        participants: Vec<String>,
    },
    /// Keep a cluster as files, and bring it back
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Print who we are to runners, for their --allow; makes the key when there is none
    Identity,
}

#[derive(Debug, Subcommand)]
pub(super) enum Snapshot {
    /// Keep the cluster; it ends unless --hot
    Save {
        /// What to call it.
        name: String,
        /// Hold it still for a moment instead of ending it.
        #[arg(long)]
        hot: bool,
    },
    /// A cluster from a snapshot; the snapshot stays
    Load {
        /// Which one.
        name: String,
        /// Take other ports where the old ones are in use.
        #[arg(long)]
        reassign_ports: bool,
        /// Another host program.
        #[arg(long, value_name = "FILE")]
        exec: Option<PathBuf>,
        /// Other plugins.
        #[arg(long, value_name = "DIR")]
        plugins: Option<PathBuf>,
    },
    /// What was kept
    List,
    /// Delete one
    Rm {
        /// Which one.
        name: String,
    },
}

/// How a graph is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For the terminal.
    Text,
    /// For Graphviz.
    Dot,
    /// A picture.
    Svg,
}

/// What starting, adding and restarting have in common.
#[derive(Debug, Args, Default)]
pub(super) struct SharedArgs {
    /// The host program.
    #[arg(long, value_name = "FILE")]
    exec: Option<PathBuf>,
    /// Its plugins.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Settings, a JSON file with the keys of pilot.toml: {"node": {"public": true}}.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Settings of one plugin, a JSON file.
    #[arg(long = "plugin-config", value_name = "PLUGIN=FILE", value_parser = pair)]
    plugin_configs: Vec<(String, String)>,
    /// A file for the state directory.
    #[arg(long = "place", value_name = "NAME=FILE", value_parser = pair)]
    files: Vec<(String, String)>,
}

/// The same, read.
pub(super) struct Shared {
    /// Plugin settings, and files.
    pub maps: (BTreeMap<String, String>, BTreeMap<String, String>),
    pub config: Option<String>,
}

impl SharedArgs {
    pub(super) fn exec(&self) -> Result<Option<String>, Failure> {
        self.exec.as_deref().map(absolute).transpose()
    }

    pub(super) fn plugins(&self) -> Result<String, Failure> {
        Ok(self.plugins.as_deref().map(absolute).transpose()?.unwrap_or_default())
    }

    pub(super) fn read(&self) -> Result<Shared, Failure> {
        let map = |pairs: &[(String, String)]| {
            pairs
                .iter()
                .map(|(k, path)| Ok((k.clone(), read_text(Path::new(path))?)))
                .collect::<Result<_, Failure>>()
        };
        Ok(Shared {
            maps: (map(&self.plugin_configs)?, map(&self.files)?),
            config: self.config.as_deref().map(read_text).transpose()?,
        })
    }
}

/// `net start`
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// How many nodes: node1, node2, ...
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    nodes: u32,
    /// A node of this name instead, perhaps with settings of its own (a JSON file). Repeatable.
    #[arg(long = "node", value_name = "NAME[=FILE]", conflicts_with = "nodes")]
    named: Vec<String>,
    /// Where the cluster's directory is made.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Take other ports where the configured ones are in use.
    #[arg(long)]
    reassign_ports: bool,
    #[command(flatten)]
    shared: SharedArgs,
}

impl StartArgs {
    pub(super) fn count(&self) -> usize {
        if self.named.is_empty() { self.nodes as usize } else { self.named.len() }
    }

    pub(super) fn request(&self) -> Result<Start, Failure> {
        let named = self.named.iter().map(|text| match text.split_once('=') {
            Some((name, path)) => Ok((name.to_owned(), read_text(Path::new(path))?)),
            None => Ok((text.clone(), String::new())),
        });
        let Shared { maps, config } = self.shared.read()?;
        Ok(Start {
            exec_path: self.shared.exec()?.unwrap_or_default(),
            num_nodes: Some(self.nodes),
            global_node_config: config,
            root_data_dir: self.root.as_deref().map(absolute).transpose()?,
            plugin_dir: self.shared.plugins()?,
            custom_node_configs: named.collect::<Result<_, Failure>>()?,
            chain_configs: maps.0,
            reassign_ports_if_used: Some(self.reassign_ports),
            chain_config_files: maps.1,
            ..Start::default()
        })
    }
}

/// `net add`
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// Its name; the next free node<k> unless given.
    pub name: Option<String>,
    #[command(flatten)]
    pub shared: SharedArgs,
}

/// `net restart`
#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    /// The node.
    pub name: String,
    /// Networks to join instead of those so far: ids with commas between them.
    #[arg(long, value_name = "IDS")]
    pub networks: Option<String>,
    #[command(flatten)]
    pub shared: SharedArgs,
}

/// What a synthetic peer sends.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Body {
    /// Text.
    #[arg(long)]
    data: Option<String>,
    /// Bytes as hexadecimal digits.
    #[arg(long)]
    hex: Option<String>,
    /// A file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Body {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Failure> {
        match (&self.data, &self.hex, &self.file) {
            (Some(text), ..) => Ok(text.clone().into_bytes()),
            (_, Some(digits), _) => hex::decode(digits).map_err(|e| Failure::invalid(format!("--hex: {e}"))),
            (.., Some(path)) => read_file(path),
            _ => Ok(Vec::new()),
        }
    }
}

/// `KEY=FILE`
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, path) = text.split_once('=').ok_or_else(|| format!("{text:?}: write it like NAME=FILE"))?;
    Ok((key.to_owned(), path.to_owned()))
}

/// The runner has another working directory.
pub(super) fn absolute(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path).map_err(|e| Failure::invalid(format!("{}: {e}", path.display())))?;
    Ok(path.display().to_string())
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .map_err(|e| Failure::new(code::IO_ERROR, format!("cannot read {}: {e}", path.display())))
}

fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read_file(path)?)
        .map_err(|_| Failure::invalid(format!("{} is not UTF-8 text", path.display())))
}
