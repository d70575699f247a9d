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
}
