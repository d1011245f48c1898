//! Sockets: accepting, TLS, timeouts of slow clients, ending in good order.
//!
//! Owns connections. Must not know routes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::app::App;
use crate::options::{StartError, Tls};
use crate::router::canonical;

/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of a request at most.
const HEADERS_MAX: usize = 100;
/// Pause after the system refused a connection, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that listens.
///
/// # Errors
/// The address is taken or not this machine's
pub(crate) fn bind(addr: SocketAddr) -> Result<TcpListener, StartError> {
    let wrong = |source| StartError::Listen { addr, source };
    let listener = TcpListener::bind(addr).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    Ok(listener)
}

/// What speaks TLS.
///
/// # Errors
/// Certificate or key is none, or they do not belong together
pub(crate) fn tls(tls: &Tls) -> Result<TlsAcceptor, StartError> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| StartError::Tls(format!("{what}: {error}"));
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&tls.certificates).collect();
    let certificates = certificates.map_err(|e| wrong("expected certificates as PEM", &e))?;
    if certificates.is_empty() {
        return Err(StartError::Tls("expected certificates as PEM, found none".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(|e| wrong("expected a private key as PEM", &e))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| wrong("protocol versions", &e))?.with_no_client_auth();
    let config = config.with_single_cert(certificates, key).map_err(|e| wrong("certificate and key", &e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop`, then lets requests end for as long as the options say.
///
/// # Errors
/// The socket cannot be used
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    app: App,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(app.options.n_connections));
    let (ending, end) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = &mut stop => break,
            accepted = accept => accepted,
        };
        let Ok((socket, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Tokens are small and wanted now.
        let _ = socket.set_nodelay(true);
        let (router, app, tls, end) = (router.clone(), app.clone(), tls.clone(), end.clone());
        tokio::spawn(async move {
            app.metrics.n_connections.fetch_add(1, Ordering::Relaxed);
            let _guard = Leaves(app.clone());
            let socket = Patient { io: socket, limit: app.options.write_timeout, stalled: None };
            match tls {
                None => connection(socket, router, &app, end).await,
                Some(tls) => {
                    if let Ok(Ok(socket)) = timeout(app.options.head_timeout, tls.accept(socket)).await {
                        connection(socket, router, &app, end).await;
                    }
                }
            }
            drop(place);
        });
    }
    drop(listener);
    app.drain();
    // Nobody may be connected.
    let _ = ending.send(true);
    drop(end);
    let _ = timeout(app.options.drain_timeout, ending.closed()).await;
    Ok(())
}

struct Leaves(App);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.metrics.n_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until either side ends it.
async fn connection(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    app: &App,
    mut end: watch::Receiver<bool>,
) {
    let service = Renamed(TowerToHyperService::new(router));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(app.options.head_timeout);
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        // A client that breaks off is no failure of ours.
        _ = served.as_mut() => return,
        _ = end.wait_for(|ends| *ends) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

/// Leads the paths of other services' clients to ours.
struct Renamed<S>(S);

impl<B, S: hyper::service::Service<Request<B>>> hyper::service::Service<Request<B>> for Renamed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<B>) -> Self::Future {
        if let Some(path) = canonical(request.uri().path()) {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            // What is left of a path that was one is one.
            if let Ok(uri) = format!("{path}{query}").parse() {
                *request.uri_mut() = uri;
            }
        }
        self.0.call(request)
    }
}

/// A socket whose other end has to read: a write that stalls for too long is an error.
struct Patient<S> {
    io: S,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, result)
    }
}
