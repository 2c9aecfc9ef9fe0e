//! A fixed history survives the failure of its operations on disk and bucket: here of every
//! [`STRIDE`]th of each kind, with `cargo xtask sim --every-fault` of every one.

#![cfg(test)]

use sim::fault_points::{count, run};
use sim::plan::Fault;

const STRIDE: usize = 4;

#[test]
fn a_failure_of_any_operation_loses_nothing_and_leaves_nothing() {
    let counts = count().unwrap_or_else(|(why, tail)| panic!("{why}\n{}", tail.join("\n")));
    let points: Vec<(Fault, u64)> = counts
        .iter()
        .flat_map(|(fault, count)| (0..*count).step_by(STRIDE).map(|n| (*fault, n)))
        .collect();
    for (fault, count) in &counts {
        assert!(*count > 50, "{fault:?} could hit {count} operations");
    }
    let half = |first: usize| {
        for (fault, n) in points.iter().skip(first).step_by(2) {
            match run(*fault, *n) {
                Ok((_, hit)) => assert!(hit.is_some(), "{fault:?} {n} hit nothing"),
                Err((why, tail)) => panic!("{fault:?} {n}: {why}\n{}", tail.join("\n")),
            }
        }
    };
    std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        half(0);
        odd.join().unwrap();
    });
}
