//! Talks to a cluster through any of its nodes.
//!
//! The nodes pass writes and reads on to their leader, so any node that is up will do; a node that
//! answers with a redirect (`--no-forward`) is followed. What was certainly not done is tried again
//! on the next server until the time is over; what may have been done is never repeated, except for
//! reads.

use super::http::{self, Failure, Request, Response};
use super::{exit, input};
use hyper::header::LOCATION;
use hyper::{Method, StatusCode};
use std::time::{Duration, Instant};

/// Pause after all servers were tried in vain: elections take some hundred milliseconds.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Redirects followed for one attempt. The leader may change once on the way; more is a circle.
const REDIRECTS_MAX: usize = 3;

/// Whom to talk to; part of every client command.
#[derive(clap::Args, Clone)]
pub struct ServerArgs {
    /// A node to talk to; given several times or with commas, the next one is tried when one is down
    #[arg(
        long = "server",
        short = 's',
        env = "RAFT_KV_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_parser = http::address_of
    )]
    pub servers: Vec<String>,

    /// Give up after so many seconds
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    timeout: f64,
}

/// A positive number of seconds that a `Duration` can hold.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(seconds)
    } else {
        Err("expected more than 0 and at most 86400 seconds".to_owned())
    }
}

/// Why a command has no answer of the store.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Certainly not executed.
    #[error("not done: {0}")]
    NotDone(String),
    /// Perhaps executed.
    #[error("outcome unknown (it may have been done): {0}")]
    Unknown(String),
}

impl CallError {
    /// Says so, and returns the exit code that says the same.
    pub fn report(&self) -> u8 {
        exit::complain(self);
        match self {
            CallError::NotDone(_) => exit::NOT_DONE,
            CallError::Unknown(_) => exit::UNKNOWN,
        }
    }
}

/// A client of one cluster.
pub struct Client {
    servers: Vec<String>,
    timeout: Duration,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client for the servers asked for.
    pub fn new(args: &ServerArgs) -> Result<Self, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CallError::NotDone(error.to_string()))?;
        Ok(Client {
            servers: args.servers.clone(),
            timeout: Duration::from_secs_f64(args.timeout),
            runtime,
        })
    }

    /// Sends `request` until somebody gives an answer that is one: anything but "not done, try
    /// again". Answers of the store such as 404 and 412 are answers.
    pub fn call(&self, request: &Request) -> Result<Response, CallError> {
        let deadline = Instant::now() + self.timeout;
        // The last answer that says more than "cannot connect" tells a person the most.
        let mut reason = String::new();
        for round in 0.. {
            if round > 0 {
                std::thread::sleep(RETRY_PAUSE);
            }
            for server in &self.servers {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(CallError::NotDone(reason));
                }
                match self.runtime.block_on(attempt(server, request, left)) {
                    Ok(response) => return Ok(response),
                    Err(CallError::NotDone(why)) => reason = why,
                    Err(CallError::Unknown(why)) if request.method == Method::GET => reason = why,
                    Err(unknown) => return Err(unknown),
                }
            }
        }
        unreachable!("the loop above has no end of its own")
    }
}

/// One attempt, by way of `server` and wherever it redirects to.
async fn attempt(server: &str, request: &Request, left: Duration) -> Result<Response, CallError> {
    let mut address = server.to_owned();
    let mut request = request.clone();
    for _ in 0..=REDIRECTS_MAX {
        let response =
            http::exchange(&address, &request, left).await.map_err(|failure| match failure {
                Failure::NotSent(why) => CallError::NotDone(why),
                Failure::Lost(why) => CallError::Unknown(why),
            })?;
        if response.status != StatusCode::TEMPORARY_REDIRECT {
            return sorted(response);
        }
        let location = response.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let Some((next, path)) = location.and_then(split_location) else {
            return Err(CallError::NotDone(format!("{address}: a redirect to nowhere")));
        };
        address = next;
        request.path = path;
    }
    Err(CallError::NotDone(format!("{server}: redirected in circles")))
}

/// Tells the store's answers from those that mean it could not give one.
fn sorted(response: Response) -> Result<Response, CallError> {
    let status = response.status;
    let busy = status == StatusCode::TOO_MANY_REQUESTS;
    if !status.is_server_error() && !busy {
        return Ok(response);
    }
    let why = explanation(&response);
    let problem = response.json();
    let certain = match problem["outcome"].as_str() {
        Some(outcome) => outcome == "not_done",
        None => busy || status == StatusCode::SERVICE_UNAVAILABLE,
    };
    Err(if certain { CallError::NotDone(why) } else { CallError::Unknown(why) })
}

/// What an answer that is no success says, for a person.
pub fn explanation(response: &Response) -> String {
    let problem = response.json();
    let said = ["detail", "title", "error"].iter().find_map(|field| problem[*field].as_str());
    match said {
        Some(said) => format!("{said} ({})", response.status),
        None => response.status.to_string(),
    }
}

/// An answer that a command did not expect: refused, and why.
pub fn refused(response: &Response) -> u8 {
    CallError::NotDone(explanation(response)).report()
}

/// The address and the path of an absolute `Location`.
fn split_location(location: &str) -> Option<(String, String)> {
    let rest = location.strip_prefix("http://")?;
    let (address, path) = rest.split_once('/')?;
    Some((address.to_owned(), format!("/{path}")))
}

/// The request for a key.
pub fn on_key(method: Method, key: &std::ffi::OsStr) -> Request {
    Request::new(method, input::path_of(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer(status: u16, body: &'static str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Default::default(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn an_answer_of_the_store_is_an_answer_even_when_it_is_no() {
        assert!(sorted(answer(404, "")).is_ok());
        assert!(sorted(answer(412, "")).is_ok());
    }

    #[test]
    fn a_failed_write_is_repeated_only_when_it_was_certainly_not_done() {
        let not_done = sorted(answer(503, r#"{"outcome":"not_done","detail":"no leader"}"#));
        assert!(matches!(not_done, Err(CallError::NotDone(why)) if why.contains("no leader")));
        let unknown = sorted(answer(504, r#"{"outcome":"unknown"}"#));
        assert!(matches!(unknown, Err(CallError::Unknown(_))));
        // Something between us and the node that does not know our words.
        assert!(matches!(sorted(answer(502, "bad gateway")), Err(CallError::Unknown(_))));
    }

    #[test]
    fn a_redirect_is_taken_apart() {
        let expected = Some(("127.0.0.1:8081".to_owned(), "/v1/kv/a%2Fb?x=1".to_owned()));
        assert_eq!(split_location("http://127.0.0.1:8081/v1/kv/a%2Fb?x=1"), expected);
        assert_eq!(split_location("/elsewhere"), None);
    }
}
