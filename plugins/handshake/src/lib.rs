//! The handshake plugin: who trusts whom.
//!
//! Two nodes become peers by a message on virtual port 444, directly or through the registry's inbox, and by a decision:
//! of a person (`approve`, `reject`, `revoke`) or of a rule (both asked, a shared network, a list of trusted agents,
//! automatic approval). This plugin keeps the decisions in `trust.json`, answers the daemon's trust questions as its
//! [`HandshakeService`](plugin_abi::HandshakeService), and tells the registry and the peer. It moves no other traffic,
//! and it does not poll the registry's inbox: the daemon does, and calls in.
//!
//! Two halves. `protocol` decides: pure functions and a state machine, all of handshake.md, tested against the recorded
//! vectors. `shell` does: one listener, one mutex, four threads.
//!
//! Configuration, `[plugin.handshake]`, all optional:
//!
//! | member | meaning | default |
//! |---|---|---|
//! | `trusted_agents` | path of a list of nodes whose requests are granted (handshake.md section 7) | none |
//! | `trusted_agents_key` | base64 of the Ed25519 key that must have signed that list | none: only unsigned lists pass |
//! | `direct_timeout_ms` | how long a direct message may take before the registry is used instead | 5000 |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod protocol;
mod shell;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plugin_abi::{Daemon, Plugin, Result};

use protocol::machine::Machine;
use protocol::message::PORT;
use protocol::store::Store;
use shell::agent_list::AgentList;
use shell::clock::{Clock, SystemClock};
use shell::config::Config;
use shell::core::Core;
use shell::keeper::{self, Keeper};
use shell::service::Service;
use shell::state_file::StateFile;
use shell::{listener, lock};

/// The plugin: nothing before `init`, nothing after `shutdown`.
pub struct Handshake {
    clock: Arc<dyn Clock>,
    service: Mutex<Option<Arc<Service>>>,
}

impl Handshake {
    /// A plugin on the system's clock.
    pub fn new() -> Self {
        Handshake { clock: Arc::new(SystemClock), service: Mutex::new(None) }
    }
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Plugin for Handshake {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let config = Config::read(&daemon.config())?;
        let file = daemon.identity_path().map(|path: PathBuf| StateFile::beside(&path));
        let store = file.as_ref().map_or_else(Store::default, |f| f.load(self.clock.now()));
        let keeper = Keeper::new(file, store.revision());
        let machine = Machine::new(store, daemon.trust_auto_approve());
        let agents = config.trusted_agents.clone();
        let agents = agents.map(|path| Arc::new(AgentList::open(path, config.trusted_agents_key)));

        let listener = daemon.ports().bind(PORT)?;
        let core =
            Core::new(Arc::clone(&daemon), machine, keeper, config, agents.clone(), Arc::clone(&self.clock));
        let service = Arc::new(Service::new(Arc::clone(&core), Arc::clone(&listener)));

        let start = |name: &str, run: Box<dyn FnOnce(Arc<Core>) + Send>| {
            let core = Arc::clone(&core);
            let tasks = Arc::clone(&core.tasks);
            tasks.spawn(Arc::clone(&daemon), name, move || run(core))
        };
        let accepting = Arc::clone(&daemon);
        let started = start("handshake-errands", Box::new(|core| core.run_errands()))
            .and_then(|()| start("handshake-closer", Box::new(|core| core.run_closer())))
            .and_then(|()| start("handshake-keeper", Box::new(|core| keeper::run(&core))))
            .and_then(|()| {
                start(
                    "handshake-accept",
                    Box::new(move |core| listener::run(&core, &accepting, listener.as_ref())),
                )
            });
        if let Err(cause) = started {
            // What did start must not outlive a failed init.
            let _ = service.shut_down(Duration::from_secs(1));
            return Err(cause);
        }
        if let Some(agents) = agents {
            daemon.register_trust_checker(agents);
        }
        daemon.register_handshake_service(Arc::clone(&service) as _);
        *lock(&self.service) = Some(service);
        Ok(())
    }

    fn shutdown(&self, deadline: Duration) -> Result<()> {
        let service = lock(&self.service).take();
        service.map_or(Ok(()), |service| service.shut_down(deadline))
    }
}

plugin_abi::export_plugin!("handshake", Handshake::new);

#[cfg(test)]
mod tests;
