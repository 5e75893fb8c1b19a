//! PostgreSQL connection pooler with IAM.
