//! Both far ends of DNS over TLS: an upstream that does little more than TLS, and clients that do nothing but handshakes.
#![allow(clippy::indexing_slicing)]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::NoServerSessionStorage,
};
use serde::Serialize;

#[derive(Parser)]
#[command(
    name = "dot",
    about = "An upstream over TLS that answers everything, and clients that do handshakes",
    after_help = "\
Examples:
  An upstream that closes each connection after one response, and resumes no session:
    dot respond --listen 127.0.0.1:853 --certificate certificate.pem --key key.pem --close --no-resumption
  Eight clients, each of which connects, asks once and closes, as often as it can in five seconds:
    dot handshakes --server 192.0.2.1:853 --name dns.example --roots roots.pem --clients 8 --seconds 5"
)]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// Resume no session
    #[arg(long, global = true)]
    no_resumption: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Answer each query with 192.0.2.1, whatever it asks
    Respond {
        /// Listen at this address and port
        #[arg(long, value_name = "ADDR:PORT")]
        listen: SocketAddr,

        /// File of the certificate, in PEM
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,

        /// File of its key, in PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,

        /// Close each connection after one response
        #[arg(long)]
        close: bool,
    },
    /// Connect, ask for one name and close, again and again; prints JSON
    Handshakes {
        /// The server
        #[arg(long, value_name = "ADDR:PORT")]
        server: SocketAddr,

        /// The name that its certificate has
        #[arg(long)]
        name: String,

        /// File of the root certificates, in PEM
        #[arg(long, value_name = "FILE")]
        roots: PathBuf,

        /// Ask for this name
        #[arg(long, default_value = "n0.example.com")]
        question: String,

        /// Threads, each with one connection at a time
        #[arg(long, default_value_t = 8)]
        clients: usize,

        /// Length of the measurement
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

/// What clients did.
#[derive(Default, Serialize)]
struct Measured {
    /// Answers, each on a connection of its own.
    answers: u64,
    /// Sessions that were resumed.
    resumed: u64,
    seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.command {
        Command::Respond {
            listen,
            certificate,
            key,
            close,
        } => {
            let config = server(&certificate, &key, !args.no_resumption)?;
            respond(listen, &config, close)
        }
        Command::Handshakes {
            server,
            name,
            roots,
            question,
            clients,
            seconds,
        } => {
            // Each with sessions of its own.
            let configs = (0..clients).map(|_| client(&roots, !args.no_resumption));
            let configs = configs.collect::<Result<Vec<_>>>()?;
            let load = Load {
                server,
                name: ServerName::try_from(name)?,
                query: query(&question)?,
                time: Duration::from_secs(seconds),
            };
            let measured = load.measure(&configs)?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server(certificate: &Path, key: &Path, resumes: bool) -> Result<Arc<ServerConfig>> {
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"dot".to_vec()];
    if resumes {
        config.ticketer = ring::Ticketer::new()?;
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

fn client(roots: &Path, resumes: bool) -> Result<Arc<ClientConfig>> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots)? {
        store.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"dot".to_vec()];
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// Serves each connection on a thread of its own.
fn respond(listen: SocketAddr, config: &Arc<ServerConfig>, close: bool) -> Result<()> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen at {listen}"))?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept()?;
        let config = Arc::clone(config);
        thread::spawn(move || serve(stream, config, close));
    }
}

/// Until the client closes the connection, or anything fails.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, close: bool) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let session = ServerConnection::new(config).ok()?;
    let mut stream = StreamOwned::new(session, stream);
    let mut input = vec![0; 1 << 17];
    let (mut filled, mut output) = (0, Vec::new());
    loop {
        match stream.read(&mut input[filled..]) {
            Ok(0) | Err(_) => return None,
            Ok(len) => filled += len,
        }
        let mut rest = &input[..filled];
        output.clear();
        while let Some((query, after)) = frame(rest) {
            answer(query, &mut output)?;
            rest = after;
            if close {
                break;
            }
        }
        let taken = filled - rest.len();
        input.copy_within(taken..filled, 0);
        filled -= taken;
        stream.write_all(&output).ok()?;
        stream.flush().ok()?;
        if close && !output.is_empty() {
            stream.conn.send_close_notify();
            return stream.flush().ok();
        }
    }
}

/// The first message, and what follows it. None: it is not whole.
fn frame(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = octets.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*len).into())
}

/// Appends the response to a query: its question, an A record that begins with a pointer to it, and an OPT record.
fn answer(query: &[u8], output: &mut Vec<u8>) -> Option<()> {
    const RECORDS: &[u8] = &[
        0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0,
    ];
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(12..end + 5)?;
    let len = 12 + question.len() + RECORDS.len();
    output.extend_from_slice(&(len as u16).to_be_bytes());
    output.extend_from_slice(&query[..2]);
    output.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 1]);
    output.extend_from_slice(question);
    output.extend_from_slice(RECORDS);
    Some(())
}

/// A query for A records, with its length before it.
fn query(name: &str) -> Result<Vec<u8>> {
    let mut msg = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 {
            bail!("{name} is not a name");
        }
        msg.push(label.len() as u8);
        msg.extend_from_slice(label.as_bytes());
    }
    msg.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok([&(msg.len() as u16).to_be_bytes()[..], &msg].concat())
}

/// What each client does.
struct Load {
    server: SocketAddr,
    name: ServerName<'static>,
    query: Vec<u8>,
    time: Duration,
}

impl Load {
    fn measure(&self, configs: &[Arc<ClientConfig>]) -> Result<Measured> {
        let begin = Instant::now();
        let done: Vec<Result<(u64, u64)>> = thread::scope(|scope| {
            let clients: Vec<_> = (configs.iter())
                .map(|config| {
                    scope.spawn(move || {
                        let mut done = (0, 0);
                        while begin.elapsed() < self.time {
                            let resumed = self.ask(config)?;
                            done = (done.0 + 1, done.1 + u64::from(resumed));
                        }
                        Ok(done)
                    })
                })
                .collect();
            let joined = clients.into_iter().map(|client| {
                let ended = client.join();
                ended.unwrap_or_else(|_| bail!("a client panicked"))
            });
            joined.collect()
        });
        let mut measured = Measured {
            seconds: begin.elapsed().as_secs_f64(),
            ..Measured::default()
        };
        for done in done {
            let (answers, resumed) = done?;
            measured.answers += answers;
            measured.resumed += resumed;
        }
        Ok(measured)
    }

    /// Asks once on a new connection. Whether its session was a resumed one.
    fn ask(&self, config: &Arc<ClientConfig>) -> Result<bool> {
        let stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let session = ClientConnection::new(Arc::clone(config), self.name.clone())?;
        let mut stream = StreamOwned::new(session, stream);
        stream.write_all(&self.query)?;
        stream.flush()?;
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut msg = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut msg)?;
        if msg.get(3).is_none_or(|flags| flags & 15 != 0) {
            bail!("the server answers with an error");
        }
        let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(resumed)
    }
}
