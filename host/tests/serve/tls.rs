//! An endpoint over TLS: a real one behind a proxy with a certificate, and who may not be trusted.

use std::net::TcpStream;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// An authority of our own, and its certificate in PEM.
fn authority() -> (CertifiedIssuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let pem = issuer.pem();
    (issuer, pem)
}

/// What a server of this name shows, vouched for by `issuer`.
fn shown(name: &str, issuer: &CertifiedIssuer<'static, KeyPair>) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap())
}

/// A proxy that speaks TLS in front of `real`; counts the requests that came through.
fn proxy(real: SocketAddr, config: Arc<ServerConfig>) -> (u16, Arc<AtomicUsize>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let (config, counter) = (config.clone(), counter.clone());
            std::thread::spawn(move || answer(stream, real, config, &counter));
        }
    });
    (port, asked)
}

fn answer(stream: TcpStream, real: SocketAddr, config: Arc<ServerConfig>, asked: &AtomicUsize) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    // Whoever does not trust us sends nothing.
    if stream.conn.complete_io(&mut stream.sock).is_err() {
        return;
    }
    asked.fetch_add(1, Ordering::SeqCst);
    serve(&mut stream, real, "honest", &Default::default());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

#[test]
fn a_model_behind_tls_is_judged_if_it_shows_to_be_its_host_and_else_gets_no_question() {
    let (dir, daemon) = serving(&["reference.gguf"]);
    let dir = dir.path();
    let (own, pem) = authority();
    let (_, other_pem) = authority();
    let [own_file, other_file] = [("own.pem", pem), ("other.pem", other_pem)].map(|(name, text)| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    });
    let (port, asked) = proxy(daemon.address, shown("127.0.0.1", &own));
    let url = format!("https://127.0.0.1:{port}/v1#reference");
    let quick = ["--mode", "quick"];
    let (code, report) = verify_url(dir, &url, &quick, &[("ASSAYD_REMOTE_CA_FILE", &own_file)]);
    assert_eq!((code, report["final_decision"].as_str()), (0, Some("SAME")), "{}", report["errors"]);
    assert!(report["engine"]["device"].as_str().unwrap().starts_with("https://127.0.0.1"));
    assert!(asked.swap(0, Ordering::SeqCst) > 3);

    // Nobody vouches for it, somebody else does, or it is vouched for as another host.
    let (elsewhere, asked_elsewhere) = proxy(daemon.address, shown("example.org", &own));
    for (port, environment) in [
        (port, &[][..]),
        (port, &[("ASSAYD_REMOTE_CA_FILE", &*other_file)]),
        (elsewhere, &[("ASSAYD_REMOTE_CA_FILE", &*own_file)]),
    ] {
        let url = format!("https://127.0.0.1:{port}/v1#reference");
        let (code, report) = verify_url(dir, &url, &quick, environment);
        assert_eq!((code, report["final_decision"].as_str()), (4, Some("ERROR")), "{environment:?}");
        let why = report["error"].as_str().unwrap();
        assert!(why.contains("no trusted connection") && why.contains("ASSAYD_REMOTE_CA_FILE"), "{why}");
        assert_eq!(report["workers"].as_array().unwrap().last().unwrap()["ending"], "REFUSED", "{why}");
    }
    assert_eq!(
        asked.load(Ordering::SeqCst) + asked_elsewhere.load(Ordering::SeqCst),
        0,
        "no request came through"
    );
    // An endpoint without TLS is not spoken to as if it had it.
    let plain = format!("https://127.0.0.1:{}/v1#reference", daemon.address.port());
    let (code, report) = verify_url(dir, &plain, &quick, &[]);
    assert_eq!((code, report["final_decision"].as_str()), (4, Some("ERROR")), "{report}");
}
