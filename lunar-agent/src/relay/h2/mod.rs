//! HTTP/2 with prior knowledge.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{
    Relay,
    place::Place,
    session::{Wire, splice},
};

/// Serves a connection of which `read`, which begins with the preface, has been read.
pub async fn serve(
    stream: TcpStream,
    read: BytesMut,
    original: SocketAddr,
    place: Arc<Place>,
    relay: Arc<Relay>,
) {
    splice::to_provider(Wire::new(stream, read), original, &place, &relay).await;
}
