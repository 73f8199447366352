//! Behaves, but keeps a thread, a port and the daemon after its shutdown.

use broken_plugins::{Faulty, forever};

plugin_abi::export_plugin!("leaves-things", || Faulty::new().init(|daemon| {
    let listener = daemon.ports().bind(7007)?;
    plugin_abi::spawn_thread(daemon, "keeper", move || {
        let _listener = listener;
        forever()
    })?;
    Ok(())
}));
