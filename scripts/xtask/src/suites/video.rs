//! Hardware encoders. No machine of ours has one, so the kernel's virtual stateful codec `vicodec` stands in: Debian
//! leaves it out, and it is built here out of tree from Debian's source for Debian's kernel, the one of the image. A
//! small machine in QEMU loads it and runs `lucid-video`'s example of the same name as its first process.
//!
//! What this cannot show is H.264 on real hardware: `vicodec` writes FWHT.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::Context;
use crate::{
    build,
    error::{At, Error, Result},
    machine::CPU,
    progress::{Background, ask, ask_well, last_lines},
    setup::DEVICE_TARGET,
    suite::{Report, Timed},
};

/// The release and the kernel as the image tool takes them (image/src/build.rs).
const SUITE: &str = "trixie";
const KERNEL: &str = "linux-image-arm64/trixie-backports";
/// What builds a module for it on this machine, with what make and Kbuild call.
const BUILDERS: &str = "linux-headers-arm64:arm64/trixie-backports,linux-source/trixie-backports,make,dash,bash,\
                        coreutils,sed,grep,findutils,mawk,diffutils,perl-base,xz-utils,tar";
/// What `vicodec` needs, in the order in which it is loaded, below the kernel's modules.
const NEEDS: [&str; 7] = [
    "media/mc/mc",
    "media/v4l2-core/videodev",
    "media/common/videobuf2/videobuf2-common",
    "media/common/videobuf2/videobuf2-memops",
    "media/common/videobuf2/videobuf2-v4l2",
    "media/common/videobuf2/videobuf2-vmalloc",
    "media/v4l2-core/v4l2-mem2mem",
];
/// Half a minute is usual under emulation.
const BOUND: Duration = Duration::from_secs(600);
/// As many properties as the example shows.
const PROPERTIES: usize = 8;

/// Runs the suite.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<()> {
    let made = report.obtain(
        "vicodec can be built for the image's kernel",
        |made: &Made| made.about.clone(),
        || kernel(context),
    );
    let Some(made) = made else { return Ok(()) };
    let output = report.obtain(
        "the machine with the virtual codec runs to its end",
        |_: &String| String::new(),
        || machine(context, &made),
    );
    let Some(output) = output else { return Ok(()) };
    let mut count = 0;
    for line in output.lines() {
        let Some((good, rest)) = verdict(line) else { continue };
        count += 1;
        // Its own time stands in the line.
        let (name, said) = rest.split_once(" (").unwrap_or((rest, ""));
        let seconds = said.split_once(" s)").map_or("", |(seconds, _)| seconds).parse().unwrap_or(0.0);
        let said = said.split_once(" s)").map_or(said, |(_, said)| said).trim_start_matches([':', ' ']);
        let result = if good { Ok(said.to_owned()) } else { Err(Error::broken(said)) };
        report.record(name, Timed { result, spent: Duration::from_secs_f64(seconds) });
    }
    report.check("every property was tried", || {
        let ended = output.lines().any(|line| line.trim_end().starts_with("done"));
        if ended && count == PROPERTIES {
            Ok(String::new())
        } else {
            Err(Error::broken(format!("{count} of {PROPERTIES}; the end of it:\n{}", last_lines(&output))))
        }
    });
    Ok(())
}

/// A line of the example, and whether it is good.
fn verdict(line: &str) -> Option<(bool, &str)> {
    let line = line.trim_end();
    line.strip_prefix("ok ")
        .map(|rest| (true, rest))
        .or_else(|| line.strip_prefix("FAILED ").map(|rest| (false, rest)))
}

/// A kernel with the modules that are loaded.
struct Made {
    folder: PathBuf,
    about: String,
}

