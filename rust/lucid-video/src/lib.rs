//! Turns pictures into H.264: colour conversion and encoders behind one trait
