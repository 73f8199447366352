//! The author's guide. Every sample here is compiled by `cargo test -p plugin-abi`.
//!
//! # 1. From nothing to a running plugin
//!
//! ```sh
//! pilot-host plugin new hello                # a crate: the plugin, its test, its manifest
//! cd hello
//! cargo test                                 # on a daemon in memory
//! cargo build
//! pilot-host run --plugins target/debug      # "hello from hello" is in its log
//! ```
//!
//! A plugin is a crate that is built as a shared library and depends on this crate alone:
//!
//! ```toml
//! [package]
//! name = "echo-plugin"
//! version = "0.1.0"
//! edition = "2024"
//!
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! plugin-abi = { path = "../pilot-host/plugin-abi" }
//! tracing = "0.1"          # logs; optional
//! ```
//!
//! It implements [`Plugin`](crate::Plugin) and ends with [`export_plugin!`](crate::export_plugin). This one answers
//! every stream on port 7007 with what it was sent:
//!
//! ```standalone_crate
//! use std::sync::{Arc, Mutex, PoisonError};
//! use std::thread::JoinHandle;
//! use std::time::Duration;
//!
//! use plugin_abi::{Connection, Daemon, Listener, Plugin, Result, spawn_thread, task};
//!
//! #[derive(Default)]
//! struct Echo {
//!     running: Mutex<Option<(Arc<dyn Listener>, JoinHandle<()>)>>,
//! }
//!
//! impl Plugin for Echo {
//!     fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
//!         let listener = daemon.ports().bind(7007)?;
//!         let incoming = Arc::clone(&listener);
//!         let thread = spawn_thread(Arc::clone(&daemon), "echo-accept", move || {
//!             while let Some(stream) = incoming.accept() {
//!                 // One stream that goes wrong must not end the loop.
//!                 task::contained(daemon.as_ref(), "echo-stream", || serve(stream.as_ref()));
//!             }
//!         })?;
//!         *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((listener, thread));
//!         Ok(())
//!     }
//!
//!     fn shutdown(&self, _deadline: Duration) -> Result<()> {
//!         let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
//!         if let Some((listener, thread)) = running {
//!             listener.close(); // accept returns None from now on
//!             let _ = thread.join();
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn serve(stream: &dyn Connection) {
//!     let mut buffer = [0; 16 * 1024];
//!     let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
//!     while let Ok(n @ 1..) = stream.read(&mut buffer) {
//!         if stream.write(&buffer[..n]).is_err() {
//!             break;
//!         }
//!     }
//!     stream.close();
//! }
//!
//! plugin_abi::export_plugin!("echo", Echo::default);
//!
//! # #[cfg(feature = "test-kit")]
//! # fn main() -> Result<()> {
//! #     let daemon = plugin_abi::test_kit::FakeDaemon::new(std::env::temp_dir());
//! #     let echo = Echo::default();
//! #     echo.init(daemon.clone())?;
//! #     let stream = daemon.connect(7007)?;
//! #     stream.write(b"hello")?;
//! #     let mut answer = [0; 5];
//! #     assert_eq!(stream.read(&mut answer)?, 5);
//! #     assert_eq!(&answer, b"hello");
//! #     stream.close();
//! #     echo.shutdown(Duration::from_secs(5))
//! # }
//! # #[cfg(not(feature = "test-kit"))]
//! # fn main() {}
//! ```
//!
//! `cargo build` makes `target/debug/libecho_plugin.so`. Copy it into the host's plugins directory under any name that
//! ends in `.so`, by writing to a temporary name and renaming: the host maps the files that it has opened. Neither the
//! directory nor the file may be writable by others. The host loads what it finds when it starts.
//!
//! # 2. The life of an instance
//!
//! | step | what may be done | what may not |
//! |---|---|---|
//! | constructor | build the object | start threads, touch files: the start may be abandoned before `init` |
//! | [`init`](crate::Plugin::init) | bind ports, subscribe, register services, start threads | wait for the network: the node is not registered yet and [`node_id`](crate::Daemon::node_id) may be 0 |
//! | running | everything | keep what [`identity`](crate::Daemon::identity) or `node_id` said: both can change |
//! | [`shutdown`](crate::Plugin::shutdown) | use the daemon for last work, join threads, let go of the daemon | take longer than the deadline |
//!
//! Plugins start one after another, sorted by name, and stop in reverse. The first `init` that fails stops the start of
//! the whole host, and what runs by then is shut down again; so fail when you cannot work, and say why in one sentence.
//! A library is never unloaded. Several instances, even of several hosts, may live in one process: keep state in the
//! object, not in statics.
//!
//! # 3. Threads, waiting, futures
//!
//! Methods whose documentation says that they *block* may wait for the network. Call them from threads of your own;
//! [`spawn_thread`](crate::spawn_thread) makes threads whose panics are reported and end nothing else.
//!
//! [`spawn`](crate::Daemon::spawn) runs a future on the host's runtime, without a thread of your own. Inside, use only
//! what the daemon offers ([`sleep`](crate::Daemon::sleep), [`dial_async`](crate::Daemon::dial_async)) and runtime-neutral
//! things such as channels: your library's copy of tokio knows nothing of the host's runtime, so its timers and sockets
//! panic there. A plugin that needs tokio brings a runtime of its own, made in `init` and shut down in `shutdown`.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use plugin_abi::{Addr, Daemon};
//! fn greet_every_minute(daemon: Arc<dyn Daemon>, peer: Addr) {
//!     let inner = Arc::clone(&daemon);
//!     daemon.spawn(Box::pin(async move {
//!         loop {
//!             match inner.dial_async(peer, 7007).await {
//!                 Ok(stream) => tracing::info!(id = stream.id(), "reached"),
//!                 Err(error) => tracing::warn!(%error, "not reached"),
//!             }
//!             inner.sleep(Duration::from_secs(60)).await;
//!         }
//!     }));
//! }
//! ```
//!
//! # 4. Events
//!
//! ```
//! # use std::time::Duration;
//! # use plugin_abi::{Daemon, ErrorKind, Result};
//! fn watch(daemon: &dyn Daemon) -> Result<()> {
//!     let events = daemon.bus().subscribe("trust.*"); // "*": all; "a.*": below a; else exactly this topic
//!     loop {
//!         match events.recv(Duration::from_secs(1)) {
//!             Ok(Some(event)) => tracing::debug!(topic = event.topic, "event"),
//!             Ok(None) => {} // nothing came within the second
//!             Err(e) if e.kind() == ErrorKind::Closed => return Ok(()), // cancelled
//!             Err(e) => return Err(e),
//!         }
//!     }
//! }
//! ```
//!
//! Publishing never waits. A subscriber that leaves 1024 events unread loses the ones after that, silently.
//!
//! # 5. Serving the host
//!
//! A plugin may answer for the whole node: implement [`TrustChecker`](crate::TrustChecker),
//! [`HandshakeService`](crate::HandshakeService), [`PolicyManager`](crate::PolicyManager) or
//! [`WebhookManager`](crate::WebhookManager) and register it in `init`. The last registration wins.
//!
//! ```
//! # use std::sync::Arc;
//! # use plugin_abi::{Daemon, TrustChecker};
//! struct Colleagues(Vec<u32>);
//!
//! impl TrustChecker for Colleagues {
//!     fn is_trusted(&self, node: u32) -> Option<String> {
//!         self.0.contains(&node).then(|| format!("colleague {node}"))
//!     }
//! }
//!
//! fn register(daemon: &dyn Daemon) {
//!     daemon.register_trust_checker(Arc::new(Colleagues(vec![17, 23])));
//! }
//! ```
//!
//! These methods are called from the host's own work, some of them per packet: answer from memory, and wait only where
//! the documentation says that the method blocks.
//!
//! # 6. Panics and faults
//!
//! | where it panics | what happens |
//! |---|---|
//! | constructor, `init` | the start fails with the panic's text |
//! | a method that the host calls | the caller gets an error or the safe answer (a gate: "no"); the instance is *failed*, and nothing of it is called any more but `shutdown` |
//! | `shutdown` | counted; the next plugin is shut down |
//! | a thread of [`spawn_thread`](crate::spawn_thread), a call in [`contained`](crate::task::contained), a future of `spawn` | ends there and is reported; the instance goes on |
//! | a thread made otherwise | ends there; only the log knows |
//! | `Drop` of an object that the host held | contained and logged |
//!
//! Every panic is logged with its place. Not containable in the host's own process: `abort`, `exit`, stack overflow, a crash, and a build with
//! `panic = "abort"`, which is why such a build is refused. For faults that you handle yourself there is
//! [`report_fault`](crate::Daemon::report_fault); the host counts them, and tells the bus at the third.
//!
//! ## In a process of its own
//!
//! An operator may run any plugin in a child process of the host: `isolation = "process"` in `[plugins.settings.NAME]`. The
//! same file runs there and sees the same daemon; nothing has to be built for it. What differs:
//!
//! | | in-process | process |
//! |---|---|---|
//! | a call, either way | some nanoseconds | a round trip over a socket, some tens of microseconds |
//! | `abort`, `exit`, a crash, stack overflow | end the host | end the child; streams and ports are closed, a new child starts with `init` |
//! | a panic at the border | the instance has failed | the child is ended and started again |
//! | a gate or trust check that does not answer | holds up who asked | "no" after a second; the child is ended after six |
//! | `shutdown` that misses its deadline | left behind | ended |
//! | futures of [`spawn`](crate::Daemon::spawn) | on the host's runtime | on two threads of the child |
//! | standard output and error | the host's | lines in the plugin's log |
//! | environment variables | the host's | only time zone, language, certificates, backtraces, `TMPDIR` |
//!
//! A plugin that keeps its state on disk and reads it in `init` survives all of it. An `init` that returns an error stops
//! the start of the host as ever; one that crashes does not, and is tried again.
//!
//! # 7. Logs, configuration, state
//!
//! Use `tracing` macros; they arrive in the host's log with the plugin's name and at the host's level. Spans do not
//! cross, so pass what correlates as a field. [`config`](crate::Daemon::config) is the plugin's own table
//! `[plugin.NAME]` of the host's configuration. State belongs below [`state_dir`](crate::Daemon::state_dir), in files
//! that start with the plugin's name; write to a temporary file and rename.
//!
//! # 8. Tests
//!
//! With the feature `test-kit` (as a dev-dependency) there is a daemon in memory, `test_kit::FakeDaemon`, that records
//! everything and plays the network. Test through [`Plugin`](crate::Plugin) itself, as the host would:
//!
//! ```
//! # #[cfg(feature = "test-kit")]
//! # fn demo() -> plugin_abi::Result<()> {
//! # use std::{sync::Arc, time::Duration};
//! # use plugin_abi::{Daemon, Plugin, Result, test_kit::FakeDaemon};
//! # struct Mine;
//! # impl Plugin for Mine {
//! #     fn init(&self, d: Arc<dyn Daemon>) -> Result<()> { Ok(()) }
//! #     fn shutdown(&self, _: Duration) -> Result<()> { Ok(()) }
//! # }
//! let daemon = FakeDaemon::new(std::env::temp_dir());
//! daemon.set_config(serde_json::json!({ "limit": 3 }));
//! daemon.on_registry_call(|op, _params| panic!("this plugin does not call the registry, but called {op}"));
//! let plugin = Mine;
//! plugin.init(daemon.clone())?;
//! plugin.shutdown(Duration::from_secs(5))?;
//! assert!(daemon.faults().is_empty() && daemon.subscriptions() == 0 && daemon.bound_ports().is_empty());
//! # Ok(()) }
//! ```
//!
//! What a daemon in memory cannot show, a real one in the test's own process does: engine, rendezvous and local socket on
//! loopback, the plugin linked in, so that break points work. It is in the host's library face, a dev-dependency of a
//! checkout (`pilot-host = { path = "../pilot-host/host/app" }`); `examples/every-ability` uses both:
//!
//! ```text
//! let network = pilot_host::testing::TestNetwork::start()?;
//! network.plugin("mine", Mine::default)?;
//! let host = network.host("a", "[plugin.mine]\nlimit = 3\n")?;
//! host.daemon().publish("a.topic", None);
//! host.stop()?;
//! ```
//!
//! # 9. Compatibility
//!
//! A plugin and a host of the same major version of this crate work together, whichever is older: later minor versions
//! only append methods. A plugin that calls a method its host does not have gets
//! [`Unsupported`](crate::ErrorKind::Unsupported) or the method's safe answer; [`treaty`](crate::Daemon::treaty) tells
//! beforehand. Compiler versions need not be the same. The host checks all of this before it calls anything: first a
//! header in the file (see [`header`](crate::header)), without opening it, then the layout of the whole interface.
//!
//! | code | what to do |
//! |---|---|
//! | `not-elf`, `no-header`, `bad-header`, `no-root`, `name-mismatch` | this file is no plugin, or a damaged one: build it again |
//! | `other-treaty`, `other-layout` | build it with the plugin-abi version of the host |
//! | `other-target` | build it for the host's machine |
//! | `panic-abort` | remove `panic = "abort"` from the profile |
//! | `probe-failed` | it crashed or hung when a child process of the host opened it; `plugin check` shows where |
//! | `open-failed` | the reason names the missing library or symbol |
//! | `duplicate-name` | two files have the same plugin name |
//! | `file-unsafe`, `dir-unsafe` | somebody else could change it: correct owner and mode |
//! | `bad-signature`, `not-trusted` | see below |
//! | `create-failed`, `init-failed`, `init-timeout` | the plugin's own refusal; the reason is its text |
//!
//! # 10. Signatures
//!
//! An operator may demand that files are signed by keys of his choice, or have hashes that he allowed. A signature lies
//! beside the file as `<file>.sig`; its form is described in the loader's `trust` module. It covers the file and the
//! name, version and target in its header, so sign what you ship, after it is built and stripped.
//!
//! ```sh
//! pilot-host plugin keygen ~/.pilot/plugin-key            # once: a secret, mode 0600, and plugin-key.pub
//! pilot-host plugin sign libhello.so --key ~/.pilot/plugin-key
//! pilot-host plugin verify libhello.so --key ~/.pilot/plugin-key.pub
//! ```
//!
//! # 11. Before you publish
//!
//! ```sh
//! pilot-host plugin inspect libhello.so      # what the file says about itself; runs none of its code
//! pilot-host plugin check libhello.so        # what a host will do to it, and a little worse, in a child process
//! ```
//!
//! `check` starts the plugin on a node that is not registered, feeds it events that make no sense, puts strangers on its
//! ports, asks its services, stops it, looks for threads, ports, subscriptions and handles that it kept, starts it on a
//! daemon whose every method fails, and opens it ten times over. Each step has a verdict; exit code 0 is "conforms".
//! `--json` is for your own checks, `--config` gives the plugin its table.
//!
//! Ship the `.so`, its `.sig`, and what to write into the configuration: your own table `[plugin.NAME]`, and what the
//! operator has to allow under `[plugins.settings.NAME.capabilities]`, for an unknown plugin may do little by itself.
//!
//! # 12. What a call costs
//!
//! `scripts/bench abi` measures calls across a real plugin file, each beside the same call over plain `dyn` in the same
//! process, in many short turns of which the fastest of each side counts (the median where another process is asked).
//! One run on a busy virtual machine with two cores, beside a compiler: read the ratios.
//!
//! | call | plain `dyn` | across the border | ratio |
//! |---|---|---|---|
//! | the host asks a plugin's trust store | 2.0 ns | 3.4 ns | 1.7 |
//! | a plugin asks the daemon for its node id | 2.0 ns | 4.0 ns | 2.0 |
//! | 1 KiB, 64 KiB lent to the host ([`Connection::write`](crate::Connection::write)) | 2.7 ns | 6.6 ns | 2.4 |
//! | 1 KiB copied into a plugin's buffer ([`Connection::read`](crate::Connection::read)) | 17 ns | 24 ns | 1.4 |
//! | 64 KiB copied | 24 µs | 24 µs | 1.0 |
//! | a spawned future polled: 1 KiB to an echo and back, and a wake-up | 44 ns | 60 ns | 1.4 |
//! | [`dial_async`](crate::Daemon::dial_async), 1 KiB there and back, the stream dropped | 96 ns | 356 ns | 3.7 |
//! | an event to 1, 10, 100 subscriptions, until all have read it | 1.1, 6.0, 55 µs | 1.7, 10, 104 µs | 1.5, 1.8, 1.9 |
//! | the host asks a policy about a connection; two tags cross | 3.1 ns | 38 ns | 12 |
//! | the same, the plugin in a process of its own | | 69 µs | |
//! | a plugin in a process of its own asks for its node id | | 39 µs | |
//! | it writes, reads 64 KiB | | 52, 84 µs | |
//!
//! So a question whose answer fits a register costs up to two nanoseconds more, another call that does nothing about four;
//! lending a slice costs the same whatever its size,
//! copying costs what `memcpy` does; an event costs its text once for all subscribers and its parsing for each
//! ([`recv_text`](crate::Subscription::recv_text) leaves that out); a process of its own costs two thread wake-ups.
//!
//! # 13. What a plugin may do
//!
//! The operator decides, in `[plugins.settings.NAME.capabilities]` of the host's configuration (`pilot-host config
//! example` shows every key). The project's own four may do everything unless told otherwise. Any other plugin starts
//! with little, so say in your documentation what yours needs:
//!
//! | key | what it allows | an unknown plugin has |
//! |---|---|---|
//! | `ports` | binding these ports: `444`, `"2000-2999"`, `"*"` | none |
//! | `publish`, `subscribe` | these topics: `"a.b"`, `"a.*"`, `"*"` | `plugin.NAME.*`; reading also `node.*` and `daemon.*` |
//! | `dial` | dialling and sending datagrams to `"NETWORK:NODE:PORT"`, parts may be `*` | nobody |
//! | `sign` | signing messages that begin like this; `""` is any | nothing |
//! | `registry` | these registry operations | none |
//! | `services` | providing `trust-checker`, `handshake`, `policy`, `webhook` | none |
//! | `actions` | `admin-token`, `trust`, `tunnels`, `tags`, `webhook` | none |
//! | `dials_per_second`, `publishes_per_second`, `registry_calls_per_second`, `log_lines_per_second` | how often; 0 is no limit | 10, 50, 5, the general `log_rate` |
//!
//! A call that is not allowed gives an error of kind [`Denied`](crate::ErrorKind::Denied), one that comes too often
//! [`Busy`](crate::ErrorKind::Busy); the text names the setting. Methods without a result give their empty answer:
//! [`sign`](crate::Daemon::sign) `None`, [`admin_token`](crate::Daemon::admin_token) an empty text, a subscription one
//! that says so when it is read. Refused calls are counted (`pilotctl plugins status NAME`) and logged.
//!
//! # 14. Reloads and quarantine
//!
//! `pilotctl plugins reload NAME` replaces a running instance by the file as it is now. Your constructor runs first; when
//! it fails, nothing has happened. Then the old instance is shut down and yours gets `init`. In between the host keeps the
//! old one's ports, which go on accepting, and its subscriptions, which go on collecting: bind the same ports and subscribe
//! to the same patterns in `init`, and nothing is lost. Gates wait for the service that you register. When `init` fails,
//! a fresh instance of the former file takes over. The new library has statics of its own, and the old one stays mapped:
//! "once per process" is not a promise that a plugin can make.
//!
//! A plugin that panics, misses deadlines or crashes too often (five times in ten minutes unless configured) is stopped and
//! stays out, over restarts of the host too, until `pilotctl plugins lift NAME`.
