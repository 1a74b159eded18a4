//! End-to-end tests on the lab.
