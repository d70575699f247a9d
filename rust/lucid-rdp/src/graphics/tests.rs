//! A small client that does what it is told, held against the pictures that it should show.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ironrdp_graphics::clearcodec::ClearCodecDecoder;
use lucid_desktop::{Frame, Rect};
use lucid_replay::Player;
use lucid_session::video::Record;
use openh264::decoder::Decoder;
use openh264::formats::YUVSource as _;

use super::cells::CELL;
use super::*;
use crate::egfx;

struct Client {
    width: usize,
    pixels: Vec<u8>,
    clearcodec: ClearCodecDecoder,
    avc: Decoder,
    /// What it keeps: width and pixels.
    kept: HashMap<u16, (usize, Vec<[u8; 3]>)>,
    room: usize,
}

impl Client {
    fn new(width: u32, height: u32) -> Client {
        Client {
            width: width as usize,
            pixels: vec![0x55; (width * height * 4) as usize],
            clearcodec: ClearCodecDecoder::new(),
            avc: Decoder::new().unwrap(),
            kept: HashMap::new(),
            room: 16 << 20,
        }
    }

    fn paint(&mut self, place: Rect, source: impl Fn(usize, usize) -> [u8; 3]) {
        for y in 0..place.height as usize {
            for x in 0..place.width as usize {
                let at = ((place.y as usize + y) * self.width + place.x as usize + x) * 4;
                self.pixels[at..at + 3].copy_from_slice(&source(x, y));
            }
        }
    }

    fn run(&mut self, command: &Command) {
        match command {
            Command::Copy(copy) => {
                let (old, width) = (self.pixels.clone(), self.width);
                let from = copy.from;
                self.paint(copy.target(), |x, y| {
                    let at = ((from.y as usize + y) * width + from.x as usize + x) * 4;
                    [old[at], old[at + 1], old[at + 2]]
                });
            }
            Command::Fill { pixel, rects } => {
                let [b, g, r, _] = pixel.to_le_bytes();
                for rect in rects {
                    self.paint(*rect, |_, _| [b, g, r]);
                }
            }
            Command::Lossless { place, bytes } => {
                let (width, height) = (place.width as u16, place.height as u16);
                let bgra = self.clearcodec.decode(bytes, width, height).unwrap();
                self.paint(*place, |x, y| {
                    let at = (y * usize::from(width) + x) * 4;
                    [bgra[at], bgra[at + 1], bgra[at + 2]]
                });
            }
            Command::Avc420 { bytes, rects, .. } => {
                let mut avc = std::mem::replace(&mut self.avc, Decoder::new().unwrap());
                let yuv = avc.decode(bytes).unwrap().expect("one access unit is one picture");
                let (stride, chroma_stride, _) = yuv.strides();
                for rect in rects {
                    self.paint(*rect, |x, y| {
                        let (x, y) = (rect.x as usize + x, rect.y as usize + y);
                        let luma = f32::from(yuv.y()[y * stride + x]);
                        let at = y / 2 * chroma_stride + x / 2;
                        let (cb, cr) = (f32::from(yuv.u()[at]) - 128.0, f32::from(yuv.v()[at]) - 128.0);
                        let (r, b) = (luma + 1.5748 * cr, luma + 1.8556 * cb);
                        let g = luma - 0.4681 * cr - 0.1873 * cb;
                        [b as u8, g as u8, r as u8]
                    });
                }
                self.avc = avc;
            }
            Command::Keep { place, slot, .. } => {
                assert!((1..=4096).contains(slot), "{slot}");
                let at = |x: u32, y: u32| ((y as usize * self.width) + x as usize) * 4;
                let pixels = (place.y..place.y + place.height)
                    .flat_map(|y| (place.x..place.x + place.width).map(move |x| (x, y)))
                    .map(|(x, y)| self.pixels[at(x, y)..at(x, y) + 3].try_into().unwrap())
                    .collect();
                let before = self.kept.insert(*slot, (place.width as usize, pixels));
                assert!(before.is_none(), "slot {slot} was not free");
                let bytes: usize = self.kept.values().map(|(_, pixels)| pixels.len() * 4).sum();
                assert!(bytes <= self.room, "{bytes} bytes are kept");
            }
            Command::Recall { slot, place } => {
                let (width, pixels) = self.kept.remove(slot).expect("a slot that holds something");
                assert_eq!(pixels.len(), (place.width * place.height) as usize);
                assert_eq!(width, place.width as usize);
                self.paint(*place, |x, y| pixels[y * width + x]);
                self.kept.insert(*slot, (width, pixels));
            }
            Command::Evict { slot } => {
                assert!(self.kept.remove(slot).is_some(), "slot {slot} holds nothing");
            }
        }
    }
}

