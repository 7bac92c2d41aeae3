//! The state machine's part of a snapshot: the base, then the retained commands.
//!
//! The format is a sequence of frames. Each frame is a 4-byte little-endian length and a value in
//! the encoding of [`storage::codec`]. In order: the header, the live keys of the base, its deleted
//! keys, the retained commands. The live store is not included, because replaying the commands on
//! the base yields it. There are no checksums here: the snapshot store adds them.

use crate::base::Base;
use crate::command::{Command, Version};
use crate::deletions::{Deleted, Deletions};
use crate::history::Retention;
use crate::shared_bytes::SharedBytes;
use crate::state::State;
use crate::store::{Item, Place, Store};
use bytes::Bytes;
use driver::RestoreError;
use imbl::OrdMap;
use raft::{CommandNumber, Term};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use storage::codec;

/// The version of this format. A snapshot with another version is rejected.
pub const FORMAT: u32 = 1;

/// The most bytes of one frame. Larger than the largest command.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// The length before a frame.
const LENGTH_BYTES: usize = 4;

/// The first frame. It gives the number of frames of each kind that follow.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    /// The number of the first retained command.
    first: CommandNumber,
    /// The version of the latest change before that command.
    revision: Version,
    keys: u64,
    deleted: u64,
    commands: u64,
}

/// Writes the snapshot of a state.
pub fn write(state: &State, to: &mut dyn Write) -> io::Result<()> {
    let (history, base) = (state.history(), Base::of(state));
    let mut frames = Frames { to, buffer: Vec::new() };
    frames.write(&Header {
        format: FORMAT,
        first: history.first(),
        revision: history.revision(),
        keys: base.keys() as u64,
        deleted: base.deleted_keys() as u64,
        commands: history.next().0 - history.first().0,
    })?;
    for entry in base.items() {
        frames.write(&entry)?;
    }
    for entry in base.deleted() {
        frames.write(&entry)?;
    }
    for (_, record) in history.records_from(history.first()) {
        frames.write_command(record.term, record.command.as_deref())?;
    }
    Ok(())
}

/// Reads a snapshot. A truncated snapshot, or one with trailing bytes, is an error. Commands beyond
/// `retention` are compacted.
pub fn read(from: &mut dyn Read, retention: Retention) -> Result<State, RestoreError> {
    let mut buffer = Vec::new();
    let from = &mut io::BufReader::with_capacity(256 << 10, from);
    let header: Header = read_frame(from, &mut buffer)?;
    if header.format != FORMAT {
        let format = header.format;
        return Err(malformed(format!("its format is {format}, this version knows {FORMAT}")));
    }
    let mut items: OrdMap<SharedBytes, Item> = OrdMap::new();
    for _ in 0..header.keys {
        let (key, item) = read_frame(from, &mut buffer)?;
        items.insert(key, item);
    }
    let mut deleted: OrdMap<SharedBytes, Deleted> = OrdMap::new();
    for _ in 0..header.deleted {
        let (key, at) = read_frame(from, &mut buffer)?;
        deleted.insert(key, at);
    }
    let is_live = |key: &SharedBytes| items.contains_key(key);
    if deleted.keys().any(is_live) {
        return Err(malformed("a key is both there and deleted".to_owned()));
    }
    let store = Store::new(items, header.revision);
    let mut state = State::at(retention, store, Deletions::new(deleted), header.first);
    for n in 0..header.commands {
        read_bytes(from, &mut buffer)?;
        let (term, command) = command_in(&buffer)?;
        let number = CommandNumber(header.first.0.saturating_add(n));
        state.apply(Place { number, term }, command);
    }
    let mut more = [0];
    match from.read(&mut more)? {
        0 => Ok(state),
        _ => Err(malformed("it goes on after its end".to_owned())),
    }
}

struct Frames<'a> {
    to: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl Frames<'_> {
    fn write<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        self.begin();
        codec::encode(value, &mut self.buffer);
        self.end(&[])
    }

    /// Writes a term and an `Option<Command>`. The command is encoded already, after a version that
    /// a frame does not have.
    fn write_command(&mut self, term: Term, command: Option<&[u8]>) -> io::Result<()> {
        self.begin();
        // A unit has no encoding, so this is the term and the tag of the option.
        codec::encode(&(term, command.map(|_| ())), &mut self.buffer);
        self.end(command.map_or(&[], |bytes| &bytes[1..]))
    }

    fn begin(&mut self) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; LENGTH_BYTES]);
    }

    /// Writes the frame in the buffer, which goes on with `rest`.
    fn end(&mut self, rest: &[u8]) -> io::Result<()> {
        let bytes = self.buffer.len() - LENGTH_BYTES + rest.len();
        let len = u32::try_from(bytes).ok().filter(|len| *len <= FRAME_BYTES_MAX);
        let len = len.ok_or_else(|| io::Error::other("a frame of the snapshot is too large"))?;
        self.buffer[..LENGTH_BYTES].copy_from_slice(&len.to_le_bytes());
        self.to.write_all(&self.buffer)?;
        self.to.write_all(rest)
    }
}

/// The term and the command in a frame of [`Frames::write_command`]; the command as in the log.
fn command_in(frame: &[u8]) -> Result<(Term, Option<Bytes>), RestoreError> {
    let (term, command): (Term, Option<Command<&[u8]>>) = decoded(frame)?;
    let mut start = Vec::new();
    codec::encode(&(term, command.as_ref().map(|_| ())), &mut start);
    let encoded = || [&[codec::VERSION], &frame[start.len()..]].concat().into();
    Ok((term, command.map(|_| encoded())))
}

fn read_frame<T: DeserializeOwned>(
    from: &mut dyn Read,
    buffer: &mut Vec<u8>,
) -> Result<T, RestoreError> {
    read_bytes(from, buffer)?;
    decoded(buffer)
}

/// Reads the bytes of a frame into the buffer.
fn read_bytes(from: &mut dyn Read, buffer: &mut Vec<u8>) -> Result<(), RestoreError> {
    let mut len = [0; LENGTH_BYTES];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > FRAME_BYTES_MAX {
        return Err(malformed(format!("a frame of {len} bytes")));
    }
    buffer.clear();
    // The length may be wrong, so memory is allocated only as bytes arrive.
    if from.take(u64::from(len)).read_to_end(buffer)? < len as usize {
        return Err(RestoreError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

fn decoded<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<T, RestoreError> {
    codec::decode_borrowed(frame).map_err(|error| malformed(error.to_string()))
}

fn malformed(why: String) -> RestoreError {
    RestoreError::Malformed(why)
}
