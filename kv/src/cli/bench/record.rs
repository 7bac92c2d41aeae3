//! The record of acknowledged writes, and the check against it.
//!
//! The record has a line for each write: the path of its key, and the number in its value. A key
//! has one writer, and its numbers increase. So a key with a number below its last acknowledged
//! one, or without a value, has lost a write.

use super::connection::Connection;
use super::workload::number_in;
use crate::cli::client::CallError;
use crate::cli::http::{Failure, Request, Response};
use crate::cli::{exit, input};
use hyper::{Method, StatusCode};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most lost writes that are printed individually.
const SHOWN_MAX: usize = 10;
/// The most attempts to read one key, over all servers.
const ATTEMPTS_MAX: usize = 30;
/// The pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A record that is being written.
pub struct Record {
    path: PathBuf,
    file: BufWriter<File>,
    failed: Option<io::Error>,
}

impl Record {
    /// Creates the file of a record. An existing file is replaced.
    pub fn create(path: &Path) -> Result<Self, CallError> {
        let file = File::create(path).map_err(|error| unwritable(path, &error))?;
        Ok(Record { path: path.to_owned(), file: BufWriter::new(file), failed: None })
    }

    /// Records one write.
    pub fn note(&mut self, path: &str, number: u64) {
        // After the first error nothing is written, because an incomplete record must not look
        // complete. [`Record::finish`] reports the error.
        if self.failed.is_none() {
            self.failed = writeln!(self.file, "{path} {number}").err();
        }
    }

    /// Flushes the file. Returns the first error of the record, if there was one.
    pub fn finish(&mut self) -> Result<(), CallError> {
        let flushed = self.file.flush();
        match self.failed.take().or(flushed.err()) {
            Some(error) => Err(unwritable(&self.path, &error)),
            None => Ok(()),
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> CallError {
    CallError::NotDone(format!("cannot write the record {}: {error}", path.display()))
}

/// Reads a record and every key in it, and reports lost writes.
pub async fn check(file: &Path, servers: &[String], timeout: Duration) -> Result<u8, CallError> {
    let (writes, last) = read(file)
        .map_err(|error| CallError::NotDone(format!("cannot read {}: {error}", file.display())))?;
    if writes == 0 {
        let file = file.display();
        return Err(CallError::NotDone(format!("{file} records no write, so it proves nothing")));
    }
    let mut reader = Reader { servers, connection: None, timeout };
    let mut lost = Vec::new();
    for (path, acknowledged) in &last {
        let found = reader.read(path).await?;
        if found.is_none_or(|found| found < *acknowledged) {
            lost.push((path, acknowledged, found));
        }
    }
    for (path, acknowledged, found) in lost.iter().take(SHOWN_MAX) {
        let found = found.map_or("nothing".to_owned(), |found| format!("number {found}"));
        exit::complain(format_args!(
            "{path}: number {acknowledged} was acknowledged, found {found}"
        ));
    }
    let (keys, lost) = (last.len(), lost.len());
    let printed =
        input::print_line(&format!("{writes} acknowledged writes on {keys} keys: {lost} lost"));
    Ok(match printed {
        // A lost write is the worse news.
        _ if lost > 0 => exit::NO,
        Ok(()) => exit::DONE,
        Err(error) => input::not_printed(&error),
    })
}

/// The number of acknowledged writes, and the last number of each key.
fn read(file: &Path) -> io::Result<(u64, BTreeMap<String, u64>)> {
    let mut last = BTreeMap::new();
    let mut writes = 0;
    for line in BufReader::new(File::open(file)?).lines() {
        let line = line?;
        let parsed = line.split_once(' ').and_then(|(path, n)| Some((path, n.parse().ok()?)));
        let Some((path, number)) = parsed else {
            return Err(io::Error::other(format!("not a line of a record: {line}")));
        };
        writes += 1;
        last.insert(path.to_owned(), number);
    }
    Ok((writes, last))
}

/// Reads keys from any server that answers.
struct Reader<'a> {
    servers: &'a [String],
    connection: Option<Connection>,
    timeout: Duration,
}

impl Reader<'_> {
    /// The number that a key holds, if it holds one.
    async fn read(&mut self, path: &str) -> Result<Option<u64>, CallError> {
        let request = Request::new(Method::GET, path);
        let mut reason = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            match self.ask(&request, attempt).await {
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(None),
                Ok(answer) if answer.status.is_success() => return Ok(number_in(&answer.body)),
                Ok(answer) => reason = answer.explanation(),
                Err(failure) => reason = failure.to_string(),
            }
            self.connection = None;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(CallError::NotDone(format!("cannot read {path}: {reason}")))
    }

    async fn ask(&mut self, request: &Request, attempt: usize) -> Result<Response, Failure> {
        if self.connection.is_none() {
            let server = &self.servers[attempt % self.servers.len()];
            self.connection = Some(Connection::open(server).await?);
        }
        match &mut self.connection {
            Some(connection) => connection.exchange(request, self.timeout).await,
            None => unreachable!("it was opened just now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_the_last_number_of_each_key() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("record");
        let mut record = Record::create(&file).unwrap();
        for (path, number) in [("/v1/kv/a", 0), ("/v1/kv/b", 1), ("/v1/kv/a", 2)] {
            record.note(path, number);
        }
        record.finish().unwrap();
        let (writes, last) = read(&file).unwrap();
        assert_eq!(writes, 3);
        assert_eq!(last, BTreeMap::from([("/v1/kv/a".into(), 2), ("/v1/kv/b".into(), 1)]));
    }

    #[test]
    fn a_record_cut_in_the_middle_is_not_taken_for_a_whole_one() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("record");
        std::fs::write(&file, "/v1/kv/a 0\n/v1/kv").unwrap();
        assert!(read(&file).is_err());
    }
}
