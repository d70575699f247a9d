//! Which outputs are on, with which size and where: one for each monitor.

use super::{Handle, Output, Pointers, Session, Stage};
use crate::Rect;
use crate::monitors::{Arrangement, MAX_MONITORS, Monitor, locate, output_name};
use crate::shared::Targets;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_output::WlOutput;
use wayland_client::{Connection, Dispatch, Proxy, delegate_noop, event_created_child};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_head_v1::ZwlrOutputConfigurationHeadV1;
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_configuration_v1::{
    self, ZwlrOutputConfigurationV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_head_v1::{self, ZwlrOutputHeadV1};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_manager_v1::{
    self, ZwlrOutputManagerV1,
};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_mode_v1::{self, ZwlrOutputModeV1};
use wayland_protocols_wlr::virtual_pointer::v1::client::zwlr_virtual_pointer_v1::ZwlrVirtualPointerV1;

/// Times that a change of size is tried again when the compositor's state moved under it.
const MAX_RESIZE_TRIES: u32 = 8;
/// How far arrangements lie apart, in the compositor's units: wider than any.
const APART: i32 = 10_000;
/// Times in a row that outputs which a program has changed are changed back.
const MAX_MENDS: u32 = 8;

pub(super) struct Head {
    head: ZwlrOutputHeadV1,
    name: Option<String>,
    enabled: bool,
    /// Among the others, in the compositor's units.
    position: Option<(i32, i32)>,
}

#[derive(Clone, Debug)]
pub(super) struct Resize {
    pub(super) arrangement: Arrangement,
    /// See [`Session::begin_for`].
    pub(super) begin: i32,
    pub(super) tries: u32,
}

impl Session {
    /// The name of a monitor's output.
    fn name_of(&self, number: usize) -> String {
        let first = self.first_name.clone().unwrap_or_else(|| output_name(0));
        let mut others = (0..MAX_MONITORS).map(output_name).filter(|name| *name != first);
        match number.checked_sub(1) {
            None => first,
            Some(other) => others.nth(other).unwrap_or_default(),
        }
    }

    /// Where an arrangement begins, from the left. Not where an output was when it was last switched off: sway 1.10 goes
    /// on painting the black ground of a full-screen window there.
    fn begin_for(&self, count: usize) -> i32 {
        let stale = |begin: &i32| self.begins.iter().skip(count).any(|other| *other == Some(*begin));
        let mut others = (0..).step_by(APART as usize).filter(|begin| !stale(begin));
        if stale(&self.begin) { others.next().unwrap_or_default() } else { self.begin }
    }

    pub(super) fn start_resize(&mut self, handle: &Handle) {
        if self.resize_running.is_some() {
            return;
        }
        let (Some(manager), Some(serial)) = (&self.output_manager, self.serial) else { return };
        let Some(mut resize) = self.resize_wanted.take() else { return };
        resize.begin = self.begin_for(resize.arrangement.monitors().len());
        let monitors = resize.arrangement.monitors();
        let names: Vec<String> = (0..MAX_MONITORS).map(|number| self.name_of(number)).collect();
        let is_there = |name: &String| self.heads.iter().any(|head| head.name.as_ref() == Some(name));
        if let Some(missing) = names.iter().take(monitors.len()).skip(1).find(|name| !is_there(name)) {
            tracing::warn!(output = missing, "the compositor has no output for another monitor");
            let (width, height) = resize.arrangement.extent();
            self.sink.resize_failed(width, height);
            return;
        }
        let placed = !resize.arrangement.is_single() || self.monitors.is_some() || resize.begin != 0;
        let configuration = manager.create_configuration(serial, handle, ());
        for head in &self.heads {
            // Not by `enabled`: sway 1.7 says that of the only output too late.
            let number = head.name.as_ref().and_then(|name| names.iter().position(|other| other == name));
            match number.map(|number| monitors.get(number)) {
                Some(Some(monitor)) => {
                    let head = configuration.enable_head(&head.head, handle, ());
                    // Within handover::SIZES, so they fit. Refresh 0: the compositor chooses.
                    let Monitor { place, scale } = *monitor;
                    head.set_custom_mode(place.width as i32, place.height as i32, 0);
                    head.set_scale(f64::from(scale) / 100.0);
                    if placed {
                        let (x, y) = resize.arrangement.position(monitor);
                        head.set_position(resize.begin + x, y);
                    }
                }
                // A program's own.
                None if head.enabled => {
                    configuration.enable_head(&head.head, handle, ());
                }
                Some(None) | None => configuration.disable_head(&head.head),
            }
        }
        configuration.apply();
        self.resize_running = Some(resize);
    }

    fn resize_ended(&mut self, outcome: Outcome, handle: &Handle) {
        let Some(resize) = self.resize_running.take() else { return };
        match outcome {
            Outcome::Succeeded => {
                self.begin = resize.begin;
                let count = resize.arrangement.monitors().len();
                self.begins.iter_mut().take(count).for_each(|begin| *begin = Some(resize.begin));
                self.arranged(resize.arrangement, handle);
            }
            Outcome::Cancelled if resize.tries < MAX_RESIZE_TRIES => {
                // The serial is out of date; a new one has come or will come with `done`.
                self.resize_wanted.get_or_insert(Resize { tries: resize.tries + 1, ..resize });
            }
            Outcome::Failed | Outcome::Cancelled => {
                let (width, height) = resize.arrangement.extent();
                self.sink.resize_failed(width, height);
            }
        }
    }

    /// The compositor has taken an arrangement. The picture begins anew, unless there was and is one monitor: then it
    /// takes its output's size as soon as that is there.
    fn arranged(&mut self, arrangement: Arrangement, handle: &Handle) {
        self.arranged = Some(arrangement.clone());
        let several = (!arrangement.is_single()).then_some(&arrangement);
        let places = |arrangement: &Arrangement| -> Vec<Rect> {
            arrangement.monitors().iter().map(|monitor| monitor.place).collect()
        };
        if self.monitors.as_ref().map(places) == several.map(places) {
            // By itself the pointer stays where it is in the compositor's units: another pixel, at another scale.
            if let Some(place) = self.shared.pointer() {
                self.point_at = Some(Some(place));
                self.assign(handle);
            }
            return;
        }
        let extent = arrangement.extent();
        tracing::debug!(monitors = arrangement.monitors().len(), ?extent, "the outputs are arranged anew");
        self.shared.set_size(extent);
        self.point_at = Some(self.shared.pointer());
        self.shared.set_pointer(None);
        (self.picture, self.picture_size) = match several {
            Some(_) => (vec![0; extent.0 as usize * 4 * extent.1 as usize], extent),
            None => (Vec::new(), (0, 0)),
        };
        self.complete = false;
        self.stir = true;
        self.damage.clear();
        self.monitors = several.cloned();
        for output in &mut self.outputs {
            output.start_over();
        }
        self.assign(handle);
    }

    /// Finds out which outputs are monitors, and what moves the pointer in each.
    pub(super) fn assign(&mut self, handle: &Handle) {
        let several = self.monitors.clone();
        let names: Vec<String> = (0..several.as_ref().map_or(1, |monitors| monitors.monitors().len()))
            .map(|number| self.name_of(number))
            .collect();
        let mut targets = Targets::default();
        let mut monitors = Vec::new();
        for output in &mut self.outputs {
            // One that has not said its name may be the first one of a compositor that tells none.
            let Some(name) = &output.name else { continue };
            let number = names.iter().position(|other| other == name);
            if output.number != number {
                output.number = number;
                output.start_over();
                self.stir = true;
            }
            let monitor = several.as_ref().zip(number).and_then(|(all, number)| all.monitors().get(number));
            output.origin = monitor.map_or((0, 0), |monitor| (monitor.place.x, monitor.place.y));
            let (Some(monitor), Some(number), Some(pointers)) = (monitor, number, &self.pointers) else {
                continue;
            };
            let pointer = match number {
                0 => &pointers.first,
                _ => output.pointer.get_or_insert_with(|| pointers.create(Some(&output.output), handle)),
            };
            monitors.push((number, monitor.place, pointer.clone()));
        }
        monitors.sort_by_key(|(number, ..)| *number);
        targets.monitors = monitors.into_iter().map(|(_, place, pointer)| (place, pointer)).collect();
        if several.is_some()
            && let Some(pointers) = &mut self.pointers
        {
            if pointers.anywhere.is_none() {
                pointers.anywhere = Some(pointers.create(None, handle));
            }
            targets.anywhere = pointers.anywhere.clone();
        }
        self.point_again(&targets);
        self.shared.set_targets(targets);
    }

    /// Puts the pointer where it was in the picture, as soon as all outputs of a new arrangement are there: by itself
    /// it goes to the edge of the nearest output.
    fn point_again(&mut self, targets: &Targets) {
        let (Some(before), Some(arranged), Some(pointers)) = (self.point_at, &self.arranged, &self.pointers)
        else {
            return;
        };
        let first = arranged.monitors().first().map(|monitor| monitor.place);
        let Some(place) =
            before.or_else(|| first.map(|place| (place.x + place.width / 2, place.y + place.height / 2)))
        else {
            return;
        };
        let targets = match &self.monitors {
            Some(monitors) if targets.monitors.len() < monitors.monitors().len() => return,
            Some(_) => targets.monitors.clone(),
            None => first.map(|place| (place, pointers.first.clone())).into_iter().collect(),
        };
        self.point_at = None;
        let located = locate(targets.iter().map(|(place, _)| *place), place);
        if let Some((number, (x, y))) = located
            && let Some((place, pointer)) = targets.get(number)
        {
            self.shared.set_pointer(Some((place.x + x, place.y + y)));
            // The time tells nothing without a button.
            pointer.motion_absolute(0, x, y, place.width, place.height);
            pointer.frame();
        }
    }

    /// Asks for the present arrangement once more when all pictures of a new one are asked for and some have not come:
    /// an output of wlroots 0.18 that is switched on again may wait for something to change before it paints at all.
    pub(super) fn stir(&mut self, handle: &Handle) {
        if !self.stir || self.resize_running.is_some() || self.resize_wanted.is_some() {
            return;
        }
        let Some(arranged) = &self.arranged else { return };
        let shown = || self.outputs.iter().filter(|output| output.number.is_some());
        let is_asked = |output: &Output| {
            let stage = output.capture.as_ref().map(|capture| capture.stage);
            output.taken || stage == Some(Stage::Copying)
        };
        if shown().count() != arranged.monitors().len() || !shown().all(is_asked) {
            return;
        }
        self.stir = false;
        if !shown().all(|output| output.taken) {
            self.resize_wanted = Some(Resize { arrangement: arranged.clone(), begin: 0, tries: 0 });
            self.start_resize(handle);
        }
    }

    /// A global is gone, which may be an output.
    pub(super) fn output_gone(&mut self, global: u32, handle: &Handle) {
        let before = self.outputs.len();
        self.outputs.retain(|output| output.global != global);
        if self.outputs.len() != before {
            // Windows of one that a program has switched off are elsewhere until it is mended.
            self.complete = false;
            self.assign(handle);
        }
    }

    /// Has the outputs changed back when a program has changed them. The size of a single one is looked at where the
    /// picture is.
    fn mend(&mut self) {
        if self.resize_running.is_some() || self.resize_wanted.is_some() {
            return;
        }
        let Some(arranged) = &self.arranged else { return };
        let is_right = |(number, monitor): (usize, &Monitor)| {
            let Some(output) = self.outputs.iter().find(|output| output.number == Some(number)) else {
                return false;
            };
            let name = self.name_of(number);
            let head = self.heads.iter().find(|head| head.name.as_ref() == Some(&name));
            arranged.is_single()
                || (output.size == (monitor.place.width, monitor.place.height)
                    && head.and_then(|head| head.position).map(|(x, y)| (x - self.begin, y))
                        == Some(arranged.position(monitor)))
        };
        if arranged.monitors().iter().enumerate().all(is_right) {
            self.mends = 0;
            return;
        }
        self.mends = self.mends.saturating_add(1);
        if self.mends <= MAX_MENDS {
            tracing::debug!("the outputs were changed in the desktop and are changed back");
            self.resize_wanted = Some(Resize { arrangement: arranged.clone(), begin: 0, tries: 0 });
        } else if self.mends == MAX_MENDS + 1 {
            self.complete = true;
            tracing::warn!(
                "the outputs were changed in the desktop, and the compositor does not change them back"
            );
        }
    }
}

impl Output {
    /// All of it is taken into the picture anew, though nothing changes.
    pub(super) fn start_over(&mut self) {
        self.give_up_capture();
        if let Some(ext) = self.ext.take() {
            ext.session.destroy();
        }
        self.buffer = None;
        self.taken = false;
        self.at_once = true;
        self.failures = 0;
        self.pointer_place = None;
    }
}

impl Pointers {
    fn create(&self, output: Option<&WlOutput>, handle: &Handle) -> ZwlrVirtualPointerV1 {
        self.manager.create_virtual_pointer_with_output(Some(&self.seat), output, handle, ())
    }
}

/// Marks the callback after which the outputs have said what they are.
struct OutputsKnown;

impl Dispatch<WlCallback, OutputsKnown> for Session {
    fn event(
        session: &mut Session,
        _: &WlCallback,
        _: wl_callback::Event,
        _: &OutputsKnown,
        _: &Connection,
        _: &Handle,
    ) {
        session.mend();
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Succeeded,
    Failed,
    Cancelled,
}

impl Dispatch<ZwlrOutputManagerV1, ()> for Session {
    fn event(
        session: &mut Session,
        _: &ZwlrOutputManagerV1,
        event: zwlr_output_manager_v1::Event,
        (): &(),
        connection: &Connection,
        handle: &Handle,
    ) {
        match event {
            zwlr_output_manager_v1::Event::Head { head } => {
                session.heads.push(Head { head, name: None, enabled: false, position: None });
            }
            zwlr_output_manager_v1::Event::Done { serial } => {
                session.serial = Some(serial);
                // Outputs that have come with it have said what they are by then.
                connection.display().sync(handle, OutputsKnown);
            }
            _ => {}
        }
    }

    event_created_child!(Session, ZwlrOutputManagerV1, [
        zwlr_output_manager_v1::EVT_HEAD_OPCODE => (ZwlrOutputHeadV1, ()),
    ]);
}

impl Dispatch<ZwlrOutputHeadV1, ()> for Session {
    fn event(
        session: &mut Session,
        head: &ZwlrOutputHeadV1,
        event: zwlr_output_head_v1::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        match event {
            zwlr_output_head_v1::Event::Enabled { enabled } => {
                session.heads.iter_mut().filter(|h| h.head == *head).for_each(|h| h.enabled = enabled != 0);
            }
            zwlr_output_head_v1::Event::Name { name } => {
                session
                    .heads
                    .iter_mut()
                    .filter(|h| h.head == *head)
                    .for_each(|h| h.name = Some(name.clone()));
            }
            zwlr_output_head_v1::Event::Position { x, y } => {
                session.heads.iter_mut().filter(|h| h.head == *head).for_each(|h| h.position = Some((x, y)));
            }
            zwlr_output_head_v1::Event::Finished => {
                session.heads.retain(|h| h.head != *head);
                if head.version() >= 3 {
                    head.release();
                }
            }
            _ => {}
        }
    }

    event_created_child!(Session, ZwlrOutputHeadV1, [
        zwlr_output_head_v1::EVT_MODE_OPCODE => (ZwlrOutputModeV1, ()),
    ]);
}

impl Dispatch<ZwlrOutputModeV1, ()> for Session {
    fn event(
        _: &mut Session,
        mode: &ZwlrOutputModeV1,
        event: zwlr_output_mode_v1::Event,
        (): &(),
        _: &Connection,
        _: &Handle,
    ) {
        if matches!(event, zwlr_output_mode_v1::Event::Finished) && mode.version() >= 3 {
            mode.release();
        }
    }
}

impl Dispatch<ZwlrOutputConfigurationV1, ()> for Session {
    fn event(
        session: &mut Session,
        configuration: &ZwlrOutputConfigurationV1,
        event: zwlr_output_configuration_v1::Event,
        (): &(),
        _: &Connection,
        handle: &Handle,
    ) {
        use zwlr_output_configuration_v1::Event;
        let outcome = match event {
            Event::Succeeded => Outcome::Succeeded,
            Event::Cancelled => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        configuration.destroy();
        session.resize_ended(outcome, handle);
    }
}

delegate_noop!(Session: ZwlrOutputConfigurationHeadV1);
