//! Time on the page: conversion from microseconds to positions and to words, and elements that keep
//! their time.

use std::fmt::Write as _;

/// Maps a time to a horizontal position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub from_us: u64,
    pub to_us: u64,
    pub left: f64,
    pub right: f64,
}

impl Scale {
    pub fn new(from_us: u64, to_us: u64, left: f64, right: f64) -> Self {
        Scale { from_us, to_us: to_us.max(from_us + 1), left, right }
    }

    /// The position of a time, clamped to the edges.
    pub fn x(&self, at_us: u64) -> f64 {
        let part = (at_us.clamp(self.from_us, self.to_us) - self.from_us) as f64;
        self.left + part / (self.to_us - self.from_us) as f64 * (self.right - self.left)
    }

    pub fn shows(&self, from_us: u64, to_us: u64) -> bool {
        from_us <= self.to_us && to_us >= self.from_us
    }

    /// Items inside the window come first, then the others, each from the latest to the earliest.
    /// If not all fit, the earliest outside of the window are missing.
    pub fn shown_first<'a, T>(
        &self,
        items: &'a [T],
        times: fn(&T) -> (u64, u64),
    ) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let is_shown = |item: &&T| {
            let (from_us, to_us) = times(item);
            self.shows(from_us, to_us)
        };
        let (shown, beyond): (Vec<&T>, Vec<&T>) = items.iter().rev().partition(is_shown);
        shown.into_iter().chain(beyond)
    }

    /// About ten round times in the window.
    pub fn ticks(&self) -> impl Iterator<Item = u64> + use<> {
        let about = (self.to_us - self.from_us) / 10;
        let steps = (0..).flat_map(|power| [1, 2, 5].map(|step| step * 10_u64.pow(power)));
        let step = steps.take(40).find(|step| *step >= about).unwrap_or(about.max(1));
        let to_us = self.to_us;
        (self.from_us.div_ceil(step)..).map(move |n| n * step).take_while(move |at| *at <= to_us)
    }
}

/// Elements that keep their time in addition to their position, so that the script can move them.
pub(super) struct Svg {
    pub out: String,
    scale: Scale,
    bytes_max: usize,
    /// Number of elements that did not fit.
    pub left_out: u64,
}

impl Svg {
    pub fn new(scale: Scale, bytes_max: usize) -> Self {
        Svg { out: String::new(), scale, bytes_max, left_out: 0 }
    }

    /// Whether there is room for one more; if not, it is counted.
    pub fn has_room(&mut self) -> bool {
        let has = self.out.len() < self.bytes_max;
        self.left_out += u64::from(!has);
        has
    }

    /// The class of an element, with `out` added if it is outside of the initial window.
    pub fn class(&self, class: &str, from_us: u64, to_us: u64) -> String {
        match self.scale.shows(from_us, to_us) {
            true => format!("class=\"{class}\""),
            false => format!("class=\"{class} out\""),
        }
    }

    /// A bar from one time to another.
    pub fn bar(&mut self, class: &str, (t, u): (u64, u64), (y, height): (f64, f64), title: &str) {
        let (x, seen) = (self.scale.x(t), self.class(class, t, u));
        let width = (self.scale.x(u) - x).max(1.0);
        let _ = write!(
            self.out,
            "<rect {seen} data-t=\"{t}\" data-u=\"{u}\" x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" \
             height=\"{height:.0}\"><title>{}</title></rect>",
            escape(title)
        );
    }

    /// A text at the beginning of the time from `t` to `u`, shown if it fits.
    pub fn label(&mut self, class: &str, (t, u): (u64, u64), y: f64, text: &str) {
        let x = self.scale.x(t) + 4.0;
        let fits = self.scale.x(u) - x > width_of(text);
        let seen = match fits {
            true => self.class(class, t, u),
            false => format!("class=\"{class} out\""),
        };
        let _ = write!(
            self.out,
            "<text {seen} data-t=\"{t}\" data-u=\"{u}\" x=\"{x:.1}\" y=\"{y:.0}\">{}</text>",
            escape(text)
        );
    }

    /// A vertical stroke at one time.
    pub fn stroke(&mut self, class: &str, t: u64, (y1, y2): (f64, f64), title: &str) {
        let (x, seen) = (self.scale.x(t), self.class(class, t, t));
        let _ = write!(
            self.out,
            "<line {seen} data-t=\"{t}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y1:.0}\" y2=\"{y2:.0}\">\
             <title>{}</title></line>",
            escape(title)
        );
    }

    /// A sign centred at one time.
    pub fn sign(&mut self, class: &str, t: u64, y: f64, text: &str, title: &str) {
        let (x, seen) = (self.scale.x(t), self.class(&format!("sign {class}"), t, t));
        let _ = write!(
            self.out,
            "<text {seen} data-t=\"{t}\" x=\"{x:.1}\" y=\"{y:.0}\">{}<title>{}</title></text>",
            escape(text),
            escape(title)
        );
    }
}

/// Estimates the width of a text.
fn width_of(text: &str) -> f64 {
    6.2 * text.chars().count() as f64
}

/// A time in seconds, to the microsecond.
pub(super) fn time(at_us: u64) -> String {
    format!("{}.{:06} s", at_us / 1_000_000, at_us % 1_000_000)
}

/// A duration, in the unit that suits it.
pub(super) fn lasting(us: u64) -> String {
    let short = |value: f64, unit: &str| {
        let text = format!("{value:.3}");
        format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => short((us / 10) as f64 / 100.0, "ms"),
        _ => short((us / 1_000) as f64 / 1e3, "s"),
    }
}

/// The time before the end of the run.
pub(super) fn before(at_us: u64, end_us: u64) -> String {
    match end_us.checked_sub(at_us) {
        Some(0) | None => "0".to_owned(),
        Some(us) => format!("−{}", lasting(us)),
    }
}

/// A number with separated thousands.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
