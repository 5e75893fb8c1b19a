//! The code in rds-iam's pages, compiled as tests of documentation: here are the drivers that it uses.
//!
//! Owns: that these pages compile. Never: anything of its own.

#[cfg(doctest)]
#[doc = include_str!("../../rds-iam/README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../rds-iam/src/pools.md")]
struct Pools;
