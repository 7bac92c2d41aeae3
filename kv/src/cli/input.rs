//! Keys and values of the command line. Both may be any bytes.

use super::exit;
use kv::plain::escaped;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::fs::OFlags;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// The characters that are not percent-encoded in a path. Slashes are among them, because the key
/// is the rest of the path.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The path of a key. A key with a segment `.` or `..` is percent-encoded as a whole, so that no
/// proxy resolves the segment.
pub fn path_of(key: &OsStr) -> String {
    let key = key.as_bytes();
    if key.split(|byte| *byte == b'/').any(|part| part == b"." || part == b"..") {
        return format!("/v1/kv/{}", percent_encode(key, NON_ALPHANUMERIC));
    }
    format!("/v1/kv/{}", percent_encode(key, PLAIN))
}

/// The value of an argument: its bytes, or all of standard input for `-`.
pub fn value_of(argument: &OsString) -> io::Result<Vec<u8>> {
    if argument.as_bytes() != b"-" {
        return Ok(argument.as_bytes().to_vec());
    }
    if was_closed(io::stdin()) {
        return Err(io::Error::other("standard input is closed; an empty value is written as ''"));
    }
    let mut value = Vec::new();
    io::stdin().lock().read_to_end(&mut value)?;
    Ok(value)
}

/// Whether standard input was closed when the program was started. The runtime of the language puts
/// `/dev/null` in its place, open for reading and writing; a shell's `< /dev/null` is open for
/// reading only.
fn was_closed(stream: impl AsFd) -> bool {
    let copy = stream.as_fd().try_clone_to_owned().map(File::from);
    let (Ok(stat), Ok(null)) = (copy.and_then(|copy| copy.metadata()), fs::metadata("/dev/null"))
    else {
        return false;
    };
    let is_null = stat.file_type().is_char_device() && stat.rdev() == null.rdev();
    let is_for_both = |flags: OFlags| flags & OFlags::ACCMODE == OFlags::RDWR;
    is_null && rustix::fs::fcntl_getfl(&stream).is_ok_and(is_for_both)
}

/// Prints a text and a newline on standard output. Characters that a terminal acts on are escaped,
/// so the text may contain what a server has sent.
pub fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", escaped(text))?;
    out.flush()
}

/// Reports that the result of a command could not be printed. Returns the exit code.
pub fn not_printed(error: &io::Error) -> u8 {
    exit::complain(format_args!("cannot print the result: {error}"));
    exit::NOT_DONE
}

/// Prints a value byte for byte. On a terminal, a newline follows if the value does not end in one.
pub fn print_value(value: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(value)?;
    if out.is_terminal() && !value.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::path_of;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn any_key_fits_into_a_path() {
        assert_eq!(path_of(OsStr::new("a/b c")), "/v1/kv/a/b%20c");
        assert_eq!(path_of(OsStr::from_bytes(b"\xff?#")), "/v1/kv/%FF%3F%23");
        assert_eq!(path_of(OsStr::new("x/../y")), "/v1/kv/x%2F%2E%2E%2Fy");
    }
}
