//! The runners of this node, one per network (plugin-contract.md section 7). Registered with the daemon; called by it, by
//! clients through it, and by the plugin's own reactions to the bus.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilot_wire::blueprint;
use pilot_wire::goduration::GoDuration;
use plugin_abi::{Error, PolicyManager, PolicyRunner, Result};
use serde_json::{Map, Value};

use crate::compiled::Policy;
use crate::document::Document;
use crate::explain::explain;
use crate::runner::store::saved_networks;
use crate::runner::{Environment, Kind, Runner};

/// The table of runners.
#[derive(Default)]
pub(crate) struct Manager {
    state: Mutex<State>,
    /// Held while a runner is put in place of another, so that two callers do not interleave.
    replacing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// `None` before `init` and after `shutdown`.
    environment: Option<Environment>,
    runners: HashMap<u16, Arc<Runner>>,
}

impl Manager {
    /// From now on runners can be started.
    pub fn open(&self, environment: Environment) {
        self.lock().environment = Some(environment);
    }

    /// Stops everything and lets go of the daemon. Waits for the runners.
    pub fn close(&self) {
        let environment = self.lock().environment.take();
        self.stop_all();
        if let Some(environment) = environment {
            environment.workers.close();
        }
    }

    /// As `start`, for the rules of a managed network (policy.md section 7).
    pub fn start_rules(&self, network: u16, rules_json: &str) -> Result<()> {
        let rules =
            blueprint::parse_rules(rules_json.as_bytes()).map_err(|e| Error::invalid(e.to_string()))?;
        let grace = rules.grace.parse::<GoDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        let document = blueprint::rules_to_policy(Some(&rules)).unwrap_or_default();
        self.put(network, &document, Kind::Managed { grace: grace.unwrap_or_default() })
    }

    /// Puts a document in force in place of what was there; on an error that stays.
    fn put(&self, network: u16, document_json: &str, kind: Kind) -> Result<()> {
        let _one = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = self.environment()?;
        let document = Document::parse(document_json.as_bytes())
            .map_err(|e| Error::invalid(format!("parse policy: {e}")))?;
        let policy = Policy::compile(document, &environment.workers)
            .map_err(|e| Error::invalid(format!("compile policy: {e}")))?;
        let runner = Runner::new(network, policy, kind, environment);
        let old = self.lock().runners.insert(network, runner.clone());
        if let Some(old) = old {
            // Gates ask the new one already; what the old one still saves is taken over.
            old.stop();
            runner.reload();
        }
        runner.start()
    }

    fn environment(&self) -> Result<Environment> {
        self.lock().environment.clone().ok_or_else(|| Error::other("policy: runtime not configured"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PolicyManager for Manager {
    fn start(&self, network: u16, document_json: &str) -> Result<()> {
        self.put(network, document_json, Kind::Policy)
    }

    fn stop(&self, network: u16) {
        let removed = self.lock().runners.remove(&network);
        if let Some(runner) = removed {
            runner.stop();
        }
    }

    fn get(&self, network: u16) -> Option<Arc<dyn PolicyRunner>> {
        self.lock().runners.get(&network).map(|runner| runner.clone() as Arc<dyn PolicyRunner>)
    }

    fn all(&self) -> Vec<Arc<dyn PolicyRunner>> {
        self.lock().runners.values().map(|runner| runner.clone() as Arc<dyn PolicyRunner>).collect()
    }

    fn stop_all(&self) {
        let removed: Vec<Arc<Runner>> = self.lock().runners.drain().map(|(_, runner)| runner).collect();
        // All are told before any is waited for.
        removed.iter().for_each(|runner| runner.ask_to_stop());
        removed.iter().for_each(|runner| runner.stop());
    }

    fn load_persisted(&self) -> Result<Vec<u16>> {
        Ok(saved_networks(&self.environment()?.daemon.state_dir())?)
    }

    fn explain(
        &self,
        document_json: &str,
        event: &str,
        context: &Map<String, Value>,
    ) -> Result<Map<String, Value>> {
        let environment = self.environment()?;
        let now = environment.clock.wall().as_nanosecond() as f64 / 1e9;
        explain(&environment.workers, document_json, event, context, now)
    }
}
