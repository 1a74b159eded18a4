//! From a name to an image on disk: resolve, choose the platform, fetch, verify, unpack, and name it last.
//!
//! One pull a reference at a time, one transfer a blob, one unpacking a layer. Each pull asks the registry again with
//! its own credentials, so content that is here already is not given to those who may not have it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinError;
use tokio_util::task::TaskTracker;

use proto::cri::AuthConfig;

use super::digest::Digest;
use super::document::{self, Descriptor, Document, Layer, MAX_CONFIG, Manifest};
use super::error::{Error, Kind, Result};
use super::reference::Reference;
use super::registry::{Fetched, Registries, Session, chain};
use super::store::{Image, Ingest, Resolved, Store};
use super::unpack::{self, Limits};

mod flights;
#[cfg(test)]
mod tests;

use flights::Flights;

const PARALLEL_BLOBS: usize = 3;
const PARALLEL_UNPACKS: usize = 2;
/// Takes up a broken transfer so often without a byte of progress.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Chunks between network and disk.
const QUEUE: usize = 16;

/// Pulls images into a store.
#[derive(Debug)]
pub(crate) struct Puller {
    store: Arc<Store>,
    registries: Arc<Registries>,
    references: Flights<String>,
    blobs: Flights<Digest>,
    layers: Flights<Digest>,
    unpacks: Arc<Semaphore>,
    /// Work that may block; it outlives a pull that failed elsewhere or was dropped, and cleans up after itself.
    work: TaskTracker,
    limits: Limits,
}

impl Puller {
    pub(crate) fn new(store: Arc<Store>, registries: Registries) -> Self {
        Self {
            store,
            registries: Arc::new(registries),
            references: Flights::default(),
            blobs: Flights::default(),
            layers: Flights::default(),
            unpacks: Arc::new(Semaphore::new(PARALLEL_UNPACKS)),
            work: TaskTracker::new(),
            limits: Limits::default(),
        }
    }

    /// Pulls `name` and gives the image.
    pub(crate) async fn pull(&self, name: &str, auth: Option<&AuthConfig>) -> Result<Image> {
        let reference: Reference = name.parse()?;
        let _alone = self.references.enter(reference.to_string()).await;
        self.pull_reference(&reference, auth)
            .await
            .map_err(|source| Error::Pull {
                reference: reference.to_string(),
                source: Box::new(source),
            })
    }

    async fn pull_reference(&self, reference: &Reference, auth: Option<&AuthConfig>) -> Result<Image> {
        let session = self.registries.session(reference, auth)?;
        let fetched = session.resolve().await?;
        // Content is kept before it is looked for or written: nothing collects it in between.
        let mut kept = vec![self.store.keep([fetched.digest])];
        let (target, document) = self.store_document(fetched).await?;
        let (manifest, content) = match document {
            Document::Manifest(content) => (target.clone(), content),
            Document::Index(manifests) => {
                let chosen = document::choose(&target.digest, &manifests)?;
                kept.push(self.store.keep([chosen.digest]));
                self.platform(&session, chosen).await?
            }
        };
        let blobs = content.layers.iter().map(|layer| layer.digest);
        kept.push(self.store.keep(blobs.chain([content.config.digest])));
        self.fetch(&session, &content.config).await?;
        let (config, layers) = self.config(&content).await?;
        kept.push(self.store.keep(layers.iter().map(|layer| layer.chain_id)));
        self.fetch_layers(&session, &content, &layers).await?;
        let resolved = Resolved {
            target,
            manifest,
            content,
            config: Arc::new(config),
            layers,
        };
        let (store, reference) = (Arc::clone(&self.store), reference.clone());
        let image = self
            .blocking("store image", move || store.commit(&reference, resolved))
            .await;
        drop(kept);
        image
    }

    /// Keeps a manifest or index as a blob and reads it.
    async fn store_document(&self, fetched: Fetched) -> Result<(Descriptor, Document)> {
        let (document, media_type) =
            Document::parse(&fetched.digest, &fetched.bytes, fetched.content_type.as_deref())?;
        let size = fetched.bytes.len() as u64;
        let descriptor = Descriptor {
            media_type,
            digest: fetched.digest,
            size,
            platform: None,
            annotations: Default::default(),
        };
        let store = Arc::clone(&self.store);
        self.blocking("write manifest", move || store.write_small(&fetched.bytes))
            .await?;
        Ok((descriptor, document))
    }

    /// Fetches the manifest chosen from an index.
    async fn platform(&self, session: &Session, chosen: Descriptor) -> Result<(Descriptor, Manifest)> {
        let fetched = session.document(chosen.digest).await?;
        if fetched.bytes.len() as u64 != chosen.size {
            let (object, actual) = (format!("manifest {}", chosen.digest), fetched.bytes.len() as u64);
            return Err(Error::SizeMismatch {
                object,
                expected: chosen.size,
                actual,
            });
        }
        match self.store_document(fetched).await? {
            (_, Document::Manifest(content)) => Ok((chosen, content)),
            (_, Document::Index(_)) => Err(Error::malformed(chosen.digest, "an index in an index")),
        }
    }

