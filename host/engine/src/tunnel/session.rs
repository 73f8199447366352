//! One session: the AES key shared with a peer, our nonces, the peer's replay windows, and when to give the session up.
//!
//! Sealing and opening work in place in the caller's buffer. Fact sheet: tunnel.md sections 3 and 6.

use pilot_wire::tunnel::{SEALED_HEADER_LEN, SealedHeader, TAG_LEN};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::counters::Remembered;
use super::epochs::{Epochs, Prefix, Verdict};
use super::kdf::Key;
use crate::time::{Duration, Instant};

/// Consecutive frames that do not open, after which the session is dropped.
const MAX_AUTH_FAILURES: u32 = 5;
/// A session younger than this is not dropped for frames that do not open.
const AUTH_FAILURE_MIN_AGE: Duration = Duration::from_secs(3);
/// Consecutive replays, or frames outside the window, after which the session is dropped.
const MAX_REJECTS: u32 = 5;
/// In an epoch older than this, one is enough.
const OLD_EPOCH: Duration = Duration::from_secs(60);
/// While good frames come, none is: whoever records frames and sends them again, or a network that repeats them, must not
/// be able to end a session that works.
const QUIET: Duration = Duration::from_secs(1);
/// In an epoch younger than this, none is.
const YOUNG_EPOCH: Duration = Duration::from_secs(1);

/// How a packet becomes a sealed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// HKDF key, sender as associated data: May 2026 and later.
    Current,
    /// SHA-256 key, no associated data: February 2026.
    Legacy,
}

/// An AES-256-GCM key with a profile.
struct Cipher {
    key: LessSafeKey,
    profile: Profile,
}

impl Cipher {
    fn new(key: &Key, profile: Profile) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("an AES-256 key has 32 bytes");
        Self { key: LessSafeKey::new(key), profile }
    }

    fn seal(&self, header: &SealedHeader, plain: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        let tag = match self.profile {
            Profile::Current => {
                self.key.seal_in_place_separate_tag(nonce, Aad::from(header.associated_data()), plain)
            }
            Profile::Legacy => self.key.seal_in_place_separate_tag(nonce, Aad::empty(), plain),
        }
        .expect("AES-GCM seals anything below 64 GiB");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    fn open<'a>(&self, header: &SealedHeader, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        match self.profile {
            Profile::Current => {
                self.key.open_in_place(nonce, Aad::from(header.associated_data()), sealed).ok()
            }
            Profile::Legacy => self.key.open_in_place(nonce, Aad::empty(), sealed).ok(),
        }
    }
}

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It did not open: not from the peer, or under another key.
    Forged,
    /// It opened, but was seen before.
    Replay,
    /// It opened, but is too old to tell.
    Outside,
    /// It opened, but belongs to an epoch of the past.
    Stale,
    /// It opened, but the peer changed its prefix too often.
    Exhausted,
}

/// A session with one peer.
pub(crate) struct Session {
    /// The peer's X25519 key.
    pub(crate) peer_key: [u8; 32],
    /// The key was signed by the identity the registry knows.
    pub(crate) authenticated: bool,
    /// When it was installed.
    pub(crate) installed: Instant,
    /// The last sign of life: a frame that opened, or the install itself.
    pub(crate) alive: Instant,
    current: Cipher,
    /// Present when the February 2026 profile is switched on.
    legacy: Option<Cipher>,
    /// What we send with.
    profile: Profile,
    prefix: Prefix,
    counter: u64,
    epochs: Epochs,
    /// Of the newest epoch: its first counter, the highest, and how many opened.
    arrivals: (u64, u64, u64),
    auth_failures: u32,
    replays: u32,
    outside: u32,
}

impl Session {
    /// A session from derived keys. `prefix` is fresh randomness; `from` is what is left of an earlier session with the
    /// same peer key.
    pub(crate) fn new(
        now: Instant,
        peer_key: [u8; 32],
        authenticated: bool,
        key: &Key,
        legacy: Option<&Key>,
        prefix: Prefix,
        from: Remembered,
    ) -> Self {
        Self {
            peer_key,
            authenticated,
            installed: now,
            alive: now,
            current: Cipher::new(key, Profile::Current),
            legacy: legacy.map(|key| Cipher::new(key, Profile::Legacy)),
            profile: Profile::Current,
            prefix,
            counter: from.counter,
            epochs: from.epochs,
            arrivals: (0, 0, 0),
            auth_failures: 0,
            replays: 0,
            outside: 0,
        }
    }

    /// What must be remembered when this session is dropped: the windows too, unless they are full of prefixes.
    pub(crate) fn remains(&self) -> ([u8; 32], Remembered) {
        let epochs = if self.epochs.is_full() { Epochs::default() } else { self.epochs.clone() };
        (self.peer_key, Remembered { counter: self.counter, epochs })
    }

    /// Whether no frame has opened yet, so that the peer's profile is not known.
    pub(crate) fn is_unproven(&self) -> bool {
        self.alive == self.installed
    }

