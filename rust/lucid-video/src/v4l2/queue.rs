//! One direction of a device: its buffers, which of them are ours at the moment, and whether it streams.

use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::kernel::{Dequeued, Direction, Mapping, Node, PictureFormat};

/// The most buffers of a queue that are used; a device may insist on more than we ask for.
const MAX_BUFFERS: u32 = 32;

/// A queue with its buffers.
#[derive(Debug)]
pub struct Queue {
    node: Arc<Node>,
    direction: Direction,
    format: PictureFormat,
    buffers: Vec<Vec<Mapping>>,
    /// Those that the device does not have.
    ours: Vec<usize>,
    streaming: bool,
    /// Rate control of hardware goes by the times of its pictures.
    begin: Instant,
}

impl Queue {
    /// Gets `count` buffers, or as many as the device insists on, for the format that is set.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(node: &Arc<Node>, direction: Direction, count: u32) -> Result<Queue, Errno> {
        let mut queue = Queue {
            node: Arc::clone(node),
            direction,
            format: node.format(direction)?,
            buffers: Vec::new(),
            ours: Vec::new(),
            streaming: false,
            begin: Instant::now(),
        };
        let count = node.request_buffers(direction, count)?;
        if !(1..=MAX_BUFFERS).contains(&count) {
            return Err(Errno::NOBUFS);
        }
        for index in 0..count {
            queue.buffers.push(node.map_buffer(direction, index)?);
        }
        queue.ours = (0..queue.buffers.len()).collect();
        Ok(queue)
    }

    /// What its buffers hold.
    #[must_use]
    pub fn format(&self) -> &PictureFormat {
        &self.format
    }

    /// Whether no buffer is ours.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.ours.is_empty()
    }

    /// Starts it; buffers may be queued before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(&mut self) -> Result<(), Errno> {
        self.node.stream(self.direction, true)?;
        self.streaming = true;
        Ok(())
    }

    /// Stops it; all buffers are ours again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(&mut self) -> Result<(), Errno> {
        self.streaming = false;
        self.node.stream(self.direction, false)?;
        self.ours = (0..self.buffers.len()).collect();
        Ok(())
    }

    /// Fills one of our buffers and queues it; `fill` gives the bytes that it has put into each memory plane, or
    /// nothing when they do not fit. Without a buffer of ours the error is EAGAIN, without room it is EMSGSIZE.
    ///
    /// # Errors
    /// These, or the kernel's.
    pub fn put(&mut self, fill: impl FnOnce(&mut [Mapping]) -> Option<Vec<usize>>) -> Result<(), Errno> {
        let Some(index) = self.ours.last().copied() else { return Err(Errno::AGAIN) };
        let bytes = self.buffers.get_mut(index).and_then(|b| fill(b)).ok_or(Errno::MSGSIZE)?;
        self.node.queue(self.direction, index, &bytes, self.begin.elapsed())?;
        self.ours.pop();
        Ok(())
    }

    /// Queues all buffers of ours, empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put_empty(&mut self) -> Result<(), Errno> {
        while !self.ours.is_empty() {
            self.put(|planes| Some(vec![0; planes.len()]))?;
        }
        Ok(())
    }

    /// Takes a buffer back if one is ready, and appends its payload to `out`. A device that names a buffer or a place
    /// which does not exist is answered with EBADMSG.
    ///
    /// # Errors
    /// This, or the kernel's.
    pub fn take(&mut self, out: Option<&mut Vec<u8>>) -> Result<Option<Dequeued>, Errno> {
        let Some(buffer) = self.node.dequeue(self.direction)? else { return Ok(None) };
        let planes = self.buffers.get(buffer.index).ok_or(Errno::BADMSG)?;
        if self.ours.contains(&buffer.index) {
            return Err(Errno::BADMSG);
        }
        if let Some(out) = out {
            for (plane, part) in planes.iter().zip(&buffer.payload) {
                if !plane.read(part.clone(), out) {
                    return Err(Errno::BADMSG);
                }
            }
        }
        self.ours.push(buffer.index);
        Ok(Some(buffer))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Closing the device does the same; this is for a queue that is replaced while the device stays open. What a
        // device that is gone answers is of no interest any more.
        if self.streaming {
            let _ = self.node.stream(self.direction, false);
        }
        self.buffers.clear();
        let _ = self.node.request_buffers(self.direction, 0);
    }
}
