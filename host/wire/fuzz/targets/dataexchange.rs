//! Data exchange and event stream frames. However a stream is cut, the incremental decoder must see the same frames, and
//! the same as the blocking reader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_wire::dataexchange::{self as dx, Event, Frame, FrameDecoder, FrameError};
use pilot_wire::{Split, eventstream};

const MAX_FRAME: u32 = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some((step, stream)) = data.split_first() else { return };
    let (pieces, outcome) = decode(stream, usize::from(*step).max(1));
    let (whole, whole_outcome) = decode(stream, stream.len().max(1));
    assert_eq!((&pieces, &outcome), (&whole, &whole_outcome));

    let mut source = stream;
    let mut read = Vec::new();
    let end = loop {
        match dx::read_frame(&mut source, MAX_FRAME) {
            Ok(Some(frame)) => read.push(frame),
            Ok(None) => break Ok(()),
            Err(e) => break Err(e.to_string()),
        }
    };
    assert_eq!(read, pieces);
    // A bad name in a frame that is also cut is found at once by one and at the end by the other.
    assert_eq!(end.is_ok(), outcome.is_ok());

    for frame in &read {
        let _ = dx::Trace::decode(frame.kind, &frame.payload);
        let _ = dx::TimingReply::from_json(&frame.payload);
        if let Some(part) = dx::StreamFrame::decode(&frame.payload) {
            if let Ok(message) = part.message() {
                let mut again = Vec::new();
                dx::encode_stream(part.id, &message, &mut again).unwrap();
                if let dx::StreamMessage::Init(init) = message {
                    let _ = dx::stream_file_name(init.name);
                }
            }
        }
        let _ = dx::stored_name(&frame.name, "20260102-030405.678", 1);
    }
    let _ = dx::split_file_payload(stream);
    if let Ok(Split::Complete { message, consumed }) = eventstream::split_event(stream) {
        let mut again = Vec::new();
        message.encode(&mut again).unwrap();
        assert_eq!(again, stream[..consumed]);
    }
});

/// The whole frames, and how the stream ended.
fn decode(stream: &[u8], step: usize) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::new(MAX_FRAME);
    let (mut frames, mut open) = (Vec::new(), None);
    for mut piece in stream.chunks(step) {
        loop {
            match decoder.decode(&mut piece) {
                Err(e) => return (frames, Err(e)),
                Ok(None) => break,
                Ok(Some(Event::Frame(h))) => {
                    open = Some(Frame { kind: h.kind, name: String::new(), payload: Vec::new() });
                }
                Ok(Some(Event::File { name, .. })) => name.clone_into(&mut open.as_mut().unwrap().name),
                Ok(Some(Event::Payload(chunk))) => open.as_mut().unwrap().payload.extend_from_slice(chunk),
                Ok(Some(Event::End)) => frames.extend(open.take()),
            }
        }
    }
    (frames, decoder.finish())
}
