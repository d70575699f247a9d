//! Signing, each holder on his own machine, and bringing the signatures together.

use std::path::{Path, PathBuf};

use jiff::Timestamp as Time;
use tough::schema::{Root, Signature, Signed};

use crate::document::{self, Document, Held, Kind, canonical};
use crate::error::{Error, Result};
use crate::files::folder_of;
use crate::inspect;
use crate::key::{KeyId, PublicKey, SecretKey};
use crate::roots::{Roots, file_name};
use crate::rules;

/// The key of that id, if one of these roots has it for this kind of metadata.
fn authorised<T: Kind>(roots: &[Root], id: &KeyId) -> Option<PublicKey> {
    roots.iter().find_map(|root| {
        let keys = root.roles.get(&T::TYPE)?;
        if keys.keyids.contains(id) { rules::public(root, id) } else { None }
    })
}

/// Holds every signature to its key: each is of a key that may sign this, is good, and is there once.
fn check<T: Kind>(held: &Held<T>, roots: &[Root]) -> Result<()> {
    let message = canonical(&held.signed.signed)?;
    let signatures = &held.signed.signatures;
    for (place, signature) in signatures.iter().enumerate() {
        let forged = |why| Error::Forged { path: held.path.clone(), key: hex::encode(&signature.keyid), why };
        if signatures[..place].iter().any(|other| other.keyid == signature.keyid) {
            return Err(forged("is there twice"));
        }
        let Some(key) = authorised::<T>(roots, &signature.keyid) else {
            return Err(forged("is of nobody who may sign this"));
        };
        if !key.verifies(&message, &signature.sig) {
            return Err(forged("is not of this content: it was forged, or the content changed"));
        }
    }
    Ok(())
}

/// The id of a key that may sign it.
fn allowed<T: Kind>(held: &Held<T>, roots: &[Root], key: PublicKey) -> Result<KeyId> {
    let id = key.id()?;
    if authorised::<T>(roots, &id).is_none() {
        let what = document::name(&held.signed.signed);
        return Err(Error::NotYours { key: key.to_string(), what, role: T::NAME });
    }
    Ok(id)
}

/// The root before one of that version, in whose file `path` is.
fn root_before(version: u64, path: &Path, folder: &Path) -> Result<Held<Root>> {
    let missing = || Error::RootMissing {
        missing: folder.join(file_name(version - 1)),
        needed_for: path.display().to_string(),
    };
    match Roots::read(folder) {
        Err(Error::NoRoot(_)) => Err(missing()),
        roots => roots?.version(version - 1).cloned().ok_or_else(missing),
    }
}

/// Adds a signature. None: that key has signed already. `roots` are those whose keys may: for a root the one before and
/// itself, for anything else the one that holds.
///
/// # Errors
/// When the key may not, or a signature that is there is none.
pub fn add<T: Kind>(held: &Held<T>, roots: &[Root], key: &SecretKey) -> Result<Option<Held<T>>> {
    check(held, roots)?;
    let id = allowed(held, roots, key.public())?;
    if held.signed.signatures.iter().any(|signature| signature.keyid == id) {
        return Ok(None);
    }
    let sig = key.sign(&canonical(&held.signed.signed)?).into();
    let mut signed: Signed<T> = held.signed.clone();
    signed.signatures.push(Signature { keyid: id, sig });
    in_order(&mut signed);
    Held::new(held.path.clone(), signed).map(Some)
}

/// Brings the signatures of others in, and says how many were new.
///
/// # Errors
/// When another file has another content, or a signature that is none. Then nothing of any is taken.
pub fn merge<T: Kind>(held: &Held<T>, others: &[Held<T>], roots: &[Root]) -> Result<(Held<T>, usize)> {
    check(held, roots)?;
    let message = canonical(&held.signed.signed)?;
    let mut signed = held.signed.clone();
    let before = signed.signatures.len();
    for other in others {
        if canonical(&other.signed.signed)? != message {
            return Err(Error::OtherContent { path: held.path.clone(), other: other.path.clone() });
        }
        check(other, roots)?;
        for signature in &other.signed.signatures {
            match signed.signatures.iter().find(|known| known.keyid == signature.keyid) {
                None => signed.signatures.push(signature.clone()),
                // Ed25519 makes one signature of a message.
                Some(known) if known.sig != signature.sig => {
                    return Err(Error::Forged {
                        path: other.path.clone(),
                        key: hex::encode(&signature.keyid),
                        why: "is another one than this key has given already",
                    });
                }
                Some(_) => {}
            }
        }
    }
    in_order(&mut signed);
    let new = signed.signatures.len() - before;
    Ok((Held::new(held.path.clone(), signed)?, new))
}

