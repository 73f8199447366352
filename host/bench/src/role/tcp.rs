//! The baseline of the dial metric: the kernel's TCP over loopback, the other way to open a stream with a handshake.
//! Nothing is encrypted.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::load::{self, Pipe, Way};
use super::{Parent, not_mine};
use crate::protocol::{Reply, Request, Target};

/// Most bytes one read takes.
const READ: usize = 64 << 10;

/// Runs until the parent closes the input.
///
/// # Errors
/// When the socket cannot be had or the parent is gone.
pub async fn run() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(accept(listener));
    let mut parent = Parent::new();
    parent.ready(Target::Tcp(addr))?;
    let mut way = None;
    let mut held = Vec::new();
    while let Some(request) = parent.next().await? {
        let reply = match (&request, &way) {
            (Request::Target(Target::Tcp(peer)), _) => {
                way = Some(Tcp(*peer));
                Ok(Reply::Done)
            }
            (load, Some(way)) => match load::run(way, &mut held, load).await {
                Some(reply) => reply,
                None => not_mine(load),
            },
            (other, None) => not_mine(other),
        };
        parent.answer(reply)?;
    }
    Ok(())
}

async fn accept(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let served = async { load::serve(Halves::new(stream)?).await };
            if let Err(e) = served.await {
                eprintln!("tcp: a stream failed: {e:#}");
            }
        });
    }
}

#[derive(Clone)]
struct Tcp(SocketAddr);

impl Way for Tcp {
    type Pipe = Halves;

    async fn open(&self) -> Result<Halves> {
        Halves::new(TcpStream::connect(self.0).await?)
    }
}

struct Halves {
    read: OwnedReadHalf,
    /// Dropping it ends the sending side.
    write: Option<OwnedWriteHalf>,
}

impl Halves {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Halves { read, write: Some(write) })
    }
}

impl Pipe for Halves {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        Ok(self.write.as_mut().context("closed")?.write_all(&data).await?)
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        let mut buf = BytesMut::with_capacity(READ);
        let n = self.read.read_buf(&mut buf).await?;
        Ok((n > 0).then(|| buf.freeze()))
    }

    fn finish(&mut self) {
        self.write = None;
    }
}
