//! The copy manager (SPC-4, 5.17; SBC-3, 4.28): EXTENDED COPY, and copies by token.
//!
//! A copy is done before its command is answered. Inside one store it may be a step of the map
//! ([`export::BlockExport::copy_from`]); elsewhere bytes are read and written, a piece at a time.

mod engine;
mod extended;
mod records;
mod results;
mod rod;
mod tokens;

pub(crate) use extended::extended_copy;
pub(crate) use records::Records;
pub(crate) use results::{receive_copy_results, third_party_copy_page};
pub(crate) use rod::{populate_token, write_using_token};
pub(crate) use tokens::{Tokens, UnitTokens};
