//! Measures several contestants in turn, and takes medians.

use std::time::{Duration, Instant};

/// How long one measurement lasts.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    /// It ends after this time.
    Time(Duration),
    /// It ends after this number of operations.
    Operations(u64),
}

impl Span {
    /// Starts a measurement.
    pub fn start(self) -> Watch {
        Watch { started: Instant::now(), span: self }
    }
}

/// The time of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    started: Instant,
    span: Span,
}

impl Watch {
    /// Whether the measurement goes on after `done` operations.
    pub fn goes_on(&self, done: u64) -> bool {
        match self.span {
            Span::Time(time) => self.started.elapsed() < time,
            Span::Operations(operations) => done < operations,
        }
    }

    /// The seconds so far.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// The figures of one measurement, with their names. The first one is what ratios compare.
pub type Sample = Vec<(&'static str, f64)>;

/// The error that ends a benchmark.
pub type Error = Box<dyn std::error::Error>;

/// A system in one setting.
pub struct Contestant<'a> {
    /// The name of the system.
    pub system: &'static str,
    /// The setting, such as the number of clients.
    pub setting: String,
    /// Measures it once.
    pub measure: Box<dyn FnMut(Span) -> Result<Sample, Error> + 'a>,
}

/// A figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Figure {
    /// The name, with the unit.
    pub name: &'static str,
    /// The median of all rounds.
    pub median: f64,
    /// The least of all rounds.
    pub min: f64,
    /// The greatest of all rounds.
    pub max: f64,
}

/// The result of one contestant.
#[derive(Debug, serde::Serialize)]
pub struct Row {
    /// The name of the system.
    pub system: &'static str,
    /// The setting.
    pub setting: String,
    /// Its figures.
    pub figures: Vec<Figure>,
}

impl Row {
    /// Whether the system is part of this project.
    pub fn is_own(&self) -> bool {
        self.system.starts_with("quorate") || self.system == "raft-kv"
    }
}

/// A system that the others are compared with.
pub struct Base {
    /// The name of the system.
    pub system: &'static str,
    /// The name of the figure that compares another system with this one.
    pub ratio: &'static str,
}

/// Measures all contestants in turn, `rounds` times. Where one of the `bases` has the same setting,
/// the others get a ratio: their first figure by that of the base in the same round.
pub fn in_turn(
    rounds: u32,
    span: Span,
    mut contestants: Vec<Contestant<'_>>,
    bases: &[Base],
) -> Result<Vec<Row>, Error> {
    let mut samples: Vec<Vec<Sample>> = contestants.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (contestant, samples) in contestants.iter_mut().zip(&mut samples) {
            samples.push((contestant.measure)(span)?);
        }
    }
    for (at, base) in (0..contestants.len()).flat_map(|at| bases.iter().map(move |b| (at, b))) {
        let is_base = |other: &Contestant<'_>| {
            other.system == base.system && other.setting == contestants[at].setting
        };
        let Some(of) = contestants.iter().position(is_base).filter(|of| *of != at) else {
            continue;
        };
        let by: Vec<f64> = samples[of].iter().map(|sample| sample[0].1).collect();
        for (sample, by) in samples[at].iter_mut().zip(by) {
            sample.push((base.ratio, sample[0].1 / by));
        }
    }
    let row = |(contestant, samples): (Contestant<'_>, Vec<Sample>)| Row {
        system: contestant.system,
        setting: contestant.setting,
        figures: summarize(&samples),
    };
    Ok(contestants.into_iter().zip(samples).map(row).collect())
}

fn summarize(samples: &[Sample]) -> Vec<Figure> {
    let names = samples[0].iter().map(|(name, _)| *name);
    let figure = |(at, name): (usize, &'static str)| {
        let mut values: Vec<f64> = samples.iter().map(|sample| sample[at].1).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        Figure { name, median: values[values.len() / 2], min, max }
    };
    names.enumerate().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn contestants_take_turns_and_ratios_are_of_one_round() {
        let order = RefCell::new(String::new());
        let contestant = |system: &'static str, figures: [f64; 3]| {
            let (order, mut figures) = (&order, figures.into_iter());
            Contestant {
                system,
                setting: "1".into(),
                measure: Box::new(move |_| {
                    *order.borrow_mut() += system;
                    Ok(vec![("a second", figures.next().ok_or("no more rounds")?)])
                }),
            }
        };
        // The second round was slow for both.
        let both = vec![contestant("a", [100.0, 20.0, 90.0]), contestant("b", [50.0, 10.0, 60.0])];
        let base = Base { system: "b", ratio: "ratio to b" };
        let rows = in_turn(3, Span::Operations(1), both, &[base]).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        let figure = |name, median, min, max| Figure { name, median, min, max };
        let ratio = figure("ratio to b", 2.0, 1.5, 2.0);
        assert_eq!(rows[0].figures, [figure("a second", 90.0, 20.0, 100.0), ratio]);
        assert_eq!(rows[1].figures, [figure("a second", 50.0, 10.0, 60.0)]);
    }
}
