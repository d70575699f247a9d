//! What the desktop's programs play, as it comes out of the sandbox.
//!
//! A pipe with signed 16-bit little-endian samples, left and right in turn, [`RATE`] frames a second. It is written
//! while something plays and in real time, and what is not read is lost when the pipe is full, so a reader that was
//! away should throw away what it finds first.
//!
//! PipeWire writes it, but every program of the desktop can: it may hold anything, in any amount, broken off within a
//! frame.

/// Frames a second: what videos have, and what Opus takes.
pub const RATE: u32 = 48_000;
/// Channels: left and right.
pub const CHANNELS: u16 = 2;
/// Bytes of a frame, which is one sample of each channel.
pub const FRAME: usize = 2 * CHANNELS as usize;
