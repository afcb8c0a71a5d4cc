//! Recovery points: the repository's format, read and ingest.
