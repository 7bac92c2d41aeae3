//! Time on the page: from microseconds to a place, and to words; and elements that know their time.

use std::fmt::Write as _;

/// Where a moment is, from left to right.
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

    /// Where it is; beyond the edges it is on the edge.
    pub fn x(&self, at_us: u64) -> f64 {
        let part = (at_us.clamp(self.from_us, self.to_us) - self.from_us) as f64;
        self.left + part / (self.to_us - self.from_us) as f64 * (self.right - self.left)
    }

    pub fn shows(&self, from_us: u64, to_us: u64) -> bool {
        from_us <= self.to_us && to_us >= self.from_us
    }

    /// What is shown comes first, and then the rest; the latest first in both: if there is no room for
    /// all, it is the earliest beyond the edges that is missing.
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

    /// Round moments, about ten.
    pub fn ticks(&self) -> impl Iterator<Item = u64> + use<> {
        let about = (self.to_us - self.from_us) / 10;
        let steps = (0..).flat_map(|power| [1, 2, 5].map(|step| step * 10_u64.pow(power)));
        let step = steps.take(40).find(|step| *step >= about).unwrap_or(about.max(1));
        let to_us = self.to_us;
        (self.from_us.div_ceil(step)..).map(move |n| n * step).take_while(move |at| *at <= to_us)
    }
}

/// Elements that keep their time beside their place, so that the script can move them.
pub(super) struct Svg {
    pub out: String,
    scale: Scale,
    bytes_max: usize,
    /// Elements for which there was no room.
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

    /// The class of an element, and whether it is seen at first.
    pub fn class(&self, class: &str, from_us: u64, to_us: u64) -> String {
        match self.scale.shows(from_us, to_us) {
            true => format!("class=\"{class}\""),
            false => format!("class=\"{class} out\""),
        }
    }

    /// A bar that lasts.
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

    /// Words at the beginning of what lasts from `t` to `u`, if they fit in there.
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

    /// A stroke across at one moment.
    pub fn stroke(&mut self, class: &str, t: u64, (y1, y2): (f64, f64), title: &str) {
        let (x, seen) = (self.scale.x(t), self.class(class, t, t));
        let _ = write!(
            self.out,
            "<line {seen} data-t=\"{t}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y1:.0}\" y2=\"{y2:.0}\">\
             <title>{}</title></line>",
            escape(title)
        );
    }

    /// A sign at one moment: its middle is there.
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

/// About how wide a text is.
fn width_of(text: &str) -> f64 {
    6.2 * text.chars().count() as f64
}

/// A time, in the unit that suits it.
pub(super) fn time(at_us: u64) -> String {
    format!("{}.{:06} s", at_us / 1_000_000, at_us % 1_000_000)
}

/// How long something lasts.
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

/// How long before the end.
pub(super) fn before(at_us: u64, end_us: u64) -> String {
    match end_us.checked_sub(at_us) {
        Some(0) | None => "0".to_owned(),
        Some(us) => format!("−{}", lasting(us)),
    }
}

/// A number with its thousands apart.
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