    async fn config(&self, content: &Manifest) -> Result<(oci_spec::image::ImageConfiguration, Vec<Layer>)> {
        let (store, descriptor, layers) = (
            Arc::clone(&self.store),
            content.config.clone(),
            content.layers.len(),
        );
        self.blocking("read configuration", move || {
            let bytes = store.read_small(&descriptor, MAX_CONFIG)?;
            document::parse_config(&descriptor.digest, &bytes, layers)
        })
        .await
    }

    async fn fetch_layers(&self, session: &Session, content: &Manifest, layers: &[Layer]) -> Result<()> {
        // Owned pairs: a stream of borrowed ones cannot be sent to another thread (rust-lang/rust#110338).
        let pairs = content.layers.clone().into_iter().zip(layers.to_vec());
        let work = pairs.map(|(blob, layer)| async move {
            self.fetch(session, &blob).await?;
            self.unpack(&blob, &layer).await
        });
        let mut work = futures::stream::iter(work).buffer_unordered(PARALLEL_BLOBS);
        while let Some(result) = work.next().await {
            result?;
        }
        Ok(())
    }

    async fn unpack(&self, blob: &Descriptor, layer: &Layer) -> Result<()> {
        let alone = self.layers.enter(layer.chain_id).await;
        if self.store.has_layer(&layer.chain_id) {
            return Ok(());
        }
        let permit = Arc::clone(&self.unpacks)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let (from, to) = (
            self.store.blob_path(&blob.digest),
            self.store.layer_path(&layer.chain_id),
        );
        let (diff_id, limits) = (layer.diff_id, self.limits);
        self.blocking("unpack layer", move || {
            // Held by the work itself: a caller that goes away leaves it running.
            let _held = (alone, permit);
            unpack::unpack(&from, &diff_id, &to, limits)
        })
        .await
    }

    /// Brings a blob here, unless it is.
    async fn fetch(&self, session: &Session, blob: &Descriptor) -> Result<()> {
        let _alone = self.blobs.enter(blob.digest).await;
        if self.store.has_blob(blob) {
            return Ok(());
        }
        let (store, descriptor) = (Arc::clone(&self.store), blob.clone());
        let mut ingest = self
            .blocking("create blob", move || store.ingest(&descriptor))
            .await?;
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        loop {
            let before = ingest.written();
            let problem;
            (ingest, problem) = self.transfer(session, blob, ingest).await?;
            let Some(problem) = problem else {
                return self.blocking("commit blob", move || ingest.commit()).await;
            };
            attempts = if ingest.written() > before {
                0
            } else {
                attempts + 1
            };
            if attempts == ATTEMPTS || problem.kind() != Kind::RegistryUnavailable {
                return Err(problem);
            }
            tracing::debug!(blob = %blob.digest, at = ingest.written(), %problem, "transfer is taken up again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Receives what is missing of a blob. Gives back what it has, and why it stopped before the end if it did.
    async fn transfer(
        &self,
        session: &Session,
        blob: &Descriptor,
        mut ingest: Ingest,
    ) -> Result<(Ingest, Option<Error>)> {
        let mut body = match session.blob(blob.digest, ingest.written()).await {
            Ok(body) => body,
            Err(error) => return Ok((ingest, Some(error))),
        };
        if body.offset != ingest.written() {
            ingest = self
                .blocking("restart blob", move || ingest.restart().map(|()| ingest))
                .await?;
        }
        let (sender, chunks) = mpsc::channel::<Bytes>(QUEUE);
        let writer = self.work.spawn_blocking(move || write_all(ingest, chunks));
        let mut broken = None;
        loop {
            match body.response.chunk().await {
                Ok(Some(chunk)) => {
                    if sender.send(chunk).await.is_err() {
                        // A writer that ended early says why in its result.
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    broken = Some(chain(&error.without_url()));
                    break;
                }
            }
        }
        drop(sender);
        let ingest = joined("write blob", writer.await)?;
        if broken.is_none() && ingest.written() < blob.size {
            broken = Some(format!(
                "transfer ended after {} of {} bytes",
                ingest.written(),
                blob.size
            ));
        }
        let problem = broken.map(|reason| Error::Transfer {
            blob: blob.digest,
            reason,
        });
        Ok((ingest, problem))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        joined(operation, self.work.spawn_blocking(work).await)
    }

    /// Waits for the work that pulls have left behind.
    #[cfg(test)]
    async fn settle(&self) {
        self.work.close();
        self.work.wait().await;
        self.work.reopen();
    }
}

/// Hashes and writes what comes out of `chunks`.
fn write_all(mut ingest: Ingest, mut chunks: mpsc::Receiver<Bytes>) -> Result<Ingest> {
    while let Some(chunk) = chunks.blocking_recv() {
        ingest.write(&chunk)?;
    }
    Ok(ingest)
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(operation, tokio::task::spawn_blocking(work).await)
}

fn joined<T>(operation: &'static str, result: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    result.unwrap_or_else(|error| {
        Err(Error::Task {
            operation,
            reason: error.to_string(),
        })
    })
}
