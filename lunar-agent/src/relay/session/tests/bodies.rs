//! Large bodies, and sides that do not read.
