//! The policy plugin: one document per network decides who may connect, dial or send datagrams, and keeps a table of the
//! network's members with tags, turnover and trust (policy.md).
//!
//! | module | job |
//! |---|---|
//! | `plugin` | the plugin object; starts and stops policies when the node joins and leaves networks |
//! | `manager` | the runners by network, as the daemon and its clients see them |
//! | `runner` | one network: table, gate, reconcile, cycle, state file |
//! | `compiled` | what the rules of a document say in a given context |
//! | `explain` | why a document decides as it does, for people who try one |
//! | `document` | reading, judging and writing documents |
//! | `lang` | the expression language |
//! | `workers` | threads that expressions run on, with deep stacks and a time limit |
//! | `config`, `clock` | settings, time and chance |
//!
//! Networks with rules instead of a policy (managed networks, policy.md section 7) are run by the same runner: the rules
//! become a document, and the table holds a bounded choice of members that only a cycle changes. After each registration
//! the documents and rules of the node's networks are fetched again, because state files hold none.
//!
//! Documents come from the network's administrator, not from this machine's owner. So whatever one contains, it costs a
//! bounded amount of time, memory and threads, and a gate that cannot be decided is closed, unless the document itself
//! says otherwise.
#![forbid(unsafe_code)]

mod clock;
mod compiled;
mod config;
mod document;
mod explain;
mod lang;
mod manager;
mod plugin;
mod runner;
#[cfg(test)]
mod tests;
mod workers;

plugin_abi::export_plugin!("policy", plugin::PolicyPlugin::new);
