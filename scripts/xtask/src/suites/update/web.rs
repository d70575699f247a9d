//! Where devices get their releases: nginx with a folder, and servers that do not do what they should.
//!
//! The machine in QEMU reaches this machine's loopback as 10.0.2.2, so all of them listen there, one at a time and on the same
//! port: which one it is, the device cannot choose.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    error::{At, Error, Result},
    progress::{Background, Interrupt},
};

/// The longest until a server takes connections.
const START_BOUND: Duration = Duration::from_secs(20);
/// The most bytes of a question's head that are read.
const MOST_HEAD: usize = 16 << 10;
/// The most bytes that an answer without end has after all.
const MOST_ENDLESS: u64 = 1 << 30;

/// nginx with one folder.
pub(super) struct Web {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    interrupt: Interrupt,
    server: Option<Background>,
}

/// A question and what became of it.
pub(super) struct Request {
    /// Of the address, without the host.
    pub(super) path: String,
    /// Of the answer.
    pub(super) status: u16,
    /// That were sent, without the answer's head.
    pub(super) bytes: u64,
    /// Whether a part of the file was asked for.
    pub(super) range: bool,
}

impl Web {
    /// One that gives out nothing yet, with its files in `dir`.
    pub(super) fn new(program: PathBuf, dir: PathBuf, port: u16, interrupt: &Interrupt) -> Result<Self> {
        fs::create_dir_all(&dir).at("making", &dir)?;
        let log = dir.join("access.log");
        fs::write(&log, "").at("emptying", &log)?;
        Ok(Self { program, dir, port, interrupt: interrupt.clone(), server: None })
    }

    /// Gives out this folder from now on.
    pub(super) fn serve(&mut self, folder: &Path) -> Result<()> {
        self.stop();
        let (dir, port) = (self.dir.display(), self.port);
        let config = self.dir.join("nginx.conf");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path \"{dir}/{kind}\";\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid \"{dir}/pid\";\nerror_log stderr;\n\
             events {{ worker_connections 64; }}\nhttp {{\n{temporary}  \
             log_format one '$status $body_bytes_sent \"$http_range\" $request_uri';\n  \
             access_log \"{dir}/access.log\" one;\n  default_type application/octet-stream;\n  \
             server {{ listen 127.0.0.1:{port}; root \"{}\"; }}\n}}\n",
            folder.display()
        );
        fs::write(&config, text).at("writing", &config)?;
        let mut nginx = Command::new(&self.program);
        nginx.args(["-e", "stderr", "-p"]).arg(&self.dir).arg("-c").arg(&config);
        let mut server = Background::start(&nginx, &self.dir.join("nginx.log"))?;
        self.interrupt.wait_for("nginx", START_BOUND, || {
            server.must_run("starting nginx")?;
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Gives out nothing.
    pub(super) fn stop(&mut self) {
        self.server = None;
    }

    /// In its place a server that does this, until it is dropped.
    pub(super) fn hostile(&mut self, behaviour: Behaviour) -> Result<Hostile> {
        self.stop();
        Hostile::start(self.port, behaviour)
    }

    /// All that it was asked so far.
    pub(super) fn asked(&self) -> Result<Vec<Request>> {
        let log = self.dir.join("access.log");
        let text = fs::read_to_string(&log).at("reading", &log)?;
        let wrong = |line: &str| Error::talk("nginx", format!("its log has the line {line:?}"));
        text.lines().map(|line| request(line).ok_or_else(|| wrong(line))).collect()
    }
}

/// A line of the log.
fn request(line: &str) -> Option<Request> {
    let mut words = line.splitn(4, ' ');
    let (status, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (range, path) = (words.next()? != "\"-\"", words.next()?.to_owned());
    Some(Request { path, status, bytes, range })
}

/// What a server does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behaviour {
    /// It takes the question, and never answers.
    Silent,
    /// It answers with a byte a second.
    Drips,
    /// Its answer has no end.
    Endless,
}

/// Such a server.
pub(super) struct Hostile {
    port: u16,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    accepting: Option<JoinHandle<()>>,
}

impl Hostile {
    fn start(port: u16, behaviour: Behaviour) -> Result<Self> {
        let talk = |error: std::io::Error| Error::talk("a server of the tests", error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(talk)?;
        let mut server = Self { port, stop: Arc::default(), sent: Arc::default(), accepting: None };
        let (stop, sent) = (Arc::clone(&server.stop), Arc::clone(&server.sent));
        server.accepting = Some(thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                // A device that has heard enough goes away, which is what is wanted.
                thread::spawn(move || answer(socket, behaviour, &stop, &sent));
            }
        }));
        Ok(server)
    }

    /// How many bytes of bodies were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts. When it has gone, the port is free for the next server.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
            && let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
        {
            eprintln!("a server of the tests panicked");
        }
    }
}

fn answer(
    mut socket: TcpStream,
    behaviour: Behaviour,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    socket.set_read_timeout(Some(START_BOUND))?;
    socket.set_write_timeout(Some(START_BOUND))?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < MOST_HEAD {
        socket.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let on = || !stop.load(Ordering::Relaxed);
    match behaviour {
        Behaviour::Silent => {
            while on() {
                thread::sleep(Duration::from_millis(100));
            }
        }
        Behaviour::Drips => {
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")?;
            while on() {
                socket.write_all(b" ")?;
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_secs(1));
            }
        }
        Behaviour::Endless => {
            socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            let piece = [b' '; 4096];
            while on() && sent.load(Ordering::Relaxed) < MOST_ENDLESS {
                socket.write_all(&piece)?;
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_read() {
        let asked = request("206 11 \"bytes=10-20\" /targets/a.chunks").unwrap();
        assert_eq!((asked.status, asked.bytes, asked.range), (206, 11, true));
        assert_eq!(asked.path, "/targets/a.chunks");
        assert!(!request("404 153 \"-\" /metadata/2.root.json").unwrap().range);
        assert!(request("404 -").is_none());
    }

    #[test]
    fn each_server_does_what_it_is_to_do_wrong() {
        for behaviour in [Behaviour::Silent, Behaviour::Drips, Behaviour::Endless] {
            let port = crate::machine::free_port().unwrap();
            let server = Hostile::start(port, behaviour).unwrap();
            let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut bytes = vec![0; 100_000];
            let read = socket.read_exact(&mut bytes);
            assert_eq!(read.is_ok(), behaviour == Behaviour::Endless, "{behaviour:?}");
            assert_eq!(bytes.starts_with(b"HTTP/1.1 200 OK"), behaviour != Behaviour::Silent);
            assert_eq!(server.sent() > 0, behaviour != Behaviour::Silent);
        }
    }
}
