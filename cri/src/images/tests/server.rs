//! A registry on the loopback interface that answers as a test tells it to, wrong answers included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::Sample;

/// One request as it came.
#[derive(Debug, Clone)]
pub(in crate::images) struct Request {
    pub(in crate::images) method: String,
    pub(in crate::images) path: String,
    pub(in crate::images) query: String,
    /// Names in lower case.
    pub(in crate::images) headers: HashMap<String, String>,
    pub(in crate::images) body: String,
}

impl Request {
    pub(in crate::images) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(in crate::images) struct Reply {
    pub(in crate::images) status: u16,
    pub(in crate::images) headers: Vec<(String, String)>,
    pub(in crate::images) body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    pub(in crate::images) cut: Option<usize>,
}

impl Reply {
    pub(in crate::images) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
        }
    }

    pub(in crate::images) fn body(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::status(200)
        }
    }

    pub(in crate::images) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(in crate::images) fn cut(self, after: usize) -> Self {
        Self {
            cut: Some(after),
            ..self
        }
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// Ends with the value.
pub(in crate::images) struct Server {
    pub(in crate::images) address: String,
    pub(in crate::images) requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(in crate::images) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    /// Speaks TLS where there is an acceptor.
    pub(in crate::images) async fn start_with(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("address").to_string();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, seen): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, seen) = (tls.clone(), Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move {
                    // A client that goes away, or does not like our certificate, is the client's business.
                    let _ = match tls {
                        None => serve(stream, &*answer, &seen).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &*answer, &seen).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// A well-behaved registry with the sample's content under any repository and tag; `first` may answer otherwise.
    pub(in crate::images) async fn with(
        sample: &Sample,
        first: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let sample = sample.clone();
        Self::start(move |request| first(request).unwrap_or_else(|| regular(&sample, request))).await
    }

    /// Ends the listening before it returns.
    pub(in crate::images) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub(in crate::images) fn seen(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }

    pub(in crate::images) fn count(&self, part: &str) -> usize {
        self.seen()
            .iter()
            .filter(|request| request.path.contains(part))
            .count()
    }
}

pub(in crate::images) fn regular(sample: &Sample, request: &Request) -> Reply {
    let last = request.path.rsplit('/').next().unwrap_or_default();
    if request.path.contains("/manifests/") {
        let wanted = !last.starts_with("sha256:") || last == sample.digest().to_string();
        return match wanted {
            true => Reply::body(sample.manifest.clone())
                .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                .header("Docker-Content-Digest", sample.digest()),
            false => Reply::status(404),
        };
    }
    let blob = sample.blobs().find(|(digest, _)| digest.to_string() == last);
    let Some((_, bytes)) = blob else {
        return Reply::status(404);
    };
    match request
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|range| range.strip_suffix('-')?.parse().ok())
    {
        Some(from) => {
            let from: usize = from;
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply {
                status: 206,
                ..Reply::body(&bytes[from..])
            }
            .header("Content-Range", range)
        }
        None => Reply::body(bytes),
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &Answer,
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while bytes.len() < end + 4 + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    let request = Request {
        method: method.into(),
        path: path.into(),
        query: query.into(),
        headers,
        body,
    };
    let reply = answer(&request);
    seen.lock().expect("requests").push(request);

    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    stream
        .write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])
        .await?;
    stream.shutdown().await
}
