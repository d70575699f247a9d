//! Lucid's own pointers, drawn for any scale: black with a white edge, so that they are seen on every ground.
//!
//! A drawing is a few figures on a field of 32 by 32. How dark a pixel is follows from its distance to the nearest
//! figure.

use lucid_desktop::pointer::Shape;

/// Width and height of the field.
pub(super) const FIELD: u16 = 32;
/// How far the white edge reaches.
const EDGE: f32 = 1.2;

type Point = (f32, f32);

#[derive(Debug)]
enum Figure {
    /// A filled polygon.
    Polygon(Vec<Point>),
    /// From, to, width.
    Line(Point, Point, f32),
    /// Centre, radius, width.
    Ring(Point, f32, f32),
}

/// An image; its rows go from top to bottom, its pixels are B, G, R, alpha (not premultiplied).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) side: u16,
    pub(super) hotspot: (u16, u16),
    pub(super) pixels: Vec<[u8; 4]>,
}

fn length((x, y): Point) -> f32 {
    x.hypot(y)
}

fn to_line(p: Point, from: Point, to: Point) -> f32 {
    let (d, v) = ((to.0 - from.0, to.1 - from.1), (p.0 - from.0, p.1 - from.1));
    let square = d.0 * d.0 + d.1 * d.1;
    let along = if square > 0.0 { ((v.0 * d.0 + v.1 * d.1) / square).clamp(0.0, 1.0) } else { 0.0 };
    length((v.0 - d.0 * along, v.1 - d.1 * along))
}

impl Figure {
    /// The distance of a point from the figure, negative inside.
    fn distance(&self, p: Point) -> f32 {
        match self {
            Figure::Line(from, to, width) => to_line(p, *from, *to) - width / 2.0,
            Figure::Ring(centre, radius, width) => {
                (length((p.0 - centre.0, p.1 - centre.1)) - radius).abs() - width / 2.0
            }
            Figure::Polygon(points) => {
                let mut inside = false;
                let mut nearest = f32::MAX;
                for (i, &a) in points.iter().enumerate() {
                    let b = points[(i + 1) % points.len()];
                    nearest = nearest.min(to_line(p, a, b));
                    if (a.1 > p.1) != (b.1 > p.1) && p.0 < (b.0 - a.0) * (p.1 - a.1) / (b.1 - a.1) + a.0 {
                        inside = !inside;
                    }
                }
                if inside { -nearest } else { nearest }
            }
        }
    }
}

fn line(from: Point, to: Point) -> Figure {
    Figure::Line(from, to, 2.0)
}

fn arrow() -> Vec<Figure> {
    vec![Figure::Polygon(vec![
        (2.0, 2.0),
        (2.0, 19.0),
        (6.1, 15.2),
        (9.0, 21.6),
        (11.9, 20.3),
        (9.0, 14.1),
        (14.5, 14.1),
    ])]
}

fn with_arrow(more: Vec<Figure>) -> (Point, Vec<Figure>) {
    let mut figures = arrow();
    figures.extend(more);
    ((2.0, 2.0), figures)
}

/// A line with a head at its end.
fn pointing(from: Point, to: Point) -> Vec<Figure> {
    let d = (to.0 - from.0, to.1 - from.1);
    let l = length(d);
    let (u, n) = ((d.0 / l, d.1 / l), (-d.1 / l, d.0 / l));
    let base = (to.0 - u.0 * 4.5, to.1 - u.1 * 4.5);
    let side = |s: f32| (base.0 + n.0 * s, base.1 + n.1 * s);
    vec![line(from, base), Figure::Polygon(vec![to, side(3.6), side(-3.6)])]
}

/// Arrows both ways through the middle.
fn both_ways(dx: f32, dy: f32) -> Vec<Figure> {
    let mut figures = pointing(MIDDLE, (MIDDLE.0 + dx, MIDDLE.1 + dy));
    figures.extend(pointing(MIDDLE, (MIDDLE.0 - dx, MIDDLE.1 - dy)));
    figures
}

const MIDDLE: Point = (12.0, 12.0);

fn beam(turned: bool) -> Vec<Figure> {
    let at = |x: f32, y: f32| if turned { (y, x) } else { (x, y) };
    vec![
        line(at(12.0, 4.5), at(12.0, 19.5)),
        line(at(9.0, 3.7), at(12.0, 4.5)),
        line(at(15.0, 3.7), at(12.0, 4.5)),
        line(at(9.0, 20.3), at(12.0, 19.5)),
        line(at(15.0, 20.3), at(12.0, 19.5)),
    ]
}

