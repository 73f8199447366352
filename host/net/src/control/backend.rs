//! What a control server is a face of: one method per call (netrunner.md section 5).

use std::future::Future;

use pilot_wire::zap::{
    AddNode, ChainSpec, ClusterInfo, LoadSnapshot, RestartNode, SendOutboundMessage, Start, UNSUPPORTED,
};
use tokio::sync::watch;

/// An error as it travels: a text. Clients match on texts, so they are part of the protocol (netrunner.md section 4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

impl BackendError {
    /// With a text.
    pub fn new(text: impl Into<String>) -> Self {
        BackendError(text.into())
    }

    /// The text for calls that have no meaning at this backend.
    pub fn unsupported() -> Self {
        BackendError::new(UNSUPPORTED)
    }
}

/// What a backend answers.
pub type BackendResult<T> = Result<T, BackendError>;

/// The state, and ids of what was created, in the order of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// The state; `None` when no cluster runs.
    pub cluster: Option<ClusterInfo>,
    /// Decimal ids.
    pub ids: Vec<String>,
}

/// Serves the calls of one runner. Every method may be called by many connections at once. A method's future is dropped
/// when its caller is gone, so what must be finished regardless belongs into a task of the backend's own.
///
/// `Ok(None)` for a state means that no cluster runs.
pub trait Backend: Send + Sync + 'static {
    /// The runner's process id.
    fn ping(&self) -> impl Future<Output = BackendResult<i32>> + Send {
        async { Ok(i32::try_from(std::process::id()).unwrap_or(0)) }
    }
    /// A fresh evaluation, at once.
    fn health(&self) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// Waits until healthy.
    fn wait_for_healthy(&self) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// Where the nodes that run can be reached.
    fn uris(&self) -> impl Future<Output = BackendResult<Vec<String>>> + Send;
    /// The last known state.
    fn status(&self) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// As [`status`](Self::status), for streams: no cluster is no error.
    fn snapshot(&self) -> impl Future<Output = Option<ClusterInfo>> + Send;
    /// Changes whenever the state does; streams then push at once.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Creates the cluster.
    fn start(&self, request: Start) -> impl Future<Output = BackendResult<Created>> + Send;
    /// Ends the cluster; the runner stays.
    fn stop(&self) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// One more node.
    fn add_node(&self, request: AddNode) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// One less.
    fn remove_node(&self, name: String) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// The same node, perhaps with other settings.
    fn restart_node(
        &self,
        request: RestartNode,
    ) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// Suspends a node.
    fn pause_node(&self, name: String) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// Lets it go on.
    fn resume_node(&self, name: String) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// Makes a synthetic peer of a node; gives its id too.
    fn attach_peer(
        &self,
        node: String,
    ) -> impl Future<Output = BackendResult<(Option<ClusterInfo>, String)>> + Send;
    /// Sends from such a peer; `false` when its socket did not take it.
    fn send_outbound_message(
        &self,
        request: SendOutboundMessage,
    ) -> impl Future<Output = BackendResult<bool>> + Send;
    /// Provisions overlay networks.
    fn create_chains(&self, specs: Vec<ChainSpec>) -> impl Future<Output = BackendResult<Created>> + Send;
    /// Ends the cluster and keeps it; gives where.
    fn save_snapshot(&self, name: String) -> impl Future<Output = BackendResult<String>> + Send;
    /// Keeps it without ending it; gives where.
    fn save_hot_snapshot(&self, name: String) -> impl Future<Output = BackendResult<String>> + Send;
    /// A cluster from what was kept.
    fn load_snapshot(
        &self,
        request: LoadSnapshot,
    ) -> impl Future<Output = BackendResult<Option<ClusterInfo>>> + Send;
    /// Deletes what was kept.
    fn remove_snapshot(&self, name: String) -> impl Future<Output = BackendResult<()>> + Send;
    /// Names of what was kept, sorted.
    fn snapshot_names(&self) -> impl Future<Output = BackendResult<Vec<String>>> + Send;
    /// The three calls that have a number and no body: an error in any case.
    fn reserved(&self) -> impl Future<Output = BackendError> + Send {
        async { BackendError::unsupported() }
    }
}
