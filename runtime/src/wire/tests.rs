use proptest::prelude::*;

use super::*;
use crate::plan::SandboxPlan;

fn exit() -> impl Strategy<Value = Exit> {
    (
        any::<i32>(),
        any::<Option<i32>>(),
        any::<bool>(),
        any::<i64>(),
        any::<i64>(),
    )
        .prop_map(|(code, signal, oom_killed, started_at, finished_at)| Exit {
            code,
            signal,
            oom_killed,
            started_at,
            finished_at,
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<u16>(), any::<u16>()).prop_map(|(protocol, plan)| Request::Hello { protocol, plan }),
        Just(Request::Subscribe),
        any::<String>().prop_map(|id| Request::Start { id }),
        (any::<String>(), any::<i32>()).prop_map(|(id, signal)| Request::Kill { id, signal }),
        any::<String>().prop_map(|id| Request::Remove { id }),
        Just(Request::List),
        Just(Request::Shutdown),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let failure = (any::<String>(), any::<String>(), any::<i32>(), any::<String>()).prop_map(
        |(step, object, errno, message)| Failure {
            step,
            object,
            errno,
            message,
        },
    );
    let body = prop_oneof![
        failure.prop_map(Err),
        Just(Ok(Reply::Done)),
        any::<u32>().prop_map(|pid| Ok(Reply::Created { pid })),
        (any::<String>(), exit()).prop_map(|(id, exit)| {
            Ok(Reply::Containers(vec![ContainerState {
                id,
                pid: 0,
                status: Status::Exited(exit),
            }]))
        }),
    ];
    prop_oneof![
        (any::<u32>(), body).prop_map(|(sequence, body)| Message::Reply(Envelope { sequence, body })),
        (any::<String>(), exit()).prop_map(|(id, exit)| Message::Event(Event::Exited { id, exit })),
    ]
}

/// Decodes a stream that arrives in pieces.
fn decode_pieces<T: DeserializeOwned>(bytes: &[u8], piece: usize) -> Vec<T> {
    let (mut buffer, mut records) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(chunk);
        while let Some((record, used)) = decode(&buffer).unwrap() {
            records.push(record);
            buffer.drain(..used);
        }
    }
    assert!(buffer.is_empty());
    records
}

proptest! {
    #[test]
    fn requests_survive_the_wire(bodies in prop::collection::vec(request(), 0..5), piece in 1usize..40) {
        let sent: Vec<_> = bodies.into_iter().enumerate()
            .map(|(sequence, body)| Envelope { sequence: sequence as u32, body }).collect();
        let stream: Vec<u8> = sent.iter().flat_map(|record| encode(record).unwrap()).collect();
        prop_assert_eq!(decode_pieces::<Envelope<Request>>(&stream, piece), sent);
    }

    #[test]
    fn messages_survive_the_wire(sent in prop::collection::vec(message(), 0..5), piece in 1usize..40) {
        let stream: Vec<u8> = sent.iter().flat_map(|record| encode(record).unwrap()).collect();
        prop_assert_eq!(decode_pieces::<Message>(&stream, piece), sent);
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(mut bytes: Vec<u8>, framed: bool) {
        if framed {
            let length = (bytes.len() as u32).to_le_bytes();
            bytes.splice(0..0, length);
        }
        let _ = decode::<Envelope<Request>>(&bytes);
        let _ = decode::<Message>(&bytes);
        let _ = decode::<SandboxPlan>(&bytes);
    }

    #[test]
    fn a_damaged_frame_never_panics(sent in message(), at: prop::sample::Index, byte: u8) {
        let mut frame = encode(&sent).unwrap();
        let at = at.index(frame.len());
        frame[at] = byte;
        let _ = decode::<Message>(&frame);
    }
}

#[test]
fn long_frames_are_refused_by_their_prefix() {
    let prefix = (MAX_FRAME as u32 + 1).to_le_bytes();
    assert!(matches!(
        decode::<Message>(&prefix),
        Err(DecodeError::TooLong { .. })
    ));
    assert!(matches!(
        encode(&vec![0u8; MAX_FRAME + 1]),
        Err(DecodeError::TooLong { .. })
    ));
}

#[test]
fn bytes_after_the_record_are_refused() {
    let mut frame = encode(&Request::List).unwrap();
    frame[0] += 1;
    frame.push(0);
    assert!(matches!(decode::<Request>(&frame), Err(DecodeError::Trailing(1))));
}
