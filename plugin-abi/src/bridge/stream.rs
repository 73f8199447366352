//! Streams, listeners, the port table and the tunnel table.

use std::sync::Arc;
use std::time::Duration;

use abi_stable::std_types::{ROption, RSlice, RSliceMut};

use super::{Border, Local, Remote, adopt_option, border, to_ms};
use crate::abi::{self, AbiResult, ConnInfo};
use crate::api;
use crate::types::{Addr, ConnectionInfo};
use crate::{Error, Result};

border!(Connection, ConnectionArc);
border!(Listener, ListenerArc);
border!(PortAllocator, PortAllocatorArc);
border!(TunnelRegistry, TunnelRegistryArc);

impl From<ConnectionInfo> for ConnInfo {
    fn from(i: ConnectionInfo) -> Self {
        ConnInfo {
            local: i.local.to_u64(),
            remote: i.remote.to_u64(),
            local_port: i.local_port,
            remote_port: i.remote_port,
        }
    }
}

impl From<ConnInfo> for ConnectionInfo {
    fn from(i: ConnInfo) -> Self {
        ConnectionInfo {
            local: Addr::from_u64(i.local),
            local_port: i.local_port,
            remote: Addr::from_u64(i.remote),
            remote_port: i.remote_port,
        }
    }
}

impl<T: api::Connection + ?Sized + 'static> abi::Connection for Local<T> {
    #[inline]
    fn id(&self) -> AbiResult<u32> {
        self.guard("Connection.id", |c| Ok(c.id()))
    }

    #[inline]
    fn info(&self) -> AbiResult<ConnInfo> {
        self.guard("Connection.info", |c| Ok(c.info().into()))
    }

    #[inline]
    fn read(&self, mut buf: RSliceMut<'_, u8>) -> AbiResult<usize> {
        self.guard("Connection.read", |c| c.read(buf.as_mut_slice()))
    }

    #[inline]
    fn write(&self, data: RSlice<'_, u8>) -> AbiResult<()> {
        self.guard("Connection.write", |c| c.write(data.as_slice()))
    }

    fn set_read_timeout(&self, timeout_ms: ROption<u64>) -> AbiResult<()> {
        let timeout = timeout_ms.into_option().map(Duration::from_millis);
        self.guard("Connection.set_read_timeout", |c| c.set_read_timeout(timeout))
    }

    fn close(&self) -> AbiResult<()> {
        self.guard("Connection.close", |c| {
            c.close();
            Ok(())
        })
    }
}

impl api::Connection for Remote<abi::ConnectionArc> {
    fn id(&self) -> u32 {
        self.call_or("Connection.id", 0, |c| c.id())
    }

    fn info(&self) -> ConnectionInfo {
        self.call("Connection.info", |c| c.info()).map(Into::into).unwrap_or_default()
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        let room = buf.len();
        let n = self.call("Connection.read", |c| c.read(RSliceMut::from_mut_slice(buf)))?;
        // The other side may be wrong; a caller that slices by the result must not be.
        if n > room {
            return Err(Error::other(format!("read returned {n} bytes into a buffer of {room}")));
        }
        Ok(n)
    }

    fn write(&self, data: &[u8]) -> Result<()> {
        self.call("Connection.write", |c| c.write(RSlice::from_slice(data)))
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.call("Connection.set_read_timeout", |c| c.set_read_timeout(timeout.map(to_ms).into()))
    }

    fn close(&self) {
        self.call_or("Connection.close", (), |c| c.close());
    }
}

impl<T: api::Listener + ?Sized + 'static> abi::Listener for Local<T> {
    fn port(&self) -> AbiResult<u16> {
        self.guard("Listener.port", |l| Ok(l.port()))
    }

    fn accept(&self) -> AbiResult<ROption<abi::ConnectionArc>> {
        self.guard("Listener.accept", |l| Ok(l.accept().map(|c| c.lend(&self.link)).into()))
    }

    fn close(&self) -> AbiResult<()> {
        self.guard("Listener.close", |l| {
            l.close();
            Ok(())
        })
    }
}

impl api::Listener for Remote<abi::ListenerArc> {
    fn port(&self) -> u16 {
        self.call_or("Listener.port", 0, |l| l.port())
    }

    fn accept(&self) -> Option<Arc<dyn api::Connection>> {
        self.call("Listener.accept", |l| l.accept()).ok().and_then(|c| adopt_option(c, &self.link))
    }

    fn close(&self) {
        self.call_or("Listener.close", (), |l| l.close());
    }
}

impl<T: api::PortAllocator + ?Sized + 'static> abi::PortAllocator for Local<T> {
    fn bind(&self, port: u16) -> AbiResult<abi::ListenerArc> {
        self.guard("PortAllocator.bind", |p| Ok(p.bind(port)?.lend(&self.link)))
    }

    fn unbind(&self, port: u16) -> AbiResult<()> {
        self.guard("PortAllocator.unbind", |p| {
            p.unbind(port);
            Ok(())
        })
    }
}

impl api::PortAllocator for Remote<abi::PortAllocatorArc> {
    fn bind(&self, port: u16) -> Result<Arc<dyn api::Listener>> {
        let listener = self.call("PortAllocator.bind", |p| p.bind(port))?;
        Ok(<dyn api::Listener>::adopt(listener, &self.link))
    }

    fn unbind(&self, port: u16) {
        self.call_or("PortAllocator.unbind", (), |p| p.unbind(port));
    }
}

impl<T: api::TunnelRegistry + ?Sized + 'static> abi::TunnelRegistry for Local<T> {
    fn remove_peer(&self, node: u32) -> AbiResult<()> {
        self.guard("TunnelRegistry.remove_peer", |t| {
            t.remove_peer(node);
            Ok(())
        })
    }
}

impl api::TunnelRegistry for Remote<abi::TunnelRegistryArc> {
    fn remove_peer(&self, node: u32) {
        self.call_or("TunnelRegistry.remove_peer", (), |t| t.remove_peer(node));
    }
}

/// Stands in for a table that the other side could not hand out: every use says why.
pub(super) struct Gone(pub(super) Error);

impl api::PortAllocator for Gone {
    fn bind(&self, _port: u16) -> Result<Arc<dyn api::Listener>> {
        Err(self.0.clone())
    }

    fn unbind(&self, _port: u16) {}
}

impl api::TunnelRegistry for Gone {
    fn remove_peer(&self, _node: u32) {}
}
