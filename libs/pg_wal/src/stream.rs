//! The stream decoder.
