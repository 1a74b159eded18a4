//! Interface definitions and the code generated from them.
