//! RDS look-alike.
