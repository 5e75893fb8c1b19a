//! The `iambouncer` binary.
fn main() {}
