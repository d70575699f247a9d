//! A device's eyes: what is to be published is loaded by the client that devices use, before anybody else can see it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use lucid_release_format::Index;
use lucid_release_format::metadata::MAX_ROOTS;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt as _;
use tough::schema::{Root, Snapshot, Targets, Timestamp};
use tough::{
    Bytes, ExpirationEnforcement, Limits, Repository, RepositoryLoader, Transport, TransportError,
    TransportErrorKind, TransportStream,
};
use url::Url;

use crate::document::Kind as _;
use crate::error::{At as _, Error, Result};
use crate::release::{self, Cut, Listed, target_name, web_name};
use crate::rules;

/// Where a web folder's metadata is.
pub(crate) const METADATA: &str = "metadata";
/// Where its targets are.
pub(crate) const TARGETS: &str = "targets";
/// An address that is none, below which the client finds both.
const BASE: &str = "lucid-release://web/";
/// What is read of a file at once.
const PIECE: usize = 64 << 10;

/// The content of a file to be published.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of another file.
    File(PathBuf),
}

/// A web folder as it will be: its files, and over them those that are to be published. A file's name is its path in the
/// folder, such as `metadata/timestamp.json`.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    web: PathBuf,
    new: Arc<BTreeMap<String, Source>>,
}

impl Files {
    pub(crate) fn new(web: &Path, new: impl IntoIterator<Item = (String, Source)>) -> Self {
        Self { web: web.to_owned(), new: Arc::new(new.into_iter().collect()) }
    }

    /// Where the bytes of a file are.
    fn source(&self, name: &str) -> Source {
        self.new.get(name).cloned().unwrap_or_else(|| Source::File(self.web.join(name)))
    }
}

#[tough::async_trait]
impl Transport for Files {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let missing = || TransportError::new(TransportErrorKind::FileNotFound, url.as_str());
        // Two plain names below each other, and nothing that leads out of the folder.
        let name = url.path().strip_prefix('/').ok_or_else(missing)?;
        let (folder, file) = name.split_once('/').ok_or_else(missing)?;
        if !matches!(folder, METADATA | TARGETS) || file.starts_with('.') || file.contains(['/', '%']) {
            return Err(missing());
        }
        let pieces = match self.source(name) {
            Source::Bytes(bytes) => Pieces::Whole(Some(bytes)),
            Source::File(path) => match File::open(&path) {
                Ok(file) => Pieces::Of(file, url.clone()),
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
                Err(error) => {
                    return Err(TransportError::new_with_cause(
                        TransportErrorKind::Other,
                        url.as_str(),
                        error,
                    ));
                }
            },
        };
        Ok(Box::pin(tokio_stream::iter(pieces)))
    }
}

/// The bytes of a file, piece by piece.
enum Pieces {
    Whole(Option<Vec<u8>>),
    Of(File, Url),
    Over,
}

impl Iterator for Pieces {
    type Item = Result<Bytes, TransportError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (file, url) = match self {
            Self::Whole(bytes) => return bytes.take().map(|bytes| Ok(bytes.into())),
            Self::Of(file, url) => (file, url),
            Self::Over => return None,
        };
        let mut piece = Vec::with_capacity(PIECE);
        let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let item = match read {
            Ok(0) => None,
            Ok(_) => return Some(Ok(piece.into())),
            Err(error) => {
                Some(Err(TransportError::new_with_cause(TransportErrorKind::Other, url.as_str(), error)))
            }
        };
        *self = Self::Over;
        item
    }
}

/// A client, of which nothing is left when it is dropped.
pub(crate) struct Client {
    runtime: Runtime,
    files: Files,
    repository: Repository,
}

fn address(folder: &str) -> Result<Url> {
    let text = format!("{BASE}{folder}/");
    Url::parse(&text).map_err(|error| Error::Arguments(format!("{text}: {error}")))
}

