//! The engine from outside: round trips, models, damage.

mod damage;
mod image;
mod model;
mod stream;
mod support;
