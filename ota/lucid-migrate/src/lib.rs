//! Brings what a device keeps into the form that its system reads, and back when the machine falls back.
//!
//! The form of all that is kept has one number. A system says which one it reads and writes (`data` in `system.json`), the file
//! `number` beside the data says which one is there. At every start, before any service:
//!
//! | the number on the disk | what is done |
//! | --- | --- |
//! | the system's | nothing; when the system is no try, copies from before that are still there are removed |
//! | a lower one | all is copied; then one program for each step changes it; then the number is written |
//! | a higher one | the machine fell back: the copy is put back, then the number is written |
//! | none: the file is damaged | without any copy, and when the system is no try: the system's is written; else an error |
//!
//! So a later system may do with the data what it likes: nothing has to be undone step by step. The copy is removed as soon as
//! the try has passed ([`Data::forget`]), not only at the next start: what was written between the change and a fall-back is lost,
//! and that is at most what was written in a try. A system that starts later, reads a lower form and finds no copy says so and
//! leaves the data as it is. Recordings are evidence, and never copied, changed or put back; neither is what the update service
//! knows, nor logs.
//!
//! In a try no service uses the data before it has the system's form: lucid-init makes `/run/lucid-migrate/unread`, the program
//! removes it when all went well, and the units of the services have it as a condition.
//!
//! After a power cut at any moment the next start goes on, whichever of the two systems it is. In the directory of [`Data`]:
//!
//! - `number`: decimal digits and a newline. Without it the number is 1.
//! - `before-N`: the copy of form N, whole.
//! - `copying`: a copy that was not finished; removed.
//! - `giving-back-N`: a copy of which parts may be back in their places.
//! - `gone`: what was in their places, and copies that nobody needs any more; removed.

mod data;
mod error;

pub use data::{Data, Done};
pub use error::{Error, Result};
