//! The server against real clients, our own client, and hostile peers.

mod attacks;
mod exports;
mod hostile;
mod peers;
mod procedures;
mod repeats;
mod support;
mod windows;
