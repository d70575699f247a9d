//! Tries the V4L2 path out with the kernel's virtual codec `vicodec` (FWHT), a real stateful encoder and decoder: in a
//! machine that was started for nothing else, of which this is the first process (`scripts/test video`). Each property
//! is one line, `ok …` or `FAILED …`; the last line is `done`.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lucid_video::colour::I420;
use lucid_video::v4l2::{self, Coded, Direction, Layout, Node, Patience, Queue, V4l2};
use lucid_video::{
    Encoder, Encoders, Error, Guarded, Picture, Rect, Settings, Steering, Wanted, examine, moving_picture,
};
use openh264::formats::YUVSource as _;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The smallest that `vicodec` takes, and one that is no multiple of anything.
const SIZES: [(u32, u32); 2] = [(640, 480), (722, 486)];
/// An emulated processor on a busy machine is no hardware.
const PATIENCE: Patience = Patience { picture: Duration::from_secs(20), open: Duration::from_secs(20) };
/// Of FWHT at a fine quantiser, in dB.
const LEAST_PSNR: f64 = 32.0;
const DRIVER: &str = "/sys/bus/platform/drivers/vicodec";
const DEVICES: &str = "/sys/bus/platform/devices";

fn main() {
    let first = std::process::id() == 1;
    if first {
        if let Err(error) = prepare() {
            println!("FAILED preparing the machine: {error}");
        }
    } else {
        println!("this is for a machine of its own; see scripts/test video");
        return;
    }
    let mut all = true;
    all &= check("the kernel's devices are told apart, and no H.264 encoder is made up", devices);
    all &= check("the health check passes and finds that the quantiser has an effect", health);
    for (width, height) in SIZES {
        all &= check(
            format!("a moving picture of {width}x{height} is encoded and decoded through our queues"),
            || there_and_back(width, height),
        );
    }
    all &= check("key frames come when they are asked for, and only then", key_frames);
    all &= check("two streams at a time do not disturb each other", two_streams);
    all &= check(
        "unplugged while it runs, software goes on with one key frame and no picture is lost",
        unplugged,
    );
    all &= check("a device that is gone is refused, and one that comes back is found again", replugged);
    println!("{}", if all { "done" } else { "done, with failures" });
    // The console is slower than the power switch.
    let _ = rustix::termios::tcdrain(std::io::stdout());
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    // Nothing is left to do for a first process, which must not end.
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn check<T: Display>(name: impl Display, work: impl FnOnce() -> Outcome<T>) -> bool {
    let start = Instant::now();
    let outcome = work();
    let seconds = start.elapsed().as_secs_f64();
    match &outcome {
        Ok(figures) => println!("ok {name} ({seconds:.1} s) {figures}"),
        Err(error) => println!("FAILED {name} ({seconds:.1} s): {error}"),
    }
    outcome.is_ok()
}

/// File systems and modules.
fn prepare() -> Outcome<()> {
    use rustix::mount::{MountFlags, mount};
    for (kind, place) in [("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)?;
    }
    let order = fs::read_to_string("/modules/order")?;
    for name in order.lines() {
        let file = fs::File::open(Path::new("/modules").join(name))?;
        let parameters = if name.starts_with("vicodec") { c"multiplanar=1" } else { c"" };
        // MODULE_INIT_COMPRESSED_FILE
        let flags = if name.ends_with(".xz") { 4 } else { 0 };
        rustix::system::finit_module(&file, parameters, flags).map_err(|e| format!("loading {name}: {e}"))?;
    }
    Ok(())
}

/// The first device for which `wanted` holds.
fn find(wanted: impl Fn(&Path) -> bool) -> Outcome<PathBuf> {
    Ok(v4l2::nodes()?.into_iter().find(|path| wanted(path)).ok_or("there is no such device")?)
}

fn encoder() -> Outcome<PathBuf> {
    find(|path| v4l2::probe(path, Coded::Fwht).is_ok())
}

fn devices() -> Outcome<String> {
    let encoder = encoder()?;
    let (mut lines, mut encoders) = (String::new(), 0);
    for path in v4l2::nodes()? {
        match v4l2::probe(&path, Coded::Fwht) {
            Ok(found) => {
                encoders += 1;
                lines += &format!("{} is an encoder ({}); ", path.display(), found.card);
            }
            Err(why) => lines += &format!("{why}; "),
        }
    }
    let (chosen, wrong) = Encoders::choose(&Wanted::Auto)?;
    if encoders != 1
        || !chosen.description().starts_with("OpenH264 in software (none of 3")
        || !wrong.is_empty()
    {
        return Err(format!("{lines}{}", chosen.description()).into());
    }
    match Encoders::choose(&Wanted::Device(encoder)) {
        Ok((chosen, _)) => Err(format!("{} although it knows no H.264", chosen.description()).into()),
        Err(_) => Ok(lines + &chosen.description()),
    }
}

fn health() -> Outcome<String> {
    match examine(&encoder()?, Coded::Fwht, PATIENCE)? {
        Steering::Quantiser => Ok("steered by its quantiser".into()),
        Steering::Bitrate => Err("it was found to be steered by a rate".into()),
    }
}

/// All of a picture.
fn all((width, height): (u32, u32)) -> [Rect; 1] {
    [Rect { x: 0, y: 0, width, height }]
}

fn frame<'a>(pixels: &'a [u8], (width, height): (u32, u32), damage: &'a [Rect]) -> Picture<'a> {
    Picture { width, height, stride: width as usize * 4, pixels, damage }
}

/// `vicodec`'s decoder, through the same queues as the encoder.
struct Fwht {
    node: Arc<Node>,
    output: Queue,
    capture: Option<Queue>,
    size: (u32, u32),
}

impl Fwht {
    fn new(width: u32, height: u32) -> Outcome<Fwht> {
        let has = |node: &Node, direction, wanted| {
            node.pixel_formats(direction).is_ok_and(|formats| formats.contains(&wanted))
        };
        let coded = Coded::Fwht.pixel_format();
        let path = find(|path| Node::open(path).is_ok_and(|node| has(&node, Direction::Output, coded)))?;
        let node = Arc::new(Node::open(&path)?);
        let size = (width.next_multiple_of(16), height.next_multiple_of(16));
        // V4L2_EVENT_SOURCE_CHANGE
        node.subscribe(5)?;
        node.set_format(Direction::Output, coded, size, size.0 * size.1 * 2)?;
        let mut output = Queue::new(&node, Direction::Output, 2)?;
        output.start()?;
        Ok(Fwht { node, output, capture: None, size })
    }

    fn decode(&mut self, frame: &[u8]) -> Outcome<Vec<u8>> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.output.take(None)?.is_some() {}
        self.output.put(|planes| planes.first_mut()?.write(0, frame).then(|| vec![frame.len()]))?;
        loop {
            let told = self.node.wait(end.saturating_duration_since(Instant::now()))?;
            if told.event && self.node.event()? == Some(5) && self.capture.is_none() {
                let yuv = Layout::Yuv420.pixel_format();
                self.node.set_format(Direction::Capture, yuv, self.size, 0)?;
                let mut capture = Queue::new(&self.node, Direction::Capture, 4)?;
                capture.put_empty()?;
                capture.start()?;
                self.capture = Some(capture);
            }
            while self.output.take(None)?.is_some() {}
            if let Some(capture) = &mut self.capture {
                let mut out = Vec::new();
                if let Some(buffer) = capture.take(Some(&mut out))? {
                    capture.put_empty()?;
                    if buffer.damaged {
                        return Err("the decoder says that the data are damaged".into());
                    }
                    let format = capture.format();
                    let stride = format.planes.first().map_or(0, |(_, stride)| *stride);
                    if (format.width, format.height, stride) != (self.size.0, self.size.1, self.size.0) {
                        return Err(format!("the decoder's format is {format:?}").into());
                    }
                    return Ok(out);
                }
            }
            if Instant::now() >= end {
                return Err("the decoder gave nothing within 20 s".into());
            }
        }
    }
}

fn psnr<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> f64 {
    let (mut sum, mut count) = (0_u64, 0_u64);
    for (a, b) in pairs {
        sum += u64::from(a.abs_diff(*b)).pow(2);
        count += 1;
    }
    10.0 * (255.0_f64.powi(2) * count as f64 / (sum.max(1)) as f64).log10()
}

/// All three planes of a decoded picture, one after the other, against what was to be encoded.
fn likeness(decoded: &[u8], source: &I420) -> Outcome<f64> {
    let ours = source.y().iter().chain(source.u()).chain(source.v());
    let length = source.y().len() * 3 / 2;
    if decoded.len() < length {
        return Err(format!("{} bytes were decoded, {length} are needed", decoded.len()).into());
    }
    Ok(psnr(ours.zip(decoded)))
}

fn there_and_back(width: u32, height: u32) -> Outcome<String> {
    let (settings, damage) = (Settings::motion(width, height, 8), all((width, height)));
    let mut encoder = V4l2::open(&encoder()?, Coded::Fwht, settings, Steering::Quantiser, PATIENCE)?;
    let mut decoder = Fwht::new(width, height)?;
    let mut source = I420::new(width, height)?;
    let (mut least, mut bytes, mut longest) = (f64::INFINITY, 0, Duration::ZERO);
    let count = 24;
    for number in 0..count {
        let pixels = moving_picture(width, height, number);
        let picture = frame(&pixels, (width, height), &damage);
        source.convert(picture)?;
        let start = Instant::now();
        let encoded = encoder.encode(picture)?;
        longest = longest.max(start.elapsed());
        bytes += encoded.bytes.len();
        least = least.min(likeness(&decoder.decode(encoded.bytes)?, &source)?);
    }
    // A picture that does not change at all would be alike as well.
    let still = I420::clone(&source);
    source.convert(frame(&moving_picture(width, height, count + 20), (width, height), &damage))?;
    let moved = psnr(still.y().iter().zip(source.y()));
    let text = format!(
        "{count} pictures, at least {least:.1} dB (one picture against another: {moved:.1} dB), {} bytes each, \
         longest {} ms",
        bytes / count as usize,
        longest.as_millis()
    );
    if least >= LEAST_PSNR && moved < LEAST_PSNR - 10.0 { Ok(text) } else { Err(text.into()) }
}

fn key_frames() -> Outcome<String> {
    let (width, height) = SIZES[0];
    let (settings, damage) = (Settings::motion(width, height, 30), all((width, height)));
    let mut encoder = V4l2::open(&encoder()?, Coded::Fwht, settings, Steering::Quantiser, PATIENCE)?;
    let mut seen = Vec::new();
    for number in 0..14 {
        if [5, 9, 10].contains(&number) {
            encoder.force_key_frame();
        }
        let pixels = moving_picture(width, height, number);
        if encoder.encode(frame(&pixels, (width, height), &damage))?.key_frame {
            seen.push(number);
        }
    }
    if seen == [0, 5, 9, 10] { Ok(format!("{seen:?}")) } else { Err(format!("{seen:?}").into()) }
}

fn two_streams() -> Outcome<String> {
    let path = encoder()?;
    let mut streams = Vec::new();
    for (width, height) in SIZES {
        let settings = Settings::motion(width, height, 8);
        let encoder = V4l2::open(&path, Coded::Fwht, settings, Steering::Quantiser, PATIENCE)?;
        streams.push((encoder, Fwht::new(width, height)?, I420::new(width, height)?, (width, height)));
    }
    let mut least = f64::INFINITY;
    for number in 0..6 {
        for (encoder, decoder, source, size) in &mut streams {
            let (pixels, damage) = (moving_picture(size.0, size.1, number), all(*size));
            let picture = frame(&pixels, *size, &damage);
            source.convert(picture)?;
            let encoded = encoder.encode(picture)?;
            least = least.min(likeness(&decoder.decode(encoded.bytes)?, source)?);
        }
    }
    if least >= LEAST_PSNR {
        Ok(format!("at least {least:.1} dB"))
    } else {
        Err(format!("{least:.1} dB").into())
    }
}

fn platform_device() -> Outcome<String> {
    let name = fs::read_dir(DEVICES)?.filter_map(Result::ok).map(|entry| entry.file_name());
    let mut names =
        name.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("vicodec"));
    Ok(names.next().ok_or("there is no device for the driver")?)
}

