//! The scene on Wayland: one full-screen surface with three buffers in shared memory.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::MemfdFlags;
use wayland_client::protocol::wl_buffer::{self, WlBuffer};
use wayland_client::protocol::wl_callback::WlCallback;
use wayland_client::protocol::wl_compositor::WlCompositor;
use wayland_client::protocol::wl_keyboard::{self, KeyState, WlKeyboard};
use wayland_client::protocol::wl_output::{self, WlOutput};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::{self, WlSeat};
use wayland_client::protocol::wl_shm::{Format, WlShm};
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, WEnum, delegate_noop};
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_toplevel::{self, XdgToplevel};
use wayland_protocols::xdg::shell::client::xdg_wm_base::{self, XdgWmBase};

use crate::{Area, Clock, Failure, Key, Picture, sleep, store};

const BUFFERS: usize = 3;

struct Buffer {
    buffer: WlBuffer,
    busy: bool,
    /// What has changed since this buffer was painted last.
    stale: Vec<Area>,
}

#[derive(Default)]
struct Scene {
    globals: Vec<(u32, String)>,
    size: Option<(usize, usize)>,
    configured: bool,
    closed: bool,
    keyboard: Option<WlKeyboard>,
    keys: Vec<Key>,
    buffers: Vec<Buffer>,
}

impl Scene {
    fn bind<I: Proxy + 'static>(
        &self,
        registry: &WlRegistry,
        version: u32,
        handle: &QueueHandle<Scene>,
    ) -> Result<I, Failure>
    where
        Scene: Dispatch<I, ()>,
    {
        let name = I::interface().name;
        let (id, _) = self.globals.iter().find(|(_, n)| n == name).ok_or(format!("{name} is missing"))?;
        Ok(registry.bind(*id, version, handle, ()))
    }
}

pub(crate) fn show() -> Result<(), Failure> {
    let connection = Connection::connect_to_env()?;
    let mut queue = connection.new_event_queue();
    let handle = queue.handle();
    let registry = connection.display().get_registry(&handle, ());
    let mut scene = Scene::default();
    queue.roundtrip(&mut scene)?;
    let compositor: WlCompositor = scene.bind(&registry, 4, &handle)?;
    let shm: WlShm = scene.bind(&registry, 1, &handle)?;
    let shell: XdgWmBase = scene.bind(&registry, 1, &handle)?;
    // Its keyboard comes with the client, which may be later than this program.
    let _seat: WlSeat = scene.bind(&registry, 1, &handle)?;
    let surface = compositor.create_surface(&handle, ());
    let shell_surface = shell.get_xdg_surface(&surface, &handle, ());
    let toplevel = shell_surface.get_toplevel(&handle, ());
    toplevel.set_app_id("bench-scene".into());
    toplevel.set_fullscreen(None);
    surface.commit();
    let _output: WlOutput = scene.bind(&registry, 2, &handle)?;
    // The window takes the whole output before the compositor has said so.
    while scene.size.is_none() || !scene.configured {
        queue.blocking_dispatch(&mut scene)?;
    }
    let (width, height) = scene.size.ok_or("the compositor gave no size")?;

    let mut picture = Picture::new(width, height);
    let bytes = picture.pixels().len();
    let memory: OwnedFd = rustix::fs::memfd_create("scene", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memory, (bytes * BUFFERS) as u64)?;
    let pool = shm.create_pool(memory.as_fd(), i32::try_from(bytes * BUFFERS)?, &handle, ());
    let whole = Area { x: 0, y: 0, width, height };
    for index in 0..BUFFERS {
        let buffer = pool.create_buffer(
            i32::try_from(index * bytes)?,
            i32::try_from(width)?,
            i32::try_from(height)?,
            i32::try_from(width * 4)?,
            Format::Xrgb8888,
            &handle,
            index,
        );
        scene.buffers.push(Buffer { buffer, busy: false, stale: vec![whole] });
    }

    let mut clock = Clock::new();
    let mut changed = vec![whole];
    loop {
        queue.dispatch_pending(&mut scene)?;
        if scene.closed {
            return Ok(());
        }
        for key in std::mem::take(&mut scene.keys) {
            changed.extend(picture.key(key));
        }
        if clock.due(picture.work()) {
            changed.extend(picture.step());
        }
        let free = scene.buffers.iter().position(|buffer| !buffer.busy);
        if let (false, Some(index)) = (changed.is_empty(), free) {
            for buffer in &mut scene.buffers {
                buffer.stale.extend_from_slice(&changed);
                // Many small changes of a buffer that is not used are as good as one of everything.
                if buffer.stale.len() > 64 {
                    buffer.stale = vec![whole];
                }
            }
            if let Some(buffer) = scene.buffers.get_mut(index) {
                let stale = std::mem::take(&mut buffer.stale);
                store(&memory, (index * bytes) as u64, width, picture.pixels(), &stale)?;
                buffer.busy = true;
                surface.attach(Some(&buffer.buffer), 0, 0);
            }
            for area in changed.drain(..) {
                let int = |v: usize| i32::try_from(v).unwrap_or(i32::MAX);
                surface.damage_buffer(int(area.x), int(area.y), int(area.width), int(area.height));
            }
            surface.commit();
        }
        connection.flush()?;
        // Without a free buffer the compositor's word is waited for.
        let wait = if changed.is_empty() { clock.wait(picture.work()) } else { None };
        let Some(guard) = queue.prepare_read() else { continue };
        if sleep(connection.as_fd(), wait)? {
            guard.read()?;
        }
    }
}

