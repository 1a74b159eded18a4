//! The device filter of a container as a program for the kernel.
//!
//! Rules are tried from the last to the first; each access asked for (mknod, read, write) is decided by the first rule
//! that matches the device and speaks of that access. What no rule speaks of is denied.

use std::os::fd::AsFd;

use crate::failure::{About as _, Trouble};
use crate::plan::DeviceRule;
use crate::sys::device_filter::{self, Instruction};

/// Rules of one container; a privileged one names some hundred devices at most.
const MAX_RULES: usize = 4096;

// Registers: the context, then what is read from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// Accesses not decided yet.
const OPEN: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operations, linux/bpf.h and linux/bpf_common.h. The 32-bit forms compare device numbers without their sign.
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SHIFT_RIGHT: u8 = 0x77;
const AND: u8 = 0x54;
const SET: u8 = 0xb7;
const SKIP_UNLESS_EQUAL: u8 = 0x56;
const SKIP_IF_ANY: u8 = 0x46;
const SKIP: u8 = 0x05;
const EXIT: u8 = 0x95;

const KIND_BLOCK: u32 = 1;
const KIND_CHARACTER: u32 = 2;

fn instruction(operation: u8, target: u8, skip: i16, value: u32) -> Instruction {
    Instruction {
        operation,
        registers: target,
        skip,
        value,
    }
}

fn from_register(operation: u8, target: u8, source: u8, offset: i16) -> Instruction {
    Instruction {
        operation,
        registers: target | source << 4,
        skip: offset,
        value: 0,
    }
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [
        instruction(SET, RESULT, 0, u32::from(allow)),
        instruction(EXIT, 0, 0, 0),
    ]
}

/// The program of a list of rules.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        from_register(LOAD_WORD, KIND, CONTEXT, 0),
        from_register(COPY, OPEN, KIND, 0),
        instruction(SHIFT_RIGHT, OPEN, 0, 16),
        instruction(AND, KIND, 0, 0xFFFF),
        from_register(LOAD_WORD, MAJOR, CONTEXT, 4),
        from_register(LOAD_WORD, MINOR, CONTEXT, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(of_rule(rule));
    }
    program.extend(verdict(false));
    program
}

fn of_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let kind = rule
        .block
        .map(|block| if block { KIND_BLOCK } else { KIND_CHARACTER });
    let conditions: Vec<(u8, u32)> = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)]
        .into_iter()
        .filter_map(|(register, value)| value.map(|value| (register, value)))
        .collect();
    let [set, exit] = verdict(rule.allow);
    let action = if rule.allow {
        // Allowed accesses are decided; done once none is open.
        [
            instruction(AND, OPEN, 0, !rule.access),
            instruction(SKIP_UNLESS_EQUAL, OPEN, 2, 0),
            set,
            exit,
        ]
    } else {
        [
            instruction(SKIP_IF_ANY, OPEN, 1, rule.access),
            instruction(SKIP, 0, 2, 0),
            set,
            exit,
        ]
    };
    let skips = (action.len()..action.len() + conditions.len()).rev();
    let conditions = conditions
        .into_iter()
        .zip(skips)
        .map(|((register, value), skip)| {
            instruction(
                SKIP_UNLESS_EQUAL,
                register,
                i16::try_from(skip).expect("at most three conditions"),
                value,
            )
        });
    conditions.chain(action).collect()
}

/// Holds the processes of `cgroup` to `rules`; nothing is held where there are none.
pub(crate) fn apply(cgroup: impl AsFd, rules: &[DeviceRule]) -> Result<(), Trouble> {
    if rules.is_empty() {
        return Ok(());
    }
    if rules.len() > MAX_RULES {
        return Err(Trouble::rule(
            "device rules",
            format!("{} are over the limit of {MAX_RULES}", rules.len()),
        ));
    }
    device_filter::attach(cgroup, &assemble(rules)).about("device filter")
}

#[cfg(test)]
mod tests;
