//! Seeds of the simulation that run with every build.

#![cfg(test)]

use sim::{Figures, Options, Outcome};

fn check(outcome: &Outcome) {
    if let Some((why, tail)) = &outcome.failure {
        panic!(
            "seed {}: {why}\nrepeat with: cargo xtask sim --seed {}\n{}",
            outcome.seed,
            outcome.seed,
            tail.join("\n")
        );
    }
}

/// Runs a range of seeds on two threads.
fn run_all(seeds: std::ops::Range<u64>) -> Figures {
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    let half = |range: std::ops::Range<u64>| {
        let mut total = Figures::default();
        for seed in range {
            let outcome = sim::run(seed, Options::default());
            check(&outcome);
            total.add(&outcome.figures);
        }
        total
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| half(seeds.start..middle));
        let mut total = half(middle..seeds.end);
        total.add(&first.join().unwrap());
        total
    })
}

#[test]
fn fixed_seeds_hold() {
    let total = run_all(0..16);
    // The seeds are worth something only if things happen in them.
    assert!(total.operations > 20_000, "{total:?}");
    assert!(total.crashes > 40 && total.takeovers > 8, "{total:?}");
    assert!(total.faults > 300, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 1234, 99_999] {
        let first = sim::run(seed, Options::default());
        let second = sim::run(seed, Options::default());
        assert_eq!(
            (first.hash, first.events),
            (second.hash, second.events),
            "seed {seed}"
        );
        assert!(first.events > 1000, "{}", first.events);
    }
}
