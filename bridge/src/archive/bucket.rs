//! Where objects are: a folder of this machine, or a bucket of an S3-compatible store.

use std::path::Path as Folder;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt as _, RetryConfig};

use super::Error;
use super::transport::Connector;

/// What a request that failed is tried again at once for, within the time limit of the call.
const RETRIES: usize = 2;

/// Access to a bucket.
#[derive(Clone, Debug)]
pub struct S3Options<'a> {
    /// Its name.
    pub bucket: &'a str,
    /// What the names of all objects begin with; empty: nothing.
    pub prefix: &'a str,
    /// URL of the store; empty: Amazon's.
    pub endpoint: &'a str,
    /// Where the bucket is.
    pub region: &'a str,
    /// Who asks.
    pub access_key_id: &'a str,
    /// What the requests are signed with.
    pub secret_access_key: &'a str,
    /// Whether the bucket stands in the path, and not in the host's name.
    pub path_style: bool,
}

/// Objects by name.
#[derive(Debug)]
pub struct Bucket {
    store: Box<dyn ObjectStore>,
    prefix: Path,
    timeout: Duration,
}

impl Bucket {
    /// In a folder, which is made where it is missing. What is written there has reached the disk.
    ///
    /// # Errors
    /// [`Error::Store`] when the folder can't be made.
    pub fn folder(folder: &Folder, timeout: Duration) -> Result<Self, Error> {
        let made = std::fs::create_dir_all(folder).map_err(|error| object_store::Error::Generic {
            store: "folder",
            source: Box::new(error),
        });
        let store = made
            .and_then(|()| LocalFileSystem::new_with_prefix(folder))
            .map_err(Error::Store)?
            .with_fsync(true);
        Ok(Bucket {
            store: Box::new(store),
            prefix: Path::default(),
            timeout,
        })
    }

    /// In an S3-compatible store, which is not asked anything yet.
    ///
    /// # Errors
    /// [`Error::Store`] when the options make no sense.
    pub fn s3(options: &S3Options<'_>, timeout: Duration) -> Result<Self, Error> {
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: timeout,
        };
        let is_encrypted = !options.endpoint.starts_with("http://");
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(options.bucket)
            .with_region(options.region)
            .with_access_key_id(options.access_key_id)
            .with_secret_access_key(options.secret_access_key)
            .with_virtual_hosted_style_request(!options.path_style)
            .with_allow_http(!is_encrypted)
            // Not all stores know how to delete several at once, and here it is one at a time.
            .with_disable_bulk_delete(true)
            .with_retry(retry)
            .with_http_connector(Connector {
                is_encrypted,
                timeout,
            });
        if !options.endpoint.is_empty() {
            builder = builder.with_endpoint(options.endpoint);
        }
        Ok(Bucket {
            store: Box::new(builder.build().map_err(Error::Store)?),
            prefix: Path::from(options.prefix),
            timeout,
        })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn path(&self, object: &str) -> Path {
        let parts = self.prefix.parts();
        // Names of objects are of our making.
        let path = Path::from(object);
        Path::from_iter(parts.chain(path.parts()))
    }

    pub(super) async fn get(&self, object: &str) -> Result<Bytes, Error> {
        let path = self.path(object);
        let read = async { self.store.get(&path).await?.bytes().await };
        self.within_time(object, read).await
    }

    pub(super) async fn put(&self, object: &str, bytes: Bytes) -> Result<(), Error> {
        let path = self.path(object);
        let put = self.store.put(&path, bytes.into());
        self.within_time(object, put).await.map(drop)
    }

    pub(super) async fn delete(&self, object: &str) -> Result<(), Error> {
        let path = self.path(object);
        self.within_time(object, self.store.delete(&path)).await
    }

    async fn within_time<T>(
        &self,
        object: &str,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(object_store::Error::NotFound { .. })) => Err(Error::Missing(object.to_owned())),
            Ok(Err(error)) => Err(Error::Store(error)),
            Err(_) => Err(Error::Timeout(self.timeout)),
        }
    }
}
