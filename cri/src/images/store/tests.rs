use super::super::tests::{Sample, scratch};
use super::*;

fn open(dir: &tempfile::TempDir) -> Arc<Store> {
    Arc::new(Store::open(dir.path()).expect("open"))
}

fn count(dir: &tempfile::TempDir, folder: &str) -> usize {
    std::fs::read_dir(dir.path().join(folder)).expect("list").count()
}

#[test]
fn an_image_is_found_by_all_its_names_also_after_a_restart() {
    let dir = scratch();
    let sample = Sample::simple("one");
    let image = sample.install(&open(&dir), "nginx");
    assert_eq!(image.repo_tags, ["docker.io/library/nginx:latest"]);
    assert_eq!(
        image.repo_digests,
        [format!("docker.io/library/nginx@{}", sample.digest())]
    );
    let store = open(&dir);
    for name in [
        "nginx".to_owned(),
        "docker.io/library/nginx:latest".to_owned(),
        format!("nginx@{}", sample.digest()),
        format!("nginx:other@{}", sample.digest()),
        sample.id().to_string(),
        sample.id().hex(),
        sample.digest().to_string(),
    ] {
        let found = store.get(&name).unwrap_or_else(|| panic!("{name} is here"));
        assert_eq!(
            (found.id, &found.repo_tags, found.size),
            (sample.id(), &image.repo_tags, image.size),
            "{name}"
        );
    }
    for name in [
        "nginx:1",
        "quay.io/nginx",
        "sha256:00",
        "",
        "Bad Name",
        &Digest::of(b"x").to_string(),
    ] {
        assert!(store.get(name).is_none(), "{name}");
    }
    assert!(image.size > 0);
    assert_eq!(store.list().len(), 1);
    let rootfs = store.rootfs(&image);
    assert!(
        rootfs.len() == 2 && rootfs.iter().all(|path| path.is_dir()),
        "{rootfs:?}"
    );
    assert!(
        !rootfs[0].join("bin/run").exists() && rootfs[1].join("bin/run").exists(),
        "topmost first"
    );
}

#[test]
fn the_layout_is_one_that_other_tools_read() {
    let dir = scratch();
    let sample = Sample::simple("one");
    sample.install(&open(&dir), "nginx");
    let layout = std::fs::read_to_string(dir.path().join("oci-layout")).expect("oci-layout");
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = oci_spec::image::ImageIndex::from_file(dir.path().join("index.json")).expect("index");
    assert_eq!(index.manifests().len(), 2);
    for descriptor in index.manifests() {
        assert!(
            descriptor
                .annotations()
                .as_ref()
                .expect("annotations")
                .contains_key(REF_NAME)
        );
        let blob = dir.path().join("blobs/sha256").join(descriptor.digest().digest());
        assert_eq!(std::fs::read(blob).expect("blob"), sample.manifest);
    }
}

#[test]
fn a_tag_that_moves_leaves_the_old_image_by_digest() {
    let dir = scratch();
    let store = open(&dir);
    let (old, new) = (Sample::simple("old"), Sample::simple("new"));
    old.install(&store, "app:v1");
    new.install(&store, "app:v1");
    assert_eq!(store.get("app:v1").expect("tag").id, new.id());
    let left = store.get(&old.id().to_string()).expect("old");
    assert!(left.repo_tags.is_empty());
    assert_eq!(
        left.repo_digests,
        [format!("docker.io/library/app@{}", old.digest())]
    );
}

#[test]
fn removing_takes_all_names_and_what_only_this_image_needs() {
    let dir = scratch();
    let store = open(&dir);
    let (one, two) = (Sample::simple("one"), Sample::simple("two"));
    one.install(&store, "one:a");
    one.install(&store, "one:b");
    two.install(&store, "two");
    let before = count(&dir, "blobs/sha256");
    store.remove("one:a").expect("remove");
    assert!(store.get("one:b").is_none() && store.get("two").is_some());
    // The upper layer is shared; the lower one, configuration and manifest are not.
    assert_eq!(count(&dir, "blobs/sha256"), before - 3);
    assert_eq!(count(&dir, "layers"), 3, "two layers and the empty one");
    store.remove("one:a").expect("an unknown image is success");
    store.remove(&two.id().to_string()).expect("by id");
    assert_eq!((count(&dir, "blobs/sha256"), count(&dir, "layers")), (0, 1));
    assert!(open(&dir).list().is_empty());
}

#[test]
fn layers_stay_while_a_container_or_a_pull_needs_them() {
    let dir = scratch();
    let store = open(&dir);
    let sample = Sample::simple("one");
    let image = sample.install(&store, "one");
    store.hold("container", &image.layers);
    let pulling = store.keep([sample.id()]);
    store.remove("one").expect("remove");
    assert!(store.rootfs(&image).iter().all(|path| path.is_dir()));
    assert!(store.blob_path(&sample.id()).exists());
    store.release("container");
    drop(pulling);
    store.collect().expect("collect");
    assert_eq!((count(&dir, "blobs/sha256"), count(&dir, "layers")), (0, 1));
}

