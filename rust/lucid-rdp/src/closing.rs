//! The end of a connection at which the client has something to be told.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads what the peer still sends and throws it away, until the peer closes its side too. To be called after the
/// last words were written and the write side was shut down, and under a bound of time.
///
/// A socket that is closed while bytes wait unread is reset (RFC 1122, 4.2.2.13), and a reset takes from the peer, or
/// from a proxy on the way, what it has not read yet: a client whose user still types would never learn why it was
/// hung up on, take the end for a broken network, and come back.
pub(crate) async fn drain(mut stream: impl AsyncRead + Unpin) {
    let mut unwanted = [0; 4096];
    // An error is an end as well.
    while stream.read(&mut unwanted).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::drain;

    #[tokio::test]
    async fn a_client_that_still_types_is_not_reset_under_its_last_words() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let mut peer = std::net::TcpStream::connect(to).unwrap();
            peer.write_all(&[7; 20_000]).unwrap();
            let mut told = Vec::new();
            peer.read_to_end(&mut told).unwrap();
            // A reset connection would refuse this.
            peer.write_all(&[7; 20_000]).unwrap();
            told
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
        stream.write_all(b"logged off").await.unwrap();
        stream.shutdown().await.unwrap();
        drain(&mut stream).await;
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "something was left unread");
        assert_eq!(peer.join().unwrap(), b"logged off");
    }
}
