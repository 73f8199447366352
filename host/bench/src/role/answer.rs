//! The baseline of the registry's metrics: a TCP server that reads requests of one fixed size and answers each with a fixed
//! size, both named by the client in the first eight bytes (u32 each, big-endian). It decodes, looks up and stores nothing.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Parent, not_mine};
use crate::protocol::Target;

/// Largest message of this bench, either way.
const LARGEST: usize = 1 << 20;

/// Runs until the parent closes the input.
///
/// # Errors
/// When the socket cannot be had or the parent is gone.
pub async fn run() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut parent = Parent::new();
    parent.ready(Target::Tcp(listener.local_addr()?))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    while let Some(request) = parent.next().await? {
        parent.answer(not_mine(&request))?;
    }
    Ok(())
}

/// Until the client hangs up.
async fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(4096, stream);
    let (ask, answer) = (stream.read_u32().await? as usize, stream.read_u32().await? as usize);
    let mut request = vec![0; ask.min(LARGEST)];
    let answer = vec![0; answer.min(LARGEST)];
    loop {
        stream.read_exact(&mut request).await?;
        stream.write_all(&answer).await?;
    }
}
