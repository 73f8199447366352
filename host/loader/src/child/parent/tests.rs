//! A child that lies, floods, or holds too much: spoken to over a bare socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use plugin_abi::test_kit::FakeDaemon;
use plugin_abi::{Daemon, ErrorKind};

use super::desk::Desk;
use super::seat::Seat;
use crate::child::frame::{FrameReader, Kind, MAX_FROM_CHILD, Raw, encode};
use crate::child::message::{Answer, Handshake, Mention, Service, ToHost};
use crate::child::session::{Limits, Session};

const PATIENCE: Duration = Duration::from_secs(60);

struct Liar {
    session: Arc<Session<Arc<Desk>>>,
    socket: UnixStream,
    answers: FrameReader<UnixStream>,
    daemon: Arc<FakeDaemon>,
    next: u32,
}

impl Liar {
    fn new() -> Liar {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let limits = Limits {
            frame: MAX_FROM_CHILD,
            serving: 8,
            serving_bytes: 1 << 20,
            calls: 4,
            stall: Duration::from_millis(200),
            grace: Duration::ZERO,
        };
        let seat = Seat::new(Duration::from_secs(1), Duration::from_secs(1));
        let session = Session::start("liar", ours.into(), limits, |link| {
            Arc::new(Desk::new("liar", seat, Arc::new(()), link, || ()))
        });
        let session = session.unwrap();
        let daemon = FakeDaemon::new("/nonexistent");
        session.server().open(daemon.clone());
        let answers = FrameReader::new(theirs.try_clone().unwrap(), usize::MAX >> 1);
        Liar { session, socket: theirs, answers, daemon, next: 0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        // The session may have ended already.
        let _ = self.socket.write_all(bytes);
    }

    fn send(&mut self, call: &ToHost) -> u32 {
        self.next += 1;
        let frame = encode(Kind::Call, self.next, call, 0).unwrap();
        self.write(&frame);
        self.next
    }

    fn call(&mut self, call: &ToHost) -> Answer {
        let id = self.send(call);
        let frame = self.answers.next().unwrap();
        assert_eq!((frame.kind, frame.id), (Kind::Answer, id));
        let (answer, _): (Answer, Raw) = frame.decode().unwrap();
        answer
    }

    fn ended(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(why) = self.session.link().ended() {
                return why.to_owned();
            }
            assert!(Instant::now() < end, "the session goes on");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn failed(answer: &Answer, kind: ErrorKind) -> bool {
    matches!(answer, Answer::Failed { code, .. } if *code == kind.code())
}

#[test]
fn what_is_no_message_ends_the_session() {
    let call = |message: &[u8]| {
        let mut frame = (u32::try_from(message.len()).unwrap() + 5).to_le_bytes().to_vec();
        frame.extend_from_slice(&[0, 1, 0, 0, 0]);
        frame.extend_from_slice(message);
        frame
    };
    let stray = encode(Kind::Answer, 5, &Answer::Done, 0).unwrap();
    let broken_event = Mention::Publish { topic: "t".into(), payload: Some("[1]".into()) };
    let cases: [(Vec<u8>, &str); 7] = [
        (vec![0xFF; 64], "a frame of 4294967295 bytes"),
        (5u32.to_le_bytes().into_iter().chain([9, 0, 0, 0, 0]).collect(), "a frame of kind 9"),
        (stray, "an answer to call 5, which nobody made"),
        (call(&[0x7F]), "bad message"),
        // `RegistryCall` with a text longer than the frame.
        (call(&[17, 0xFF, 0xFF, 0xFF, 0x7F]), "bad message"),
        (encode(Kind::Note, 0, &broken_event, 0).unwrap(), "invalid type"),
        (
            encode(
                Kind::Note,
                0,
                &Mention::Fault { op: "o".into(), message: "boom".into(), failed: true },
                0,
            )
            .unwrap(),
            "panicked: boom",
        ),
    ];
    for (bytes, why) in cases {
        let mut liar = Liar::new();
        liar.write(&bytes);
        let ended = liar.ended();
        assert!(ended.contains(why), "{ended} instead of {why}");
        assert_eq!(liar.answers.next().err().map(|_| ()), Some(()), "the socket is closed");
    }
}

#[test]
fn numbers_that_were_never_given_are_refused_one_by_one() {
    let mut liar = Liar::new();
    for call in [
        ToHost::Read { stream: 1, max: u32::MAX },
        ToHost::Write { stream: u32::MAX },
        ToHost::Accept { listener: 7 },
        ToHost::CloseListener { listener: 7 },
        ToHost::Receive { subscription: 1, timeout: Duration::MAX },
    ] {
        let answer = liar.call(&call);
        assert!(failed(&answer, ErrorKind::Closed), "{call:?}: {answer:?}");
    }
    for note in [
        Mention::ReleaseStream { stream: 3 },
        Mention::CancelSubscription { subscription: 3 },
        Mention::Cancel { call: 99 },
    ] {
        let frame = encode(Kind::Note, 0, &note, 0).unwrap();
        liar.write(&frame);
    }
    assert!(matches!(liar.call(&ToHost::NodeId), Answer::Number(1)));
}

#[test]
fn tables_and_calls_at_once_are_bounded() {
    let mut liar = Liar::new();
    for _ in 0..256 {
        assert!(matches!(liar.call(&ToHost::Subscribe { pattern: "*".into() }), Answer::Handle(_)));
    }
    let answer = liar.call(&ToHost::Subscribe { pattern: "*".into() });
    assert!(failed(&answer, ErrorKind::Busy), "{answer:?}");
    assert_eq!(liar.daemon.subscriptions(), 256);
    let Answer::Handle(listener) = liar.call(&ToHost::Bind { port: 7 }) else { panic!("not bound") };
    for _ in 0..8 {
        liar.send(&ToHost::Accept { listener });
    }
    // The ninth that waits is one too many; what does not wait is served all the same.
    let answer = liar.call(&ToHost::Accept { listener });
    assert!(failed(&answer, ErrorKind::Busy), "{answer:?}");
    assert!(matches!(liar.call(&ToHost::NodeId), Answer::Number(1)));
    liar.session.fail("over");
    assert!(liar.daemon.subscriptions() == 0 && liar.daemon.bound_ports().is_empty());
}

/// The next process asks for the same ports as soon as the session of the last one has ended: a bind that is under way
/// then is over by that time, and one that comes later does not happen.
#[test]
fn a_port_that_is_asked_for_in_the_last_moment_is_not_kept() {
    for _ in 0..20 {
        let mut liar = Liar::new();
        let (begun, begins) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let (through, gate) = (Arc::<AtomicBool>::default(), Mutex::new(goes_on));
        let over = Arc::clone(&through);
        liar.daemon.on_bind(move |port| {
            if port == 7 {
                begun.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap();
                over.store(true, Ordering::Release);
            }
            Ok(())
        });
        liar.send(&ToHost::Bind { port: 7 });
        begins.recv().unwrap();
        liar.send(&ToHost::Bind { port: 8 });
        let session = Arc::clone(&liar.session);
        let end = std::thread::spawn(move || session.fail("over"));
        liar.ended();
        go_on.send(()).unwrap();
        end.join().unwrap();
        assert!(through.load(Ordering::Acquire), "the session has ended, and a bind goes on");
        assert!(liar.daemon.bound_ports().is_empty(), "{:?}", liar.daemon.bound_ports());
    }
}

#[test]
fn a_flood_without_reading_ends_the_session() {
    let mut liar = Liar::new();
    let frames: Vec<u8> =
        (0..1000).flat_map(|id| encode(Kind::Call, id, &ToHost::AdminToken, 0).unwrap()).collect();
    liar.daemon.set_admin_token(&"x".repeat(4096));
    let start = Instant::now();
    while liar.session.link().ended().is_none() {
        assert!(start.elapsed() < PATIENCE, "the flood goes on");
        liar.write(&frames);
    }
    let why = liar.ended();
    assert!(why.contains("nothing was read") || why.contains("answers are not read"), "{why}");
}

#[test]
fn a_service_that_does_not_answer_is_not_trusted() {
    let mut liar = Liar::new();
    assert!(matches!(liar.call(&ToHost::Register(Service::Handshake)), Answer::Done));
    let service = liar.daemon.handshake_service().unwrap();
    // The seat is empty: nobody said that this session is the plugin's.
    assert!(!service.is_trusted(5));
    assert!(matches!(liar.call(&ToHost::Handshake(Handshake::IsTrusted { node: 5 })), Answer::Flag(false)));
    let mut rest = [0; 1];
    liar.session.fail("over");
    assert_eq!(liar.socket.read(&mut rest).unwrap_or(0), 0);
}
