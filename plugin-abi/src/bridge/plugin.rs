//! The plugin itself. Its side ties the log bridge to the life of the instance; the host's side calls `shutdown` also on
//! a plugin that has failed.

use std::sync::Arc;
use std::time::Duration;

use super::{Border, Host, Local, Remote, border, to_ms};
use crate::abi::{self, AbiResult};
use crate::{Result, api, log};

border!(Plugin, PluginArc);

impl<T: api::Plugin + ?Sized + 'static> abi::Plugin for Local<T> {
    fn init(&self, daemon: abi::DaemonArc) -> AbiResult<()> {
        let daemon = Arc::new(Remote { object: self.link.asked(daemon), link: self.link.clone() });
        self.link.tell(Some(Arc::clone(&daemon)));
        log::attach(Arc::<Host>::clone(&daemon));
        let result = self.guard("init", |p| p.init(daemon));
        if result.is_err() {
            log::detach();
            self.link.tell(None);
        }
        result
    }

    fn shutdown(&self, deadline_ms: u64) -> AbiResult<()> {
        let result = self.guard("shutdown", |p| p.shutdown(Duration::from_millis(deadline_ms)));
        log::detach();
        self.link.tell(None);
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
