//! The code in rds-iam's documentation pages, compiled as doc tests with the drivers it uses.
//!
//! Owns: that these pages compile. Never: contains code of its own.

#[cfg(doctest)]
#[doc = include_str!("../../rds-iam/README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../rds-iam/src/pools.md")]
struct Pools;
