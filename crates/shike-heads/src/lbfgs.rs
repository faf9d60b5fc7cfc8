//! Minimisation with limited memory (Liu and Nocedal 1989).

use std::collections::VecDeque;

use crate::linalg::dot;

/// Steps that the curvature is estimated from.
const MEMORY: usize = 10;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// The most steps.
    pub steps: usize,
    /// The gradient's length, as a share of its length at the start, that is small enough.
    pub gradient: f64,
}

/// Goes down from `x` and leaves the lowest point there. `loss` gives the value at a point and writes the gradient.
///
/// The step's length fulfils the weak Wolfe conditions by bisection (Lewis and Overton 2013).
pub fn minimise(x: &mut Vec<f32>, stop: Stop, mut loss: impl FnMut(&[f32], &mut [f32]) -> f64) {
    let mut gradient = vec![0.0; x.len()];
    let mut value = loss(x, &mut gradient);
    let small = stop.gradient * dot(&gradient, &gradient).sqrt();
    // (step, change of the gradient, 1 / their product), the newest last.
    let mut past: VecDeque<(Vec<f32>, Vec<f32>, f64)> = VecDeque::new();
    let (mut next, mut next_gradient) = (x.clone(), gradient.clone());
    for _ in 0..stop.steps {
        let length = dot(&gradient, &gradient).sqrt();
        if length <= small || length == 0.0 {
            return;
        }
        let mut direction = direction(&gradient, &past);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // Rounding has spoilt the memory.
            past.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -length * length;
        }
        let first = if past.is_empty() {
            (1.0 / length).min(1.0)
        } else {
            1.0
        };
        let (mut low, mut high, mut step) = (0.0, f64::INFINITY, first);
        let mut found = false;
        for _ in 0..30 {
            for ((next, x), d) in next.iter_mut().zip(x.iter()).zip(&direction) {
                *next = (f64::from(*x) + step * f64::from(*d)) as f32;
            }
            let at = loss(&next, &mut next_gradient);
            let falls = at <= value + 1e-4 * step * slope;
            if !falls {
                high = step;
            } else if dot(&next_gradient, &direction) < 0.9 * slope {
                low = step;
            } else {
                value = at;
                found = true;
                break;
            }
            step = if high.is_finite() {
                (low + high) / 2.0
            } else {
                2.0 * low
            };
        }
        if !found {
            // Nothing lower is to be told apart in these digits.
            return;
        }
        let change = |new: &[f32], old: &[f32]| -> Vec<f32> {
            new.iter().zip(old).map(|(new, old)| new - old).collect()
        };
        let (moved, turned) = (change(&next, x), change(&next_gradient, &gradient));
        let product = dot(&moved, &turned);
        if product > 0.0 {
            if past.len() == MEMORY {
                past.pop_front();
            }
            past.push_back((moved, turned, 1.0 / product));
        }
        std::mem::swap(x, &mut next);
        std::mem::swap(&mut gradient, &mut next_gradient);
    }
}

/// The way down that the past steps' curvature suggests.
fn direction(gradient: &[f32], past: &VecDeque<(Vec<f32>, Vec<f32>, f64)>) -> Vec<f32> {
    let add = |to: &mut [f32], factor: f64, what: &[f32]| {
        for (to, what) in to.iter_mut().zip(what) {
            *to += (factor * f64::from(*what)) as f32;
        }
    };
    let mut way: Vec<f32> = gradient.iter().map(|g| -g).collect();
    let mut factors = Vec::with_capacity(past.len());
    for (moved, turned, inverse) in past.iter().rev() {
        let factor = inverse * dot(moved, &way);
        add(&mut way, -factor, turned);
        factors.push(factor);
    }
    if let Some((_, turned, inverse)) = past.back() {
        let scale = 1.0 / (inverse * dot(turned, turned));
        way.iter_mut()
            .for_each(|w| *w = (f64::from(*w) * scale) as f32);
    }
    for ((moved, turned, inverse), factor) in past.iter().zip(factors.into_iter().rev()) {
        let back = inverse * dot(turned, &way);
        add(&mut way, factor - back, moved);
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rosenbrocks_valley_is_walked_to_its_end() {
        let mut x = vec![-1.2, 1.0];
        let stop = Stop {
            steps: 200,
            gradient: 1e-9,
        };
        minimise(&mut x, stop, |x, gradient| {
            let (a, b) = (f64::from(x[0]), f64::from(x[1]));
            let (u, v) = (1.0 - a, b - a * a);
            gradient[0] = (-2.0 * u - 400.0 * a * v) as f32;
            gradient[1] = (200.0 * v) as f32;
            u * u + 100.0 * v * v
        });
        assert!(
            (x[0] - 1.0).abs() < 1e-3 && (x[1] - 1.0).abs() < 1e-3,
            "{x:?}"
        );
    }

    #[test]
    fn a_lowest_point_stays() {
        let mut x = vec![0.0; 3];
        let stop = Stop {
            steps: 10,
            gradient: 0.0,
        };
        minimise(&mut x, stop, |x, gradient| {
            gradient.copy_from_slice(x);
            dot(x, x) / 2.0
        });
        assert_eq!(x, [0.0; 3]);
    }
}
