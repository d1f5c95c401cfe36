//! What the program says and with which exit code it ends: refusals at start, precedence, the status' schema, help.
//!
//! A kernel without cgroup BPF cannot be had here; that refusal is not tested.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/scene.rs"]
mod scene;
#[path = "../world/mod.rs"]
mod world;

mod permission;
mod refusals;
mod status;
mod usage;

use lunar_lab::Spawn;
use world::{AGENT, SOON, World};

/// The program in the lab, to its end: exit code and what it said. One that goes on running fails the test.
fn end(world: &World, program: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let mut spawn = Spawn::new(program[0]).args(&program[1..]).netns(&world.host);
    for (name, value) in env {
        spawn = spawn.env(name, value);
    }
    let mut child = world.lab.spawn(spawn).unwrap();
    let status = child.wait(SOON).unwrap_or_else(|e| panic!("{program:?} was to end: {e:#}"));
    (status.code().unwrap_or(-1), child.output())
}

/// `run` with a configuration that is to be refused.
fn refused(world: &World, toml: &str, args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let config = world.config(toml);
    end(world, &[&[AGENT, "run", "--config", config.to_str().unwrap()], args].concat(), env)
}
