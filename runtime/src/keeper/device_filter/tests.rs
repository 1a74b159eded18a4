use proptest::prelude::*;

use super::*;

/// One request as the kernel puts it.
#[derive(Debug, Clone, Copy)]
struct Asked {
    block: bool,
    major: u32,
    minor: u32,
    access: u32,
}

/// Runs a program as the kernel would; only the operations that we emit.
fn execute(program: &[Instruction], asked: Asked) -> bool {
    let kind = if asked.block { KIND_BLOCK } else { KIND_CHARACTER };
    let context = [asked.access << 16 | kind, asked.major, asked.minor];
    let mut registers = [0u64; 11];
    let mut at = 0;
    loop {
        let Instruction {
            operation,
            registers: numbers,
            skip,
            value,
        } = program[at];
        let (target, source) = (usize::from(numbers & 15), usize::from(numbers >> 4));
        at += 1;
        let take = match operation {
            LOAD_WORD => {
                registers[target] = u64::from(context[usize::try_from(skip).unwrap() / 4]);
                false
            }
            COPY => {
                registers[target] = registers[source];
                false
            }
            SHIFT_RIGHT => {
                registers[target] >>= value;
                false
            }
            AND => {
                registers[target] = u64::from(registers[target] as u32 & value);
                false
            }
            SET => {
                registers[target] = u64::from(value);
                false
            }
            SKIP_UNLESS_EQUAL => registers[target] as u32 != value,
            SKIP_IF_ANY => registers[target] as u32 & value != 0,
            SKIP => true,
            EXIT => return registers[0] == 1,
            other => panic!("unknown operation {other:#x}"),
        };
        if take {
            at += usize::try_from(skip).unwrap();
        }
    }
}

/// What the rules mean, said plainly.
fn allowed(rules: &[DeviceRule], asked: Asked) -> bool {
    [1, 2, 4]
        .into_iter()
        .filter(|bit| asked.access & bit != 0)
        .all(|bit| {
            let matching = rules.iter().rev().find(|rule| {
                rule.block.is_none_or(|block| block == asked.block)
                    && rule.major.is_none_or(|major| major == asked.major)
                    && rule.minor.is_none_or(|minor| minor == asked.minor)
                    && rule.access & bit != 0
            });
            matching.is_some_and(|rule| rule.allow)
        })
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..4, Just(u32::MAX), Just(1 << 31)]
}

prop_compose! {
    fn rule()(
        allow: bool, block: Option<bool>, major in prop::option::of(number()), minor in prop::option::of(number()),
        access in 0u32..8,
    ) -> DeviceRule {
        DeviceRule { allow, block, major, minor, access }
    }
}

proptest! {
    #[test]
    fn the_program_does_what_the_rules_mean(
        rules in prop::collection::vec(rule(), 0..12),
        block: bool, major in number(), minor in number(), access in 1u32..8,
    ) {
        let asked = Asked { block, major, minor, access };
        prop_assert_eq!(execute(&assemble(&rules), asked), allowed(&rules, asked));
    }
}