/// So that the same signatures make the same file, whoever was first.
fn in_order<T>(signed: &mut Signed<T>) {
    signed.signatures.sort_by(|one, other| one.keyid.cmp(&other.keyid));
}

/// A file that is to be signed, with the roots whose keys may.
#[derive(Clone, Debug)]
pub struct Paper {
    document: Document,
    /// Those whose keys may sign it.
    roots: Vec<Root>,
    /// What it follows: the list of releases that was published last, or the root before.
    before: Option<Document>,
}

/// The same for whichever kind of metadata.
macro_rules! each {
    ($document:expr, $held:ident => $does:expr) => {
        match $document {
            Document::Root($held) => $does,
            Document::Targets($held) => $does,
            Document::Snapshot($held) => $does,
            Document::Timestamp($held) => $does,
        }
    };
}

impl Paper {
    /// Opens a file. The roots are in the folder that is named, or beside the file.
    ///
    /// # Errors
    /// When it cannot be read, breaks a rule, or the roots that it needs are not there.
    pub fn open(path: &Path, folder: Option<&Path>) -> Result<Self> {
        let folder = folder.unwrap_or_else(|| folder_of(path));
        let document = Document::read(path)?;
        let before_path = folder.join("published").join("targets.json");
        let (roots, before) = match &document {
            Document::Root(held) => {
                rules::root(&held.signed.signed)?;
                let version = held.signed.signed.version.get();
                let before = if version == 1 { None } else { Some(root_before(version, path, folder)?) };
                let roots = before.iter().map(|before| before.signed.signed.clone());
                (roots.chain([held.signed.signed.clone()]).collect(), before.map(Document::Root))
            }
            Document::Targets(held) => {
                rules::targets(&held.signed.signed)?;
                let root = Roots::read(folder)?.holding(folder)?.signed.signed.clone();
                (vec![root], Held::read_if_there(&before_path)?.map(Document::Targets))
            }
            Document::Snapshot(_) | Document::Timestamp(_) => {
                (vec![Roots::read(folder)?.holding(folder)?.signed.signed.clone()], None)
            }
        };
        Ok(Self { document, roots, before })
    }

    /// Whether a key may sign it, before anybody is asked for a passphrase.
    ///
    /// # Errors
    /// When it may not.
    pub fn allows(&self, key: PublicKey) -> Result<()> {
        each!(&self.document, held => allowed(held, &self.roots, key).map(drop))
    }

    /// What is signed, in words, with the code that those who sign compare.
    ///
    /// # Errors
    /// When it has no canonical form.
    pub fn words(&self, now: Time) -> Result<String> {
        inspect::words_before_signing(&self.document, &self.roots, self.before.as_ref(), now)
    }

    /// Signs it and writes it back. False: that key has signed already.
    ///
    /// # Errors
    /// When the key may not, or it cannot be written.
    pub fn sign(&mut self, key: &SecretKey) -> Result<bool> {
        let roots = &self.roots;
        each!(&mut self.document, held => match add(held, roots, key)? {
            Some(signed) => {
                signed.write()?;
                *held = signed;
                Ok(true)
            }
            None => Ok(false),
        })
    }

    /// Brings in the signatures of other files, writes it back, and says how many were new.
    ///
    /// # Errors
    /// When another file has another content, or a signature that is none.
    pub fn merge(&mut self, others: &[PathBuf]) -> Result<usize> {
        let roots = &self.roots;
        each!(&mut self.document, held => {
            let others = others.iter().map(|other| Held::read(other)).collect::<Result<Vec<_>>>()?;
            let (merged, new) = merge(held, &others, roots)?;
            merged.write()?;
            *held = merged;
            Ok(new)
        })
    }

    /// How many signatures there are, for each root that asks, and how many it asks for.
    ///
    /// # Errors
    /// When it has no canonical form.
    pub fn standing(&self) -> Result<Vec<rules::Standing>> {
        each!(&self.document, held => {
            self.roots.iter().map(|root| rules::standing(&held.signed, root)).collect()
        })
    }
}
