//! Reading length-prefixed bodies off a TCP stream without believing the length. Used by both ends of the registry.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What is allocated before the first byte of a body has arrived, and by how much a body grows at least.
pub(crate) const STEP: usize = 64 * 1024;

/// Reads exactly `len` bytes. Memory grows with what arrives, at most to twice that; before each growth `grow` is asked
/// for the bytes it will take and may refuse, which ends the reading with `OutOfMemory`.
///
/// # Errors
/// `UnexpectedEof` when the stream ends before; the stream's own errors.
pub(crate) async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    len: usize,
    mut grow: impl FnMut(usize) -> bool,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut room = 0;
    while body.len() < len {
        if body.len() == room {
            let more = room.max(STEP).min(len - room);
            if !grow(more) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            body.reserve_exact(more);
            room += more;
        }
        let wanted = u64::try_from(room - body.len()).unwrap_or(u64::MAX);
        if stream.take(wanted).read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_follows_the_bytes_and_not_the_announcement() {
        let sent = vec![7; 200_000];
        let mut asked = 0;
        let got = read_body(&mut &sent[..], 1 << 30, |n| {
            asked += n;
            true
        })
        .await;
        assert_eq!(got.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(asked <= 2 * sent.len() + STEP, "{asked}");
    }

    #[tokio::test]
    async fn exactly_the_body_is_read() {
        for len in [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP] {
            let sent: Vec<u8> = (0..len + 5).map(|i| i as u8).collect();
            let mut source = &sent[..];
            let got = read_body(&mut source, len, |_| true).await.unwrap();
            assert_eq!((&got[..], source.len()), (&sent[..len], 5));
        }
    }

    #[tokio::test]
    async fn a_refused_growth_ends_the_reading() {
        let sent = vec![7; 200_000];
        let got = read_body(&mut &sent[..], sent.len(), |n| n <= STEP).await;
        assert_eq!(got.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
