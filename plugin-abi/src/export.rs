//! What [`export_plugin!`](crate::export_plugin) expands to, and the forms of constructor it takes.

use std::sync::Arc;

use crate::abi::{AbiResult, PluginArc};
use crate::bridge::{Border, Link, panicked, passed_on};
use crate::{Plugin, Result, guard};

use abi_stable::std_types::{RErr, ROk};

/// Makes a shared library out of a crate: the one line that ends a plugin.
///
/// `export_plugin!("name", constructor)`: the name is the registration key, 1 to 31 characters of `a-z`, `0-9`, `-` and
/// `_`. The constructor is any `fn() -> P` or `fn() -> Result<P, plugin_abi::Error>` where `P` implements
/// [`Plugin`](crate::Plugin); it is called once per instance and should only build, not start: work begins in `init`.
///
/// The crate needs `crate-type = ["cdylib"]`. Use it once per library.
///
/// ```standalone_crate
/// use std::{sync::Arc, time::Duration};
/// use plugin_abi::{Daemon, Plugin, Result};
///
/// struct Quiet;
///
/// impl Plugin for Quiet {
///     fn init(&self, _daemon: Arc<dyn Daemon>) -> Result<()> { Ok(()) }
///     fn shutdown(&self, _deadline: Duration) -> Result<()> { Ok(()) }
/// }
///
/// plugin_abi::export_plugin!("quiet", || Quiet);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($name:literal, $constructor:expr $(,)?) => {
        const _: () = {
            #[cfg(panic = "abort")]
            ::core::compile_error!(
                "a plugin must be built with panic = \"unwind\", or its panics end the host"
            );

            struct PilotPluginExport;

            impl $crate::abi::Export for PilotPluginExport {
                const NAME: &'static str = $name;

                fn create(_host_version: &str) -> $crate::abi::AbiResult<$crate::abi::PluginArc> {
                    $crate::export::create($constructor)
                }
            }

            #[used]
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".pilot_plugin")]
            pub static PILOT_PLUGIN_HEADER: [u8; $crate::header::HEADER_LEN] = $crate::header::encode(
                $name,
                ::core::env!("CARGO_PKG_VERSION"),
                if ::core::cfg!(panic = "unwind") { $crate::header::FLAG_UNWIND } else { 0 },
            );

            #[used]
            #[unsafe(no_mangle)]
            pub static PILOT_PLUGIN_ROOT: $crate::abi_stable::library::LibHeader =
                $crate::abi::lib_header::<PilotPluginExport>();
        };
    };
}

/// What a constructor may return.
pub trait IntoPlugin {
    /// The instance, or why there is none.
    fn into_plugin(self) -> Result<Arc<dyn Plugin>>;
}

impl<P: Plugin + 'static> IntoPlugin for P {
    fn into_plugin(self) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(self))
    }
}

impl<P: Plugin + 'static> IntoPlugin for Result<P> {
    fn into_plugin(self) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(self?))
    }
}

/// Calls the constructor; neither an error nor a panic leaves it other than as a value.
pub fn create<P: IntoPlugin>(constructor: impl FnOnce() -> P) -> AbiResult<PluginArc> {
    match guard::catch(|| constructor().into_plugin()) {
        Ok(Ok(plugin)) => ROk(plugin.lend(&Link::to_host())),
        Ok(Err(error)) => RErr(passed_on(error)),
        Err(text) => RErr(panicked("create", &text).into()),
    }
}
