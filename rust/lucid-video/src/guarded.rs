//! Hardware that may fail, with software to go on.

use crate::{Encoded, Encoder, Error, OpenH264, Picture, Settings, Steering};

/// An encoder in hardware that is replaced by [`OpenH264`] when it fails. The picture at which it fails is encoded
/// again, as a key frame, so none is lost; that key frame is all that a receiver notices.
pub struct Guarded {
    hardware: Option<Box<dyn Encoder>>,
    software: Option<OpenH264>,
    settings: Settings,
    failure: Option<Error>,
    /// A copy, since what is lent out cannot be looked at and replaced in one go.
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded")
            .field("name", &self.name())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Guarded {
    /// Uses `hardware`, which was set up with `settings`, as long as it works.
    #[must_use]
    pub fn new(hardware: Box<dyn Encoder>, settings: Settings) -> Guarded {
        Guarded { hardware: Some(hardware), software: None, settings, failure: None, bytes: Vec::new() }
    }

    /// Uses software from the beginning.
    ///
    /// # Errors
    /// When the settings are out of their limits.
    pub fn in_software(settings: Settings) -> Result<Guarded, Error> {
        let software = Some(OpenH264::new(settings)?);
        Ok(Guarded { hardware: None, software, settings, failure: None, bytes: Vec::new() })
    }

    /// Uses software because hardware could not be had.
    pub(crate) fn after(error: Error, settings: Settings) -> Result<Guarded, Error> {
        Ok(Guarded { failure: Some(error), ..Guarded::in_software(settings)? })
    }

    /// Why the hardware was given up, once.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn fail(&mut self, error: Error) {
        self.hardware = None;
        self.failure = Some(error);
    }

    fn software(&mut self) -> Result<&mut OpenH264, Error> {
        Ok(match &mut self.software {
            Some(software) => software,
            none => none.insert(OpenH264::new(self.settings)?),
        })
    }
}

impl Encoder for Guarded {
    fn encode(&mut self, picture: Picture<'_>) -> Result<Encoded<'_>, Error> {
        if let Some(hardware) = &mut self.hardware {
            match hardware.encode(picture) {
                Ok(Encoded { bytes, key_frame, qp }) => {
                    self.bytes.clear();
                    self.bytes.extend_from_slice(bytes);
                    return Ok(Encoded { bytes: &self.bytes, key_frame, qp });
                }
                // The caller's mistake, not the hardware's.
                Err(error @ Error::Picture { .. }) => return Err(error),
                Err(error) => self.fail(error),
            }
        }
        self.software()?.encode(picture)
    }

    fn force_key_frame(&mut self) {
        match (&mut self.hardware, &mut self.software) {
            (Some(hardware), _) => hardware.force_key_frame(),
            (None, Some(software)) => software.force_key_frame(),
            // Its first picture is one.
            (None, None) => {}
        }
    }

    fn set_bitrate(&mut self, bitrate_bps: u32) -> Result<(), Error> {
        self.settings = self.settings.with_bitrate(bitrate_bps)?;
        if let Some(hardware) = &mut self.hardware {
            return hardware.set_bitrate(bitrate_bps);
        }
        self.software()?.set_bitrate(bitrate_bps)
    }

    fn set_qp(&mut self, qp: u8) -> Result<(), Error> {
        self.settings = self.settings.with_qp(qp)?;
        if let Some(hardware) = &mut self.hardware {
            return hardware.set_qp(qp);
        }
        self.software()?.set_qp(qp)
    }

    fn steering(&self) -> Steering {
        match (&self.hardware, &self.software) {
            (Some(hardware), _) => hardware.steering(),
            (None, Some(software)) => software.steering(),
            (None, None) => Steering::Quantiser,
        }
    }

    fn name(&self) -> &str {
        match &self.hardware {
            Some(hardware) => hardware.name(),
            None => "OpenH264",
        }
    }
}