    /// The profile frames are sealed with.
    #[cfg(test)]
    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// Seals the packet at `buf[start + 20..]` in place: fills the 20 header bytes in front of it and appends the tag.
    pub(crate) fn seal(&mut self, own_node: u32, buf: &mut Vec<u8>, start: usize) {
        self.seal_as(self.profile, own_node, buf, start);
    }

    /// As [`Session::seal`], in a given profile; the current one when the legacy profile is switched off.
    pub(crate) fn seal_as(&mut self, profile: Profile, own_node: u32, buf: &mut Vec<u8>, start: usize) {
        // 2^64 frames take longer than any process lives.
        self.counter += 1;
        let header = SealedHeader { sender: own_node, prefix: self.prefix, counter: self.counter };
        buf[start..start + SEALED_HEADER_LEN].copy_from_slice(&header.to_bytes());
        let cipher = match (profile, &self.legacy) {
            (Profile::Legacy, Some(legacy)) => legacy,
            _ => &self.current,
        };
        let tag = cipher.seal(&header, &mut buf[start + SEALED_HEADER_LEN..]);
        buf.extend_from_slice(&tag);
    }

    /// Opens ciphertext and tag in place and judges the counter; gives the packet.
    ///
    /// # Errors
    /// Why the frame must be dropped; ask [`Session::is_spent`] then.
    pub(crate) fn open<'a>(
        &mut self,
        now: Instant,
        header: &SealedHeader,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refusal> {
        let plain = self.open_either(header, sealed).ok_or(Refusal::Forged)?;
        self.judge(now, header)?;
        Ok(plain)
    }

    fn open_either<'a>(&mut self, header: &SealedHeader, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let Some(legacy) = &self.legacy else { return self.current.open(header, sealed) };
        // A failed opening destroys the ciphertext, so with two candidates the second needs a copy.
        let copy = sealed.to_vec();
        let (first, second) = match self.profile {
            Profile::Current => (&self.current, legacy),
            Profile::Legacy => (legacy, &self.current),
        };
        let len = sealed.len().checked_sub(TAG_LEN)?;
        if first.open(header, sealed).is_none() {
            sealed.copy_from_slice(&copy);
            second.open(header, sealed)?;
            self.profile = second.profile;
        }
        sealed.get_mut(..len)
    }

    fn judge(&mut self, now: Instant, header: &SealedHeader) -> Result<(), Refusal> {
        // The frame opened, so whatever becomes of it, the peer has our key.
        let verdict = self.epochs.judge(now, header.prefix, header.counter);
        match verdict {
            Verdict::NewEpoch => {
                (self.replays, self.outside) = (0, 0);
                self.arrivals = (header.counter, header.counter, 1);
            }
            Verdict::Fresh => {
                (self.replays, self.outside) = (0, 0);
                let (first, highest, opened) = self.arrivals;
                self.arrivals = (first.min(header.counter), highest.max(header.counter), opened + 1);
            }
            Verdict::FreshOlder => {}
            Verdict::Replay => {
                self.replays += 1;
                return Err(Refusal::Replay);
            }
            Verdict::Outside => {
                self.outside += 1;
                return Err(Refusal::Outside);
            }
            Verdict::Stale => return Err(Refusal::Stale),
            Verdict::Exhausted => return Err(Refusal::Exhausted),
        }
        self.auth_failures = 0;
        self.alive = now;
        Ok(())
    }

    /// Frames of the peer's newest epoch that never came, and all it sent in it, as far as the counters tell.
    pub(crate) fn lost_on_the_way(&self) -> (u64, u64) {
        let (first, highest, opened) = self.arrivals;
        let sent = highest.saturating_sub(first).saturating_add(1).max(opened);
        (sent - opened, sent)
    }

    /// Counts a frame that did not open, if it came from where the peer is: anyone else could end the session otherwise.
    pub(crate) fn count_forged(&mut self) {
        self.auth_failures += 1;
    }

    /// Whether refused frames say that the two ends no longer agree, so that a new key exchange is due.
    pub(crate) fn is_spent(&self, now: Instant) -> bool {
        let epoch_age = now.since(self.epochs.newest_since().unwrap_or(now));
        let limit = if epoch_age > OLD_EPOCH { 1 } else { MAX_REJECTS };
        let rejected = self.replays >= limit || self.outside >= limit;
        let forged =
            self.auth_failures >= MAX_AUTH_FAILURES && now.since(self.installed) >= AUTH_FAILURE_MIN_AGE;
        forged || (rejected && epoch_age >= YOUNG_EPOCH && now.since(self.alive) >= QUIET)
    }

    /// Whether a frame that opened carries our own prefix, so that the next frame we seal could repeat a nonce.
    pub(crate) fn collides(&self, prefix: Prefix) -> bool {
        self.prefix == prefix
    }

    /// Goes on with another prefix; the counter continues.
    pub(crate) fn change_prefix(&mut self, prefix: Prefix) {
        self.prefix = prefix;
    }
}

#[cfg(test)]
mod tests;