impl Client {
    /// Loads the metadata from a root on, within a device's limits, and holds it to our rules. With a folder, the client knows
    /// what it saw before with the same one.
    pub(crate) fn load(
        root: &[u8],
        files: Files,
        memory: Option<&Path>,
        expiry: ExpirationEnforcement,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .at("starting the client that checks", &files.web)?;
        let mut loader = RepositoryLoader::new(&root, address(METADATA)?, address(TARGETS)?)
            .transport(files.clone())
            .expiration_enforcement(expiry)
            .limits(Limits {
                max_root_size: Root::MOST,
                max_targets_size: Targets::MOST,
                max_timestamp_size: Timestamp::MOST,
                max_snapshot_size: Snapshot::MOST,
                max_root_updates: MAX_ROOTS,
            });
        if let Some(memory) = memory {
            loader = loader.datastore(memory);
        }
        let repository = runtime.block_on(loader.load()).map_err(refused("loading the metadata"))?;
        rules::root(&repository.root().signed)?;
        rules::targets(&repository.targets().signed)?;
        Ok(Self { runtime, files, repository })
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Reads both files of a release, to their last byte, and with `prove` puts its parts together.
    pub(crate) fn read(&self, listed: &Listed, prove: bool) -> Result<()> {
        let name = listed.release.index_name();
        // As many bytes as targets say, of which an index has few.
        let mut index = Vec::new();
        self.target(&name, |piece| index.extend_from_slice(piece))?;
        let broken = |source| Error::Release { what: name.clone(), source };
        let parsed = Index::read(&index).map_err(broken)?;
        if parsed.archive_bytes() != listed.archive.length {
            let why = "the index and the targets differ about how long the archive is".to_owned();
            return Err(Error::Archive { what: name.clone(), why });
        }
        let archive = listed.release.archive_name();
        self.target(&archive, |_| {})?;
        let place = format!("{TARGETS}/{}", web_name(&archive, &listed.archive));
        if prove && let Source::File(path) = self.files.source(&place) {
            release::prove(&name, &index, &path)?;
        }
        Ok(())
    }

    /// Reads the patches of a release to their last byte, and makes with each what it is for, where the release that it starts
    /// from is listed still.
    pub(crate) fn read_patches(&self, listed: &Listed, tell: &dyn Fn(&str)) -> Result<()> {
        if listed.patches.is_empty() {
            return Ok(());
        }
        let all = release::all(&self.repository.targets().signed)?;
        let new = self.cut(listed)?;
        for patch in &listed.patches {
            let name = listed.release.patch_name(patch.from);
            tell(&format!("reading {name} to its end"));
            let mut bytes = Vec::new();
            self.target(&name, |piece| bytes.extend_from_slice(piece))?;
            let old = all.iter().find(|other| {
                (&other.release.machine, other.release.version) == (&listed.release.machine, patch.from)
            });
            match old {
                Some(old) => release::prove_patch(&name, &self.cut(old)?, &new, &bytes)?,
                None => tell(&format!(
                    "{name} is not tried: {} is not listed any more; a device that does not get along with it does without",
                    patch.from
                )),
            }
        }
        Ok(())
    }

    /// The index and the archive of a release.
    fn cut(&self, listed: &Listed) -> Result<Cut> {
        let (name, archive) = (listed.release.index_name(), listed.release.archive_name());
        let mut index = Vec::new();
        self.target(&name, |piece| index.extend_from_slice(piece))?;
        let index = Index::read(&index).map_err(|source| Error::Release { what: name, source })?;
        match self.files.source(&format!("{TARGETS}/{}", web_name(&archive, &listed.archive))) {
            Source::File(path) => Cut::new(index, &path),
            Source::Bytes(_) => Err(Error::Archive {
                what: archive,
                why: "it is no file that can be read in pieces".to_owned(),
            }),
        }
    }

    /// Gives the bytes of a target; they are what was signed if no error follows.
    fn target(&self, name: &str, mut each: impl FnMut(&[u8])) -> Result<()> {
        let target = target_name(name)?;
        self.runtime.block_on(async {
            let stream = self.repository.read_target(&target).await.map_err(refused("reading a target"))?;
            let missing = || Error::Archive { what: name.to_owned(), why: "it is not listed".to_owned() };
            let mut stream = pin!(stream.ok_or_else(missing)?);
            while let Some(piece) = stream.next().await {
                each(&piece.map_err(refused("reading a target"))?);
            }
            Ok::<(), Error>(())
        })
    }
}

fn refused(doing: &'static str) -> impl Fn(tough::error::Error) -> Error {
    move |source| Error::Client { doing, source: Box::new(source) }
}
