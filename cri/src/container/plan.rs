//! From an OCI specification, and what it cannot say, to the plan that a keeper carries out. Pure.
