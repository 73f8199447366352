//! `transport = auto`: which transport a host takes, decided once at start (wss.md section 7). [`decide`] is the table,
//! without I/O; [`udp_answers`] and [`check`] find out what it needs to know.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use pilot_wire::beacon;
use pilot_wire::compat::Url;
use pilot_wire::compat::http::check_request;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::dial::{reach, secure};
use super::proxy::Proxy;
use crate::tls::ClientTls;
use crate::websocket::read_head;

/// Attempts of the UDP probe, and how long each waits for its answer.
const UDP_ATTEMPTS: u32 = 2;
const UDP_WAIT: Duration = Duration::from_millis(750);
/// Limit of the whole compat check.
const CHECK_LIMIT: Duration = Duration::from_secs(8);

/// How the compat check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A beacon is there: it answered 426.
    Answered,
    /// There is no way to it: no connection, or the proxy refuses.
    NotOpened(String),
    /// Something is there, and it is no beacon.
    Failed(String),
}

/// What the decision depends on. Later members are only looked at when the earlier ones leave it open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// The registry is one of the operator's own, and is reached without TLS.
    pub custom_registry_without_tls: bool,
    /// The UDP beacon is one of the operator's own, and no compat beacon is named.
    pub custom_beacon_without_compat: bool,
    /// There is a UDP beacon to ask.
    pub udp_beacon: bool,
    /// It answered; `None`: not asked.
    pub udp_answered: Option<bool>,
    /// The compat beacon has a URL that can be dialled.
    pub compat_url: bool,
    /// The connection to it goes through a proxy.
    pub proxy: bool,
    /// How the check went; `None`: not made.
    pub check: Option<Check>,
}

/// What the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// UDP, for this reason.
    Udp(&'static str),
    /// The compat transport, for this reason.
    Compat(&'static str),
    /// [`udp_answers`] must be asked first.
    AskUdp,
    /// [`check`] must be asked first.
    AskCompat,
}

/// The table, row by row.
pub fn decide(situation: &Situation) -> Decision {
    let s = situation;
    if s.custom_registry_without_tls {
        return Decision::Udp("the registry is reached without TLS");
    }
    if s.custom_beacon_without_compat {
        return Decision::Udp("a UDP beacon is configured and no compat beacon");
    }
    if !s.udp_beacon {
        return Decision::Udp("there is no UDP beacon to ask");
    }
    match s.udp_answered {
        None => return Decision::AskUdp,
        Some(true) => return Decision::Udp("the beacon answers over UDP"),
        Some(false) => {}
    }
    if !s.compat_url {
        return Decision::Udp("the compat beacon has no URL that can be dialled");
    }
    match &s.check {
        None => Decision::AskCompat,
        Some(Check::Answered) => Decision::Compat("UDP is not answered and the compat beacon is"),
        Some(Check::NotOpened(_)) if s.proxy => {
            Decision::Compat("UDP is not answered and a proxy is configured, which must not be gone around")
        }
        Some(_) => Decision::Udp("the compat beacon does not answer either"),
    }
}

/// Whether the beacon at `addr` answers a Discover of node 0, on a socket of its own that is closed again.
pub async fn udp_answers(addr: SocketAddr) -> bool {
    probe(addr).await.unwrap_or(false)
}

async fn probe(addr: SocketAddr) -> io::Result<bool> {
    let any = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    let mut message = Vec::new();
    beacon::Message::Discover { node: 0, key: None }.encode(&mut message);
    for _ in 0..UDP_ATTEMPTS {
        let attempt = async {
            socket.send(&message).await?;
            let mut answer = [0; 64];
            loop {
                let n = socket.recv(&mut answer).await?;
                if matches!(beacon::decode(&answer[..n]), Ok(beacon::Message::DiscoverReply { .. })) {
                    return io::Result::Ok(());
                }
            }
        };
        // A refusal by ICMP is no answer, and the next attempt is due all the same.
        if let Ok(Ok(())) = timeout(UDP_WAIT, attempt).await {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a beacon answers at `url`: what is asked is no upgrade, so only 426 is right. Certificates are not looked at:
/// this tells what is there, the dial tells whether to believe it.
pub async fn check(url: &Url, proxy: Option<&Proxy>) -> Check {
    timeout(CHECK_LIMIT, look(url, proxy))
        .await
        .unwrap_or_else(|_| Check::NotOpened(format!("no answer within {CHECK_LIMIT:?}")))
}

async fn look(url: &Url, proxy: Option<&Proxy>) -> Check {
    let mut stream = match reach(url, proxy).await {
        Ok(stream) => stream,
        Err(e) => return Check::NotOpened(e.to_string()),
    };
    let asked = async {
        if url.tls {
            let tls = ClientTls::unverified().map_err(io::Error::other)?;
            stream = secure(url, stream, tls.connector()).await?;
        }
        let host = url.authority.trim_start_matches('[');
        let host = match host.len() == url.authority.len() {
            true => host.split(':').next().unwrap_or(host),
            // An IPv6 address keeps its brackets.
            false => url.authority.split_inclusive(']').next().unwrap_or(host),
        };
        stream.write_all(&check_request(host, &url.path)).await?;
        stream.flush().await?;
        let head = read_head(&mut stream, &mut Vec::new()).await?;
        head.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    match asked.await {
        Ok(head) if head.start[1] == "426" => Check::Answered,
        Ok(head) => Check::Failed(format!("HTTP {} {}, not 426", head.start[1], head.start[2])),
        Err(e) => Check::Failed(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP unanswered, everything there for compat; each row changes what it is about.
    fn blocked() -> Situation {
        Situation {
            udp_beacon: true,
            udp_answered: Some(false),
            compat_url: true,
            check: Some(Check::Answered),
            ..Situation::default()
        }
    }

    fn is_udp(s: Situation) -> bool {
        matches!(decide(&s), Decision::Udp(_))
    }

    #[test]
    fn row_0_what_the_operator_runs_himself_is_udp() {
        assert!(is_udp(Situation { custom_registry_without_tls: true, ..blocked() }));
        assert!(is_udp(Situation { custom_beacon_without_compat: true, ..blocked() }));
    }

    #[test]
    fn row_1_without_a_udp_beacon_it_is_udp() {
        assert!(is_udp(Situation { udp_beacon: false, ..blocked() }));
    }

    #[test]
    fn row_2_udp_is_asked_first_and_taken_when_answered() {
        assert_eq!(decide(&Situation { udp_answered: None, check: None, ..blocked() }), Decision::AskUdp);
        assert!(is_udp(Situation { udp_answered: Some(true), ..blocked() }));
    }

    #[test]
    fn row_3_without_a_url_it_is_udp() {
        assert!(is_udp(Situation { compat_url: false, check: None, ..blocked() }));
    }

    #[test]
    fn row_4_a_beacon_that_answers_is_taken() {
        assert_eq!(decide(&Situation { check: None, ..blocked() }), Decision::AskCompat);
        assert!(matches!(decide(&blocked()), Decision::Compat(_)));
    }

    #[test]
    fn row_5_a_proxy_is_not_gone_around() {
        let unopened = Some(Check::NotOpened("refused".into()));
        let s = Situation { proxy: true, check: unopened, ..blocked() };
        assert!(matches!(decide(&s), Decision::Compat(_)));
    }

    #[test]
    fn row_6_otherwise_it_is_udp() {
        assert!(is_udp(Situation { check: Some(Check::NotOpened("refused".into())), ..blocked() }));
        assert!(is_udp(Situation { proxy: true, check: Some(Check::Failed("404".into())), ..blocked() }));
    }
}