#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % limit
    }

    fn rect(&mut self, width: u32, height: u32) -> Rect {
        let (x, y) = (self.below(width), self.below(height));
        Rect { x, y, width: 1 + self.below(width - x), height: 1 + self.below(height - y) }
    }
}

/// A desktop that changes at random.
struct Desk {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
    /// What it looked like now and then.
    before: Vec<Vec<u8>>,
}

impl Desk {
    fn new(width: u32, height: u32) -> Desk {
        Desk { width, height, pixels: vec![0x30; (width * height * 4) as usize], before: Vec::new() }
    }

    /// A rectangle looks as it did before.
    fn restore(&mut self, r: Rect, before: &[u8]) {
        let width = self.width;
        self.paint(r, |x, y| {
            let at = (((r.y + y) * width + r.x + x) * 4) as usize;
            u32::from_le_bytes([before[at], before[at + 1], before[at + 2], before[at + 3]])
        });
    }

    fn frame<'a>(&'a self, damage: &'a [Rect]) -> Frame<'a> {
        let (width, height) = (self.width, self.height);
        Frame { width, height, stride: width as usize * 4, pixels: &self.pixels, damage }
    }

    fn paint(&mut self, r: Rect, mut colour: impl FnMut(u32, u32) -> u32) {
        for y in r.y..r.y + r.height {
            for x in r.x..r.x + r.width {
                let at = ((y * self.width + x) * 4) as usize;
                self.pixels[at..at + 4].copy_from_slice(&colour(x - r.x, y - r.y).to_le_bytes());
            }
        }
    }

    /// Fills a rectangle with letters of 10 by 22 pixels.
    fn write(&mut self, r: Rect, random: &mut Random) {
        let seeds: Vec<u32> = (0..r.width / 10 * (r.height / 22)).map(|_| random.below(40)).collect();
        self.paint(r, |x, y| {
            let seed = seeds[(y / 22 * (r.width / 10) + x / 10) as usize];
            let ink = seed > 5 && (2..18).contains(&(y % 22)) && (x % 10 * 3 + y % 22 * 5 + seed * 2) % 7 < 2;
            if ink { 0x00ff_ffff } else { 0x3030_3030 }
        });
    }

    /// Moves a rectangle's content within the picture; returns what changed.
    fn shift(&mut self, r: Rect, dx: i32, dy: i32) -> Rect {
        let old = self.pixels.clone();
        let (x, y) = (
            (r.x as i32 + dx).clamp(0, (self.width - r.width) as i32) as u32,
            (r.y as i32 + dy).clamp(0, (self.height - r.height) as i32) as u32,
        );
        let width = self.width;
        self.paint(Rect { x, y, ..r }, |column, row| {
            let at = (((r.y + row) * width + r.x + column) * 4) as usize;
            u32::from_le_bytes([old[at], old[at + 1], old[at + 2], old[at + 3]])
        });
        let (left, top) = (x.min(r.x), y.min(r.y));
        let (right, bottom) = (x.max(r.x) + r.width, y.max(r.y) + r.height);
        Rect { x: left, y: top, width: right - left, height: bottom - top }
    }

