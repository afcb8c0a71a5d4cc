//! Small durable records: typed keyspaces in one database.
