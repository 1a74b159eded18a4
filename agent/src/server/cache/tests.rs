use super::*;

#[test]
fn entries_end_and_are_bounded() {
    let cache = Cache::new();
    let start = Instant::now();
    cache.put(0, "a", start, Duration::from_secs(2));
    assert_eq!(cache.get(&0, start + Duration::from_secs(1)), Some("a"));
    assert_eq!(cache.get(&0, start + Duration::from_secs(2)), None);
    for key in 0..3 * LIMIT {
        cache.put(key, "b", start, Duration::from_secs(1));
        assert!(cache.entries.lock().unwrap().len() <= LIMIT);
    }
    assert_eq!(cache.get(&(3 * LIMIT - 1), start), Some("b"));
}
