//! IAM database authentication for Amazon RDS and Aurora.
