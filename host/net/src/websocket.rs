//! What both sides of the compat transport need of a WebSocket beside its frames: the accept value and HTTP heads off a
//! stream. Used by the client ([`compat`](crate::compat)) and by the beacon's WebSocket side (`rendezvous::compat`). Frames
//! are tungstenite's work, the HTTP decisions `pilot_wire::compat::http`'s.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_wire::compat::http::{Head, MAX_HEAD, head_end};
use pilot_wire::compat::{Close, MAX_MESSAGE};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

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

/// Bounds of a beacon's connection: messages up to [`MAX_MESSAGE`], small buffers, because a beacon has thousands of them.
pub(crate) fn bounds() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(16 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// A reason to close as the library wants it.
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
    // What has been looked through for the head's end, so that a head in small pieces is not looked through again and again.
    let mut seen = 0_usize;
    loop {
        let from = seen.saturating_sub(3);
        if let Some(end) = head_end(&buffer[from..]) {
            let rest = buffer.split_off(from + end);
            let head = Head::parse(&std::mem::replace(buffer, rest));
            return head.map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        }
        if buffer.len() >= MAX_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the HTTP head is too long"));
        }
        seen = buffer.len();
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
