//! The pictures. Lengths are fractions of the image's side, colours RGB in 0 to 1.

use std::f32::consts::{PI, TAU};

use image::{Rgb, RgbImage};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Samples along each side of a pixel.
const SUPERSAMPLE: u32 = 3;

/// Number of shape and texture pairs.
pub(super) const CLASSES: usize = Shape::ALL.len() * Texture::ALL.len();

/// The pair of a class. 6 and 5 have no common factor, so the two indices running side by
/// side meet every pair once, and every shape and texture recurs at even steps from head to
/// tail: a class's rank says nothing about either.
fn pair(class: usize) -> (Shape, Texture) {
    let shape = Shape::ALL[class % Shape::ALL.len()];
    (shape, Texture::ALL[class % Texture::ALL.len()])
}

pub(super) fn class_name(class: usize) -> String {
    let (shape, texture) = pair(class);
    format!("{shape:?}_{texture:?}").to_lowercase()
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Disc,
    Square,
    Triangle,
    Star,
    Ring,
    Cross,
}

impl Shape {
    const ALL: [Self; 6] = [
        Self::Ring,
        Self::Square,
        Self::Star,
        Self::Disc,
        Self::Cross,
        Self::Triangle,
    ];

    /// Whether the point is inside. All shapes have nearly the same area, 2.3, so that size
    /// says little about shape; the corner furthest from the centre is at 1.33.
    fn contains(self, [x, y]: [f32; 2]) -> bool {
        let square = x * x + y * y;
        match self {
            Self::Disc => square < 0.73,
            Self::Square => x.abs().max(y.abs()) < 0.76,
            Self::Triangle => y > -0.665 && 0.866 * x.abs() + 0.5 * y < 0.665,
            Self::Ring => (0.25..1.0).contains(&square),
            Self::Cross => x.abs().min(y.abs()) < 0.31 && x.abs().max(y.abs()) < 1.08,
            Self::Star => {
                // One half of one of five points; its edge runs from the tip at radius 1.33
                // to the notch at radius 0.6 and angle 36°.
                let turn = y.atan2(x).rem_euclid(TAU / 5.0);
                let angle = turn.min(TAU / 5.0 - turn);
                let (along, across) = (square.sqrt() * angle.cos(), square.sqrt() * angle.sin());
                let notch = [0.6 * (PI / 5.0).cos(), 0.6 * (PI / 5.0).sin()];
                (along - 1.33) * notch[1] < across * (notch[0] - 1.33)
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Texture {
    Stripes,
    Checks,
    Dots,
    Speckle,
    Bullseye,
}

impl Texture {
    const ALL: [Self; 5] = [
        Self::Stripes,
        Self::Dots,
        Self::Bullseye,
        Self::Checks,
        Self::Speckle,
    ];

    /// Which of the two colours a point has; coordinates in periods.
    fn is_second(self, [x, y]: [f32; 2], salt: u32) -> bool {
        let odd = |v: f32| v.rem_euclid(1.0) < 0.5;
        match self {
            Self::Stripes => odd(x),
            Self::Checks => odd(x) != odd(y),
            Self::Dots => {
                // Rows 0.87 apart, every other row shifted by half a period.
                let row = (y / 0.866).floor();
                let dx = (x + 0.5 * row.rem_euclid(2.0)).rem_euclid(1.0) - 0.5;
                let dy = y - (row + 0.5) * 0.866;
                dx * dx + dy * dy < 0.09
            }
            Self::Speckle => {
                let cell = |v: f32| ((v * 2.2).floor() as i32) as u32;
                hash(cell(x), cell(y), salt) & 1 == 1
            }
            Self::Bullseye => odd((x * x + y * y).sqrt()),
        }
    }
}

fn hash(x: u32, y: u32, salt: u32) -> u32 {
    let mut h = salt ^ x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77);
    h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
    h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
    h ^ (h >> 15)
}

type Colour = [f32; 3];

/// The random stream of one image. The streams of two images share nothing.
struct Stream(ChaCha8Rng);

impl Stream {
    fn new(seed: u64, split: u32, class: usize, index: usize) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&u64::from(split).to_le_bytes());
        key[16..24].copy_from_slice(&(class as u64).to_le_bytes());
        key[24..].copy_from_slice(&(index as u64).to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `[low, high)`. Own code, so that no crate's update changes the pictures.
    fn range(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32;
        low + (high - low) * unit
    }

    fn chance(&mut self, probability: f32) -> bool {
        self.range(0.0, 1.0) < probability
    }

    fn pick<T: Copy, const N: usize>(&mut self, items: [T; N]) -> T {
        items[(self.0.next_u32() as usize) % N]
    }

    fn colour(&mut self) -> Colour {
        [(); 3].map(|()| self.range(0.05, 0.95))
    }

    /// Two colours whose brightness differs by at least `gap`.
    fn colours(&mut self, gap: f32) -> [Colour; 2] {
        loop {
            let pair = [self.colour(), self.colour()];
            if (luma(pair[0]) - luma(pair[1])).abs() >= gap {
                return pair;
            }
        }
    }
}

fn luma([r, g, b]: Colour) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

fn distance(a: Colour, b: Colour) -> f32 {
    (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f32>().sqrt()
}

fn mix(a: Colour, b: Colour, weight: f32) -> Colour {
    [0, 1, 2].map(|k| a[k] + (b[k] - a[k]) * weight)
}

/// A two-coloured texture, turned and shifted at random.
struct Paint {
    texture: Texture,
    turn: [f32; 2],
    shift: [f32; 2],
    period: f32,
    salt: u32,
    colours: [Colour; 2],
}

impl Paint {
    fn new(stream: &mut Stream, texture: Texture, period: f32, colours: [Colour; 2]) -> Self {
        Self {
            texture,
            turn: stream.range(0.0, TAU).sin_cos().into(),
            shift: [stream.range(-0.5, 0.5), stream.range(-0.5, 0.5)],
            period,
            salt: stream.0.next_u32(),
            colours,
        }
    }

    fn at(&self, point: [f32; 2]) -> Colour {
        let [x, y] = rotate(point, self.turn);
        let place = [
            x / self.period + self.shift[0],
            y / self.period + self.shift[1],
        ];
        self.colours[usize::from(self.texture.is_second(place, self.salt))]
    }
}

fn rotate([x, y]: [f32; 2], [sin, cos]: [f32; 2]) -> [f32; 2] {
    [cos * x - sin * y, sin * x + cos * y]
}

/// A shape on the picture, filled with paint.
struct Patch {
    shape: Shape,
    centre: [f32; 2],
    turn: [f32; 2],
    /// Length of the shape's unit along its two axes.
    unit: [f32; 2],
    paint: Paint,
}

impl Patch {
    /// `scale` is the side of a square of about the shape's area.
    fn new(stream: &mut Stream, shape: Shape, centre: [f32; 2], scale: f32, paint: Paint) -> Self {
        let stretch = stream.range(-0.12, 0.12).exp();
        Self {
            shape,
            centre,
            turn: stream.range(0.0, TAU).sin_cos().into(),
            unit: [0.66 * scale * stretch, 0.66 * scale / stretch],
            paint,
        }
    }

    fn at(&self, [x, y]: [f32; 2]) -> Option<Colour> {
        let point = [x - self.centre[0], y - self.centre[1]];
        let reach = 1.34 * self.unit[0].max(self.unit[1]);
        if point[0].abs().max(point[1].abs()) > reach {
            return None;
        }
        let [u, v] = rotate(point, self.turn);
        let inside = self.shape.contains([u / self.unit[0], v / self.unit[1]]);
        inside.then(|| self.paint.at(point))
    }
}

/// Everything on one picture, from back to front.
struct Scene {
    background: Paint,
    /// Direction and strength of a brightness ramp over the background.
    ramp: [f32; 2],
    clutter: Vec<Patch>,
    object: Patch,
    occluder: Option<Patch>,
}

impl Scene {
    fn new(stream: &mut Stream, (shape, texture): (Shape, Texture)) -> Self {
        // The object's two colours differ in brightness, and the ground from both, so that
        // texture and outline can be seen. The rule is the same for every class.
        let colours = stream.colours(0.25);
        let ground = loop {
            let ground = stream.colour();
            if colours.iter().all(|&colour| distance(ground, colour) > 0.3) {
                break ground;
            }
        };
        let other = stream.colour();
        let faint = mix(ground, other, stream.range(0.0, 0.25));
        let texture_behind = stream.pick(Texture::ALL);
        let period = stream.range(0.12, 0.4);
        let background = Paint::new(stream, texture_behind, period, [ground, faint]);

        let count = stream.pick([2, 3, 4, 5]);
        let clutter = (0..count)
            .map(|_| Self::distractor(stream, 0.1, 0.22))
            .collect();

        let scale = stream.range(0.5, 0.8);
        let slack = 0.5 * (0.95 - scale);
        let centre = [(); 2].map(|()| 0.5 + stream.range(-slack, slack));
        let period = stream.range(0.13, 0.18);
        let paint = Paint::new(stream, texture, period, colours);
        let object = Patch::new(stream, shape, centre, scale, paint);

        let occluder = stream
            .chance(0.5)
            .then(|| Self::distractor(stream, 0.15, 0.28));
        let ramp = [stream.range(-0.2, 0.2), stream.range(-0.2, 0.2)];
        Self {
            background,
            ramp,
            clutter,
            object,
            occluder,
        }
    }

    /// A small patch of random shape and texture anywhere.
    fn distractor(stream: &mut Stream, low: f32, high: f32) -> Patch {
        let (shape, texture) = (stream.pick(Shape::ALL), stream.pick(Texture::ALL));
        let centre = [stream.range(0.0, 1.0), stream.range(0.0, 1.0)];
        let scale = stream.range(low, high);
        let period = stream.range(0.13, 0.18);
        let mut colours = [stream.colour(), stream.colour()];
        if stream.chance(0.5) {
            colours[1] = colours[0];
        }
        let paint = Paint::new(stream, texture, period, colours);
        Patch::new(stream, shape, centre, scale, paint)
    }

    fn at(&self, point: [f32; 2]) -> Colour {
        let front = self.occluder.as_ref().and_then(|patch| patch.at(point));
        front
            .or_else(|| self.object.at(point))
            .or_else(|| self.clutter.iter().rev().find_map(|patch| patch.at(point)))
            .unwrap_or_else(|| {
                let light = self.ramp[0] * (point[0] - 0.5) + self.ramp[1] * (point[1] - 0.5);
                self.background.at(point).map(|value| value + light)
            })
    }
}

/// Image `index` of a class in a split, `size` × `size` pixels; a function of its arguments.
pub(super) fn image(seed: u64, split: u32, class: usize, index: usize, size: u32) -> RgbImage {
    let mut stream = Stream::new(seed, split, class, index);
    let scene = Scene::new(&mut stream, pair(class));
    let gain = stream.range(0.75, 1.2);
    let noise = stream.range(0.01, 0.06);
    let step = 1.0 / (size * SUPERSAMPLE) as f32;
    RgbImage::from_fn(size, size, |px, py| {
        let mut sum = [0.0; 3];
        for sub in 0..SUPERSAMPLE * SUPERSAMPLE {
            let x = px * SUPERSAMPLE + sub % SUPERSAMPLE;
            let y = py * SUPERSAMPLE + sub / SUPERSAMPLE;
            let colour = scene.at([(x as f32 + 0.5) * step, (y as f32 + 0.5) * step]);
            sum = [0, 1, 2].map(|k| sum[k] + colour[k]);
        }
        Rgb(sum.map(|total| {
            // Three uniform numbers make nearly normal noise of standard deviation one.
            let normal: f32 = (0..3).map(|_| stream.range(-1.0, 1.0)).sum();
            let mean = total / (SUPERSAMPLE * SUPERSAMPLE) as f32;
            ((gain * mean + noise * normal) * 255.0).round() as u8
        }))
    })
}
