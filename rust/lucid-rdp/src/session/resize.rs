//! Another size while the session runs.
//!
//! The desktop is asked first; its pictures go on in the old size until the first one of the new size is there, and
//! only then is the client told: with the graphics pipeline by a new surface (MS-RDPEGFX 2.2.2.14), without it by the
//! Deactivation-Reactivation Sequence (MS-RDPBCGR 1.3.1.3). The sequence runs within the session, so that channels
//! and input go on meanwhile.
//!
//! The client's size is what holds. A program that changes the output's size in the desktop has it changed back.

use std::time::{Duration, Instant};

use ironrdp_acceptor::DesktopSize;
use ironrdp_pdu::gcc::ClientEarlyCapabilityFlags;
use ironrdp_pdu::rdp::capability_sets::{CapabilitySet, DemandActive, SERVER_CHANNEL_ID, ServerDemandActive};
use ironrdp_pdu::rdp::finalization_messages::{
    ControlAction, ControlPdu, FontPdu, MonitorLayoutPdu, SynchronizePdu,
};
use ironrdp_pdu::rdp::headers::{ServerDeactivateAll, ShareControlPdu, ShareDataPdu};

use super::Session;
use crate::anomalies::Kind;
use crate::display::Wish;
use crate::egfx::Sent;
use crate::monitors::Layout;
use crate::picture::Codec;
use crate::pointer::Cursors;
use crate::sharecontrol::Channels;
use crate::{Error, capabilities};

/// A client has this long to become active again.
const BOUND: Duration = Duration::from_secs(20);
/// A desktop that still has another size after this is asked again. (It has some 50 ms to do it, but is not looked at
/// while the client is minimised.)
const AGAIN: Duration = Duration::from_secs(1);

/// How far a change of size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resizing {
    /// The client shows what the desktop has.
    Settled,
    /// The desktop was asked for this size.
    Asked { wanted: DesktopSize, since: Instant },
    /// The client was told to begin anew in the new size; it is shown nothing until it has.
    Inactive { deadline: Instant, confirmed: bool },
}

impl Resizing {
    /// When the client has to be active again.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Resizing::Settled | Resizing::Asked { .. } => None,
            Resizing::Inactive { deadline, .. } => Some(deadline),
        }
    }

    /// The client may be told nothing but what makes it active again.
    pub(super) fn is_inactive(self) -> bool {
        matches!(self, Resizing::Inactive { .. })
    }
}

/// The client was not active again in time.
pub(super) fn late() -> Error {
    Error::Inactive { seconds: BOUND.as_secs() }
}

