//! What a bulk TCP transfer carries, with the agent's programs attached and without.

use std::fmt;

use anyhow::Result;

use super::{
    scene::{FAR, Kind, Scene},
    traffic::Task,
};

/// Compared with each other; the first is what the others are held against. It comes twice, to show what a ratio is worth.
pub(super) const COMPARED: [Kind; 4] = [Kind::Nothing, Kind::Nothing, Kind::Empty, Kind::Names];

/// One way of carrying bytes.
pub(super) struct Way {
    over: &'static str,
    address: &'static str,
    /// By the process in the target.
    receive: bool,
    /// Gbit/s of [`COMPARED`], by round.
    pub rates: [Vec<f64>; COMPARED.len()],
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, target {}", self.over, if self.receive { "receives" } else { "sends" })
    }
}

/// Carries bytes for `millis` at a time. The rounds of one way follow each other directly, in random order: what the
/// machine does meanwhile changes within seconds.
pub(super) fn measure(scene: &mut Scene, rounds: usize, millis: u64) -> Result<Vec<Way>> {
    let mut rng = fastrand::Rng::with_seed(12);
    let mut ways: Vec<Way> =
        [("loopback", "127.0.0.1"), ("veth", "203.0.113.2"), ("veth, 1,500 byte packets", "192.0.2.2")]
            .into_iter()
            .flat_map(|(over, address)| {
                [true, false].map(|receive| Way { over, address, receive, rates: Default::default() })
            })
            .collect();
    let mut order: Vec<usize> = (0..COMPARED.len()).collect();
    for round in 0..rounds {
        if round % 10 == 0 {
            eprintln!("  round {round} of {rounds}");
        }
        for way in &mut ways {
            rng.shuffle(&mut order);
            for &nth in &order {
                let with = format!("{}:{FAR}", way.address).parse()?;
                let task = Task::Bulk { with, receive: way.receive, millis };
                let done = scene.place(COMPARED[nth])?.run(&task)?;
                way.rates[nth].push(done.bytes as f64 * 8.0 / done.seconds / 1e9);
            }
        }
    }
    Ok(ways)
}
