//! Structures inside bodies, fields in wire order (zap.md sections 4.1 and 4.3).

use std::collections::BTreeMap;

use super::buffer::{DecodeError, Reader, Writer};

/// A map of texts; written sorted by key.
pub type StringMap = BTreeMap<String, String>;

/// The state of the running network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Names, sorted by who fills them in.
    pub node_names: Vec<String>,
    /// The nodes; written sorted by name.
    pub nodes: Vec<NodeInfo>,
    /// Process id of the runner.
    pub pid: i32,
    /// Where it keeps its files.
    pub root_data_dir: String,
    /// Whether every node is healthy.
    pub healthy: bool,
    /// Networks created by blueprint; written sorted by chain id.
    pub custom_chains: Vec<ChainInfo>,
    /// Ids of their groups, sorted by who fills them in.
    pub subnets: Vec<String>,
    /// Number of the whole network.
    pub network_id: u32,
}

impl ClusterInfo {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.strings(&self.node_names);
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        w.count(nodes.len());
        nodes.into_iter().for_each(|node| node.write(w));
        w.i32(self.pid);
        w.string(&self.root_data_dir);
        w.bool(self.healthy);
        let mut chains: Vec<_> = self.custom_chains.iter().collect();
        chains.sort_by(|a, b| a.chain_id.cmp(&b.chain_id));
        w.count(chains.len());
        chains.into_iter().for_each(|chain| chain.write(w));
        w.strings(&self.subnets);
        w.u32(self.network_id);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node_names: r.strings()?,
            nodes: r.list(NodeInfo::MIN_SIZE, NodeInfo::read)?,
            pid: r.i32()?,
            root_data_dir: r.string()?,
            healthy: r.bool()?,
            custom_chains: r.list(ChainInfo::MIN_SIZE, ChainInfo::read)?,
            subnets: r.strings()?,
            network_id: r.u32()?,
        })
    }
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// The program it runs.
    pub exec_path: String,
    /// Where it can be reached.
    pub uri: String,
    /// Its id.
    pub id: String,
    /// Where it logs to.
    pub log_dir: String,
    /// Where it keeps its data.
    pub db_dir: String,
    /// Its configuration file's content.
    pub config: Vec<u8>,
    /// Where its plugins are.
    pub plugin_dir: String,
    /// Groups it follows (legacy).
    pub whitelisted_subnets: String,
    /// Whether it is paused.
    pub paused: bool,
}

impl NodeInfo {
    /// Nine lengths and one octet.
    const MIN_SIZE: usize = 37;

    fn write(&self, w: &mut Writer<'_>) {
        for text in [&self.name, &self.exec_path, &self.uri, &self.id, &self.log_dir, &self.db_dir] {
            w.string(text);
        }
        w.bytes(&self.config);
        w.string(&self.plugin_dir);
        w.string(&self.whitelisted_subnets);
        w.bool(self.paused);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: r.string()?,
            exec_path: r.string()?,
            uri: r.string()?,
            id: r.string()?,
            log_dir: r.string()?,
            db_dir: r.string()?,
            config: r.bytes()?.to_vec(),
            plugin_dir: r.string()?,
            whitelisted_subnets: r.string()?,
            paused: r.bool()?,
        })
    }
}

/// One network created by blueprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainInfo {
    /// Its name.
    pub chain_name: String,
    /// Id of what runs it.
    pub vm_id: String,
    /// Name of what runs it.
    pub vm_name: String,
    /// Its id.
    pub chain_id: String,
    /// The group it belongs to.
    pub subnet_id: String,
    /// What it was created from.
    pub genesis: Vec<u8>,
}

impl ChainInfo {
    /// Six lengths.
    const MIN_SIZE: usize = 24;

    fn write(&self, w: &mut Writer<'_>) {
        for text in [&self.chain_name, &self.vm_id, &self.vm_name, &self.chain_id, &self.subnet_id] {
            w.string(text);
        }
        w.bytes(&self.genesis);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            chain_name: r.string()?,
            vm_id: r.string()?,
            vm_name: r.string()?,
            chain_id: r.string()?,
            subnet_id: r.string()?,
            genesis: r.bytes()?.to_vec(),
        })
    }
}

/// Starts one more node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddNode {
    /// Its name.
    pub name: String,
    /// The program; empty means the runner's own choice.
    pub exec_path: String,
    /// Its configuration.
    pub node_config: Option<String>,
    /// Configuration per plugin.
    pub chain_configs: StringMap,
    /// Upgrade settings per network.
    pub upgrade_configs: StringMap,
    /// Configuration files per network.
    pub chain_config_files: StringMap,
    /// Where its plugins are.
    pub plugin_dir: String,
}

impl AddNode {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.string(&self.exec_path);
        w.optional_string(self.node_config.as_deref());
        w.map(&self.chain_configs);
        w.map(&self.upgrade_configs);
        w.map(&self.chain_config_files);
        w.string(&self.plugin_dir);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: r.string()?,
            exec_path: r.string()?,
            node_config: r.optional_string()?,
            chain_configs: r.map()?,
            upgrade_configs: r.map()?,
            chain_config_files: r.map()?,
            plugin_dir: r.string()?,
        })
    }
}

