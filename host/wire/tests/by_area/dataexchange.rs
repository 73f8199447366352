//! Area `dataexchange`, kinds `frame` and `stream`: decoding. (`serve` is a live server's and belongs to the plugin.)

use pilot_vectors::Entry;
use pilot_wire::dataexchange::{
    self as dx, DEFAULT_MAX_FRAME, Event, Frame, FrameDecoder, FrameError, StreamFrame, StreamMessage, Trace,
};
use serde_json::Value;

pub fn check(entry: &Entry) {
    // The incremental decoder must not care how the bytes are cut.
    let results: Vec<_> =
        [1, 3, 7, entry.bytes.len().max(1)].map(|step| decode_in_steps(&entry.bytes, step)).into();
    for result in &results {
        assert_eq!(result, &results[0]);
    }
    let blocking = dx::read_frame(&mut entry.bytes.as_slice(), DEFAULT_MAX_FRAME);
    if entry.error {
        let text = entry.text("error_text");
        assert_eq!(results[0].as_ref().unwrap_err().to_string(), text);
        assert_eq!(blocking.unwrap_err().to_string(), text);
        return;
    }
    let frames = results[0].as_ref().unwrap();
    let [frame] = frames.as_slice() else { panic!("{} frames", frames.len()) };
    assert_eq!(blocking.unwrap().as_ref(), Some(frame));
    assert_eq!(u64::from(frame.kind.0), entry.number("type"));
    assert_eq!(frame.kind.to_string(), entry.text("type_name"));
    assert_eq!(frame.payload, entry.hex("payload_hex"));
    assert_eq!(frame.name, entry.fields.get("filename").and_then(Value::as_str).unwrap_or_default());
    check_trace(entry, frame);
    check_stream(entry, frame);
    check_encoding(entry, frame);
}

fn decode_in_steps(bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::new(DEFAULT_MAX_FRAME);
    let mut frames = Vec::new();
    let mut open: Option<Frame> = None;
    for mut piece in bytes.chunks(step) {
        while let Some(event) = decoder.decode(&mut piece)? {
            match event {
                Event::Frame(header) => {
                    assert!(open.is_none());
                    open = Some(Frame { kind: header.kind, name: String::new(), payload: Vec::new() });
                }
                Event::File { name, .. } => name.clone_into(&mut open.as_mut().unwrap().name),
                Event::Payload(chunk) => open.as_mut().unwrap().payload.extend_from_slice(chunk),
                Event::End => frames.extend(open.take()),
            }
        }
        assert!(piece.is_empty());
    }
    decoder.finish()?;
    assert!(open.is_none());
    Ok(frames)
}

fn check_trace(entry: &Entry, frame: &Frame) {
    let trace = Trace::decode(frame.kind, &frame.payload);
    if let Some(want) = entry.fields.get("trace") {
        let trace = trace.unwrap();
        assert_eq!(Some(u64::from(trace.inner.0)), want["inner_type"].as_u64());
        assert_eq!(Some(trace.sent_at_ns), want["sent_at_ns"].as_i64());
        assert_eq!(Some(hex::encode(trace.payload).as_str()), want["payload_hex"].as_str());
        let mut encoded = Vec::new();
        dx::encode_trace(&trace, &mut encoded).unwrap();
        assert_eq!(encoded, entry.bytes);
    } else if let Some(want) = entry.fields.get("trace_error").and_then(Value::as_str) {
        assert_eq!(trace.unwrap_err().to_string(), want);
    }
}

fn check_stream(entry: &Entry, frame: &Frame) {
    let Some(want) = entry.fields.get("stream") else { return };
    let decoded = StreamFrame::decode(&frame.payload);
    assert_eq!(Some(decoded.is_some()), want["ok"].as_bool());
    let Some(decoded) = decoded else { return };
    assert_eq!(Some(u64::from(decoded.kind.0)), want["kind"].as_u64());
    assert_eq!(Some(decoded.id.to_string().as_str()), want["transfer_id"].as_str());
    assert_eq!(Some(hex::encode(decoded.body).as_str()), want["body_hex"].as_str());
    let Ok(message) = decoded.message() else { return };
    let mut encoded = Vec::new();
    dx::encode_stream(decoded.id, &message, &mut encoded).unwrap();
    let again = StreamFrame::decode(&encoded[dx::HEADER_LEN..]).unwrap();
    assert_eq!((again.id, again.message()), (decoded.id, Ok(message)));
    // Ignored bytes and the different spellings of "bad" are not written again.
    let canonical =
        encoded.len() == entry.bytes.len() && !matches!(message, StreamMessage::Complete { good: false, .. });
    assert!(!canonical || encoded == entry.bytes);
}

/// A file frame without a proper name is read but never written.
fn check_encoding(entry: &Entry, frame: &Frame) {
    let mut encoded = Vec::new();
    let with_name = frame.payload.len() < entry.bytes.len() - dx::HEADER_LEN;
    if with_name {
        dx::encode_file(&frame.name, &frame.payload, &mut encoded).unwrap();
    } else {
        dx::encode_frame(frame.kind, &frame.payload, &mut encoded).unwrap();
    }
    assert_eq!(encoded, entry.bytes);
}
