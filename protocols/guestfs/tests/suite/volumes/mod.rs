//! Arrays and logical volumes, as a Linux kernel wrote them (`tests/fixtures/volumes`), and as they are made here.

mod arrays;
mod damage;
mod filesystems;
mod fixtures;
mod groups;
mod kernel;
mod used;
