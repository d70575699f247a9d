//! Drives that the client shares, as a folder in the desktop (MS-RDPEFS). What of them may be seen, read and changed is what
//! the policy says at that moment; while it says nothing the folder is empty.
//!
//! The launcher mounts a FUSE file system in the desktop's sandbox and hands the kernel's end out: this process
//! answers the kernel's requests ([`folder`]) by asking the client ([`link`]). It holds no path and no file of either
//! side. Without a client the folder is empty.
//!
//! Programs that wait for the folder sleep uninterruptibly, so everything ends: an answer that does not come, when a
//! signal wants the program, when the client goes.

mod channel;
mod crossing;
#[cfg(test)]
mod damage;
mod folder;
mod fuse;
mod irp;
mod link;
mod names;
mod tree;

use std::os::fd::OwnedFd;
use std::rc::Rc;

use ironrdp_acceptor::AcceptorResult;
use ironrdp_svc::server_encode_svc_messages;

use crate::Error;
use crate::audit::Log;
use crate::gates::Holding;
use channel::Received;
pub(crate) use channel::{Channel, bound};
use crossing::Files;
use link::Link;

/// The folder of a desktop. Lives as long as that; one client at a time has its drives in it.
pub(crate) struct Shelf {
    link: Rc<Link>,
    crossing: Rc<Files>,
    _served: folder::Served,
}

impl Shelf {
    /// `device` is the kernel's end of the folder.
    pub(crate) fn new(device: OwnedFd, holding: Holding, log: Log) -> Result<Shelf, Error> {
        let link = Rc::new(Link::default());
        let crossing = Rc::new(Files::new(log));
        let _served = folder::serve(device, Rc::clone(&link), holding, Rc::clone(&crossing))?;
        Ok(Shelf { link, crossing, _served })
    }

    /// Notes what has crossed of files that are open, because nobody will close them any more.
    pub(crate) fn tell_open(&self) {
        self.crossing.end();
    }
}

/// The drives of one client; does nothing without a gate and a client that shares some.
pub(crate) struct Drives(Option<Attached>);

struct Attached {
    link: Rc<Link>,
    channel_id: u16,
    user_id: u16,
}

impl Drives {
    /// Begins, if there is a folder and the client has the channel.
    pub(crate) fn start(result: &AcceptorResult, shelf: Option<&Shelf>) -> Drives {
        let channel_id = result.static_channels.get_channel_id_by_type::<Channel>();
        let (Some(shelf), Some(channel_id)) = (shelf, channel_id) else { return Drives(None) };
        shelf.link.attach();
        Drives(Some(Attached { link: Rc::clone(&shelf.link), channel_id, user_id: result.user_channel_id }))
    }

    /// Sees to what the client has sent.
    pub(crate) fn received(&self, result: &mut AcceptorResult) {
        let Drives(Some(attached)) = self else { return };
        let Some(channel) = result
            .static_channels
            .get_by_type_mut::<Channel>()
            .and_then(|channel| channel.channel_processor_downcast_mut::<Channel>())
        else {
            return;
        };
        for received in channel.take() {
            match received {
                Received::Drive { device, name } => {
                    tracing::info!(device, "the client shares a drive");
                    attached.link.add(device, &name);
                }
                Received::Removed { device } => {
                    tracing::info!(device, "the client shares a drive no longer");
                    attached.link.remove(device);
                }
                Received::Completed { device, completion, status, body } => {
                    attached.link.complete(device, completion, status, body);
                }
            }
        }
    }

    /// Waits until something is to be written to the client; may be dropped and called again.
    pub(crate) async fn wanted(&self) {
        match &self.0 {
            Some(attached) => attached.link.wanted().await,
            None => std::future::pending().await,
        }
    }

    /// The next message for the client.
    pub(crate) fn output(&self) -> Result<Vec<u8>, Error> {
        let Some(attached) = &self.0 else { return Ok(Vec::new()) };
        let messages: Vec<_> = attached.link.output().into_iter().map(Into::into).collect();
        server_encode_svc_messages(messages, attached.channel_id, attached.user_id)
            .map_err(|_| Error::Encode("a question about a drive"))
    }
}

/// Reads a client's answers (MS-RDPEFS 2.2.3.4): the first byte says to which question.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn answer(bytes: &[u8]) {
    let Some((question, answer)) = bytes.split_first() else { return };
    match question % 6 {
        0 => _ = irp::created(answer),
        1 => assert!(
            irp::data(answer, MAX_ANSWER).map_or(0, <[u8]>::len) <= MAX_ANSWER as usize,
            "too much data"
        ),
        2 => assert!(irp::written(answer, MAX_ANSWER).unwrap_or(0) <= MAX_ANSWER, "more written than given"),
        3 => {
            let (basic, standard) = answer.split_at(answer.len().min(44));
            _ = irp::attributes(basic, standard);
        }
        4 => _ = irp::drive_size(answer),
        _ => {
            for entry in irp::entries(answer).unwrap_or_default() {
                let name = names::from_wide(&entry.name).unwrap_or_default();
                assert!(
                    !name.contains(['/', '\\', ':']) && name != "." && name != "..",
                    "a way out of the folder"
                );
            }
        }
    }
}

/// What the answers read by [`answer`] may hold, in bytes.
#[cfg(any(test, feature = "fuzzing"))]
const MAX_ANSWER: u32 = 4096;

impl Drop for Attached {
    fn drop(&mut self) {
        self.link.detach();
    }
}
