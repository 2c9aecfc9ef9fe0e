//! A fixed history survives a power cut at each of its I/O steps.

#![cfg(test)]

use sim::crash_points::{Cut, run};
use sim::power::Edge;

#[test]
fn a_power_cut_at_any_io_step_loses_nothing() {
    let steps = run(None).unwrap_or_else(|(why, tail)| panic!("{why}\n{}", tail.join("\n")));
    assert!(steps > 60, "{steps} steps");
    let half = |first: u64| {
        for step in (first..steps).step_by(2) {
            for edge in [Edge::Before, Edge::After] {
                // Every other disk is lost: each edge meets both within two steps.
                let lose_disk = (step / 2) % 2 == u64::from(edge == Edge::After);
                let cut = Cut {
                    step,
                    edge,
                    lose_disk,
                };
                if let Err((why, tail)) = run(Some(cut)) {
                    panic!("{cut:?} of {steps}: {why}\n{}", tail.join("\n"));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        half(0);
        odd.join().unwrap();
    });
}