fn unplugged() -> Outcome<String> {
    const PICTURES: u32 = 30;
    const UNPLUG_AFTER: u32 = 8;
    let (width, height) = SIZES[0];
    let (settings, damage) = (Settings::motion(width, height, 24), all((width, height)));
    let hardware = V4l2::open(&encoder()?, Coded::Fwht, settings, Steering::Quantiser, PATIENCE)?;
    let mut encoder = Guarded::new(Box::new(hardware), settings);
    let mut decoder = openh264::decoder::Decoder::new()?;
    let mut source = I420::new(width, height)?;
    let device = platform_device()?;
    let mut unplugging = None;
    let (mut in_hardware, mut key_frames, mut least) = (0, Vec::new(), f64::INFINITY);
    let (mut failure, mut gap) = (None, Duration::ZERO);
    for number in 0..PICTURES {
        if number == UNPLUG_AFTER {
            // At any moment of the pictures that follow.
            let device = device.clone();
            unplugging =
                Some(std::thread::spawn(move || fs::write(Path::new(DRIVER).join("unbind"), device)));
        }
        let pixels = moving_picture(width, height, number);
        let picture = frame(&pixels, (width, height), &damage);
        source.convert(picture)?;
        let start = Instant::now();
        let encoded = encoder.encode(picture)?;
        let took = start.elapsed();
        let (bytes, key_frame) = (encoded.bytes.to_vec(), encoded.key_frame);
        if let Some(error) = encoder.take_failure() {
            failure = Some((number, error));
            gap = took;
        }
        if failure.is_none() {
            in_hardware += 1;
            continue;
        }
        if key_frame {
            key_frames.push(number);
        }
        let decoded = decoder.decode(&bytes)?.ok_or("software wrote no picture")?;
        let (stride, _, _) = decoded.strides();
        let coded = source.coded_size().0;
        let rows = decoded.y().chunks(stride).zip(source.y().chunks(coded));
        least = least.min(psnr(rows.flat_map(|(a, b)| a.iter().zip(b))));
    }
    if let Some(thread) = unplugging {
        thread.join().map_err(|_| "the thread that unplugs died")??;
    }
    let Some((number, error)) = failure else { return Err("it was never noticed".into()) };
    let text = format!(
        "{in_hardware} pictures in hardware; at picture {number}: {error}; {} ms for that one; then {} by {}, key \
         frames {key_frames:?}, at least {least:.1} dB",
        gap.as_millis(),
        PICTURES - number,
        encoder.name()
    );
    let gone = matches!(&error, Error::Device { .. });
    if key_frames == [number]
        && gone
        && in_hardware >= UNPLUG_AFTER
        && least >= LEAST_PSNR
        && encoder.name() == "OpenH264"
    {
        Ok(text)
    } else {
        Err(text.into())
    }
}

fn replugged() -> Outcome<String> {
    if let Ok(found) = encoder() {
        return Err(format!("{} is still there", found.display()).into());
    }
    fs::write(Path::new(DRIVER).join("bind"), platform_device()?)?;
    let end = Instant::now() + Duration::from_secs(20);
    let path = loop {
        match encoder() {
            Ok(path) => break path,
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    examine(&path, Coded::Fwht, PATIENCE)?;
    Ok(path.display().to_string())
}