/// Builds the module, or takes it out of the cache: `target/lucid/video`.
fn kernel(context: &Context) -> Result<Made> {
    let Context { project, steps, .. } = context;
    let folder = project.lucid.join("video");
    let stamp = folder.join("release");
    if let Ok(release) = fs::read_to_string(&stamp) {
        return Ok(Made { about: about(context, &release), folder });
    }
    let mut try_out = Command::new("unshare");
    let answer = ask(try_out.args(["--map-root-user", "--mount", "true"]), b"")?;
    if !answer.status.success() {
        let why = answer.err.trim();
        return Err(Error::CannotCheck(format!("this machine gives no user namespace to build in: {why}")));
    }
    build::host(project, steps, build::Host::Tools)?;
    if folder.exists() {
        fs::remove_dir_all(&folder).at("emptying", &folder)?;
    }
    let modules = folder.join("modules");
    fs::create_dir_all(&modules).at("making", &modules)?;
    let mut ask_sources =
        build::image_tool(project, &["sources", "--suite", SUITE, "--backports"].map(OsStr::new));
    let sources = folder.join("sources.list");
    fs::write(&sources, ask_well("asking for Debian's archive", &mut ask_sources, b"")?.out)
        .at("writing", &sources)?;
    let tree = |name: &str, architectures: &str, packages: &str, step: &str| -> Result<PathBuf> {
        let root = folder.join(name);
        let mut fetch = project.command("mmdebstrap");
        fetch
            .arg("--variant=extract")
            .arg(format!("--architectures={architectures}"))
            .arg(format!("--include={packages}"))
            .arg(SUITE)
            .args([&root, &sources]);
        steps.run(step, &mut fetch)?;
        Ok(root)
    };
    let kernel = tree("kernel", "arm64", KERNEL, "getting Debian's kernel")?;
    let builder = tree("builder", "amd64,arm64", BUILDERS, "getting what builds modules for it")?;

    let release = only(&kernel.join("usr/lib/modules"), |_| true)?;
    let headers = only(&builder.join("usr/src"), |name| name == format!("linux-headers-{release}"))?;
    let source = only(&builder.join("usr/src"), |name| {
        name.starts_with("linux-source-") && name.ends_with(".tar.xz")
    })?;
    let compiler = only(&builder.join("usr/bin"), |name| {
        name.strip_prefix("aarch64-linux-gnu-gcc-").is_some_and(|rest| rest.parse::<u32>().is_ok())
    })?;
    let work = folder.join("work");
    fs::create_dir_all(&work).at("making", &work)?;
    let mut unpack = project.command("tar");
    unpack
        .arg("--extract")
        .arg("--file")
        .arg(builder.join("usr/src").join(source))
        .arg("--directory")
        .arg(&work)
        .args(["--strip-components=4", "--wildcards", "*/drivers/media/test-drivers/vicodec/*"]);
    steps.run("unpacking vicodec's source", &mut unpack)?;
    // Installing mawk would have made this link.
    let programs = work.join("bin");
    fs::create_dir_all(&programs).at("making", &programs)?;
    std::os::unix::fs::symlink("/usr/bin/mawk", programs.join("awk")).at("making awk in", &programs)?;
    // The newer Debian's programs call each other by their names, so they run in its tree; nothing of this machine is
    // seen there but devices and the folder of the module.
    let mut make = project.command("unshare");
    make.args(["--map-root-user", "--mount", "sh", "-euc"])
        .arg(
            "mount --rbind /dev \"$1/dev\"; mount --bind \"$2\" \"$1/mnt\"; root=$1; shift 2; \
             PATH=/mnt/bin:/usr/sbin:/usr/bin:/sbin:/bin exec chroot \"$root\" /usr/bin/make \"$@\"",
        )
        .arg("sh")
        .args([&builder, &work])
        .args(["-C", &format!("/usr/src/{headers}"), "M=/mnt/vicodec", "ARCH=arm64"])
        .args(["CROSS_COMPILE=aarch64-linux-gnu-", &format!("CC={compiler}")])
        .args(["CONFIG_VIDEO_VICODEC=m", "modules"]);
    fs::create_dir_all(builder.join("mnt")).at("making a folder in", &builder)?;
    fs::create_dir_all(builder.join("dev")).at("making a folder in", &builder)?;
    steps.run("building vicodec", &mut make)?;

    let tree = kernel.join("usr/lib/modules").join(&release);
    let mut order = String::new();
    let mut keep = |from: PathBuf| -> Result<()> {
        let name = from.file_name().unwrap_or_default();
        fs::copy(&from, modules.join(name)).at("copying", &from)?;
        order += &format!("{}\n", name.to_string_lossy());
        Ok(())
    };
    for module in NEEDS {
        keep(tree.join("kernel/drivers").join(module).with_extension("ko.xz"))?;
    }
    keep(work.join("vicodec/vicodec.ko"))?;
    let list = modules.join("order");
    fs::write(&list, order).at("writing", &list)?;
    let image = tree.join("vmlinuz");
    fs::copy(&image, folder.join("vmlinuz")).at("copying", &image)?;
    // A gigabyte that is not needed any more.
    for tree in [kernel, builder, work] {
        fs::remove_dir_all(&tree).at("deleting", &tree)?;
    }
    fs::write(&stamp, &release).at("writing", &stamp)?;
    Ok(Made { about: about(context, &release), folder })
}

