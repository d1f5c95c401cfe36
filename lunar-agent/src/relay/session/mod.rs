//! One connection of an application. (A stand-in: it splices.)

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use super::{Relay, place::Place};

/// Serves a connection that was meant for `original`.
pub async fn serve(mut stream: TcpStream, original: SocketAddr, place: Arc<Place>, relay: Arc<Relay>) {
    let _open = relay.counts.connection();
    let _request = relay.counts.request();
    let Ok(mut provider) = place.connect(original, Duration::from_secs(10)).await else { return };
    tokio::io::copy_bidirectional(&mut stream, &mut provider).await.ok();
}