/// Stops a node and starts it again, perhaps differently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartNode {
    /// Its name.
    pub name: String,
    /// Another program.
    pub exec_path: Option<String>,
    /// Groups it follows (legacy).
    pub whitelisted_chains: Option<String>,
    /// Configuration per plugin.
    pub chain_configs: StringMap,
    /// Upgrade settings per network.
    pub upgrade_configs: StringMap,
    /// Configuration files per network.
    pub chain_config_files: StringMap,
    /// Where its plugins are.
    pub plugin_dir: String,
}

impl RestartNode {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.optional_string(self.exec_path.as_deref());
        w.optional_string(self.whitelisted_chains.as_deref());
        w.map(&self.chain_configs);
        w.map(&self.upgrade_configs);
        w.map(&self.chain_config_files);
        w.string(&self.plugin_dir);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: r.string()?,
            exec_path: r.optional_string()?,
            whitelisted_chains: r.optional_string()?,
            chain_configs: r.map()?,
            upgrade_configs: r.map()?,
            chain_config_files: r.map()?,
            plugin_dir: r.string()?,
        })
    }
}

/// Sends a message from a node to a peer attached to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendOutboundMessage {
    /// The node.
    pub node_name: String,
    /// The peer.
    pub peer_id: String,
    /// Kind of message.
    pub op: u32,
    /// The message.
    pub body: Vec<u8>,
}

impl SendOutboundMessage {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.node_name);
        w.string(&self.peer_id);
        w.u32(self.op);
        w.bytes(&self.body);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { node_name: r.string()?, peer_id: r.string()?, op: r.u32()?, body: r.bytes()?.to_vec() })
    }
}

/// One network to create (project-defined).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainSpec {
    /// Its name.
    pub name: String,
    /// Its blueprint, see [`crate::blueprint`].
    pub blueprint: Vec<u8>,
    /// The nodes that join it.
    pub participants: Vec<String>,
}

impl ChainSpec {
    /// Three lengths.
    pub(super) const MIN_SIZE: usize = 12;

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.bytes(&self.blueprint);
        w.strings(&self.participants);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { name: r.string()?, blueprint: r.bytes()?.to_vec(), participants: r.strings()? })
    }
}

/// Starts a network from a snapshot (project-defined).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadSnapshot {
    /// The snapshot.
    pub snapshot_name: String,
    /// The program.
    pub exec_path: Option<String>,
    /// Where plugins are.
    pub plugin_dir: String,
    /// Where to put the files.
    pub root_data_dir: Option<String>,
    /// Configuration per plugin.
    pub chain_configs: StringMap,
    /// Upgrade settings per network.
    pub upgrade_configs: StringMap,
    /// Configuration of every node.
    pub global_node_config: Option<String>,
    /// Whether ports in use are replaced.
    pub reassign_ports_if_used: Option<bool>,
    /// Configuration files per network.
    pub chain_config_files: StringMap,
}

impl LoadSnapshot {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.snapshot_name);
        w.optional_string(self.exec_path.as_deref());
        w.string(&self.plugin_dir);
        w.optional_string(self.root_data_dir.as_deref());
        w.map(&self.chain_configs);
        w.map(&self.upgrade_configs);
        w.optional_string(self.global_node_config.as_deref());
        w.optional(self.reassign_ports_if_used, Writer::bool);
        w.map(&self.chain_config_files);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            snapshot_name: r.string()?,
            exec_path: r.optional_string()?,
            plugin_dir: r.string()?,
            root_data_dir: r.optional_string()?,
            chain_configs: r.map()?,
            upgrade_configs: r.map()?,
            global_node_config: r.optional_string()?,
            reassign_ports_if_used: r.optional(Reader::bool)?,
            chain_config_files: r.map()?,
        })
    }
}

/// Starts a network (project-defined).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The program.
    pub exec_path: String,
    /// How many nodes.
    pub num_nodes: Option<u32>,
    /// Configuration of every node.
    pub global_node_config: Option<String>,
    /// Where to put the files.
    pub root_data_dir: Option<String>,
    /// Where plugins are.
    pub plugin_dir: String,
    /// Configuration per node.
    pub custom_node_configs: StringMap,
    /// Configuration per plugin.
    pub chain_configs: StringMap,
    /// Upgrade settings per network.
    pub upgrade_configs: StringMap,
    /// Whether ports in use are replaced.
    pub reassign_ports_if_used: Option<bool>,
    /// Whether ports are chosen freely.
    pub dynamic_ports: Option<bool>,
    /// Configuration files per network.
    pub chain_config_files: StringMap,
}

impl Start {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.exec_path);
        w.optional(self.num_nodes, Writer::u32);
        w.optional_string(self.global_node_config.as_deref());
        w.optional_string(self.root_data_dir.as_deref());
        w.string(&self.plugin_dir);
        w.map(&self.custom_node_configs);
        w.map(&self.chain_configs);
        w.map(&self.upgrade_configs);
        w.optional(self.reassign_ports_if_used, Writer::bool);
        w.optional(self.dynamic_ports, Writer::bool);
        w.map(&self.chain_config_files);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            exec_path: r.string()?,
            num_nodes: r.optional(Reader::u32)?,
            global_node_config: r.optional_string()?,
            root_data_dir: r.optional_string()?,
            plugin_dir: r.string()?,
            custom_node_configs: r.map()?,
            chain_configs: r.map()?,
            upgrade_configs: r.map()?,
            reassign_ports_if_used: r.optional(Reader::bool)?,
            dynamic_ports: r.optional(Reader::bool)?,
            chain_config_files: r.map()?,
        })
    }
}
