//! Clients that use answers, histories, descriptions and configured machines: for each a mistake in
//! a state machine that only this part of the kit finds.

use bytes::Bytes;
use driver::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
use simulator::checks::Check;
use simulator::random::Stream;
use simulator::{Answered, Client, ClientOutcome, ClientRequest, Failed, Objection, Simulation};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// The mistakes of [`Tickets`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mistake {
    #[default]
    None,
    /// A ticket that is handed back is given out again, to the next client too.
    GivesAgain,
    /// Every third ticket is not taken back.
    DeniesAThird,
    /// It gives one ticket more than there are.
    GivesOneTooMany,
}

/// Gives out tickets. The number of a ticket cannot be guessed. 0 is no ticket.
#[derive(Clone)]
struct Tickets {
    /// Configured by the test, like the next field.
    mistake: Mistake,
    tickets_max: u64,
    given: u64,
    /// The ticket that was handed back last.
    back: u64,
}

const TAKE: u8 = b't';
const HAND_BACK: u8 = b'b';

/// The ticket that is given as this one in a row, from 1 on.
fn ticket(count: u64) -> u64 {
    count.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

impl Tickets {
    fn new(mistake: Mistake, tickets_max: u64) -> Self {
        Tickets { mistake, tickets_max, given: 0, back: 0 }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }
}

impl StateMachine for Tickets {
    type Frozen = Tickets;

    fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
        match command[0] {
            TAKE if self.back != 0 => {
                let back = std::mem::take(&mut self.back);
                Bytes::copy_from_slice(&back.to_le_bytes())
            }
            TAKE if self.given
                >= self.tickets_max + u64::from(self.is(Mistake::GivesOneTooMany)) =>
            {
                Bytes::copy_from_slice(&0_u64.to_le_bytes())
            }
            TAKE => {
                self.given += 1;
                Bytes::copy_from_slice(&ticket(self.given).to_le_bytes())
            }
            _ => {
                let back = number(&command[1..]);
                let mut given = 1..=self.given;
                let is_known = given.any(|count| {
                    ticket(count) == back && !(self.is(Mistake::DeniesAThird) && count % 3 == 0)
                });
                if is_known && self.is(Mistake::GivesAgain) {
                    self.back = back;
                }
                Bytes::copy_from_slice(&[u8::from(is_known)])
            }
        }
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.given.to_le_bytes())
    }

    fn freeze(&self) -> Tickets {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 16];
        from.read_exact(&mut bytes)?;
        (self.given, self.back) = (number(&bytes[..8]), number(&bytes[8..]));
        Ok(())
    }
}

impl Frozen for Tickets {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.given.to_le_bytes())?;
        to.write_all(&self.back.to_le_bytes())
    }
}

/// Takes tickets, and hands each of them back.
#[derive(Default)]
struct Holder {
    ticket: Option<u64>,
}

impl Client for Holder {
    fn request(&mut self, draw: &mut Stream) -> ClientRequest {
        match self.ticket {
            _ if draw.below(8) == 0 => ClientRequest::Query(Bytes::new()),
            Some(ticket) => ClientRequest::Command(hand_back(ticket)),
            None => ClientRequest::Command(Bytes::from_static(&[TAKE])),
        }
    }

    fn answered(&mut self, answered: &Answered<'_>) -> Result<(), String> {
        match (answered.request, answered.outcome) {
            (ClientRequest::Command(command), ClientOutcome::Done(answer))
                if command[0] == TAKE =>
            {
                self.ticket = Some(number(answer)).filter(|ticket| *ticket != 0);
            }
            (ClientRequest::Command(_), ClientOutcome::Done([0])) => {
                return Err(format!("ticket {:?} is its own, and was not taken", self.ticket));
            }
            (ClientRequest::Command(_), ClientOutcome::Done(_)) => self.ticket = None,
            _ => {}
        }
        Ok(())
    }
}

fn hand_back(ticket: u64) -> Bytes {
    [&[HAND_BACK][..], &ticket.to_le_bytes()].concat().into()
}

/// The requests of clients that cannot use an answer: they guess a ticket.
fn guess(_client: u64, draw: &mut Stream) -> ClientRequest {
    ClientRequest::Command(match draw.below(2) {
        0 => Bytes::from_static(&[TAKE]),
        _ => hand_back(draw.draw()),
    })
}

