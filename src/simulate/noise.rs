//! Correlated noise that can be asked for any moment.
//!
//! Real load is rough at every scale: it drifts over days, wanders over hours, breathes over minutes. Each
//! octave here is a lattice of standard normal knots, one every so many seconds of absolute time, drawn from
//! keyed dice; between two knots the value is `cos * left + sin * right` of a quarter turn, which keeps the
//! variance at one everywhere. A weighted sum of octaves has a correlation time of minutes to days, like a
//! sum of Ornstein-Uhlenbeck processes, and one property those lack: its value at a moment is the same
//! whatever the tick and whenever the simulation began.

use super::dice::{Dice, Topic};

/// Seconds between the knots of each octave: drift over days, wandering over hours, breathing over minutes.
pub(super) const OCTAVE_SECS: [i64; N_OCTAVES] = [9 * 86_400, 3 * 3600, 35 * 60, 8 * 60, 100];

const N_OCTAVES: usize = 5;

/// How much of a channel's variance lies in each octave; each row sums to one.
pub(super) type Colour = [f64; N_OCTAVES];

/// Mostly minutes, with some drift: load that people and jobs cause.
pub(super) const BUSY: Colour = [0.10, 0.25, 0.25, 0.25, 0.15];
/// Slow: memory, caches.
pub(super) const SLOW: Colour = [0.20, 0.45, 0.25, 0.10, 0.0];
/// Fast: counters and queues.
pub(super) const FAST: Colour = [0.05, 0.10, 0.20, 0.30, 0.35];
/// What a whole fleet or profile shares: market days, shared storage.
pub(super) const SHARED: Colour = [0.15, 0.45, 0.30, 0.10, 0.0];

/// `C` channels of noise of one thing (a server, a profile, the fleet).
#[derive(Clone, Debug)]
pub(super) struct Noise<const C: usize> {
    dice: Dice,
    topic: Topic,
    which: u64,
    /// Shifts the lattices so that things do not have their knots at the same moment.
    phase_secs: [i64; N_OCTAVES],
    /// Index of the left knot held, per octave; `i64::MIN` before the first use.
    held: [i64; N_OCTAVES],
    left: [[f32; C]; N_OCTAVES],
    right: [[f32; C]; N_OCTAVES],
    /// Square roots of the colours, per octave and channel.
    amplitude: [[f32; C]; N_OCTAVES],
}

impl<const C: usize> Noise<C> {
    /// Channels of variance one with the given colours.
    pub(super) fn new(dice: Dice, topic: Topic, which: u64, colours: [Colour; C]) -> Self {
        let mut stream = dice.stream(topic, which, i64::MIN);
        let phase_secs = OCTAVE_SECS.map(|secs| stream.between(0.0, secs as f64) as i64);
        Self {
            dice,
            topic,
            which,
            phase_secs,
            held: [i64::MIN; N_OCTAVES],
            left: [[0.0; C]; N_OCTAVES],
            right: [[0.0; C]; N_OCTAVES],
            amplitude: std::array::from_fn(|octave| colours.map(|colour| colour[octave].sqrt() as f32)),
        }
    }

    /// The channels at one moment.
    pub(super) fn at(&mut self, time_ms: i64) -> [f64; C] {
        let mut sum = [0.0_f32; C];
        for (octave, secs) in OCTAVE_SECS.into_iter().enumerate() {
            let position = time_ms + self.phase_secs[octave] * 1000;
            let width = secs * 1000;
            let knot = position.div_euclid(width);
            self.hold(octave, knot);
            let turn = position.rem_euclid(width) as f64 / width as f64 * std::f64::consts::FRAC_PI_2;
            let (from_right, from_left) = (turn as f32).sin_cos();
            for (channel, value) in sum.iter_mut().enumerate() {
                let between =
                    from_left * self.left[octave][channel] + from_right * self.right[octave][channel];
                *value += self.amplitude[octave][channel] * between;
            }
        }
        sum.map(f64::from)
    }

    /// Makes `knot` the left one of `octave`.
    fn hold(&mut self, octave: usize, knot: i64) {
        if self.held[octave] == knot {
            return;
        }
        let is_next = self.held[octave].checked_add(1) == Some(knot);
        self.left[octave] = if is_next { self.right[octave] } else { self.draw(octave, knot) };
        self.right[octave] = self.draw(octave, knot + 1);
        self.held[octave] = knot;
    }

    fn draw(&self, octave: usize, knot: i64) -> [f32; C] {
        let which = self.which * N_OCTAVES as u64 + octave as u64;
        let mut stream = self.dice.stream(self.topic, which, knot);
        std::array::from_fn(|_| stream.normal() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(step_secs: i64, n: i64) -> Vec<f64> {
        let mut noise = Noise::<1>::new(Dice::new(3), Topic::ServerNoise, 4, [BUSY]);
        (0..n).map(|i| noise.at(i * step_secs * 1000)[0]).collect()
    }

    fn autocorrelation(series: &[f64], lag: usize) -> f64 {
        let mean = series.iter().sum::<f64>() / series.len() as f64;
        let variance = series.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / series.len() as f64;
        let pairs = series.iter().zip(&series[lag..]);
        pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / (series.len() - lag) as f64 / variance
    }

    #[test]
    fn a_moment_has_one_value_whatever_the_tick_and_the_beginning() {
        let fine = series(5, 1000);
        let coarse = series(60, 80);
        for (i, value) in coarse.iter().enumerate() {
            assert_eq!(*value, fine[i * 12]);
        }
        let mut late = Noise::<1>::new(Dice::new(3), Topic::ServerNoise, 4, [BUSY]);
        assert_eq!(late.at(900 * 5 * 1000)[0], fine[900]);
    }

    #[test]
    fn noise_has_unit_variance_and_forgets_over_minutes_and_hours() {
        let mut square = 0.0;
        for which in 0..200 {
            let mut noise = Noise::<1>::new(Dice::new(1), Topic::ServerNoise, which, [BUSY]);
            square += (0..50).map(|i| noise.at(i * 7_200_000)[0].powi(2)).sum::<f64>() / 50.0;
        }
        assert!((square / 200.0 - 1.0).abs() < 0.06, "variance {}", square / 200.0);
        let minutes = series(60, 60 * 24 * 60);
        let [one, ten, hour, day] = [1, 10, 60, 1440].map(|lag| autocorrelation(&minutes, lag));
        assert!(one > 0.8 && one < 0.99, "1 min {one}");
        assert!(ten < one - 0.1 && hour < ten - 0.1 && day < hour, "{one} {ten} {hour} {day}");
    }
}
