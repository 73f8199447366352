//! What arrives at a compat beacon before anything is proved, and at its clients: HTTP heads, texts of the challenge, URLs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_wire::compat::auth::{self, Challenge, Reply};
use pilot_wire::compat::http::{self, Answer, Head};
use pilot_wire::compat::{SUBPROTOCOL, Url};

fuzz_target!(|data: &[u8]| {
    if let Some(end) = http::head_end(data) {
        assert!(data[..end].ends_with(b"\r\n\r\n"));
        if let Ok(head) = Head::parse(&data[..end]) {
            for full in [false, true] {
                match http::answer(&head, full) {
                    Answer::Plain { bytes, .. } => {
                        // What a stranger wrote appears in it, but never as a header or a second answer.
                        let end = http::head_end(&bytes).unwrap();
                        let answer = Head::parse(&bytes[..end]).unwrap();
                        let length: usize = answer.first("Content-Length").parse().unwrap();
                        assert_eq!(length, bytes.len() - end);
                        assert_ne!(answer.start[1], "101");
                    }
                    Answer::Upgrade { subprotocol, .. } => {
                        assert!(!full);
                        assert!(subprotocol.is_none_or(|name| name.eq_ignore_ascii_case(SUBPROTOCOL)));
                    }
                }
            }
            let _ = http::check_upgrade(&head, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        }
    } else {
        let _ = Head::parse(data);
    }
    if let Ok(challenge) = Challenge::decode(data) {
        assert_eq!(Challenge::decode(challenge.encode().as_bytes()).unwrap(), challenge);
        let _ = challenge.is_fresh(0);
        assert!(challenge.signed_bytes(7).ends_with(&challenge.nonce));
    }
    match (Reply::decode(data), Reply::decode_claim(data)) {
        (Ok(reply), Ok((node, _))) => assert_eq!((reply.node, node != 0), (node, true)),
        (Ok(reply), Err(e)) => panic!("{reply:?} but {e}"),
        (Err(_), _) => {}
    }
    let _ = auth::is_ok(data);
    if let Ok(url) = std::str::from_utf8(data).unwrap_or_default().parse::<Url>() {
        assert_eq!(url.to_string().parse::<Url>().unwrap().to_string(), url.to_string());
    }
});
