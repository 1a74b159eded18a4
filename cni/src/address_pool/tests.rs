use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn pool(directory: &Path, cidrs: &[&str]) -> AddressPool {
    let (mut pool, warnings) = AddressPool::load(directory, "boot-1").unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    pool.set_cidrs(&cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<_>>())
        .unwrap();
    pool
}

fn first(leased: &Leased) -> String {
    leased.addresses[0].addr().to_string()
}

#[test]
fn dual_stack_lease_is_the_same_again_and_after_restart() {
    let directory = tempfile::tempdir().unwrap();
    let cidrs = ["10.0.0.0/21", "fd00::/64"];
    let mut before = pool(directory.path(), &cidrs);
    let leased = before.lease("a").unwrap();
    assert!(leased.fresh);
    assert_eq!(
        leased.addresses,
        ["10.0.0.2/21".parse().unwrap(), "fd00::2/64".parse().unwrap()]
    );
    assert_eq!(
        before.lease("a").unwrap(),
        Leased {
            fresh: false,
            ..leased
        }
    );
    drop(before);
    let mut after = pool(directory.path(), &cidrs);
    assert_eq!(first(&after.lease("a").unwrap()), "10.0.0.2");
    assert_eq!(first(&after.lease("b").unwrap()), "10.0.0.3");
}

#[test]
fn freed_address_comes_last_even_after_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut before = pool(directory.path(), &["10.0.0.0/29"]);
    for id in ["a", "b", "c"] {
        before.lease(id).unwrap();
    }
    before.release("a").unwrap();
    drop(before);
    let mut after = pool(directory.path(), &["10.0.0.0/29"]);
    // .2 (a) is free; .5 and .6 come first.
    assert_eq!(first(&after.lease("d").unwrap()), "10.0.0.5");
    assert_eq!(first(&after.lease("e").unwrap()), "10.0.0.6");
    assert_eq!(first(&after.lease("f").unwrap()), "10.0.0.2");
    let error = after.lease("g").unwrap_err();
    assert!(matches!(error, PoolError::Exhausted { size: 5, .. }), "{error}");
}

#[test]
fn leases_of_an_earlier_boot_are_gone_and_damaged_ones_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    pool(directory.path(), &["10.0.0.0/24"]).lease("a").unwrap();
    let (reborn, _) = AddressPool::load(directory.path(), "boot-2").unwrap();
    assert_eq!(reborn.sandboxes().count(), 0);
    assert!(!directory.path().join("a").exists());

    std::fs::write(directory.path().join("b"), "{").unwrap();
    std::fs::write(directory.path().join(".c.new"), "{").unwrap();
    let (after, warnings) = AddressPool::load(directory.path(), "boot-1").unwrap();
    assert!(
        matches!(&warnings[..], [Warning::DamagedLease { .. }]),
        "{warnings:?}"
    );
    assert_eq!(after.sandboxes().count(), 0);
    assert!(directory.path().join("b.damaged").exists() && !directory.path().join(".c.new").exists());
    let (_, warnings) = AddressPool::load(directory.path(), "boot-1").unwrap();
    assert!(warnings.is_empty());
}

#[test]
fn bad_input_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (mut pool, _) = AddressPool::load(directory.path(), "boot-1").unwrap();
    assert!(matches!(pool.lease("a"), Err(PoolError::NoCidr)));
    for id in ["", "../a", "a/b", ".a", "a.damaged", &"a".repeat(129)] {
        assert!(matches!(pool.lease(id), Err(PoolError::SandboxId { .. })), "{id}");
        assert!(
            matches!(pool.release(id), Err(PoolError::SandboxId { .. })),
            "{id}"
        );
    }
    let cidrs = |text: &str| -> Vec<IpNet> { text.split(' ').map(|cidr| cidr.parse().unwrap()).collect() };
    for small in [
        "10.0.0.0/31",
        "10.0.0.0/32",
        "10.0.0.0/30 fd00::/128",
        "fd00::/127",
    ] {
        let result = pool.set_cidrs(&cidrs(small));
        assert!(
            matches!(result, Err(PoolError::TooSmall { .. })),
            "{small}: {result:?}"
        );
    }
    let result = pool.set_cidrs(&cidrs("10.0.0.0/24 10.0.1.0/24"));
    assert!(matches!(result, Err(PoolError::TwoOfOneFamily { .. })));
    pool.set_cidrs(&cidrs(
        "255.255.255.252/30 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126",
    ))
    .unwrap();
    assert_eq!(first(&pool.lease("a").unwrap()), "255.255.255.254");
    assert!(matches!(pool.lease("b"), Err(PoolError::Exhausted { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against the simplest model of a round: never an address twice, never network, gateway or broadcast, the one
    /// freed last comes last, and a restart (which reads the files) changes nothing.
    #[test]
    fn pool_goes_round(steps in proptest::collection::vec((0u8..12, any::<bool>()), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let mut real = pool(directory.path(), &["10.0.0.0/28", "fd00::/64"]);
        let mut newest = 1u8;
        let mut leased: HashMap<String, u8> = HashMap::new();
        for (id, take) in steps {
            let id = format!("sandbox-{id}");
            if take {
                let expected = leased.get(&id).copied().unwrap_or_else(|| {
                    let round = (0..13).map(|step| 2 + (newest - 1 + step) % 13);
                    newest = round.into_iter().find(|last| !leased.values().any(|other| other == last)).unwrap();
                    newest
                });
                let addresses = real.lease(&id).unwrap().addresses;
                prop_assert_eq!(addresses[0].to_string(), format!("10.0.0.{}/28", expected));
                leased.insert(id, expected);
            } else {
                real.release(&id).unwrap();
                leased.remove(&id);
            }
            prop_assert_eq!(real.sandboxes().count(), leased.len());
            let again = AddressPool::load(directory.path(), "boot-1").unwrap().0;
            prop_assert_eq!(&again.leases, &real.leases);
            prop_assert_eq!(&again.used, &real.used);
        }
    }
}