    fn change(&mut self, random: &mut Random) -> Vec<Rect> {
        if random.below(3) == 0 {
            self.before.push(self.pixels.clone());
            self.before.drain(..self.before.len().saturating_sub(4));
        }
        if random.below(3) == 0 && !self.before.is_empty() {
            let whole = Rect { x: 0, y: 0, width: self.width, height: self.height };
            let r = if random.below(2) == 0 { whole } else { random.rect(self.width, self.height) };
            let before = self.before[random.below(self.before.len() as u32) as usize].clone();
            self.restore(r, &before);
            return vec![r];
        }
        (0..1 + random.below(3))
            .map(|_| {
                let r = random.rect(self.width, self.height);
                let seed = random.below(1000);
                let (dx, dy) = (random.below(81) as i32 - 40, random.below(81) as i32 - 40);
                match random.below(7) {
                    0 => self.paint(r, |_, _| seed * 0x0001_2345),
                    1 => {
                        let mut noise = random.clone();
                        self.paint(r, |_, _| noise.below(1 << 24));
                    }
                    2 => self.paint(r, |x, y| ((x + seed) * (y + 3)) % 0x00ff_ffff),
                    3 => return self.shift(r, 0, dy),
                    4 => return self.shift(r, dx, dy),
                    _ => self.paint(r, |x, y| {
                        let bits = ((x / 9 + y / 17 * 31 + seed).wrapping_mul(0x9e37_79b9)) >> 4;
                        if bits >> (x % 9 + y % 17 % 5 * 3) & 1 == 1 { 0x00f0_f0f0 } else { 0x0020_2020 }
                    }),
                }
                r
            })
            .collect()
    }
}

/// A picture with all its commands; what goes ahead never waits for H.264.
fn draw(surface: &mut Surface, frame: &Frame<'_>, wishes: Wishes, now: Instant) -> Drawing {
    let mut commands = Vec::new();
    let drawing = surface.draw(frame, wishes, now, |ahead| commands.extend(ahead)).unwrap();
    assert!(commands.iter().all(|c| !matches!(c, Command::Avc420 { .. })));
    commands.extend(drawing.commands);
    Drawing { commands, ..drawing }
}

/// Every square that is not noted as inexact has to be right, always.
fn check(surface: &Surface, client: &Client, desk: &Desk, what: &str) {
    for row in 0..desk.height.div_ceil(CELL) {
        for column in 0..desk.width.div_ceil(CELL) {
            if surface.inexact.is_inexact(column, row) {
                continue;
            }
            for y in row * CELL..(row * CELL + CELL).min(desk.height) {
                for x in column * CELL..(column * CELL + CELL).min(desk.width) {
                    let at = ((y * desk.width + x) * 4) as usize;
                    assert_eq!(client.pixels[at..at + 3], desk.pixels[at..at + 3], "{what}: {x},{y}");
                }
            }
        }
    }
}

