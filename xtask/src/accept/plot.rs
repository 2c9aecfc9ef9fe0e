//! The course of a soak as small charts, one above the other, in one SVG file.

use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::Path;
use tests::accept::soak::Sample;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 110.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const GAP: f64 = 42.0;
const COLOURS: [&str; 3] = ["#1b6ca8", "#d1495b", "#888888"];

struct Line {
    name: &'static str,
    value: fn(&Sample) -> f64,
}

struct Chart {
    title: &'static str,
    lines: &'static [Line],
}

const MIB: f64 = 1_048_576.0;

const CHARTS: &[Chart] = &[
    Chart {
        title: "layer files on disk, objects in the bucket, and the database itself, MiB",
        lines: &[
            Line {
                name: "disk",
                value: |s| s.disk as f64 / MIB,
            },
            Line {
                name: "bucket",
                value: |s| s.bucket as f64 / MIB,
            },
            Line {
                name: "database",
                value: |s| s.logical as f64 / MIB,
            },
        ],
    },
    Chart {
        title: "resident memory of the daemon, MiB",
        lines: &[Line {
            name: "memory",
            value: |s| s.memory as f64 / MIB,
        }],
    },
    Chart {
        title: "layers",
        lines: &[
            Line {
                name: "all",
                value: |s| s.layers as f64,
            },
            Line {
                name: "L0",
                value: |s| s.l0 as f64,
            },
        ],
    },
    Chart {
        title: "changes replayed per read, in each 5 s",
        lines: &[
            Line {
                name: "median",
                value: |s| s.deltas[0],
            },
            Line {
                name: "99 %",
                value: |s| s.deltas[1],
            },
            Line {
                name: "most",
                value: |s| s.deltas[2],
            },
        ],
    },
    Chart {
        title: "layers visited per read, in each 5 s",
        lines: &[
            Line {
                name: "median",
                value: |s| s.visited[0],
            },
            Line {
                name: "99 %",
                value: |s| s.visited[1],
            },
            Line {
                name: "most",
                value: |s| s.visited[2],
            },
        ],
    },
    Chart {
        title: "time of reads at random LSNs, ms",
        lines: &[
            Line {
                name: "median",
                value: |s| s.latency[0],
            },
            Line {
                name: "99 %",
                value: |s| s.latency[1],
            },
        ],
    },
    Chart {
        title: "WAL ingested, MiB",
        lines: &[Line {
            name: "WAL",
            value: |s| s.wal as f64 / MIB,
        }],
    },
];

/// Writes the charts to `file`, and the figures beside it with the extension `csv`.
pub fn draw(samples: &[Sample], file: &Path) -> Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(file, svg(samples)?).with_context(|| format!("writing {}", file.display()))?;
    let table = file.with_extension("csv");
    std::fs::write(&table, csv(samples)?).with_context(|| format!("writing {}", table.display()))
}

fn csv(samples: &[Sample]) -> Result<String> {
    let mut out = String::from(
        "seconds,disk_bytes,bucket_bytes,logical_bytes,memory_bytes,layers,l0,wal_bytes,deltas_p50,deltas_p99,deltas_max,layers_p50,layers_p99,layers_max,read_ms_p50,read_ms_p99,read_ms_max\n",
    );
    for s in samples {
        write!(
            out,
            "{:.1},{},{},{},{},{},{},{}",
            s.seconds, s.disk, s.bucket, s.logical, s.memory, s.layers, s.l0, s.wal
        )?;
        for v in s.deltas.iter().chain(&s.visited).chain(&s.latency) {
            write!(out, ",{}", (v * 1000.0).round() / 1000.0)?;
        }
        out.push('\n');
    }
    Ok(out)
}

fn svg(samples: &[Sample]) -> Result<String> {
    let total = CHARTS.len() as f64 * (HEIGHT + GAP) + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{total}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let end = samples.last().map_or(1.0, |s| s.seconds.max(1.0));
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    for (n, chart) in CHARTS.iter().enumerate() {
        let top = 24.0 + n as f64 * (HEIGHT + GAP);
        let values = chart.lines.iter().flat_map(|l| samples.iter().map(l.value));
        let most = values
            .filter(|v| v.is_finite())
            .fold(0.0, f64::max)
            .max(1.0);
        let y = |v: f64| top + HEIGHT - v.min(most) / most * HEIGHT;
        writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top - 6.0,
            chart.title
        )?;
        for (value, at) in [
            (0.0, top + HEIGHT),
            (most / 2.0, top + HEIGHT / 2.0),
            (most, top),
        ] {
            writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                (value * 10.0).round() / 10.0
            )?;
        }
        for ((line, colour), row) in chart.lines.iter().zip(COLOURS).zip(0u32..) {
            let mut path = String::new();
            for s in samples {
                let verb = if path.is_empty() { 'M' } else { 'L' };
                write!(path, "{verb}{:.1} {:.1}", x(s.seconds), y((line.value)(s)))?;
            }
            writeln!(
                out,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/><text x=\"{}\" y=\"{}\" fill=\"{colour}\">{}</text>",
                WIDTH - RIGHT + 10.0,
                top + 14.0 + f64::from(row) * 16.0,
                line.name
            )?;
        }
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#666\">{:.0} s</text>",
            WIDTH - RIGHT,
            top + HEIGHT + 14.0,
            end
        )?;
    }
    out.push_str("</svg>\n");
    Ok(out)
}