fn no_ticket_twice(history: &[Answered<'_>]) -> Result<(), Objection> {
    let mut taken: Vec<(u64, &Answered<'_>)> = Vec::new();
    for it in history {
        let (ClientRequest::Command(command), ClientOutcome::Done(answer)) =
            (it.request, it.outcome)
        else {
            continue;
        };
        let ticket = number(answer);
        if command[0] != TAKE || ticket == 0 {
            continue;
        }
        if let Some((_, before)) = taken.iter().find(|(known, _)| *known == ticket) {
            return Err(Objection::to(format!("ticket {ticket} was given twice"), [*before, it]));
        }
        taken.push((ticket, it));
    }
    Ok(())
}

const MANY: u64 = 1 << 40;

/// A file of this test's own.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("simulator-{}-{name}.html", std::process::id()))
}

/// The failure that a simulation must find, and its page.
fn broken<M: StateMachine>(simulation: Simulation<M>, name: &str) -> (Failed, String) {
    let page = path(name);
    let found = simulation.timeline(&page).check().expect_err("it is broken");
    let failed = found.failed().expect("a promise is");
    let drawn = std::fs::read_to_string(&page).expect("there is a page");
    std::fs::remove_file(page).expect("it was made above");
    (failed, drawn)
}

/// The story on a page.
fn story(page: &str) -> &str {
    let from = page.find("<ol class=\"story\">").expect("there is a story");
    &page[from..from + page[from..].find("</ol>").expect("it ends")]
}

#[test]
fn a_mistake_behind_a_token_is_found_by_clients_that_use_answers() {
    let guesses = Simulation::new(|| Tickets::new(Mistake::GivesAgain, MANY), guess);
    guesses.seeds(0..5).history(no_ticket_twice).run();

    let holders =
        Simulation::with_clients(|| Tickets::new(Mistake::GivesAgain, MANY), |_| Holder::default());
    let (failed, page) = broken(holders.seeds(0..20).history(no_ticket_twice), "token");
    assert_eq!(failed.violation.check, Check::HistoryOfTheTest, "{failed}");
    assert_eq!(failed.violation.about.requests.len(), 2);
    assert!(failed.shrunk.plan.faults.is_empty(), "{failed}");
    // Both takings, and what was handed back in between.
    let told: Vec<bool> = failed.steps.iter().map(|step| step.contains(": t → ")).collect();
    assert_eq!(told, [true, false, true], "{failed}");
    assert!(!story(&page).contains("term"), "{}", story(&page));
}

#[test]
fn a_client_that_knows_what_it_was_given_rejects_a_wrong_answer() {
    let simulation = || {
        let machine = || Tickets::new(Mistake::DeniesAThird, MANY);
        Simulation::with_clients(machine, |_| Holder::default())
    };
    let (failed, page) = broken(simulation().seeds(0..20), "denied");
    assert_eq!(failed.violation.check, Check::AnswerSuitsTheClient, "{failed}");
    assert!(story(&page).contains(": 62"), "{}", story(&page));
    // The clients of each run start anew, so the plan is enough to repeat it.
    let (again, _) = broken(simulation().plan(failed.shrunk.plan.clone()), "again");
    assert_eq!(again.violation.check, failed.violation.check);
}

#[test]
fn the_same_clients_find_nothing_in_a_machine_without_mistakes() {
    let machine = || Tickets::new(Mistake::None, 40);
    let simulation = Simulation::with_clients(machine, |_| Holder::default());
    let passed = simulation.seeds(0..10).history(no_ticket_twice).run();
    assert!(passed.marks.count("a command was done") > 1_000);
}

#[test]
fn a_machine_is_configured_so_that_its_bound_is_met() {
    let simulation = |tickets_max| {
        let machine = move || Tickets::new(Mistake::GivesOneTooMany, tickets_max);
        Simulation::with_clients(machine, |_| Holder::default())
            .seeds(0..2)
            .clients(3)
            .invariant(|it| match it.given <= it.tickets_max {
                true => Ok(()),
                false => Err(format!("{} of {} tickets", it.given, it.tickets_max)),
            })
            .describe(|command| match command[0] {
                TAKE => "take a ticket".to_owned(),
                _ => format!("hand back {:x}", number(&command[1..])),
            })
            .describe_answer(|_, answer| match answer.len() {
                8 => format!("ticket {:x}", number(answer)),
                _ => "it is back".to_owned(),
            })
    };
    simulation(MANY).run();

    let (failed, page) = broken(simulation(4), "bound");
    assert_eq!(failed.violation.check, Check::InvariantOfTheStateMachine, "{failed}");
    // Of all commands only five matter, and no term, vote or sync.
    assert_eq!(failed.steps.len(), 5, "{failed}");
    let told = format!("take a ticket → ticket {:x}", ticket(5));
    assert!(failed.to_string().contains(&told), "{failed}");
    let story = story(&page);
    assert_eq!(story.matches("take a ticket → ticket").count(), 5, "{story}");
    for word in ["term", "on its disk", "commit", "hand back"] {
        assert!(!story.contains(word), "{word}: {story}");
    }
}

/// Says what it was told before. It forgets that at a restart.
#[derive(Clone, Default)]
struct Parrot(Bytes);

impl StateMachine for Parrot {
    type Frozen = Tickets;

    fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
        std::mem::replace(&mut self.0, command)
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn freeze(&self) -> Tickets {
        Tickets::new(Mistake::None, 0)
    }

    fn restore(&mut self, _from: &mut dyn Read) -> Result<(), RestoreError> {
        Ok(())
    }
}

#[test]
fn a_described_command_and_both_answers_are_shown_whole() {
    let long = |draw: &mut Stream| Bytes::from(vec![b'a' + draw.below(26) as u8; 600]);
    let simulation = || {
        Simulation::new(Parrot::default, move |_, draw| ClientRequest::Command(long(draw)))
            .seeds(0..30)
    };
    let words = |bytes: &[u8]| format!("«{}»", String::from_utf8_lossy(bytes));
    let described = simulation().describe(words).describe_answer(move |_, answer| words(answer));
    let (failed, page) = broken(described, "described");
    assert_eq!(failed.violation.check, Check::StateMachineIsDeterministic);
    let parts: Vec<&str> = failed.violation.detail.split(['«', '»']).collect();
    let lengths: Vec<usize> = [1, 3, 5].iter().map(|at| parts[*at].len()).collect();
    assert!(lengths[0].is_multiple_of(600) && lengths[1..] == [600, 600], "{failed}");
    let whole = story(&page).split(['«', '»']).filter(|part| part.len() == 600).count();
    assert!(whole >= 3, "{}", story(&page));

    let (plain, _) = broken(simulation(), "plain");
    assert!(plain.violation.detail.contains('…'), "{plain}");
}
