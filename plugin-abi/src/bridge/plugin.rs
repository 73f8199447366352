//! The plugin itself. Its side ties the log bridge to the life of the instance; the host's side calls `shutdown` also on
//! a plugin that has failed.

use std::sync::Arc;
use std::time::Duration;

use super::{Border, Link, Local, Remote, border, to_ms};
use crate::abi::{self, AbiResult};
use crate::{Result, api, log};

border!(Plugin, PluginArc);

impl<T: api::Plugin + ?Sized + 'static> abi::Plugin for Local<T> {
    fn init(&self, daemon: abi::DaemonArc) -> AbiResult<()> {
        let daemon = <dyn api::Daemon>::adopt(daemon, &Link::to_host());
        log::attach(Arc::clone(&daemon));
        let result = self.guard("init", |p| p.init(daemon));
        if result.is_err() {
            log::detach();
        }
        result
    }

    fn shutdown(&self, deadline_ms: u64) -> AbiResult<()> {
        let result = self.guard("shutdown", |p| p.shutdown(Duration::from_millis(deadline_ms)));
        log::detach();
        result
    }
}

impl api::Plugin for Remote<abi::PluginArc> {
    fn init(&self, daemon: Arc<dyn api::Daemon>) -> Result<()> {
        let lent = daemon.lend(&self.link);
        self.call("init", |p| p.init(lent))
    }

    fn shutdown(&self, deadline: Duration) -> Result<()> {
        self.call_always("shutdown", |p| p.shutdown(to_ms(deadline)))
    }
}
