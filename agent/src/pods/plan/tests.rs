//! Tables with upstream's words, and properties over a model runtime.

mod model;
mod properties;
mod tables;