#[test]
fn whatever_happens_the_client_shows_it_exactly_after_a_second_of_stillness() {
    let begin = Instant::now();
    let mut saw_avc = 0;
    let mut saw_copies = 0;
    let mut saw_late = 0;
    let (mut saw_recalls, mut saw_evictions) = (0, 0);
    for seed in 0..12 {
        let mut random = Random(seed);
        let (width, height) = (200 + random.below(500), 150 + random.below(350));
        let wishes = Wishes {
            avc420: seed % 4 != 0,
            budget: [8 << 10, 64 << 10, 1 << 20][seed as usize % 3],
            refine: false,
        };
        let mut desk = Desk::new(width, height);
        let room = [Room::Small, Room::Large][seed as usize % 2];
        let mut surface = Surface::new(width, height, room, VideoEncoders::software());
        let mut client = Client::new(width, height);
        // One that sees nothing of what came before the last cut.
        let mut late: Option<Client> = None;
        if seed % 3 != 0 {
            client.room = 40 * (TILE * TILE * 4) as usize;
            surface.cache.shrink(client.room, if seed % 3 == 1 { 4095 } else { 20 });
        }
        let mut now = begin;
        for round in 0..60 {
            let damage = desk.change(&mut random);
            if random.below(25) == 0 {
                surface.lost();
                client.pixels.fill(0x99);
            }
            now += Duration::from_millis(u64::from(random.below(200)));
            if random.below(8) == 0 {
                surface.cut().iter().for_each(|c| client.run(c));
                let pixels = surface.shown().to_vec();
                late = Some(Client { pixels, room: client.room, ..Client::new(width, height) });
            }
            let wishes = Wishes { refine: random.below(4) == 0, ..wishes };
            let drawing = draw(&mut surface, &desk.frame(&damage), wishes, now);
            for command in &drawing.commands {
                saw_avc += u32::from(matches!(command, Command::Avc420 { .. }));
                saw_copies += u32::from(matches!(command, Command::Copy(_)));
                saw_recalls += u32::from(matches!(command, Command::Recall { .. }));
                saw_evictions += u32::from(matches!(command, Command::Evict { .. }));
                client.run(command);
                late.iter_mut().for_each(|late| late.run(command));
            }
            check(&surface, &client, &desk, &format!("seed {seed}, round {round}"));
            if let Some(late) = &late {
                saw_late += 1;
                let seen = client.pixels.chunks(4).zip(late.pixels.chunks(4));
                assert!(seen.into_iter().all(|(a, b)| a[..3] == b[..3]), "seed {seed}, round {round}: late");
            }

            if round % 20 == 19 {
                // Stillness: what the session does when its timer runs out.
                let deadline = now + Duration::from_secs(1);
                let mut wait = drawing.refine_in;
                while let Some(some) = wait {
                    now += some + Duration::from_millis(1);
                    assert!(now < deadline || wishes.budget < 100_000, "not exact after a second");
                    let wishes = Wishes { refine: true, ..wishes };
                    let drawing = draw(&mut surface, &desk.frame(&[]), wishes, now);
                    assert!(drawing.commands.iter().all(|c| !matches!(c, Command::Avc420 { .. })));
                    for command in &drawing.commands {
                        client.run(command);
                        late.iter_mut().for_each(|late| late.run(command));
                    }
                    wait = drawing.refine_in;
                }
                let seen = client.pixels.chunks(4).zip(desk.pixels.chunks(4));
                assert!(seen.into_iter().all(|(a, b)| a[..3] == b[..3]), "seed {seed}, round {round}");
            }
        }
    }
    assert!(saw_avc > 20 && saw_copies > 20, "{saw_avc} H.264 pictures, {saw_copies} copies");
    assert!(saw_late > 300, "{saw_late} pictures seen from a cut on");
    assert!(saw_recalls > 100 && saw_evictions > 100, "{saw_recalls} recalls, {saw_evictions} evictions");
}

#[test]
fn a_typed_letter_takes_a_few_hundred_bytes_and_no_h264() {
    let mut desk = Desk::new(1920, 1080);
    let mut surface = Surface::new(1920, 1080, Room::Small, VideoEncoders::software());
    let wishes = Wishes { avc420: true, budget: 64 << 10, refine: false };
    let whole = [Rect { x: 0, y: 0, width: 1920, height: 1080 }];
    draw(&mut surface, &desk.frame(&whole), wishes, Instant::now());
    for letter in 0..30 {
        let place = Rect { x: 40 + letter * 10, y: 500, width: 10, height: 22 };
        desk.paint(place, |x, y| if (x * 7 + y * 3 + letter) % 5 < 2 { 0x00ff_ffff } else { 0x3030_3030 });
        let drawing = draw(&mut surface, &desk.frame(&[place]), wishes, Instant::now());
        let bytes: usize = drawing.commands.iter().map(Command::size).sum();
        assert!(bytes < 500, "{bytes}");
        assert!(drawing.commands.iter().all(|c| !matches!(c, Command::Keep { .. } | Command::Recall { .. })));
        assert!(drawing.refine_in.is_none());
    }
}

