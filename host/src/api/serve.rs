//! The accept loop: one task per connection, all of them bounded, all of them ended at a stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::domain::{Problem, ProblemKind, budget};

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// The real address: port 0 has become a free one.
    pub address: SocketAddr,
}

/// Binds `address`.
///
/// Errors: the port is taken, privileged, or the address is not of this machine.
pub async fn listen(address: SocketAddr) -> Result<Listener, Problem> {
    let bound = match TcpListener::bind(address).await {
        Ok(socket) => socket.local_addr().map(|address| Listener { socket, address }),
        Err(error) => Err(error),
    };
    bound.map_err(|error| {
        use std::io::ErrorKind;
        let problem = Problem::new(ProblemKind::Conflict, format!("cannot listen on {address}: {error}"));
        match error.kind() {
            ErrorKind::AddrInUse => problem.hint(
                "another program, perhaps another assayd, has this port; stop it, or choose a free port \
                 with --listen 127.0.0.1:0",
            ),
            ErrorKind::PermissionDenied => {
                problem.hint("ports below 1024 need a privilege; choose one above with --listen")
            }
            ErrorKind::AddrNotAvailable => problem
                .hint("this machine has no such address; 127.0.0.1 always works, 0.0.0.0 means all of them"),
            _ => problem,
        }
    })
}

impl Listener {
    /// Serves until `stopping` becomes true; then takes no more connections, lets answers
    /// that have begun finish for [`budget::STOP_GRACE`], and returns.
    pub async fn serve(self, router: Router, mut stopping: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(budget::HTTP_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(budget::HTTP_HEAD)
            .max_buf_size(budget::HTTP_HEAD_BYTES);
        loop {
            // A place first: who finds none waits in the kernel's queue.
            let next = async {
                let place = places.clone().acquire_owned().await.ok()?;
                Some((self.socket.accept().await, place))
            };
            let (accepted, place) = tokio::select! {
                next = next => match next {
                    Some(next) => next,
                    None => break,
                },
                _ = stopping.wait_for(|stopping| *stopping) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // The peer gave up, or we are out of descriptors: neither ends the daemon,
                    // and the second passes only with time.
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            drop_unread(&stream);
            let service = TowerToHyperService::new(Adapter(router.clone()));
            let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke off");
                }
                drop(place);
            });
        }
        drop(self.socket);
        if tokio::time::timeout(budget::STOP_GRACE, graceful.shutdown()).await.is_err() {
            tracing::warn!("some connections did not end in time and were cut");
        }
    }
}

/// A client that takes nothing of what is sent to it would keep its place for ever.
fn drop_unread(stream: &TcpStream) {
    let unread = u32::try_from(budget::HTTP_UNREAD.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, unread);
    let _ = stream.set_nodelay(true);
}

/// Turns hyper's body into the router's.
#[derive(Debug, Clone)]
struct Adapter(Router);

impl tower_service::Service<Request<Incoming>> for Adapter {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = <Router as tower_service::Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        <Router as tower_service::Service<Request<Body>>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.0.call(request.map(Body::new))
    }
}
