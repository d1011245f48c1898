//! TLS with a certificate of files. `fixtures/cert.pem` is made by
//! `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 36500
//! -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE`; its key is no
//! secret.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use common::scripted::Size;
use common::{options, serve};
use server::{Options, Tls};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

const CERTIFICATE: &[u8] = include_bytes!("fixtures/cert.pem");
const KEY: &[u8] = include_bytes!("fixtures/key.pem");

#[test]
fn a_certificate_of_files_is_spoken_with() {
    let tls = Some(Tls { certificates: CERTIFICATE.to_vec(), key: KEY.to_vec() });
    let served = serve(Size::default(), Options { tls, ..options() });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, TcpStream::connect(served.addr).unwrap());
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    // Some servers leave without a last word of TLS.
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("scripted"), "{answer}");
    // Who speaks no TLS is not answered.
    let mut plain = TcpStream::connect(served.addr).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    // A certificate with another's key is found out at once.
    let other = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    let (engine, model) = common::scripted::scripted(Size::default());
    let tls = Some(Tls { certificates: CERTIFICATE.to_vec(), key: other.to_vec() });
    assert!(server::Server::bind(model, engine.handle(), Options { tls, ..options() }).is_err());
}
