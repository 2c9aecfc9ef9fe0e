//! Full-page images: decompression and hole.