#[test]
fn scrolled_text_is_copied_and_only_the_new_line_is_sent() {
    let mut random = Random(4);
    let mut desk = Desk::new(1920, 1080);
    let mut surface = Surface::new(1920, 1080, Room::Small, VideoEncoders::software());
    let mut client = Client::new(1920, 1080);
    let wishes = Wishes { avc420: true, budget: 1 << 20, refine: false };
    let page = Rect { x: 100, y: 50, width: 1700, height: 990 };
    desk.write(page, &mut random);
    let whole = [Rect { x: 0, y: 0, width: 1920, height: 1080 }];
    let first = draw(&mut surface, &desk.frame(&whole), wishes, Instant::now());
    first.commands.iter().for_each(|c| client.run(c));
    for line in 0..8 {
        desk.shift(Rect { y: page.y + 22, height: page.height - 22, ..page }, 0, -22);
        desk.write(Rect { y: page.y + 44 * 22, height: 22, ..page }, &mut random);
        let drawing = draw(&mut surface, &desk.frame(&[page]), wishes, Instant::now());
        let bytes: usize = drawing.commands.iter().map(Command::size).sum();
        // The first lines bring letters that the client does not have yet.
        assert!(bytes < if line < 4 { 40_000 } else { 8_000 }, "line {line}: {bytes} bytes");
        let kept = drawing.commands.iter().filter(|c| matches!(c, Command::Keep { .. })).count();
        assert!(kept < 30, "{kept} tiles that went with the page were kept");
        drawing.commands.iter().for_each(|c| client.run(c));
        check(&surface, &client, &desk, "scrolling");
    }
}

/// What the client is told, after it has drawn it.
fn show(surface: &mut Surface, client: &mut Client, desk: &Desk, now: Instant) -> Vec<Command> {
    let wishes = Wishes { avc420: true, budget: 1 << 20, refine: true };
    let whole = [Rect { x: 0, y: 0, width: desk.width, height: desk.height }];
    let drawing = draw(surface, &desk.frame(&whole), wishes, now);
    drawing.commands.iter().for_each(|c| client.run(c));
    check(surface, client, desk, "a window");
    drawing.commands
}

fn size(commands: &[Command]) -> usize {
    commands.iter().map(Command::size).sum()
}

#[test]
fn a_window_that_comes_back_takes_a_twentieth_of_its_bytes() {
    let begin = Instant::now();
    let mut random = Random(8);
    for room in [Room::Small, Room::Large] {
        let mut desk = Desk::new(1920, 1080);
        let mut surface = Surface::new(1920, 1080, room, VideoEncoders::software());
        let mut client = Client::new(1920, 1080);
        let windows: Vec<Vec<u8>> = (0..2)
            .map(|_| {
                desk.write(Rect { x: 10, y: 30, width: 1900, height: 1034 }, &mut random);
                desk.pixels.clone()
            })
            .collect();
        let mut bytes = Vec::new();
        for turn in 0..8 {
            desk.pixels = windows[turn % 2].clone();
            let now = begin + Duration::from_secs(turn as u64);
            let mut sum = size(&show(&mut surface, &mut client, &desk, now));
            for later in [400, 800] {
                sum += size(&show(&mut surface, &mut client, &desk, now + Duration::from_millis(later)));
            }
            bytes.push(sum);
        }
        // Tiles whose half could be copied were not kept at first.
        assert!(bytes[2..].iter().all(|back| back * 3 < bytes[1]), "{bytes:?}");
        assert!(bytes[4..].iter().all(|back| back * 20 < bytes[1]), "{bytes:?}");
    }
}

#[test]
fn a_photograph_that_comes_back_is_exact_at_once() {
    let begin = Instant::now();
    let mut random = Random(3);
    let mut desk = Desk::new(1280, 720);
    let mut surface = Surface::new(1280, 720, Room::Small, VideoEncoders::software());
    let mut client = Client::new(1280, 720);
    let place = Rect { x: 0, y: 0, width: 1024, height: 640 };
    let mut pictures: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2 {
        desk.paint(place, |x, y| {
            (x * 3 + random.below(40)) << 16 | (y * 2 + random.below(40)) << 8 | random.below(99)
        });
        pictures.push(desk.pixels.clone());
    }
    let mut now = begin;
    for turn in 0..4 {
        desk.pixels = pictures[turn % 2].clone();
        let bytes = size(&show(&mut surface, &mut client, &desk, now));
        let exact = |client: &Client, desk: &Desk| {
            client.pixels.chunks(4).zip(desk.pixels.chunks(4)).all(|(a, b)| a[..3] == b[..3])
        };
        assert_eq!(exact(&client, &desk), turn >= 2, "{turn}");
        assert!(turn < 2 || bytes < 10_000, "{bytes}");
        for _ in 0..40 {
            now += Duration::from_millis(400);
            show(&mut surface, &mut client, &desk, now);
        }
        assert!(exact(&client, &desk));
    }
}