impl Dispatch<WlRegistry, ()> for Scene {
    fn event(
        scene: &mut Scene,
        _: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Scene>,
    ) {
        if let wl_registry::Event::Global { name, interface, .. } = event {
            scene.globals.push((name, interface));
        }
    }
}

impl Dispatch<WlBuffer, usize> for Scene {
    fn event(
        scene: &mut Scene,
        _: &WlBuffer,
        event: wl_buffer::Event,
        index: &usize,
        _: &Connection,
        _: &QueueHandle<Scene>,
    ) {
        if let (wl_buffer::Event::Release, Some(buffer)) = (event, scene.buffers.get_mut(*index)) {
            buffer.busy = false;
        }
    }
}

impl Dispatch<WlSeat, ()> for Scene {
    fn event(
        scene: &mut Scene,
        seat: &WlSeat,
        event: wl_seat::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Scene>,
    ) {
        if let wl_seat::Event::Capabilities { capabilities: WEnum::Value(capabilities) } = event
            && capabilities.contains(wl_seat::Capability::Keyboard)
            && scene.keyboard.is_none()
        {
            scene.keyboard = Some(seat.get_keyboard(handle, ()));
        }
    }
}

impl Dispatch<WlKeyboard, ()> for Scene {
    fn event(
        scene: &mut Scene,
        _: &WlKeyboard,
        event: wl_keyboard::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Scene>,
    ) {
        if let wl_keyboard::Event::Key { key, state: WEnum::Value(KeyState::Pressed), .. } = event {
            scene.keys.extend(Key::from_evdev(key));
        }
    }
}

impl Dispatch<XdgWmBase, ()> for Scene {
    fn event(
        _: &mut Scene,
        shell: &XdgWmBase,
        event: xdg_wm_base::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Scene>,
    ) {
        if let xdg_wm_base::Event::Ping { serial } = event {
            shell.pong(serial);
        }
    }
}

impl Dispatch<XdgSurface, ()> for Scene {
    fn event(
        scene: &mut Scene,
        surface: &XdgSurface,
        event: xdg_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Scene>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            surface.ack_configure(serial);
            scene.configured = true;
        }
    }
}

impl Dispatch<XdgToplevel, ()> for Scene {
    fn event(
        scene: &mut Scene,
        _: &XdgToplevel,
        event: xdg_toplevel::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Scene>,
    ) {
        scene.closed |= matches!(event, xdg_toplevel::Event::Close);
    }
}

impl Dispatch<WlOutput, ()> for Scene {
    fn event(
        scene: &mut Scene,
        _: &WlOutput,
        event: wl_output::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Scene>,
    ) {
        if let wl_output::Event::Mode { flags: WEnum::Value(flags), width, height, .. } = event
            && flags.contains(wl_output::Mode::Current)
            && let (Ok(width), Ok(height)) = (usize::try_from(width), usize::try_from(height))
        {
            scene.size = Some((width, height));
        }
    }
}

delegate_noop!(Scene: ignore WlShm);
delegate_noop!(Scene: ignore WlSurface);
delegate_noop!(Scene: ignore WlCallback);
delegate_noop!(Scene: WlCompositor);
delegate_noop!(Scene: WlShmPool);
