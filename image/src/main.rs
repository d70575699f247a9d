//! The command line of the image tool. Exit code 0: done; 1: failed, with the reason; 2: wrong use.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lucid_image::apt::Archive;
use lucid_image::build::{Build, Changes, changing, firmware};
use lucid_image::debian::Tools;
use lucid_image::error::{Error, Result};
use lucid_image::identity::{Identity, Root};
use lucid_image::layout::{Kind, PARTITIONS};
use lucid_image::{disk, signed, verify};
use lucid_release_format::{Name, Version};

/// Makes, checks and changes Lucid's disk image.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Makes lucid.img, firmware.img, packages.spdx.json and contents.json.
    Build {
        /// Directory with our programs, built for the device.
        #[arg(long)]
        services: PathBuf,
        /// Where the results go.
        #[arg(long, default_value = "target/lucid")]
        out: PathBuf,
        /// Where Debian's packages are kept between builds; remove it to follow newer ones.
        #[arg(long, default_value = "target/lucid/cache")]
        cache: PathBuf,
        #[command(flatten)]
        about: About,
    },
    /// Lists the partitions and the files of the FATs.
    List {
        /// The disk image.
        image: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Checks the table, the FATs and every byte of both roots.
    Verify {
        /// The disk image.
        image: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copies a file into a FAT partition.
    Put {
        /// The disk image.
        image: PathBuf,
        /// select, boot-a or boot-b.
        partition: String,
        /// The file to copy.
        file: PathBuf,
        /// Its name there.
        name: String,
    },
    /// Writes a file of a FAT partition to the standard output.
    Get {
        /// The disk image.
        image: PathBuf,
        /// select, boot-a or boot-b.
        partition: String,
        /// The file's name.
        name: String,
    },
    /// Arms a one-shot try of the other slot on the disk that plays the EEPROM in QEMU.
    FirmwareTry {
        /// That disk's image.
        image: PathBuf,
    },
    /// Prints the lines of apt's sources.list for a release, from the archive that this machine uses.
    Sources {
        /// The release.
        #[arg(long, default_value = "trixie")]
        suite: String,
        /// Its backports as well.
        #[arg(long)]
        backports: bool,
    },
    /// Makes a tree of programs of a newer Debian for this machine, and says where it is.
    Tools {
        /// The packages, separated by commas.
        #[arg(long, value_delimiter = ',', required = true)]
        include: Vec<String>,
        /// The release.
        #[arg(long, default_value = "trixie")]
        suite: String,
        /// The directory for trees.
        cache: PathBuf,
    },
    /// Makes boot.img, boot.sig and config.txt for the Pi's verified boot, and checks them.
    BootImage {
        /// A slot's files: a directory, a boot partition's image, or a disk image (its slot A).
        #[arg(long, value_name = "DIR|IMAGE")]
        boot_files: PathBuf,
        /// The secret key in PEM: RSA, 2048 bits.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The public key that is or will be fused, to check with; otherwise that of the secret key.
        #[arg(long, value_name = "FILE")]
        public: Option<PathBuf>,
        /// Where the three files go.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A disk image whose boot slots are to hold them, in place of what is there.
        #[arg(long, value_name = "IMAGE")]
        into: Option<PathBuf>,
    },
    /// Checks boot.img and boot.sig as the Pi's boot loader does.
    CheckBootImage {
        /// The public key in PEM.
        #[arg(long, value_name = "FILE")]
        public: PathBuf,
        /// The directory with the three files.
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
struct About {
    /// The root of trust: a device with this image takes what follows from it, and nothing else.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The version that the image says it is, such as 1.2.3.
    #[arg(long)]
    version: Version,
    /// The kind of device that it is for.
    #[arg(long)]
    machine: Name,
    /// Take a root for development. What follows is refused without this.
    #[arg(long)]
    development: bool,
    /// Files to be laid over the system tree, for tests.
    #[arg(long, value_name = "DIR", requires = "development")]
    overlay: Option<PathBuf>,
    /// A word more for the kernel's command line, for tests. May be given more than once.
    #[arg(long, value_name = "WORD", requires = "development")]
    append: Vec<String>,
    /// Another package of Debian's as the kernel, such as linux-image-rt-arm64/trixie-backports, for measurements.
    #[arg(long, value_name = "PACKAGE", requires = "development")]
    kernel: Option<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lucid-image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<()> {
    match what {
        What::Build { services, out, cache, about } => build(services, out, cache, about),
        What::List { image, json } => list(&image, json),
        What::Verify { image, json } => {
            let verified = verify::verify(&image)?;
            if json {
                return print_json(&image, &verified);
            }
            for slot in verified {
                println!("slot {}: {} bytes good, root hash {}", slot.slot, slot.bytes, slot.root_hash);
            }
            Ok(())
        }
        What::Put { image, partition, file, name } => {
            let contents = std::fs::read(&file).map_err(|source| Error::File {
                doing: "reading",
                path: file,
                source,
            })?;
            fat_of(&image, &partition)?.put(&name, &contents)
        }
        What::Get { image, partition, name } => {
            let contents = fat_of(&image, &partition)?.get(&name)?;
            std::io::Write::write_all(&mut std::io::stdout(), &contents).map_err(|source| Error::File {
                doing: "writing",
                path: "standard output".into(),
                source,
            })
        }
        What::FirmwareTry { image } => firmware(&image).put("tryboot", b"1\n"),
        What::Sources { suite, backports } => {
            let archive = Archive::of_this_machine(Path::new("/etc/apt"))?;
            archive.lines(&suite, backports).iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        What::Tools { include, suite, cache } => {
            let archive = Archive::of_this_machine(Path::new("/etc/apt"))?;
            println!("{}", Tools::with(&archive, &cache, &suite, &include)?.root().display());
            Ok(())
        }
        What::BootImage { boot_files, key, public, out, into } => {
            boot_image(&boot_files, &key, public.as_deref(), &out, into.as_deref())
        }
        What::CheckBootImage { public, directory } => {
            print_checked(&signed::check(&signed::PublicKey::read(&public)?, &directory)?);
            Ok(())
        }
    }
}

fn boot_image(from: &Path, key: &Path, public: Option<&Path>, out: &Path, into: Option<&Path>) -> Result<()> {
    let key = signed::SecretKey::read(key)?;
    let public = public.map_or_else(|| Ok(key.public().clone()), signed::PublicKey::read)?;
    let made = signed::make(from, &key, &public, out, signed::time()?)?;
    for name in &made.left_out {
        println!("left out   {name}: the firmware does not read it");
    }
    print_checked(&made.checked);
    if let Some(image) = into {
        for slot in changing(image, || signed::install(&public, out, image))? {
            println!("slot {}     signed, {} bytes of its root good", slot.slot, slot.bytes);
        }
    }
    Ok(())
}

fn print_checked(checked: &signed::Checked) {
    println!("boot.img   {} bytes, SHA-256 {}: good", checked.bytes, checked.sha256);
    println!("root hash  {}", checked.root_hash);
    println!("key hash   {}", checked.key_hash);
    if let Some(warning) = checked.warning() {
        eprintln!("warning: {warning}");
    }
}

fn build(services: PathBuf, out: PathBuf, cache: PathBuf, about: About) -> Result<()> {
    let root = Root::read(&about.root, about.development)?;
    let identity = Identity { machine: about.machine, version: about.version, root };
    let changes = Changes { overlay: about.overlay, append: about.append, kernel: about.kernel };
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = crate_directory.parent().unwrap_or(crate_directory).to_owned();
    let contents = Build { services, out: out.clone(), cache, repository, identity, changes }.run()?;
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    println!("image      {} (kernel {})", out.join("lucid.img").display(), contents.kernel);
    let development = if contents.development { ", for development: anybody can sign for it" } else { "" };
    println!("system     {} {}{development}", contents.machine, contents.system_version);
    println!(
        "root       {:.1} MiB compressed of {:.1} MiB, and {:.1} MiB of hashes",
        mib(contents.root_bytes),
        mib(contents.files_bytes),
        mib(contents.hash_bytes)
    );
    println!(
        "kernel     {:.1} MiB, initramfs {:.1} MiB",
        mib(contents.kernel_bytes),
        mib(contents.initramfs_bytes)
    );
    println!("root hash  {}", contents.root_hash);
    println!("largest files of the root, uncompressed:");
    for item in &contents.largest {
        println!("  {:7.2} MiB  {}", mib(item.bytes), item.path);
    }
    Ok(())
}

fn fat_of<'a>(image: &'a Path, name: &str) -> Result<lucid_image::fat::Place<'a>> {
    let partition = disk::partition(image, name)?;
    if !matches!(partition.kind, Kind::Select | Kind::Boot) {
        return Err(Error::Table { path: image.to_owned(), why: format!("{name} is not a FAT partition") });
    }
    Ok(disk::fat(image, partition))
}

fn print_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Format { path: path.to_owned(), why: error.to_string() })?;
    println!("{text}");
    Ok(())
}

fn list(image: &Path, json: bool) -> Result<()> {
    let table = disk::table(image)?;
    if json {
        return print_json(image, &table);
    }
    for found in table {
        println!(
            "{}  {:8} {:5} MiB at {:5} MiB",
            found.number,
            found.name,
            found.bytes >> 20,
            found.start >> 20
        );
        let fat = |kind| matches!(kind, Kind::Select | Kind::Boot);
        if let Some(partition) = PARTITIONS.iter().find(|p| p.name == found.name && fat(p.kind)) {
            for entry in disk::fat(image, partition).list()? {
                println!("     {:10}  {}", entry.bytes, entry.name);
            }
        }
    }
    Ok(())
}
