//! Checks the addresses of members: their length and their characters.
//!
//! The core never uses an address, but it keeps them in the log for good and gives them to every
//! node. There they end up in log lines, tables and headers. So they are short, and contain nothing
//! that a terminal or a parser would act on. Whether a host has that name is left to the transport.

use crate::Member;

/// The longest address of a member, in bytes: a name of a host has at most 255, a colon and a port
/// six.
pub const ADDRESS_BYTES_MAX: usize = 255 + 6;

/// Why a text cannot be the address of a member. Each text continues a sentence that begins with
/// the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It is too long.
    #[error("has {bytes} bytes, and an address has at most {ADDRESS_BYTES_MAX}")]
    TooLong {
        /// The length of the text in bytes.
        bytes: usize,
    },
    /// It has a character that no `host:port` has. Names in other scripts are written in their
    /// ASCII form (`xn--`).
    #[error(
        "contains {found:?}, and an address has only ASCII letters, digits and the characters -._:[]%"
    )]
    Character {
        /// The first such character.
        found: char,
    },
}

/// Checks the length and the characters of an address `host:port`. An empty one is accepted: a
/// member may have no address for clients.
pub fn check_address(address: &str) -> Result<(), AddressError> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(AddressError::TooLong { bytes: address.len() });
    }
    let is_foreign = |c: &char| !c.is_ascii_alphanumeric() && !"-._:[]%".contains(*c);
    match address.chars().find(is_foreign) {
        Some(found) => Err(AddressError::Character { found }),
        None => Ok(()),
    }
}

impl Member {
    /// Checks both addresses, see [`check_address`].
    pub fn check_addresses(&self) -> Result<(), AddressError> {
        check_address(&self.peer_address)?;
        check_address(&self.client_address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_short_and_has_the_characters_of_one() {
        let longest = format!("{}:65535", "a".repeat(255));
        let good = ["", "127.0.0.1:80", "[fe80::1%3]:80", "a_b-c.example:80", longest.as_str()];
        for address in good {
            assert_eq!(check_address(address), Ok(()), "{address}");
        }
        let bytes = longest.len() + 1;
        let error = check_address(&format!("a{longest}")).unwrap_err();
        assert_eq!(error, AddressError::TooLong { bytes });
        assert_eq!(error.to_string(), "has 262 bytes, and an address has at most 261");
        for found in [' ', '\n', '\x1b', '\x7f', '\u{9b}', '/', '"', 'ü', '\u{202e}'] {
            let error = check_address(&format!("a{found}b:80")).unwrap_err();
            assert_eq!(error, AddressError::Character { found });
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }
}
