//! A node's duties towards the rendezvous: carries out what the engine's membership machine decides, as the host does, but
//! for a public node without name, handshakes or networks.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use pilot_engine::Identity;
use pilot_engine::membership::{Action, Beat, Membership};
use pilot_net::clock::Clock;
use pilot_net::node::{Node, Signal};
use pilot_net::registry_client::{Registration, RegistryClient, RegistryError};
use tokio::sync::mpsc;

/// What the duties need.
pub struct Member {
    /// The node.
    pub node: Node,
    /// Its clock.
    pub clock: Clock,
    /// The registry.
    pub client: Arc<RegistryClient>,
    /// Who registers.
    pub identity: Arc<Identity>,
    /// What the engine hears from the beacon.
    pub signals: mpsc::Receiver<Signal>,
    /// Be reached through the beacon only.
    pub relay_only: bool,
    /// What to register as the endpoint when it is not the one that was found out.
    pub endpoint: Option<&'static str>,
    /// For the machine's jitter.
    pub seed: [u8; 32],
}

impl Member {
    /// Registers, then does the duties on a task until the engine ends. The node's number.
    ///
    /// # Errors
    /// When the first registration fails.
    pub async fn join(mut self) -> Result<u32> {
        let mut machine = Membership::new(self.clock.now(), self.node.local_addr(), self.seed);
        loop {
            // All of it: a node is visible before anybody is told of it.
            self.act(&mut machine).await?;
            if machine.is_up() {
                break;
            }
            self.wait(&mut machine).await?;
        }
        let number = self.client.node();
        tokio::spawn(async move {
            while let Ok(()) = self.wait(&mut machine).await {
                if self.act(&mut machine).await.is_err() {
                    return;
                }
            }
        });
        Ok(number)
    }

    /// Waits for the next reason to do something.
    async fn wait(&mut self, machine: &mut Membership) -> Result<()> {
        let due = machine.poll_timeout().map(|at| self.clock.deadline(at));
        tokio::select! {
            () = async { tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)).await },
                if due.is_some() => machine.handle_timeout(self.clock.now()),
            signal = self.signals.recv() => match signal.context("the node is down")? {
                Signal::ObservedAddr(addr) => machine.observed(self.clock.now(), addr),
                Signal::PollHandshakes => machine.notified(self.clock.now()),
            },
        }
        Ok(())
    }

    async fn act(&mut self, machine: &mut Membership) -> Result<()> {
        while let Some(action) = machine.poll_action() {
            match action {
                Action::Discover => self.node.configure(|engine, now| engine.discover(now)).await,
                Action::Register { listen_addr } => {
                    self.register(listen_addr.to_string()).await.context("register")?;
                    machine.registered(self.clock.now(), true);
                }
                Action::Restore { .. } => self.client.set_visibility(true).await?,
                Action::Heartbeat => {
                    let beat = match self.client.heartbeat().await {
                        Ok(_) => Beat::Alive,
                        Err(RegistryError::Refused { text }) => Beat::from_refusal(&text),
                        Err(_) => Beat::Failed,
                    };
                    machine.heartbeat_done(self.clock.now(), beat);
                }
                Action::PollHandshakes => {
                    let _ = self.client.poll_handshakes().await;
                    machine.poll_done(self.clock.now());
                }
                other => bail!("a duty this bench does not know: {other:?}"),
            }
        }
        Ok(())
    }

    async fn register(&self, listen_addr: String) -> Result<()> {
        let public_key = self.identity.public_key_text();
        let relay_only = self.relay_only;
        let listen_addr = self.endpoint.map_or(listen_addr, str::to_owned);
        let what = Registration { public_key, listen_addr, relay_only, ..Registration::default() };
        let number = self.client.register(&what).await?.node_id;
        self.node.configure(move |engine, _| engine.set_node(number, true, &[])).await;
        Ok(())
    }
}
