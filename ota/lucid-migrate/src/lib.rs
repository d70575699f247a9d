//! Brings what a device keeps into the form that its system reads, and back when the machine falls back.
//!
//! The form of all that is kept has one number. A system says which one it reads and writes (`data` in `system.json`), the file
//! `number` beside the data says which one is there. At every start, before any service:
//!
//! | the number on the disk | what is done |
//! | --- | --- |
//! | the system's | nothing; when the system is no try, the copy from before is removed |
//! | a lower one | all is copied; then one program for each step changes it; then the number is written |
//! | a higher one | the machine fell back: the copy is put back, then the number is written |
//!
//! So a later system may do with the data what it likes: nothing has to be undone step by step. What was written between the
//! change and the fall-back is lost, which is at most the time of a try. Recordings are evidence, and never copied, changed or
//! put back; neither is what the update service knows, nor logs.
//!
//! After a power cut at any moment the next start goes on, whichever of the two systems it is. In the directory of [`Data`]:
//!
//! - `number`: decimal digits and a newline. Without it the number is 1.
//! - `before-N`: the copy of form N, whole.
//! - `copying`: a copy that was not finished; removed.
//! - `giving-back-N`: a copy of which parts may be back in their places.
//! - `gone`: what was in their places; removed.

mod data;
mod error;

pub use data::{Data, Done};
pub use error::{Error, Result};
