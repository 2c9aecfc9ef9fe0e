//! Main-data structures of records that ingest interprets, one file per resource manager.
