//! A plugin that is part of the host's program: one registry for it and for files, and the same containment. A test program
//! of its own, because the process-wide table cannot be emptied.

#![allow(clippy::unwrap_used)] // the helpers are test code too, which clippy only knows of test functions

mod rack;

use std::sync::Arc;
use std::time::Duration;

use pilot_loader::PluginState;
use plugin_abi::test_kit::FakeDaemon;
use plugin_abi::{Daemon, Error, Plugin, Result, TrustChecker};
use rack::Rack;

#[test]
fn plugins_that_are_linked_in_live_in_the_same_set_behind_the_same_border() {
    struct Linked;
    struct Checker;
    impl TrustChecker for Checker {
        fn is_trusted(&self, _: u32) -> Option<String> {
            panic!("linked in, and contained")
        }
    }
    impl Plugin for Linked {
        fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
            daemon.register_trust_checker(Arc::new(Checker));
            Ok(())
        }
        fn shutdown(&self, _: Duration) -> Result<()> {
            Err(Error::other("as told"))
        }
    }
    plugin_abi::registry::register_plugin("linked", Some(Arc::new(|| Ok(Some(Box::new(Linked)))))).unwrap();
    let rack = Rack::new().put("alpha", "alpha.so").put("omega", "omega.so");
    let loaded = rack.load().unwrap();
    assert_eq!(rack.started(), ["alpha", "linked", "omega"]);
    let daemon: Arc<FakeDaemon> = rack.daemon("linked");
    assert_eq!(daemon.trust_checker().unwrap().is_trusted(1), None);
    assert_eq!(loaded.plugin("linked").unwrap().state.as_str(), "failed");
    loaded.reload("linked").unwrap();
    assert_eq!(loaded.plugin("linked").unwrap().state.as_str(), "running");
    assert!(matches!(loaded.stop("linked").unwrap().state, PluginState::StoppedWithError(_)));
    let rack = rack.disable("linked");
    assert!(rack.load().unwrap().plugin("linked").is_none());
}