#[test]
fn pinned_images_stay_pinned() {
    let dir = scratch();
    let store = open(&dir);
    let sample = Sample::simple("one");
    sample.install(&store, "one");
    assert!(matches!(store.pin("two", true), Err(Error::NotFound { .. })));
    store.pin("one", true).expect("pin");
    assert!(sample.install(&store, "one").pinned, "a new pull keeps it");
    let store = open(&dir);
    assert!(store.get("one").expect("image").pinned);
    store.pin("one", false).expect("unpin");
    assert!(!store.get("one").expect("image").pinned);
}

#[test]
fn an_image_without_layers_has_a_root_of_our_own() {
    let dir = scratch();
    let store = open(&dir);
    let image = Sample::new("empty", &[]).install(&store, "empty");
    let rootfs = store.rootfs(&image);
    assert_eq!(rootfs, [dir.path().join("layers/empty")]);
    assert_eq!(std::fs::read_dir(&rootfs[0]).expect("a directory").count(), 0);
}

#[test]
fn an_index_cut_anywhere_is_rebuilt_from_the_blobs() {
    let dir = scratch();
    let sample = Sample::simple("one");
    sample.install(&open(&dir), "nginx");
    let path = dir.path().join("index.json");
    let whole = std::fs::read(&path).expect("index");
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).expect("cut");
        let store = open(&dir);
        assert_eq!(
            store
                .get(&sample.id().to_string())
                .unwrap_or_else(|| panic!("cut at {cut}"))
                .id,
            sample.id()
        );
        assert!(dir.path().join("index.json.damaged").exists(), "cut at {cut}");
        assert_eq!(open(&dir).list().len(), 1, "the rebuilt index is whole");
    }
    let store = open(&dir);
    assert!(store.get("nginx").is_none(), "names went with the index");
    let image = sample.install(&store, "nginx");
    assert_eq!(image.repo_tags.len(), 1);
    let index: Index = serde_json::from_slice(&std::fs::read(&path).expect("index")).expect("json");
    assert!(
        index.manifests.iter().all(|entry| name_of(entry).is_some()),
        "the nameless entry is gone"
    );
}

#[test]
fn damage_makes_an_image_absent_and_never_a_panic() {
    let dir = scratch();
    let sample = Sample::simple("one");
    let image = sample.install(&open(&dir), "nginx");
    let chain = image.layers[0].chain_id;
    let parts: Vec<PathBuf> = sample
        .blobs()
        .map(|(digest, _)| digest)
        .chain([sample.digest()])
        .map(|d| dir.path().join("blobs/sha256").join(d.hex()))
        .collect();
    for part in parts {
        let good = std::fs::read(&part).expect("blob");
        for bad in [&good[..good.len() / 2], b"{}"] {
            std::fs::write(&part, bad).expect("damage");
            assert!(open(&dir).get("nginx").is_none(), "{} damaged", part.display());
        }
        std::fs::remove_file(&part).expect("remove");
        assert!(open(&dir).list().is_empty(), "{} missing", part.display());
        std::fs::write(&part, good).expect("mend");
        assert!(open(&dir).get("nginx").is_some());
    }
    std::fs::remove_dir_all(dir.path().join("layers").join(chain.hex())).expect("remove");
    assert!(open(&dir).get("nginx").is_none(), "a layer missing");
}

#[test]
fn leftovers_of_a_crash_are_swept() {
    let dir = scratch();
    let store = open(&dir);
    Sample::simple("one").install(&store, "one");
    let orphan = store.write_small(b"orphan").expect("blob");
    std::fs::create_dir(state::beside(&store.layer_path(&orphan))).expect("half a layer");
    std::fs::create_dir(store.layer_path(&orphan)).expect("a layer no image names");
    std::fs::write(state::beside(&store.blob_path(&orphan)), "half").expect("half a blob");
    let store = open(&dir);
    store.collect().expect("collect");
    assert_eq!((count(&dir, "blobs/sha256"), count(&dir, "layers")), (4, 3));
    assert!(store.get("one").is_some());
}

#[test]
fn usage_counts_blobs_and_layers() {
    let dir = scratch();
    let store = open(&dir);
    let none = store.usage().expect("usage");
    Sample::simple("one").install(&store, "one");
    let some = store.usage().expect("usage");
    assert!(
        some.used_bytes > none.used_bytes && some.inodes_used >= none.inodes_used + 7,
        "{some:?}"
    );
    assert_eq!(store.usage().expect("again"), some);
    store.remove("one").expect("remove");
    assert_eq!(store.usage().expect("usage"), none);
}