impl Session<'_> {
    /// A change of size can begin: the client is shown pictures, or would be.
    pub(super) fn may_resize(&self) -> bool {
        !self.resizing.is_inactive() && self.ordered().is_some()
    }

    /// When the next change of size is within the limit, if it is not now. The client's last wish waits for that.
    pub(super) fn resizes_at(&self) -> Option<Instant> {
        self.facts.watch.free_at(Kind::ResizeBurst).map(tokio::time::Instant::into_std)
    }

    /// The monitors that the client shows.
    pub(super) fn layout(&self) -> Layout {
        let asked = self.running.layout;
        if asked.size() == self.size { asked } else { Layout::one(self.size, asked.scale()) }
    }

    /// The client wishes for a size and a scale.
    pub(super) fn resize(&mut self, wish: Wish) -> Result<(), Error> {
        let Wish { size, scale, several } = wish;
        self.facts.watch.note(Kind::ResizeBurst, 1);
        let layout = several
            .unwrap_or_else(|| Layout::one(size, scale.unwrap_or_else(|| self.running.layout.scale())));
        tracing::debug!(
            width = size.width,
            height = size.height,
            scale = layout.scale(),
            monitors = layout.monitors().len(),
            "the client wishes for another size"
        );
        if size == self.size && self.resizing == Resizing::Settled {
            let same = layout == self.running.layout;
            self.running.take_monitors(layout)?;
            if !same {
                self.note_size();
            }
            return Ok(());
        }
        self.running.arrange(layout)?;
        self.resizing = Resizing::Asked { wanted: size, since: Instant::now() };
        Ok(())
    }

    /// The desktop has another size than the client shows.
    pub(super) async fn withheld(&mut self, size: (u32, u32)) -> Result<(), Error> {
        self.running.asked = false;
        match self.resizing {
            Resizing::Asked { wanted, .. } if size == (wanted.width.into(), wanted.height.into()) => {
                self.show_in(wanted).await
            }
            Resizing::Asked { wanted, since } if since.elapsed() > AGAIN => {
                self.running.arrange(self.running.layout)?;
                self.resizing = Resizing::Asked { wanted, since: Instant::now() };
                Ok(())
            }
            // It is on its way, or nobody is shown anything.
            Resizing::Asked { .. } | Resizing::Inactive { .. } => Ok(()),
            Resizing::Settled if size == (self.size.width.into(), self.size.height.into()) => {
                // Of the time before the curtain rose.
                Ok(())
            }
            Resizing::Settled => {
                tracing::debug!(?size, "the output's size was changed in the desktop and is changed back");
                self.running.arrange(self.layout())?;
                self.resizing = Resizing::Asked { wanted: self.size, since: Instant::now() };
                Ok(())
            }
        }
    }

    /// A picture of the client's size came.
    pub(super) fn shown(&mut self) {
        if let Resizing::Asked { wanted, .. } = self.resizing
            && wanted == self.size
        {
            self.resizing = Resizing::Settled;
        }
    }

    /// The desktop keeps the size that it had.
    pub(super) fn size_refused(&mut self, size: (u32, u32)) {
        let (width, height) = size;
        tracing::warn!(width, height, "the desktop refused a size; the client keeps the one that it shows");
        if let Resizing::Asked { wanted, .. } = self.resizing
            && size == (wanted.width.into(), wanted.height.into())
        {
            self.resizing = Resizing::Settled;
        }
    }

    /// Lets the client show a size that the desktop has.
    async fn show_in(&mut self, size: DesktopSize) -> Result<(), Error> {
        let Some(codec) = self.ordered() else { return Ok(()) };
        tracing::info!(width = size.width, height = size.height, "the client's window has another size");
        self.size = size;
        self.facts.size.set(size);
        self.note_size();
        self.resizing = Resizing::Settled;
        match codec {
            Codec::Graphics { .. } => {
                let layout = self.layout();
                if let Some(mut pipeline) = self.pipeline() {
                    let Sent { bytes, frame, .. } = pipeline.make_surface(&layout)?;
                    self.pace.forget();
                    self.pace.sent(frame, bytes.len(), Instant::now());
                    self.send(bytes).await?;
                }
                self.order(codec);
                Ok(())
            }
            Codec::RemoteFx(_) | Codec::Bitmap => self.deactivate().await,
        }
    }

    /// Begins the Deactivation-Reactivation Sequence.
    async fn deactivate(&mut self) -> Result<(), Error> {
        // No more pictures until the client is active again.
        if let Ok(mut orders) = self.running.orders.lock() {
            *orders = None;
        }
        self.refine_at = None;
        self.resizing = Resizing::Inactive { deadline: Instant::now() + BOUND, confirmed: false };
        let deactivate = ShareControlPdu::ServerDeactivateAll(ServerDeactivateAll);
        let demand = ShareControlPdu::ServerDemandActive(ServerDemandActive {
            pdu: DemandActive {
                source_descriptor: "RDP".into(),
                capability_sets: capabilities::offered(self.size),
            },
        });
        let channels = Channels::of(&self.result);
        let failed = |_| Error::Encode("a change of size");
        // In one piece: between the two a client takes nothing else.
        let mut bytes = channels.pdu(deactivate).map_err(failed)?;
        bytes.extend(channels.pdu(demand).map_err(failed)?);
        let flags = self.result.client_early_capability_flags;
        if flags.contains(ClientEarlyCapabilityFlags::SUPPORT_MONITOR_LAYOUT_PDU) {
            let layout = ShareDataPdu::MonitorLayout(MonitorLayoutPdu { monitors: self.layout().told() });
            bytes.extend(channels.data(layout).map_err(failed)?);
        }
        self.send(bytes).await
    }

    /// The client has said again what it can do (MS-RDPBCGR 2.2.1.13.2).
    pub(super) fn confirmed(&mut self, sets: &[CapabilitySet]) -> Result<(), Error> {
        match &mut self.resizing {
            Resizing::Inactive { confirmed, .. } if !*confirmed => *confirmed = true,
            _ => {
                tracing::debug!("a Confirm Active that was not asked for");
                return Ok(());
            }
        }
        self.client = capabilities::confirmed(sets)?;
        Ok(())
    }

    /// The last of what a client says on its way to being active (2.2.1.18) is answered like all before it.
    pub(super) async fn finalized(&mut self) -> Result<(), Error> {
        if !matches!(self.resizing, Resizing::Inactive { confirmed: true, .. }) {
            tracing::debug!("a Font List that was not asked for");
            return Ok(());
        }
        let control =
            |action, grant_id, control_id| ShareDataPdu::Control(ControlPdu { action, grant_id, control_id });
        let user = self.result.user_channel_id;
        for pdu in [
            ShareDataPdu::Synchronize(SynchronizePdu { target_user_id: 0 }),
            control(ControlAction::Cooperate, 0, 0),
            control(ControlAction::GrantedControl, user, SERVER_CHANNEL_ID.into()),
            ShareDataPdu::FontMap(FontPdu::default()),
        ] {
            self.send_data(pdu).await?;
        }
        self.resizing = Resizing::Settled;
        // Its pointers are gone with everything else.
        self.cursors = Cursors::new(self.client.pointers);
        self.show_pointer(self.pointer()).await?;
        self.order_without_pipeline();
        Ok(())
    }
}
