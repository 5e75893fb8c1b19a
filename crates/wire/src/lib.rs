//! Sans-IO PostgreSQL wire protocol.
