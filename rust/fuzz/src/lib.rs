//! What the fuzz targets share: a bound on memory, and the way to write one.

use std::alloc::System;

use cap::Cap;

#[doc(hidden)]
pub use libfuzzer_sys;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// From here on the program may hold so many bytes more on the heap than now, and is aborted when it wants more. What
/// an input leaves behind counts as well, so that a leak ends the run in time.
///
/// # Panics
/// When the limit cannot be set.
pub fn bound(bytes: usize) {
    // A panic's report reads debugging information, which takes more than any input may.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        MEMORY.set_limit(usize::MAX).expect("no limit");
        report(panic);
    }));
    MEMORY.set_limit(MEMORY.allocated() + bytes).expect("a limit above what is held");
}

/// A fuzz target: a name for the door (the file's), the function that takes the bytes, and how many bytes of memory
/// they may cost, all told.
#[macro_export]
macro_rules! door {
    ($enter:expr, $memory:expr) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $crate::bound($memory), |bytes: &[u8]| {
            let enter: fn(&[u8]) = $enter;
            enter(bytes);
        });
    };
}
