//! TLS that breaks or falls silent.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use rustls::{ServerConfig, ServerConnection};

use super::{
    streams::{Peer, read, serve},
    tls::{Authority, NAME, answer, over_tls, problem},
    *,
};

/// What the first connection does once it has read this many queries. Later ones answer everything.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing more.
    Silence,
    /// An alert that says that nothing more comes, and the end of the stream.
    CloseNotify,
    /// A record that says that it is longer than what follows, and the end of the stream.
    CutRecord,
    /// A record that cannot be decrypted.
    Garbage,
    /// The end of the stream without an alert.
    End,
}

/// Queries that are outstanding when the fault occurs.
const OUTSTANDING: usize = 3;

fn faulty(config: Arc<ServerConfig>, fault: Fault) -> Peer {
    Peer::start(move |number, stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        {
            let mut stream = rustls::Stream::new(&mut session, &mut *stream);
            let msg = read(&mut stream)?;
            answer(&mut stream, &msg)?;
            if number > 0 {
                return serve(&mut stream);
            }
            for _ in 0..OUTSTANDING {
                read(&mut stream)?;
            }
            if let Fault::CloseNotify = fault {
                stream.conn.send_close_notify();
                stream.flush().ok()?;
            }
        }
        match fault {
            Fault::Silence => {}
            Fault::CloseNotify | Fault::End => stream.shutdown(Shutdown::Write).ok()?,
            Fault::CutRecord => {
                stream.write_all(&[23, 3, 3, 0, 200, 1, 2, 3]).ok()?;
                stream.shutdown(Shutdown::Write).ok()?;
            }
            Fault::Garbage => stream
                .write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat())
                .ok()?,
        }
        until_closed(stream)
    })
}

fn until_closed(stream: &mut TcpStream) -> Option<()> {
    stream.read_to_end(&mut Vec::new()).ok().map(drop)
}

/// Asks for names at once. Whether all were answered.
fn ask_at_once(bench: &mut Bench, labels: &[&str]) -> bool {
    for (token, label) in labels.iter().enumerate() {
        let request = bench.request(&query(9, label, None), 0, token as u64);
        bench.handle.submit(request).unwrap();
    }
    bench.handle.flush();
    bench.outcomes(0, labels.len()).iter().all(answered)
}

#[test]
fn queries_on_a_session_that_ends_are_sent_again() {
    for fault in [
        Fault::CloseNotify,
        Fault::CutRecord,
        Fault::Garbage,
        Fault::End,
    ] {
        let authority = Authority::new();
        let peer = faulty(authority.server(|_| {}).0, fault);
        let upstream = over_tls(peer.address, Some(NAME), vec![]);
        let mut bench = Bench::new(authority.options(vec![upstream]));
        assert!(ask_at_once(&mut bench, &["first"]), "{fault:?}");
        assert!(ask_at_once(&mut bench, &["a", "b", "c"]), "{fault:?}");
        assert_eq!(bench.count("moved"), OUTSTANDING as u64, "{fault:?}");
        let errors = bench.count("timeouts") + bench.count("upstream_errors");
        assert_eq!(errors, 0, "{fault:?}");
        assert_eq!(problem(&bench), None, "{fault:?}");
        bench.finish();
    }
}

#[test]
fn a_session_that_falls_silent_is_replaced() {
    let authority = Authority::new();
    let peer = faulty(authority.server(|_| {}).0, Fault::Silence);
    let good = answers();
    let upstreams = vec![
        over_tls(peer.address, Some(NAME), vec![]),
        good.address.into(),
    ];
    let mut bench = Bench::new(ForwardOptions {
        attempt_timeout: Duration::from_millis(300),
        ..authority.options(upstreams)
    });
    assert!(ask_at_once(&mut bench, &["first"]));
    assert!(
        ask_at_once(&mut bench, &["a", "b", "c"]),
        "the next upstream answers"
    );
    assert_eq!(bench.count("timeouts"), OUTSTANDING as u64);
    assert_eq!(problem(&bench), None);
    bench.finish();
}

#[test]
fn a_handshake_that_falls_silent_costs_a_timeout() {
    let authority = Authority::new();
    for hello in [false, true] {
        let peer = Peer::start(move |_, stream| {
            if hello {
                stream.read_exact(&mut [0; 100]).ok()?;
                // The head of a ServerHello, the rest of which never comes.
                stream.write_all(&[22, 3, 3, 0, 122, 2, 0]).ok()?;
            }
            until_closed(stream)
        });
        let good = answers();
        let upstreams = vec![
            over_tls(peer.address, Some(NAME), vec![]),
            good.address.into(),
        ];
        let mut bench = Bench::new(ForwardOptions {
            attempt_timeout: Duration::from_millis(300),
            ..authority.options(upstreams)
        });
        assert!(ask_at_once(&mut bench, &["a"]), "the next upstream answers");
        assert_eq!(bench.count("timeouts"), 1);
        assert_eq!(problem(&bench), None);
        bench.finish();
    }
}
