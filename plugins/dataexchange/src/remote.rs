//! Received files in an object store (S3, Google Cloud Storage, Azure) instead of a directory. Called by the store of
//! received files when `received_url` is set.
//!
//! A file is complete and verified on the local disk before a byte of it goes there, because a transfer must survive a
//! crash and its hash is known only at the end. What is uploaded is streamed in parts, so memory stays bounded whatever
//! its size; the local copy goes when the store has confirmed the whole. Messages stay in the local inbox: tools read it.
//!
//! Knows nothing of frames or names; needs a runtime for the crate underneath and brings its own, with one thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart};
use tokio::runtime::Runtime;

/// Smallest part of an upload; S3 takes no smaller one but the last.
const PART: u64 = 5 << 20;
/// Most parts of an upload; S3 takes no more.
const MAX_PARTS: u64 = 10_000;
/// Bytes read from the local file at a time.
const PIECE: usize = 256 << 10;
/// Names that are tried before a taken one counts as an error.
const NAME_ATTEMPTS: u32 = 16;
/// A peer waits a minute for the outcome of a transfer; retries must leave it some of that.
const RETRY: Duration = Duration::from_secs(20);
/// How often one request is repeated.
const RETRIES: usize = 3;

/// An object store and a place in it.
pub(crate) struct Remote {
    store: Box<dyn ObjectStore>,
    /// The URL as configured, without a slash at its end.
    url: String,
    prefix: Key,
    runtime: Runtime,
}

impl Remote {
    /// Opens the store that `url` names: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` and what the
    /// object_store crate takes besides. Credentials come from the environment as for the vendors' own tools; `options`
    /// (the crate's names, `aws_region` for example) come over them. Nothing is sent yet.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Remote, String> {
        let (scheme, rest) = url.split_once("://").ok_or("is not a URL")?;
        let store = build(scheme, url, options)?;
        // The host names the bucket, except in `https` forms, which say it in other ways and are not taken.
        let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
        let prefix = Key::parse(prefix.trim_matches('/')).map_err(|e| e.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dataexchange.store")
            .enable_all()
            .build()
            .map_err(|e| format!("no runtime: {e}"))?;
        Ok(Remote { store, url: url.trim_end_matches('/').to_owned(), prefix, runtime })
    }

    /// Uploads the file at `path` under the first free name that `name` makes, and gives that name and its URL. Blocks
    /// until the store has all of it.
    pub fn upload(&self, path: &Path, name: impl Fn() -> String) -> io::Result<(String, String)> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        self.runtime.block_on(async {
            let (name, key) = self.free(name).await?;
            self.put(&key, &mut file, size).await?;
            let url = format!("{}/{name}", self.url);
            Ok((name, url))
        })
    }

    /// The first name that nothing has. Another writer may take it meanwhile; names carry milliseconds, so two hosts with
    /// one prefix would have to agree on one, and would need a prefix each.
    async fn free(&self, name: impl Fn() -> String) -> io::Result<(String, Key)> {
        for _ in 0..NAME_ATTEMPTS {
            let name = name();
            let key = self.prefix.clone().join(name.as_str());
            match self.store.head(&key).await {
                Err(object_store::Error::NotFound { .. }) => return Ok((name, key)),
                Ok(_) => {}
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    async fn put(&self, key: &Key, file: &mut File, size: u64) -> io::Result<()> {
        if size <= PART {
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            return self.store.put(key, content.into()).await.map(drop).map_err(io::Error::other);
        }
        let upload = self.store.put_multipart(key).await.map_err(io::Error::other)?;
        let part = usize::try_from(PART.max(size.div_ceil(MAX_PARTS))).map_err(io::Error::other)?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, part);
        match copy(file, &mut parts).await {
            Ok(()) => parts.finish().await.map(drop).map_err(io::Error::other),
            Err(cause) => {
                // What was uploaded so far costs money until it is dropped; if this fails too, the first cause matters.
                let _ = parts.abort().await;
                Err(cause)
            }
        }
    }
}

/// One part on its way and one being filled, never more.
async fn copy(file: &mut File, parts: &mut WriteMultipart) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            n => {
                parts.wait_for_capacity(1).await.map_err(io::Error::other)?;
                parts.write(&piece[..n]);
            }
        }
    }
}

fn build(
    scheme: &str,
    url: &str,
    options: &BTreeMap<String, String>,
) -> Result<Box<dyn ObjectStore>, String> {
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..RetryConfig::default() };
    macro_rules! with_options {
        ($builder:expr) => {{
            let mut builder = $builder.with_url(url).with_retry(retry);
            for (name, value) in options {
                let key =
                    name.parse().map_err(|_| format!("option {name} is not known for {scheme} URLs"))?;
                builder = builder.with_config(key, value);
            }
            builder.build().map(|store| Box::new(store) as Box<dyn ObjectStore>).map_err(|e| e.to_string())
        }};
    }
    match scheme {
        "s3" | "s3a" => with_options!(AmazonS3Builder::from_env()),
        "gs" => with_options!(GoogleCloudStorageBuilder::from_env()),
        "az" | "azure" | "adl" | "abfs" | "abfss" => with_options!(MicrosoftAzureBuilder::from_env()),
        other => Err(format!(
            "{other} is not a kind of store (known: s3, gs, az; for a directory use received_dir)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, options: &[(&str, &str)]) -> Result<Remote, String> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Remote::open(url, &options)
    }

    #[test]
    fn the_three_kinds_open_without_a_request() {
        for (url, options) in [
            ("s3://bucket/some/prefix/", &[("aws_region", "eu-west-1")][..]),
            ("gs://bucket", &[]),
            ("az://container/x", &[("azure_storage_account_name", "account")]),
        ] {
            let remote = open(url, options).unwrap_or_else(|e| panic!("{url}: {e}"));
            assert_eq!(remote.url, url.trim_end_matches('/'));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (url, options, text) in [
            ("bucket", &[][..], "is not a URL"),
            ("ftp://bucket/", &[], "ftp is not a kind of store"),
            ("file:///tmp", &[], "for a directory use received_dir"),
            ("s3://bucket/", &[("aws_regoin", "x")], "option aws_regoin is not known for s3 URLs"),
        ] {
            let refusal = open(url, options).err().unwrap();
            assert!(refusal.contains(text), "{refusal}");
        }
    }
}
