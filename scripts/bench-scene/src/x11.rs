//! The scene on X11: one window over the whole screen, painted from shared memory.

use std::os::fd::AsFd as _;

use rustix::fs::MemfdFlags;
use x11rb::connection::Connection as _;
use x11rb::protocol::Event;
use x11rb::protocol::shm::ConnectionExt as _;
use x11rb::protocol::xproto::{
    ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask, ImageFormat, InputFocus, WindowClass,
};
use x11rb::rust_connection::RustConnection;

use crate::{Area, Clock, Failure, Key, Picture, sleep, store};

/// X11 counts keys from 8 on.
const KEYCODE_OFFSET: u32 = 8;

pub(crate) fn show() -> Result<(), Failure> {
    let (connection, number) = RustConnection::connect(None)?;
    let screen = connection.setup().roots.get(number).ok_or("the X server has no screen")?;
    let (width, height) = (screen.width_in_pixels, screen.height_in_pixels);
    let window = connection.generate_id()?;
    let settings = CreateWindowAux::new()
        .override_redirect(1)
        .event_mask(EventMask::KEY_PRESS | EventMask::EXPOSURE | EventMask::STRUCTURE_NOTIFY);
    connection.create_window(
        screen.root_depth,
        window,
        screen.root,
        0,
        0,
        width,
        height,
        0,
        WindowClass::INPUT_OUTPUT,
        screen.root_visual,
        &settings,
    )?;
    connection.map_window(window)?;
    let context = connection.generate_id()?;
    connection.create_gc(context, window, &CreateGCAux::new())?;

    let mut picture = Picture::new(width.into(), height.into());
    let size = picture.pixels().len() as u64;
    let memory = rustix::fs::memfd_create("scene", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memory, size)?;
    let segment = connection.generate_id()?;
    connection.shm_attach_fd(segment, memory.try_clone()?, false)?.check()?;

    let whole = Area { x: 0, y: 0, width: width.into(), height: height.into() };
    let show = |picture: &Picture, areas: &[Area]| -> Result<(), Failure> {
        store(&memory, 0, width.into(), picture.pixels(), areas)?;
        for area in areas {
            let short = |v: usize| u16::try_from(v).unwrap_or(u16::MAX);
            connection.shm_put_image(
                window,
                context,
                width,
                height,
                short(area.x),
                short(area.y),
                short(area.width),
                short(area.height),
                short(area.x).cast_signed(),
                short(area.y).cast_signed(),
                screen.root_depth,
                ImageFormat::Z_PIXMAP.into(),
                false,
                segment,
                0,
            )?;
        }
        // Answered when the picture has been read: the memory may be changed again.
        connection.get_input_focus()?.reply()?;
        Ok(())
    };

    let mut clock = Clock::new();
    loop {
        let mut changed = Vec::new();
        while let Some(event) = connection.poll_for_event()? {
            match event {
                Event::KeyPress(press) => {
                    if let Some(key) = Key::from_evdev(u32::from(press.detail).saturating_sub(KEYCODE_OFFSET))
                    {
                        changed.extend(picture.key(key));
                    }
                }
                Event::Expose(_) => changed.push(whole),
                Event::MapNotify(_) => {
                    connection.set_input_focus(InputFocus::PARENT, window, x11rb::CURRENT_TIME)?;
                }
                Event::DestroyNotify(_) => return Ok(()),
                Event::Error(error) => return Err(format!("{error:?}").into()),
                _ => {}
            }
        }
        if clock.due(picture.work()) {
            changed.extend(picture.step());
        }
        if changed.is_empty() {
            connection.flush()?;
            sleep(connection.stream().as_fd(), clock.wait(picture.work()))?;
        } else {
            show(&picture, &changed)?;
        }
    }
}
