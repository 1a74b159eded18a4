//! Receiving one blob.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::Store;
use crate::images::digest::Digest;
use crate::images::document::Descriptor;
use crate::images::error::{Error, Result};
use crate::state;

/// A blob being received: hashed as it comes, named only when it is what was announced. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Ingest {
    staged: state::Staged,
    to: PathBuf,
    hasher: Sha256,
    written: u64,
    expected: (Digest, u64),
}

impl Ingest {
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.expected.1 {
            return Err(self.wrong_size());
        }
        self.hasher.update(bytes);
        Ok(self.staged.write(bytes)?)
    }

    /// Forgets what came so far.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.hasher = Sha256::new();
        self.written = 0;
        Ok(self.staged.restart()?)
    }

    pub(crate) fn commit(self) -> Result<()> {
        let (expected, size) = self.expected;
        if self.written != size {
            return Err(self.wrong_size());
        }
        let actual = Digest::from_hasher(self.hasher);
        if actual != expected {
            return Err(Error::DigestMismatch {
                object: format!("blob {expected}"),
                expected,
                actual,
            });
        }
        Ok(self.staged.commit("cri.commit_blob", &self.to)?)
    }

    fn wrong_size(&self) -> Error {
        let (digest, expected) = self.expected;
        Error::SizeMismatch {
            object: format!("blob {digest}"),
            expected,
            actual: self.written,
        }
    }
}

impl Store {
    /// Begins to receive a blob.
    pub(crate) fn ingest(&self, descriptor: &Descriptor) -> Result<Ingest> {
        let path = self.blob_path(&descriptor.digest);
        Ok(Ingest {
            staged: state::Staged::create("cri.create_blob", &state::beside(&path))?,
            to: path,
            hasher: Sha256::new(),
            written: 0,
            expected: (descriptor.digest, descriptor.size),
        })
    }
}
