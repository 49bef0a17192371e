//! Images that are kept: each once broke a promise, or is what an older program left. `docs/crash-testing.md` says how one
//! comes here.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not in `#[test]` functions")]

use eventmesh_edge_crash::fixture::{EXTENSION, Fixture};
use eventmesh_edge_crash::record::scratch;
use std::path::Path;

#[test]
fn every_kept_image_keeps_the_promises() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == EXTENSION)).collect();
    assert!(kept.len() >= 3, "{kept:?}");
    for path in kept {
        let fixture = Fixture::load(&path).unwrap();
        let scratch = scratch().unwrap();
        let verdict = fixture.judge(&scratch.path().join("image")).unwrap();
        assert!(verdict.is_ok(), "{} ({}): {verdict:?}", path.display(), fixture.origin);
    }
}

#[test]
fn a_fixture_is_read_as_it_was_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1-state.image");
    let fixture = Fixture::load(&dir).unwrap();
    let again = Fixture::decode(&fixture.encode().unwrap()).unwrap();
    assert_eq!(again.origin, fixture.origin);
    assert_eq!(again.said.marks, fixture.said.marks);
    assert_eq!((again.image.dirs, again.image.files), (fixture.image.dirs, fixture.image.files));
    assert!(again.said.commits.iter().filter(|c| c.answered).count() > 100);
}