fn hourglass((x, y): Point, size: f32) -> Vec<Figure> {
    let at = |dx: f32, dy: f32| (x + dx * size, y + dy * size);
    vec![
        Figure::Polygon(vec![at(-0.6, -0.8), at(0.6, -0.8), at(0.0, 0.0)]),
        Figure::Polygon(vec![at(-0.6, 0.8), at(0.6, 0.8), at(0.0, 0.0)]),
        line(at(-0.75, -1.0), at(0.75, -1.0)),
        line(at(-0.75, 1.0), at(0.75, 1.0)),
    ]
}

fn barred((x, y): Point, radius: f32) -> Vec<Figure> {
    let d = radius * 0.7;
    vec![Figure::Ring((x, y), radius, 2.2), Figure::Line((x - d, y - d), (x + d, y + d), 2.2)]
}

fn plus((x, y): Point, reach: f32, width: f32) -> Vec<Figure> {
    vec![
        Figure::Line((x - reach, y), (x + reach, y), width),
        Figure::Line((x, y - reach), (x, y + reach), width),
    ]
}

/// The hotspot and the figures of a shape.
fn figures(shape: Shape) -> (Point, Vec<Figure>) {
    let middle = |figures| (MIDDLE, figures);
    let badge = (19.0, 8.0);
    match shape.name() {
        "text" => middle(beam(false)),
        "vertical-text" => middle(beam(true)),
        "pointer" => (
            (9.0, 2.5),
            vec![
                Figure::Polygon(vec![
                    (7.8, 3.0),
                    (10.2, 3.0),
                    (10.6, 10.0),
                    (17.0, 11.2),
                    (18.4, 13.0),
                    (18.0, 18.0),
                    (16.6, 22.0),
                    (9.4, 22.0),
                    (3.8, 15.4),
                    (5.4, 13.8),
                    (7.8, 15.6),
                ]),
                line((9.0, 3.2), (9.0, 10.0)),
            ],
        ),
        "wait" => middle(hourglass(MIDDLE, 7.0)),
        "progress" => with_arrow(hourglass(badge, 4.5)),
        "help" => with_arrow(vec![
            line((16.5, 4.5), (20.5, 4.0)),
            line((20.5, 4.0), (21.5, 7.0)),
            line((21.5, 7.0), (19.0, 9.0)),
            line((19.0, 9.0), (19.0, 10.5)),
            Figure::Line((19.0, 13.6), (19.0, 13.7), 2.0),
        ]),
        "context-menu" => with_arrow(vec![
            line((16.0, 5.0), (23.0, 5.0)),
            line((16.0, 9.0), (23.0, 9.0)),
            line((16.0, 13.0), (23.0, 13.0)),
        ]),
        "crosshair" => middle(plus(MIDDLE, 10.0, 2.0)),
        "cell" => middle(plus(MIDDLE, 8.0, 3.4)),
        "alias" => with_arrow(pointing((15.0, 12.0), (23.0, 4.0))),
        "copy" => with_arrow(plus(badge, 4.0, 2.0)),
        "move" | "all-scroll" => {
            let mut figures = both_ways(10.0, 0.0);
            figures.extend(both_ways(0.0, 10.0));
            middle(figures)
        }
        "no-drop" => with_arrow(barred((19.5, 8.5), 4.5)),
        "not-allowed" => middle(barred(MIDDLE, 8.0)),
        name @ ("grab" | "grabbing") => {
            let top = if name == "grab" { 4.5 } else { 9.5 };
            let mut figures = vec![Figure::Polygon(vec![
                (6.5, 12.0),
                (18.0, 12.0),
                (18.0, 18.0),
                (16.0, 21.5),
                (9.0, 21.5),
                (6.5, 17.0),
            ])];
            for (x, y) in [(7.4, top + 1.5), (10.6, top), (13.8, top), (17.0, top + 1.5)] {
                figures.push(Figure::Line((x, y), (x, 13.0), 2.4));
            }
            middle(figures)
        }
        "n-resize" | "s-resize" | "ns-resize" => middle(both_ways(0.0, 10.0)),
        "e-resize" | "w-resize" | "ew-resize" => middle(both_ways(10.0, 0.0)),
        "ne-resize" | "sw-resize" | "nesw-resize" => middle(both_ways(7.5, -7.5)),
        "nw-resize" | "se-resize" | "nwse-resize" => middle(both_ways(7.5, 7.5)),
        "col-resize" => {
            let mut figures = both_ways(10.0, 0.0);
            figures.push(Figure::Line((12.0, 5.0), (12.0, 19.0), 2.4));
            middle(figures)
        }
        "row-resize" => {
            let mut figures = both_ways(0.0, 10.0);
            figures.push(Figure::Line((5.0, 12.0), (19.0, 12.0), 2.4));
            middle(figures)
        }
        name @ ("zoom-in" | "zoom-out") => {
            let mut figures = vec![
                Figure::Ring((10.0, 10.0), 6.5, 1.8),
                Figure::Line((15.0, 15.0), (21.0, 21.0), 3.2),
                line((7.5, 10.0), (12.5, 10.0)),
            ];
            if name == "zoom-in" {
                figures.push(line((10.0, 7.5), (10.0, 12.5)));
            }
            ((10.0, 10.0), figures)
        }
        "pencil" => (
            (3.0, 21.0),
            vec![
                Figure::Polygon(vec![(3.0, 21.0), (4.2, 16.6), (7.4, 19.8)]),
                Figure::Line((7.5, 16.5), (18.5, 5.5), 3.6),
            ],
        ),
        "up-arrow" => ((12.0, 2.5), pointing((12.0, 21.0), (12.0, 2.5))),
        _ => ((2.0, 2.0), arrow()),
    }
}

