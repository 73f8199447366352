//! Well-known ports and the port ranges (packet.md section 4).
//!
//! Called by the engine, the plugins and the command line. Does not bind anything.

/// Ping: the control protocol, handled inside the daemon.
pub const PING: u16 = 0;
/// Reserved; nothing answers.
pub const CONTROL: u16 = 1;
/// Echo, built into the daemon.
pub const ECHO: u16 = 7;
/// Nameserver, a separate program on the local socket.
pub const NAMESERVER: u16 = 53;
/// HTTP, for applications.
pub const HTTP: u16 = 80;
/// End-to-end encrypted stream, for applications (secure.md).
pub const SECURE: u16 = 443;
/// Trust handshake (handshake.md).
pub const HANDSHAKE: u16 = 444;
/// Standard input and output, for applications.
pub const STDIO: u16 = 1000;
/// Data exchange (dataexchange.md).
pub const DATA_EXCHANGE: u16 = 1001;
/// Event stream (dataexchange.md section 9).
pub const EVENT_STREAM: u16 = 1002;
/// Task submission in older versions; the newest calls it "verify".
pub const VERIFY: u16 = 1003;

/// Last port of the reserved range (0 to 1023).
pub const RESERVED_MAX: u16 = 1023;
/// Last port of the registered range (1024 to 49151).
pub const REGISTERED_MAX: u16 = 49_151;
/// First ephemeral port; the range ends at 65535 and holds 16384 ports.
pub const EPHEMERAL_MIN: u16 = 49_152;
/// Last ephemeral port.
pub const EPHEMERAL_MAX: u16 = 65_535;

/// The name of a well-known port, for people.
pub const fn name(port: u16) -> Option<&'static str> {
    Some(match port {
        PING => "ping",
        CONTROL => "control",
        ECHO => "echo",
        NAMESERVER => "nameserver",
        HTTP => "http",
        SECURE => "secure",
        HANDSHAKE => "handshake",
        STDIO => "stdio",
        DATA_EXCHANGE => "dataexchange",
        EVENT_STREAM => "eventstream",
        VERIFY => "verify",
        _ => return None,
    })
}
