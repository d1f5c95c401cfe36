//! `[[target]]` and `--target`: what is intercepted from the start.

use super::check::{self, Checker, Refusal};
use super::layer::{Located, RawValue};
use crate::targets::{Selector, SelectorError, TargetSpec};

pub(super) fn check(c: &mut Checker<'_>) -> Option<Vec<TargetSpec>> {
    let targets = c.list("target", target)?;
    let count = targets.len();
    let mut distinct: Vec<TargetSpec> = Vec::with_capacity(count);
    for (target, source) in targets {
        if distinct.iter().any(|other| other.name == target.name) {
            let reason = format!("the name {:?} is given twice; rename one", target.name);
            c.refuse("target.name", &source, Refusal::invalid(reason), true);
        } else {
            c.record(format!("target.{}", target.name), &target.selector, &source);
            distinct.push(target);
        }
    }
    (distinct.len() == count).then_some(distinct)
}

fn target(item: &Located) -> Result<TargetSpec, Vec<Refusal>> {
    let RawValue::Table(table) = &item.value else {
        let selector = check::text(&item.value)
            .and_then(|text| text.parse().map_err(refusal))
            .map_err(|refusal| vec![refusal])?;
        return Ok(named(None, selector));
    };
    let mut refusals = Vec::new();
    let mut name = None;
    let mut selectors = Vec::new();
    for (&key, located) in table {
        let read = match key {
            "name" => target_name(&located.value).map(|text| name = Some(text)),
            key => selector(key, &located.value).map(|selector| selectors.push(selector)),
        };
        if let Err(refusal) = read {
            refusals.push(refusal.at(&located.source));
        }
    }
    let given = table.keys().filter(|&&key| key != "name").count();
    if given != 1 {
        let found = if given == 0 { "none" } else { "more than one" };
        refusals
            .push(Refusal::invalid(format!("a target needs exactly one of cgroup and pid, and has {found}")));
    }
    match selectors.pop() {
        Some(selector) if refusals.is_empty() => Ok(named(name, selector)),
        _ => Err(refusals),
    }
}

fn named(name: Option<String>, selector: Selector) -> TargetSpec {
    TargetSpec { name: name.unwrap_or_else(|| selector.to_string()), selector }
}

fn selector(key: &str, value: &RawValue) -> Result<Selector, Refusal> {
    match key {
        "cgroup" => Selector::cgroup(check::text(value)?).map_err(refusal),
        "pid" => Selector::pid(&check::integer(value)?.to_string()).map_err(refusal),
        key => Err(check::reserved(
            value,
            format!("selecting by {key} is not built yet; use cgroup = \"PATH\" or pid = N"),
        )),
    }
}

fn refusal(error: SelectorError) -> Refusal {
    match error {
        SelectorError::NotBuilt { .. } => Refusal::not_built(error),
        _ => Refusal::invalid(error),
    }
}

/// The name is printed in tables and is a key of counters.
fn target_name(value: &RawValue) -> Result<String, Refusal> {
    let text = check::text(value)?.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Refusal::invalid(format!(
            "{text:?} is not a name; use visible characters, or leave it out"
        )));
    }
    Ok(text.to_owned())
}