#[test]
fn what_never_rests_is_not_kept() {
    let begin = Instant::now();
    let mut random = Random(5);
    let mut desk = Desk::new(640, 480);
    let mut surface = Surface::new(640, 480, Room::Small, VideoEncoders::software());
    let mut client = Client::new(640, 480);
    for turn in 0..60 {
        desk.write(Rect { x: 64, y: 64, width: 400, height: 308 }, &mut random);
        show(&mut surface, &mut client, &desk, begin + Duration::from_millis(turn * 40));
    }
    // Those of the first pictures, before it is known.
    let tiles = 7 * 5;
    assert!(!client.kept.is_empty() && client.kept.len() <= tiles * 3, "{}", client.kept.len());
}

#[test]
fn more_than_a_client_keeps_does_not_push_itself_out() {
    let begin = Instant::now();
    let mut random = Random(6);
    let mut desk = Desk::new(1280, 720);
    let mut surface = Surface::new(1280, 720, Room::Small, VideoEncoders::software());
    let mut client = Client::new(1280, 720);
    client.room = 120 * (TILE * TILE * 4) as usize;
    surface.cache.shrink(client.room, 4095);
    let windows: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            desk.write(Rect { x: 0, y: 0, width: 1280, height: 704 }, &mut random);
            desk.pixels.clone()
        })
        .collect();
    for turn in 0..9 {
        desk.pixels = windows[turn % 2].clone();
        let commands = show(&mut surface, &mut client, &desk, begin + Duration::from_secs(turn as u64));
        let recalls = commands.iter().filter(|c| matches!(c, Command::Recall { .. })).count();
        let kept = commands.iter().filter(|c| matches!(c, Command::Keep { .. })).count();
        // Half of the room for each, and as many of the other are what goes.
        assert_eq!(
            (kept, recalls),
            (if matches!(turn, 1 | 2) { 60 } else { 0 }, if turn < 2 { 0 } else { 60 })
        );
    }
}

#[test]
fn text_that_appears_in_a_film_is_exact_after_a_moment_though_the_film_goes_on() {
    let (width, height) = (640, 448);
    let mut desk = Desk::new(width, height);
    let mut surface = Surface::new(width, height, Room::Small, VideoEncoders::software());
    let mut client = Client::new(width, height);
    let wishes = Wishes { avc420: true, budget: 1 << 20, refine: true };
    // Neither fits the squares.
    let film = Rect { x: 0, y: 136, width, height: height - 136 };
    let text = Rect { x: 0, y: 0, width, height: 136 };
    let (mut now, mut films) = (Instant::now(), 0);
    for step in 0..60_u32 {
        let moving = if step < 40 { Rect { x: 0, y: 0, width, height } } else { film };
        desk.paint(moving, |x, y| ((x * 3 + step * 11) % 256) << 16 | ((y * 5 + x + step * 7) % 256));
        let mut damage = vec![moving];
        if step == 40 {
            let letter = |x: u32, y: u32| x % 9 > 1 && y % 20 > 4 && (x / 9 * 7 + y / 20 * 5 + x * y) % 3 < 1;
            desk.paint(text, |x, y| if letter(x, y) { 0x00f0_f0f0 } else { 0x0020_2020 });
            damage.push(text);
        }
        let drawing = draw(&mut surface, &desk.frame(&damage), wishes, now);
        films += u32::from(drawing.commands.iter().any(|c| matches!(c, Command::Avc420 { .. })));
        drawing.commands.iter().for_each(|c| client.run(c));
        check(&surface, &client, &desk, &format!("step {step}"));
        now += Duration::from_millis(33);
    }
    assert!(films > 50, "{films} pictures of a film");
    for row in 0..text.height / CELL {
        for column in 0..width / CELL {
            assert!(!surface.inexact.is_inexact(column, row), "{column},{row}");
        }
    }
}