/// Draws a shape on a square of `side` pixels.
pub(super) fn draw(shape: Shape, side: u16) -> Image {
    let scale = f32::from(side) / f32::from(FIELD);
    let (hotspot, figures) = figures(shape);
    // How much of a pixel lies within a distance, for an edge that runs through it.
    let share = |distance: f32| (0.5 - distance * scale).clamp(0.0, 1.0);
    let mut pixels = Vec::with_capacity(usize::from(side) * usize::from(side));
    for y in 0..side {
        for x in 0..side {
            let at = ((f32::from(x) + 0.5) / scale, (f32::from(y) + 0.5) / scale);
            let distance = figures.iter().map(|f| f.distance(at)).fold(f32::MAX, f32::min);
            let (black, all) = (share(distance), share(distance - EDGE));
            let alpha = (all * 255.0).round() as u8;
            let grey =
                if all > 0.0 { ((1.0 - black / all).clamp(0.0, 1.0) * 255.0).round() as u8 } else { 0 };
            // What is transparent is black: clients may take other colours there for "invert".
            pixels.push(if alpha == 0 { [0; 4] } else { [grey, grey, grey, alpha] });
        }
    }
    let whole = |v: f32| ((v * scale) as u16).min(side - 1);
    Image { side, hotspot: (whole(hotspot.0), whole(hotspot.1)), pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_drawn_within_its_field_dark_with_a_light_edge_and_near_its_hotspot() {
        for shape in Shape::ALL {
            for side in [32, 48, 64, 96] {
                let image = draw(shape, side);
                let at = |x: u16, y: u16| image.pixels[usize::from(y) * usize::from(side) + usize::from(x)];
                let name = shape.name();
                assert_eq!(image.pixels.len(), usize::from(side) * usize::from(side));
                assert!(image.pixels.iter().any(|p| p[3] == 255 && p[0] < 16), "{name} {side}: nothing dark");
                assert!(image.pixels.iter().any(|p| p[3] > 127 && p[0] > 200), "{name} {side}: no edge");
                for i in 0..side {
                    assert_eq!((at(i, side - 1)[3], at(side - 1, i)[3]), (0, 0), "{name} {side}: cut off");
                }
                let (x, y) = image.hotspot;
                let reach = side / 8;
                let near = (y.saturating_sub(reach)..y + reach)
                    .any(|y| (x.saturating_sub(reach)..x + reach).any(|x| at(x, y)[3] > 0));
                assert!(near, "{name} {side}: the hotspot is off");
            }
        }
    }

    #[test]
    fn different_meanings_look_different() {
        for (a, b) in
            [("default", "text"), ("text", "vertical-text"), ("grab", "grabbing"), ("zoom-in", "zoom-out")]
        {
            let find = |name| Shape::ALL.into_iter().find(|s| s.name() == name).unwrap();
            assert_ne!(draw(find(a), 32), draw(find(b), 32), "{a} {b}");
        }
    }
}
