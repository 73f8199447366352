//! Keeps this node registered (placeholder while the state machine is being written).
pub async fn run(
    core: std::sync::Arc<crate::core::Core>,
    signals: tokio::sync::mpsc::Receiver<pilot_net::node::Signal>,
    nudges: tokio::sync::mpsc::Receiver<(crate::core::Nudge, tokio::sync::oneshot::Sender<()>)>,
) {
    drop((core, signals, nudges));
}
