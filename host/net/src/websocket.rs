//! What both sides of the compat transport need of a WebSocket beside its frames: the accept value and HTTP heads off a
//! stream. Used by the client ([`compat`](crate::compat)) and by the beacon's WebSocket side.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_wire::compat::Close;
use pilot_wire::compat::http::{Head, MAX_HEAD, head_end};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// What RFC 6455 section 4.2.2 makes of a client's key.
pub(crate) fn accept_value(key: &str) -> String {
    const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    // SHA-1 is what the protocol says; nothing depends on its strength.
    let digest = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        [key.as_bytes(), MAGIC.as_bytes()].concat().as_slice(),
    );
    STANDARD.encode(digest)
}

pub(crate) fn close_frame(close: Close) -> CloseFrame {
    CloseFrame { code: CloseCode::from(close.code), reason: close.reason.into() }
}

/// Reads one HTTP head; what was read beyond it stays in `buffer`. `None`: the stream ended where a head could begin.
///
/// # Errors
/// Those of the stream, and `InvalidData` for what is no head or longer than [`MAX_HEAD`].
pub(crate) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Head>> {
    loop {
        if let Some(end) = head_end(buffer) {
            let rest = buffer.split_off(end);
            let head = Head::parse(&std::mem::replace(buffer, rest));
            return head.map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        }
        if buffer.len() >= MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the HTTP head is too long"));
        }
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await? {
            0 if buffer.is_empty() => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => buffer.extend_from_slice(&piece[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_key_of_the_rfc() {
        assert_eq!(accept_value("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn a_head_is_read_to_its_end_and_no_longer() {
        let mut buffer = Vec::new();
        let mut stream: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let head = read_head(&mut stream, &mut buffer).await.unwrap().unwrap();
        assert_eq!((head.start[1].as_str(), buffer.as_slice()), ("/", b"rest".as_slice()));
        buffer.clear();
        assert!(read_head(&mut stream, &mut buffer).await.unwrap().is_none());
        let endless = vec![b'a'; 2 * MAX_HEAD];
        read_head(&mut endless.as_slice(), &mut buffer).await.unwrap_err();
    }
}
