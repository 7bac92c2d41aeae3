//! Layer 2: the real driver, framing, router and client on simulated time, network and disk.
//!
//! The variables are those of layer 1; `SIM_LAYER` chooses one of the two.
//!
//! It needs `--cfg madsim`, which the workspace's `.cargo/config.toml` sets. A `RUSTFLAGS` variable
//! replaces that setting, and cargo does not read the file from another directory. In both cases
//! the tests run themselves again with the flag added. They never pass without having run.

#[cfg(madsim)]
mod simulated {
    use sim_tests::layer2::{Batch, failure, run};
    use simulator::Plan;
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// Number of seeds in the ordinary tests; they take about forty seconds.
    const SEEDS: u64 = 200;

    fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
        let value = std::env::var(name).ok()?;
        match value.parse() {
            Ok(value) => Some(value),
            Err(_) => panic!("{name}={value} is not understood"),
        }
    }

    /// Whether `SIM_LAYER` selects only the other layer.
    fn is_left_out() -> bool {
        let layer: Option<u32> = variable("SIM_LAYER");
        assert!(layer.is_none_or(|layer| (1..=2).contains(&layer)), "SIM_LAYER is 1 or 2");
        layer == Some(1)
    }

    fn check(plan: &Plan) {
        let result = run(plan);
        println!("{} messages, {} µs", result.messages, result.time_us);
        if result.violation.is_some() {
            panic!("{}", failure(plan, &result));
        }
        assert!(result.events > 100, "nothing was simulated");
    }

    #[test]
    fn no_seed_breaks_a_promise_and_every_kind_of_trouble_is_met() {
        if is_left_out() {
            return;
        }
        if let Some(plan) = variable("SIM_PLAN") {
            return check(&plan);
        }
        if let Some(seed) = variable("SIM_SEED") {
            return check(&Plan::from_seed(seed));
        }
        let (seeds, time) = (variable("SIM_SEEDS").unwrap_or(SEEDS), variable("SIM_TIME"));
        let started = Instant::now();
        let until = time.map(|seconds| started + Duration::from_secs(seconds));
        let goes_on = |batch: &Batch| match until {
            Some(until) => Instant::now() < until,
            None => batch.seeds < seeds,
        };
        let mut batch = Batch::default();
        while goes_on(&batch) && batch.run_seed(batch.seeds) {}
        println!("{}", batch.line(started.elapsed()));
        if let Some(failure) = batch.failure {
            panic!("{failure}");
        }
        assert!(batch.messages / batch.seeds.max(1) > 1_000, "hardly anything was simulated");
        if batch.seeds >= SEEDS {
            assert_eq!(batch.missed(), Vec::<&str>::new(), "trouble that was never met");
        }
    }

    #[test]
    fn plans_that_once_broke_a_promise_do_so_no_more() {
        if is_left_out() {
            return;
        }
        let plans = include_str!("../regressions/layer2.txt");
        for line in plans.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            check(&line.parse().expect("a plan"));
        }
    }

    #[test]
    fn the_same_seed_is_the_same_run_in_another_process() {
        let seeds = [2_u64, 3, 8, 15, 31, 42, 44, 59];
        let traces = || -> (String, usize) {
            let runs: Vec<_> = seeds.iter().map(|seed| run(&Plan::from_seed(*seed))).collect();
            let on_sockets = runs.iter().filter(|run| {
                let marks = &run.marks;
                marks.count("nodes talked over sockets") > 0
            });
            let traces: Vec<String> = runs.iter().map(|run| run.trace.to_string()).collect();
            (traces.join(" "), on_sockets.count())
        };
        let (own, on_sockets) = traces();
        if std::env::var("SIM_CHILD").is_ok() {
            println!("traces {own}.");
            return;
        }
        assert!((2..seeds.len() - 1).contains(&on_sockets), "both transports are among them");
        assert_eq!(own, traces().0, "two runs in one process differ");
        let child = Command::new(std::env::current_exe().expect("a test has a program"))
            .args(["--exact", "simulated::the_same_seed_is_the_same_run_in_another_process"])
            .arg("--nocapture")
            .env("SIM_CHILD", "1")
            .output()
            .expect("it starts again");
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(said.contains(&format!("traces {own}.")), "the child's runs differ: {said}\n{own}");
    }
}

#[cfg(not(madsim))]
#[test]
fn layer_2_runs_again_with_the_flag_that_it_takes() {
    sim_tests::rerun::tests("layer2");
}
