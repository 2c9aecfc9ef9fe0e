//! A fixed history survives a power cut at each of its I/O steps.

#![cfg(test)]

use sim::crash_points::{cuts, run};

#[test]
fn a_power_cut_at_any_io_step_loses_nothing() {
    let steps = run(None).unwrap_or_else(|(why, tail)| panic!("{why}\n{}", tail.join("\n")));
    assert!(steps > 60, "{steps} steps");
    let cuts = cuts(steps);
    let half = |first: usize| {
        for cut in cuts.iter().skip(first).step_by(2) {
            if let Err((why, tail)) = run(Some(*cut)) {
                panic!("{cut:?} of {steps}: {why}\n{}", tail.join("\n"));
            }
        }
    };
    std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        half(0);
        odd.join().unwrap();
    });
}
