use std::convert::Infallible;

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};

use super::*;

type Frames = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("t"))])
}

fn source(pieces: &[&'static str], with_trailers: bool, limit: usize) -> Source<Frames> {
    let mut frames: Vec<_> =
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
    frames.extend(with_trailers.then(|| Ok(Frame::trailers(trailers()))));
    Source::new(StreamBody::new(stream::iter(frames)), limit)
}

async fn all(upload: Upload<Frames>) -> (Bytes, Option<HeaderMap>) {
    let whole = upload.collect().await.expect("whole");
    let trailers = whole.trailers().cloned();
    (whole.to_bytes(), trailers)
}

#[tokio::test]
async fn each_attempt_has_all_of_it() {
    for with_trailers in [false, true] {
        let source = source(&["one ", "two ", "three"], with_trailers, 100);
        let mut first = source.attempt();
        assert_eq!(first.frame().await.expect("more").expect("sound").into_data().expect("data"), "one ");
        for _ in 0..2 {
            let (bytes, end) = all(source.attempt()).await;
            assert_eq!((&bytes[..], end), (&b"one two three"[..], with_trailers.then(trailers)));
            assert!(source.whole());
        }
        let superseded = first.frame().await.expect("an end");
        assert!(matches!(superseded, Err(UploadError::Superseded)), "{superseded:?}");
        assert!(!source.broken());
    }
}

#[tokio::test]
async fn what_is_too_much_is_not_kept_and_still_passes() {
    for (limit, whole) in [(7, true), (6, false), (0, false)] {
        let source = source(&["one", "four"], false, limit);
        assert!(source.whole(), "nothing was read");
        assert_eq!(all(source.attempt()).await.0, "onefour");
        assert_eq!(source.whole(), whole, "{limit}");
    }
}

#[tokio::test]
async fn nothing_more_is_kept_once_no_attempt_can_follow() {
    let source = source(&["one", "two", "three"], true, 100);
    let mut first = source.attempt();
    first.frame().await.expect("more").expect("sound");
    let second = source.attempt();
    source.release();
    let (bytes, end) = all(second).await;
    assert_eq!((&bytes[..], end), (&b"onetwothree"[..], Some(trailers())));
    assert!(source.lock().bytes.is_empty());
}

#[tokio::test]
async fn an_empty_body_has_ended_and_says_no_length() {
    let source = source(&[], false, 100);
    let mut upload = source.attempt();
    assert!(upload.frame().await.is_none());
    assert!(upload.is_end_stream() && source.attempt().is_end_stream());
    assert_eq!(upload.size_hint().exact(), None);
}
