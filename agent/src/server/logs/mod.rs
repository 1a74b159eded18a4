//! Container logs: what was asked (`options`), CRI log lines (`line`, pure), files (`file`), and the reading and
//! following of them (`reader`).

mod file;
mod line;
mod options;
mod reader;
mod sys;

pub(crate) use file::LogFile;
pub(crate) use options::{Options, QueryError};
pub(crate) use reader::{ReadError, copy};
