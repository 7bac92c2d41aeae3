//! A picture of a run: one self-contained page, HTML and SVG, without anything from elsewhere.
//!
//! Time goes from left to right. Each node has a lane, coloured by its role and term; where it is down
//! there is nothing. Below the lane are its syncs, between the lanes the messages, above them the faults
//! with how long they last, and at the bottom what the clients waited for. A red line is where the
//! promise was broken. The wheel zooms, dragging moves, and everything says what it is when pointed at.

use crate::plan::{FaultKind, Plan};
use crate::timeline::{Fate, Flight, FlightKind, Moment, Timeline, What};
use crate::world::Run;
use raft::{RoleKind, Term};
use std::fmt::Write as _;

/// The most messages that are drawn: the last ones, since the cause is seldom far from the effect.
const FLIGHTS_MAX: usize = 3_000;
/// The picture has this many units from left to right.
const WIDTH: f64 = 1_600.0;
const LEFT: f64 = 70.0;
const LANE: f64 = 90.0;
const FAULT: f64 = 16.0;

const HEAD: &str = r#"<!doctype html><meta charset="utf-8"><title>a simulated run</title><style>
:root{color-scheme:light dark}body{font:14px system-ui,sans-serif;margin:1.5em}
pre{white-space:pre-wrap;background:#8881;padding:.6em;border-radius:4px}.broken{color:#c22}
svg{width:100%;height:72vh;border:1px solid #8886;background:#fff;cursor:grab}
text{font:11px system-ui,sans-serif;fill:#222}.key span{margin-right:1.2em}
.key i{display:inline-block;width:1em;height:1em;vertical-align:-2px;margin-right:.3em}</style>"#;

const KEY: &str = r##"<p class="key"><span><i style="background:#2b8a3e"></i>leader</span>
<span><i style="background:#e8890c"></i>candidate</span><span><i style="background:#f3d08a"></i>asks
before it campaigns</span><span><i style="background:#9db4d0"></i>follower (a shade a term)</span>
<span><i style="background:#1864ab"></i>entries</span><span><i style="background:#c2255c"></i>votes</span>
<span><i style="background:#adb5bd"></i>others</span><span>a gap: down</span><span>ticks below a lane:
syncs</span><span>dashed: lost, or still under way</span></p>"##;

const SCRIPT: &str = r#"<script>
const s=document.querySelector('svg'),v=s.viewBox.baseVal;
s.addEventListener('wheel',e=>{e.preventDefault();const r=s.getBoundingClientRect(),
x=v.x+(e.clientX-r.left)/r.width*v.width,k=e.deltaY<0?.8:1.25;v.x=x-(x-v.x)*k;v.width*=k},{passive:false});
let d=null;s.addEventListener('pointerdown',e=>{d=[e.clientX,v.x];s.setPointerCapture(e.pointerId)});
s.addEventListener('pointerup',()=>d=null);s.addEventListener('pointermove',e=>{if(d)
v.x=d[1]-(e.clientX-d[0])/s.getBoundingClientRect().width*v.width});</script>"#;

/// The page of a run that was recorded.
pub fn page(plan: &Plan, run: &Run) -> String {
    let mut page = HEAD.to_owned();
    match &run.violation {
        Some(broken) => {
            let (check, detail) = (escape(broken.check), escape(&broken.detail));
            let _ = write!(page, "<h1 class=broken>{check}</h1><pre>{detail}</pre>");
        }
        None => page.push_str("<h1>no promise was broken</h1>"),
    }
    let seconds = run.time_us as f64 / 1e6;
    let _ = write!(page, "<p>{} events, {seconds:.6} s of simulated time</p>", run.events);
    let _ = write!(page, "<pre>{}</pre>{KEY}", escape(&plan.to_string()));
    Picture::new(plan, run).draw(&mut page);
    page.push_str(SCRIPT);
    page
}

struct Picture<'a> {
    plan: &'a Plan,
    timeline: &'a Timeline,
    broken: bool,
    from_us: u64,
    to_us: u64,
    /// Where the first lane begins.
    top: f64,
}

impl<'a> Picture<'a> {
    fn new(plan: &'a Plan, run: &'a Run) -> Self {
        let timeline = &run.timeline;
        let first = timeline.flights.len().saturating_sub(FLIGHTS_MAX);
        let from_us = match first {
            0 => 0,
            first => timeline.flights[first].sent_us,
        };
        let to_us = run.time_us.max(from_us + 1);
        let lasts = |fault: &&crate::plan::Fault| {
            fault.at_us <= to_us && fault.at_us + fault.amount >= from_us
        };
        let faults = plan.faults.iter().filter(lasts).count();
        let top = 30.0 + FAULT * faults as f64;
        Picture { plan, timeline, broken: run.violation.is_some(), from_us, to_us, top }
    }

    fn x(&self, at_us: u64) -> f64 {
        let part = at_us.clamp(self.from_us, self.to_us) - self.from_us;
        LEFT + part as f64 / (self.to_us - self.from_us) as f64 * (WIDTH - LEFT - 20.0)
    }

    fn y(&self, node: u64) -> f64 {
        self.top + LANE * node as f64
    }

    fn draw(&self, page: &mut String) {
        let clients = self.timeline.spans.iter().map(|span| span.client + 1).max().unwrap_or(0);
        let lanes = self.y(self.plan.nodes);
        let height = lanes + 14.0 * clients as f64 + 20.0;
        let _ = write!(page, "<svg viewBox='0 0 {WIDTH} {height:.0}' preserveAspectRatio='none'>");
        self.draw_scale(page, height);
        self.draw_faults(page, lanes);
        self.draw_roles(page);
        self.draw_flights(page);
        self.draw_clients(page, lanes);
        if self.broken {
            let x = self.x(self.to_us);
            let _ = write!(
                page,
                "<line x1={x:.1} x2={x:.1} y1=0 y2={height:.0} stroke=#e03131 stroke-width=3>\
                 <title>here the promise was broken</title></line>"
            );
        }
        page.push_str("</svg>");
    }

    fn draw_scale(&self, page: &mut String, height: f64) {
        for part in 0..=10 {
            let at_us = self.from_us + (self.to_us - self.from_us) / 10 * part;
            let (x, ms) = (self.x(at_us), at_us as f64 / 1e3);
            let _ = write!(
                page,
                "<line x1={x:.1} x2={x:.1} y1=14 y2={height:.0} stroke=#0001 />\
                 <text x={x:.1} y=11>{ms:.1} ms</text>"
            );
        }
        for node in 0..self.plan.nodes {
            let _ = write!(page, "<text x=4 y={:.0}>node {node}</text>", self.y(node) + 15.0);
        }
    }

    /// Each fault on a line of its own, with a band through the lanes where it cuts links.
    fn draw_faults(&self, page: &mut String, lanes: f64) {
        let mut y = 18.0;
        for fault in &self.plan.faults {
            let lasts = match fault.kind {
                FaultKind::Clock => 0,
                _ => fault.amount,
            };
            let until_us = fault.at_us + lasts;
            if fault.at_us > self.to_us || fault.at_us + fault.amount < self.from_us {
                continue;
            }
            let (from, to) = (self.x(fault.at_us), self.x(until_us));
            let width = (to - from).max(2.0);
            let word = fault.kind.word();
            let what = format!("{word} {} for {} ms", fault.node, fault.amount / 1_000);
            let _ = write!(
                page,
                "<rect x={from:.1} y={y:.0} width={width:.1} height=12 fill=#f08c00 opacity=.45>\
                 <title>{what}</title></rect><text x={:.1} y={:.0}>{what}</text>",
                from + 3.0,
                y + 10.0
            );
            let cuts = [
                FaultKind::Isolate,
                FaultKind::Deaf,
                FaultKind::Mute,
                FaultKind::Split,
                FaultKind::Bridge,
                FaultKind::Ring,
            ];
            if cuts.contains(&fault.kind) {
                let tall = lanes - self.top;
                let _ = write!(
                    page,
                    "<rect x={from:.1} y={:.0} width={width:.1} height={tall:.0} fill=#f08c00 \
                     opacity=.08 />",
                    self.top
                );
            }
            y += FAULT;
        }
    }

    fn draw_roles(&self, page: &mut String) {
        for node in 0..self.plan.nodes {
            let mut since: Option<(u64, RoleKind, Term)> = None;
            let moments = self.timeline.moments.iter().filter(|moment| moment.node == Some(node));
            for Moment { at_us, what, .. } in moments {
                match what {
                    What::Role(role, term) => {
                        self.draw_role(page, node, since, *at_us);
                        since = Some((*at_us, *role, *term));
                    }
                    What::Down => {
                        self.draw_role(page, node, since.take(), *at_us);
                        let (x, y) = (self.x(*at_us), self.y(node) + 16.0);
                        if *at_us >= self.from_us {
                            let _ = write!(page, "<text x={x:.1} y={y:.0}>✕ down</text>");
                        }
                    }
                    What::Durable { .. } if *at_us >= self.from_us => {
                        let (x, y) = (self.x(*at_us), self.y(node) + 22.0);
                        let _ = write!(
                            page,
                            "<line x1={x:.1} x2={x:.1} y1={y:.0} y2={:.0} stroke=#495057>\
                             <title>a write is durable</title></line>",
                            y + 6.0
                        );
                    }
                    _ => {}
                }
            }
            self.draw_role(page, node, since, self.to_us);
        }
    }

    fn draw_role(
        &self,
        page: &mut String,
        node: u64,
        since: Option<(u64, RoleKind, Term)>,
        until_us: u64,
    ) {
        let Some((from_us, role, term)) = since else { return };
        if until_us < self.from_us {
            return;
        }
        let (word, colour) = match role {
            RoleKind::Leader => ("leader", "#2b8a3e".to_owned()),
            RoleKind::Candidate => ("candidate", "#e8890c".to_owned()),
            RoleKind::PreCandidate => ("asks before it campaigns", "#f3d08a".to_owned()),
            RoleKind::Follower => (
                "follower",
                format!("hsl({},35%,{}%)", 195 + term.0 * 47 % 90, 68 + term.0 * 5 % 18),
            ),
        };
        let (from, y) = (self.x(from_us), self.y(node));
        let width = (self.x(until_us) - from).max(0.6);
        let _ = write!(
            page,
            "<rect x={from:.1} y={y:.0} width={width:.1} height=20 fill='{colour}'>\
             <title>node {node}: {word} in term {term}</title></rect>"
        );
        if width > 24.0 {
            let _ = write!(page, "<text x={:.1} y={:.0}>{term}</text>", from + 3.0, y + 14.0);
        }
    }

    fn draw_flights(&self, page: &mut String) {
        let first = self.timeline.flights.len().saturating_sub(FLIGHTS_MAX);
        for flight in &self.timeline.flights[first..] {
            let ended_us = flight.arrived.map_or(flight.sent_us, |(at_us, _)| at_us);
            self.draw_flight(page, flight, ended_us, flight.fate != Fate::Arrived);
        }
    }

    fn draw_flight(&self, page: &mut String, flight: &Flight, at_us: u64, lost: bool) {
        let Flight { sent_us, from, to, says, .. } = flight;
        let colour = match flight.kind {
            FlightKind::Entries | FlightKind::Matched => "#1864ab",
            FlightKind::PreVote | FlightKind::Vote | FlightKind::Granted => "#c2255c",
            _ => "#adb5bd",
        };
        let (x1, y1) = (self.x(*sent_us), self.y(*from) + 10.0);
        let (mut x2, mut y2) = (self.x(at_us), self.y(*to) + 10.0);
        let mut dash = "";
        if lost {
            // It is drawn a third of the way: nobody saw it arrive.
            (x2, y2) = (x1 + 4.0, y1 + (y2 - y1) / 3.0);
            dash = " stroke-dasharray='3 3'";
        }
        let _ = write!(
            page,
            "<line x1={x1:.1} y1={y1:.0} x2={x2:.1} y2={y2:.0} stroke={colour}{dash}>\
             <title>{from} → {to}: {}</title></line>",
            escape(says)
        );
        if !lost {
            let _ = write!(page, "<circle cx={x2:.1} cy={y2:.0} r=1.8 fill={colour} />");
        }
    }

    fn draw_clients(&self, page: &mut String, lanes: f64) {
        for span in &self.timeline.spans {
            if span.ended_us < self.from_us {
                continue;
            }
            let (from, to) = (self.x(span.begun_us), self.x(span.ended_us));
            let (y, width) = (lanes + 14.0 * span.client as f64, (to - from).max(0.8));
            let colour = match span.outcome {
                "done" => "#69db7c",
                "not done" => "#ced4da",
                _ => "#ffa8a8",
            };
            let _ = write!(
                page,
                "<rect x={from:.1} y={y:.0} width={width:.1} height=10 fill={colour}>\
                 <title>client {}: {}</title></rect>",
                span.client, span.outcome
            );
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
