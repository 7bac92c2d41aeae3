//! The checks, for simulations that are driven otherwise than by this crate's own world: what is looked
//! at is the same core, log and state machine.

pub use crate::observer::{Observed, Observer, Violation, violation};
pub use crate::shadow::{Change, Shadow};
pub use crate::timekeeping::Timekeeping;
