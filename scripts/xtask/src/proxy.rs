//! Passes TCP connections on, as a network between client and host: it can be cut, and it can be slow.

use std::{
    io::{Read as _, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    progress::Interrupt,
};

/// How slow it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Milliseconds of delay each way.
    pub(crate) delay_ms: u32,
    /// Kilobytes a second each way, of each connection.
    pub(crate) kilobytes_per_second: u32,
}

/// The proxy; its connections end when it is dropped.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) port: u16,
    address: Ipv4Addr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Bytes that were passed on to clients.
    to_clients: AtomicU64,
    /// Those that have not been cut.
    connections: Mutex<Vec<(TcpStream, TcpStream)>>,
}

impl Proxy {
    /// Listens on a free port of `address` and passes on to port `to` there.
    pub(crate) fn start(address: Ipv4Addr, to: u16, shape: Option<Shape>) -> Result<Self> {
        let talk = |error: std::io::Error| Error::talk("a proxy of the tests", error);
        let listener = TcpListener::bind((address, 0)).map_err(talk)?;
        let port = listener.local_addr().map_err(talk)?.port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(far) = TcpStream::connect((address, to)) else { continue };
                // What is passed on waits for nothing but the shape.
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let both = (near.try_clone(), far.try_clone(), near.try_clone(), far.try_clone());
                let (Ok(near2), Ok(far2), Ok(near3), Ok(far3)) = both else { continue };
                accepting.connections().push((near3, far3));
                thread::spawn(move || pass(near, far, shape, &AtomicU64::new(0)));
                let counting = Arc::clone(&accepting);
                thread::spawn(move || pass(far2, near2, shape, &counting.to_clients));
            }
        });
        Ok(Self { port, address, shared })
    }

    /// How many bytes it has passed on to clients.
    pub(crate) fn to_clients(&self) -> u64 {
        self.shared.to_clients.load(Ordering::Relaxed)
    }

    /// Cuts all connections, as a network does that goes away.
    pub(crate) fn cut(&self) {
        for (near, far) in self.shared.connections().drain(..) {
            // One that its own ends have closed already is no matter.
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        }
    }

    /// Waits until there is one.
    pub(crate) fn wait_connection(&self, bound: Duration, interrupt: &Interrupt) -> Result<()> {
        interrupt.wait_for("the client's next connection", bound, || {
            Ok((!self.shared.connections().is_empty()).then_some(()))
        })
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<(TcpStream, TcpStream)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((self.address, self.port));
    }
}

/// Where one direction goes.
struct Counted<'a> {
    to: &'a TcpStream,
    count: &'a AtomicU64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.count.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// One direction. Its end closes only this direction, as a network does: what goes the other way still arrives.
fn pass(mut from: TcpStream, to: TcpStream, shape: Option<Shape>, count: &AtomicU64) {
    let mut counted = Counted { to: &to, count };
    // Both end when either side is closed or cut.
    match shape {
        Some(shape) => delay(from, &mut counted, shape),
        None => drop(std::io::copy(&mut from, &mut counted)),
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Takes no more than the shape's rate, and gives it on when its delay is over.
fn delay(mut from: TcpStream, to: &mut Counted<'_>, shape: Shape) {
    let delay = Duration::from_millis(shape.delay_ms.into());
    let rate = f64::from(shape.kilobytes_per_second) * 1000.0;
    // What is on its way is bounded by the rate.
    let (under_way, arriving) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut piece = vec![0; 1460];
            let mut free = Instant::now();
            while let Ok(read @ 1..) = from.read(&mut piece) {
                free = free.max(Instant::now()) + Duration::from_secs_f64(read as f64 / rate);
                if under_way.send((free + delay, piece[..read].to_vec())).is_err() {
                    return;
                }
                thread::sleep(free.saturating_duration_since(Instant::now()));
            }
        });
        for (due, piece) in arriving {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_proxy_passes_everything_on_in_order_and_late() {
        let shape = Shape { delay_ms: 50, kilobytes_per_second: 400 };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap().port();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, to, Some(shape)).unwrap();
        let sent: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
        let began = Instant::now();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == sent, "{} bytes came back of {}", back.len(), sent.len());
        assert_eq!(proxy.to_clients(), sent.len() as u64);
        // Twice the delay, and twice 40 kB at that rate: no machine is faster than that.
        assert!(began.elapsed() >= Duration::from_millis(300), "it took {:?}", began.elapsed());
        echo.join().unwrap();
    }
}
