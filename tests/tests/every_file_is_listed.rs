//! A test file that `main.rs` does not list would never run.

#[test]
fn every_file_is_listed() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let listed = std::fs::read_to_string(format!("{directory}/main.rs")).unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|e| e == "rs") && name != "main" {
            assert!(
                listed.contains(&format!("\nmod {name};")),
                "tests/tests/main.rs lacks `mod {name};`"
            );
        }
    }
}
