//! Native redo of Postgres WAL: one page, its records, the page Postgres itself would have made.