#[test]
fn in_a_film_what_has_moved_is_searched_for_ever_more_rarely_and_elsewhere_always() {
    let mut search = Search::default();
    let mut searched = Vec::new();
    for picture in 0..40 {
        if search.is_due(true) {
            searched.push(picture);
            search.ended(false);
        }
    }
    assert_eq!(searched[..4], [0, 2, 5, 9]);
    assert!(searched.windows(2).all(|pair| pair[1] - pair[0] <= SEARCH_EACH.into()));
    assert!(search.is_due(false), "no film");
    search.ended(false);
    assert!(search.is_due(false));
    search.ended(true);
    assert!(search.is_due(true), "the last one found something");
}

#[test]
fn what_is_kept_takes_a_part_of_what_a_slow_link_bears() {
    let mut random = Random(7);
    let mut desk = Desk::new(1280, 720);
    let mut surface = Surface::new(1280, 720, Room::Small, VideoEncoders::software());
    let mut client = Client::new(1280, 720);
    let whole = [Rect { x: 0, y: 0, width: 1280, height: 720 }];
    let mut kept = Vec::new();
    for turn in 0..4 {
        desk.write(Rect { x: 0, y: 0, width: 1280, height: 704 }, &mut random);
        let wishes = Wishes { avc420: false, budget: 8 << 10, refine: false };
        let now = Instant::now() + Duration::from_secs(turn);
        let commands = draw(&mut surface, &desk.frame(&whole), wishes, now).commands;
        commands.iter().for_each(|c| client.run(c));
        let naming = commands.iter().filter(|c| matches!(c, Command::Keep { .. } | Command::Evict { .. }));
        kept.push(naming.map(Command::size).sum::<usize>());
    }
    assert!(kept[1..].iter().all(|bytes| (1000..=2 << 10).contains(bytes)), "{kept:?}");
}

/// Lets the desktop rest until all is exact; gives the bytes of each refinement.
fn refined(
    surface: &mut Surface,
    client: &mut Client,
    desk: &Desk,
    wishes: Wishes,
    now: Instant,
) -> Vec<usize> {
    let (mut now, mut pieces) = (now, Vec::new());
    while let Some(wait) = surface.inexact.wait(now) {
        now += wait;
        let wishes = Wishes { refine: true, ..wishes };
        let drawing = draw(surface, &desk.frame(&[]), wishes, now);
        drawing.commands.iter().for_each(|c| client.run(c));
        pieces.push(size(&drawing.commands));
    }
    pieces
}

#[test]
fn what_takes_far_more_than_was_thought_goes_on_as_h264_and_is_exact_a_moment_later() {
    let mut random = Random(9);
    let mut desk = Desk::new(640, 480);
    let mut surface = Surface::new(640, 480, Room::Small, VideoEncoders::software());
    let mut client = Client::new(640, 480);
    let now = Instant::now();
    show(&mut surface, &mut client, &desk, now);
    // As after much text that was there before.
    surface.thrift = 5;
    let place = Rect { x: 30, y: 40, width: 256, height: 256 };
    desk.paint(place, |_, _| random.below(2) * 0x00ff_ffff);
    let wishes = Wishes { avc420: true, budget: 8 << 10, refine: false };
    let drawing = draw(&mut surface, &desk.frame(&[place]), wishes, now);
    drawing.commands.iter().for_each(|c| client.run(c));
    check(&surface, &client, &desk, "more than was thought");
    let (avc, lossless): (Vec<_>, Vec<_>) =
        drawing.commands.into_iter().partition(|c| matches!(c, Command::Avc420 { .. }));
    assert_eq!(avc.len(), 1);
    let bytes = size(&lossless);
    assert!((2 * wishes.budget..4 * wishes.budget).contains(&bytes), "{bytes} bytes");
    assert!(surface.thrift > 5);
    // The rest in pieces that the link bears, and from what they take it is learnt what the next will.
    let pieces = refined(&mut surface, &mut client, &desk, wishes, now);
    assert!(pieces.iter().all(|bytes| *bytes < 4 * wishes.budget), "{pieces:?}");
    let seen = client.pixels.chunks(4).zip(desk.pixels.chunks(4));
    assert!(seen.into_iter().all(|(a, b)| a[..3] == b[..3]));
}

