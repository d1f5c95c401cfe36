//! What a source may say when another one overrides it, and sources that cannot be read.

use std::os::unix::ffi::OsStringExt as _;

use super::*;

#[test]
fn an_overridden_value_may_be_of_a_later_version_but_not_bad() {
    let flags = || Flags {
        gateway: texts(["a:1"]),
        handoff: Some("original-dst".into()),
        target: texts(["pid:1"]),
        ..Flags::default()
    };
    let later = "gateway.handoff = \"lunar\"\ntarget = [{ unit = \"x\" }]\n";
    let loaded = load(later, &[], flags()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config.targets[0].name, "pid:1");
    let bad = "gateway.handoff = \"lunr\"\ngateway.endpoints = [\"b\"]\n";
    let found = problems(bad, &[], flags());
    assert!(found.len() == 2 && found[0].starts_with("1: ") && found[1].starts_with("2: "), "{found:#?}");
}

#[test]
fn only_a_file_that_was_named_has_to_exist() {
    let path = PathBuf::from("/nonexistent/agent.toml");
    let load = |file| {
        let flags = Flags { handoff: Some("original-dst".into()), ..Flags::default() };
        Config::load(Sources { file, env: Vec::new(), flags })
    };
    let loaded = load(ConfigFile::Standard(path.clone())).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.file, None);
    let error = load(ConfigFile::Named(path)).expect_err("it does not exist").to_string();
    assert!(
        error.starts_with("--config: config: /nonexistent/agent.toml cannot be read: No such file"),
        "{error}"
    );
    // A directory in its place is no absence.
    let error = load(ConfigFile::Standard("/".into())).expect_err("a directory").to_string();
    assert!(error.starts_with("default: config: / cannot be read: "), "{error}");
}

#[test]
fn what_is_not_unicode_is_refused_where_it_matters() {
    let junk = || OsString::from_vec(vec![b'a', 0xff]);
    let flags = Flags { handoff: Some("original-dst".into()), ..Flags::default() };
    let sources = |env| Sources {
        file: ConfigFile::Standard("/nonexistent/agent.toml".into()),
        env,
        flags: flags.clone(),
    };
    let others = vec![("OTHER".into(), junk()), (junk(), "x".into())];
    assert!(Config::load(sources(others)).is_ok());
    let error =
        Config::load(sources(vec![("LUNAR_TENANT_ID".into(), junk())])).expect_err("not Unicode").to_string();
    assert_eq!(error, "LUNAR_TENANT_ID: gateway.tenant_id: \"a\\xFF\" is not valid UTF-8");
}
