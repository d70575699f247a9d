//! Writes the initramfs: a cpio archive in the kernel's `newc` form
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`), all owned by root, all times zero.

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

/// File types of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

impl Archive {
    /// Appends one entry; sizes are bounded by the format to 32 bits.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> Result<(), String> {
        let size =
            u32::try_from(contents.len()).map_err(|_| format!("{name} is too large for an initramfs"))?;
        let name_size = u32::try_from(name.len() + 1).map_err(|_| format!("{name} is too long a name"))?;
        self.inode += 1;
        let links = 1;
        let header: [u32; 13] =
            [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends a directory.
    ///
    /// # Errors
    /// When the name is too long.
    pub fn directory(&mut self, name: &str) -> Result<(), String> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Appends a file.
    ///
    /// # Errors
    /// When it is larger than the format can say.
    pub fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<(), String> {
        self.entry(name, REGULAR | mode, (0, 0), contents)
    }

    /// Appends a character device.
    ///
    /// # Errors
    /// When the name is too long.
    pub fn character(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> Result<(), String> {
        self.entry(name, CHARACTER | mode, (major, minor), &[])
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Never for an archive that could be filled.
    pub fn finish(mut self) -> Result<Vec<u8>, String> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }
}
