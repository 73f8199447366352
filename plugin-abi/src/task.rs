//! Threads of a plugin whose panics end the thread and nothing else.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crate::api::Daemon;
use crate::{Result, guard};

/// Starts a thread named `name` that runs `f`. A panic in it is contained and goes to [`Daemon::report_fault`] with
/// `name` as the operation; the host counts it and tells the bus (plugin-contract.md section 1.6).
///
/// Keep the handle and join it in [`Plugin::shutdown`](crate::Plugin::shutdown).
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when the system has no thread to give.
pub fn spawn_thread<F>(daemon: Arc<dyn Daemon>, name: &str, f: F) -> Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    let op = name.to_owned();
    let handle = Builder::new()
        .name(op.clone())
        .spawn(move || contained(daemon.as_ref(), &op, f).unwrap_or_default())?;
    Ok(handle)
}

/// Runs `f` here and now; a panic in it is contained and reported as [`spawn_thread`] does. For one connection of an
/// accept loop, say, whose failure must not end the loop. `None` after a panic.
pub fn contained<T>(daemon: &dyn Daemon, op: &str, f: impl FnOnce() -> T) -> Option<T> {
    match guard::catch(f) {
        Ok(value) => Some(value),
        Err(text) => {
            daemon.report_fault(op, &text);
            None
        }
    }
}