#[test]
fn text_that_was_coarse_is_made_exact_in_few_pieces_once_it_is_known_what_text_takes() {
    let mut random = Random(10);
    let mut desk = Desk::new(1280, 720);
    let mut surface = Surface::new(1280, 720, Room::Small, VideoEncoders::software());
    let mut client = Client::new(1280, 720);
    let whole = [Rect { x: 0, y: 0, width: 1280, height: 720 }];
    let wishes = Wishes { avc420: true, budget: 16 << 10, refine: false };
    let now = Instant::now();
    desk.write(Rect { x: 0, y: 0, width: 1280, height: 704 }, &mut random);
    let drawing = draw(&mut surface, &desk.frame(&whole), wishes, now);
    drawing.commands.iter().for_each(|c| client.run(c));
    let pieces = refined(&mut surface, &mut client, &desk, wishes, now);
    check(&surface, &client, &desk, "text");
    // The first takes what is thought of text that was never seen; later ones fill what the link bears.
    let fullest = pieces.iter().copied().max().unwrap_or_default();
    assert!((8 << 10..48 << 10).contains(&fullest), "{pieces:?}");
    assert!(pieces.len() < 20, "{pieces:?}");
}

#[test]
fn a_recording_played_from_any_cut_on_shows_what_the_client_shows() {
    let (width, height) = (421, 299);
    let (mut random, mut now) = (Random(7), Instant::now());
    let wishes = Wishes { avc420: true, budget: 64 << 10, refine: true };
    let mut desk = Desk::new(width, height);
    let mut surface = Surface::new(width, height, Room::Large, VideoEncoders::software());
    let mut client = Client::new(width, height);
    client.pixels.fill(0);
    client.room = 100 << 20;
    let mut player = Player::default();
    let size = (width as u16, height as u16);
    player.take(Record::Key { width: size.0, height: size.1, png: &[] }).unwrap();
    let (mut cuts, mut rough) = (0, 0);
    for round in 0..150 {
        if round % 15 == 14 {
            let forget = surface.cut();
            player.take(Record::Frame(&egfx::frame_bytes(&forget, 3, round, 0).unwrap())).unwrap();
            forget.iter().for_each(|c| client.run(c));
            let rgb: Vec<u8> = surface.shown().chunks(4).flat_map(|p| [p[2], p[1], p[0]]).collect();
            let mut png = Vec::new();
            let mut encoder = png::Encoder::new(&mut png, width, height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&rgb).unwrap();
            // Whoever comes now has seen nothing before.
            player = Player::default();
            // A record holds so much of a key.
            for record in Record::of_key(size.0, size.1, &png, 10_000) {
                player.take(record).unwrap();
            }
            cuts += 1;
        }
        let damage = desk.change(&mut random);
        now += Duration::from_millis(u64::from(random.below(150)));
        let drawing = draw(&mut surface, &desk.frame(&damage), wishes, now);
        let frame = egfx::frame_bytes(&drawing.commands, 3, round, 0).unwrap();
        player.take(Record::Frame(&frame)).unwrap();
        let picture = player.picture().unwrap().clone();
        drawing.commands.iter().for_each(|c| client.run(c));
        check(&surface, &client, &desk, "the client");
        for (at, (seen, shown)) in picture.pixels.chunks(4).zip(client.pixels.chunks(4)).enumerate() {
            let off = [0, 1, 2].map(|i| seen[i].abs_diff(shown[2 - i])).into_iter().max().unwrap();
            let (x, y) = (at as u32 % width, at as u32 / width);
            // Two decoders of H.264 round differently.
            let bound = if surface.inexact.is_inexact(x / CELL, y / CELL) { 3 } else { 0 };
            assert!(off <= bound, "round {round}: {x},{y} is off by {off}");
            rough += u32::from(bound > 0);
        }
    }
    assert!(cuts == 10 && rough > 10_000, "{cuts} cuts, {rough} pixels of H.264");
}
