/// What may go wrong when a recording is played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A record is not what the format says.
    #[error(transparent)]
    Record(#[from] lucid_session::Error),
    /// A frame came before any key.
    #[error(
        "a frame came before the first key picture; playback can begin only where a chunk begins with one"
    )]
    NoKey,
    /// The graphics client does not take a frame.
    #[error("decoding a frame: {0}")]
    Frame(String),
    /// There is no decoder for H.264.
    #[error("making the H.264 decoder: {0}")]
    Decoder(String),
    /// A key picture cannot be read.
    #[error("reading a key picture: {0}")]
    Png(#[from] png::DecodingError),
    /// A key picture is not what its record says.
    #[error("a key picture is not whole, not of its size, or not of 8-bit red, green and blue")]
    Key,
    /// An event is none.
    #[error("reading an event: {0}")]
    Event(String),
    /// Something is wrong with a record's content.
    #[error(
        "record {record} of chunk-{chunk:06}, at {} s: {source}; what comes before it can be exported with --to, \
         and `lucidctl recording verify` says whether it was changed", .at_us / 1_000_000
    )]
    At {
        /// The chunk's number.
        chunk: u32,
        /// The record's number in it, from 0.
        record: u64,
        /// Its time, in microseconds since the session's start.
        at_us: u64,
        /// What is wrong.
        source: Box<Error>,
    },
    /// The recording's files cannot be read.
    #[error(transparent)]
    Recording(#[from] lucid_recording::Error),
    /// The recording is of something else.
    #[error(
        "stream {number} of this recording is called \"{found}\", and that of a session \"{wanted}\": \
         this is no recording of a session that this version knows"
    )]
    Streams {
        /// The stream's number.
        number: u8,
        /// What the opening calls it.
        found: String,
        /// What it is called in a session.
        wanted: &'static str,
    },
    /// There is nothing in the range that was asked for.
    #[error(
        "there is nothing between {} and {} s: the recording is {} s long; choose a time within it",
        .from_us / 1_000_000, .to_us / 1_000_000, .length_us / 1_000_000
    )]
    Range {
        /// From, in microseconds since the session's start.
        from_us: u64,
        /// Up to.
        to_us: u64,
        /// How long the recording is.
        length_us: u64,
    },
    /// The pictures are larger than an encoder takes.
    #[error(
        "the pictures have up to {width} by {height} pixels, and a film has {} by {} at most; --from and --to choose \
         a part with smaller ones",
        lucid_video::MAX_WIDTH,
        lucid_video::MAX_HEIGHT
    )]
    TooLarge {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
    },
    /// Encoding a picture failed.
    #[error("encoding a picture: {0}")]
    Encoder(#[from] lucid_video::Error),
    /// What an H.264 encoder wrote is not what the file needs.
    #[error("putting a picture into the file: {0}")]
    H264(&'static str),
    /// Sound could not be decoded or encoded.
    #[error("decoding or encoding sound: {0}")]
    Sound(#[from] opus::Error),
    /// A box of the file could not be written.
    #[error("writing the boxes of the MP4 file: {0}")]
    Mp4(#[from] shiguredo_mp4::Error),
    /// A file could not be written.
    #[error("writing the export: {0}")]
    Write(#[from] std::io::Error),
}

impl Error {
    /// Says in which record it is.
    pub(crate) fn at(self, chunk: u32, record: u64, at_us: u64) -> Error {
        match self {
            // It names its place, or has none in the recording.
            Error::At { .. } | Error::Recording(_) | Error::Encoder(_) | Error::Write(_) | Error::Mp4(_) => {
                self
            }
            source => Error::At { chunk, record, at_us, source: Box::new(source) },
        }
    }
}

/// What this crate gives back.
pub type Result<T, E = Error> = std::result::Result<T, E>;