/// For which kernel, and whether an image that lies here has the same.
fn about(context: &Context, release: &str) -> String {
    let contents = context.project.lucid.join("image/contents.json");
    let known =
        fs::read(contents).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    match known.as_ref().and_then(|contents| contents["kernel"].as_str()) {
        Some(other) if other != release => format!("{release} (the image that lies here has {other})"),
        _ => release.to_owned(),
    }
}

/// The one name in a folder that is wanted.
fn only(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).at("listing", folder)? {
        names.push(entry.at("listing", folder)?.file_name().to_string_lossy().into_owned());
    }
    let mut fitting: Vec<&String> = names.iter().filter(|name| wanted(name)).collect();
    fitting.sort();
    match fitting[..] {
        [one] => Ok(one.clone()),
        _ => Err(Error::broken(format!(
            "{} should hold one of what is wanted, it holds {names:?}; delete target/lucid/video and try again",
            folder.display()
        ))),
    }
}

/// Boots the machine; gives what its console said.
fn machine(context: &Context, made: &Made) -> Result<String> {
    let Context { project, steps, .. } = context;
    let mut compile = project.command("cargo");
    compile.args(["zigbuild", "--release", "--target", DEVICE_TARGET]);
    compile.args(["--package", "lucid-video", "--example", "vicodec"]);
    steps.run("building the test of hardware encoders", &mut compile)?;
    let program = project.target.join(DEVICE_TARGET).join("release/examples/vicodec");
    build::must_be_static(&program)?;

    let tree = made.folder.join("initramfs");
    fs::create_dir_all(&tree).at("making", &tree)?;
    fs::copy(&program, tree.join("init")).at("copying", &program)?;
    let mut names = String::from("init\nmodules\n");
    fs::create_dir_all(tree.join("modules")).at("making", &tree)?;
    let modules = made.folder.join("modules");
    for entry in fs::read_dir(&modules).at("listing", &modules)? {
        let name = entry.at("listing", &modules)?.file_name();
        fs::copy(modules.join(&name), tree.join("modules").join(&name)).at("copying", &modules)?;
        names += &format!("modules/{}\n", name.to_string_lossy());
    }
    let mut pack = Command::new("cpio");
    pack.args(["--create", "--format=newc", "--quiet"]).current_dir(&tree);
    let packed = ask_well("packing the machine's files", &mut pack, names.as_bytes())?.out;
    let initramfs = made.folder.join("initramfs.cpio");
    fs::write(&initramfs, packed).at("writing", &initramfs)?;

    let log = steps.log_path("the machine with the virtual codec");
    fs::write(&log, "").at("emptying", &log)?;
    let mut qemu = Command::new("qemu-system-aarch64");
    qemu.args([
        "-M",
        "virt",
        "-cpu",
        CPU,
        "-smp",
        "1",
        "-m",
        "512",
        "-nic",
        "none",
        "-nographic",
        "-no-reboot",
    ])
    .arg("-kernel")
    .arg(made.folder.join("vmlinuz"))
    .arg("-initrd")
    .arg(&initramfs)
    .args(["-append", "console=ttyAMA0 panic=-1 quiet"]);
    let mut machine = Background::start(&qemu, &log)?;
    let ended = steps.interrupt.wait_for("the machine's end", BOUND, || machine.ended());
    let output = machine.output()?;
    match ended {
        Ok(_) => Ok(output),
        Err(Error::Late { what, seconds, .. }) => Err(Error::Late {
            what,
            seconds,
            details: format!("; its console ends with:\n{}", last_lines(&output)),
        }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_the_example_are_verdicts() {
        assert_eq!(verdict("ok it is (0.1 s) fine\r"), Some((true, "it is (0.1 s) fine")));
        assert_eq!(verdict("FAILED it is (0.1 s): not"), Some((false, "it is (0.1 s): not")));
        assert_eq!(verdict("[    1.0] ok"), None);
        assert_eq!(verdict("done"), None);
    }
}
