//! Layer 2: the real driver, framing, router and client on simulated time, network and disk.
//!
//! It takes `--cfg madsim`, which the workspace's `.cargo/config.toml` sets. A `RUSTFLAGS` variable
//! replaces that, and cargo does not see it from another directory: then the tests are run again here
//! with the flag added. They never pass without having run.

#[cfg(madsim)]
mod simulated {
    use sim_tests::layer2::run;
    use simulator::Plan;

    #[test]
    fn many() {
        let n: u64 = std::env::var("N").ok().and_then(|s| s.parse().ok()).unwrap_or(50);
        for seed in 0..n {
            let plan = Plan::from_seed(seed);
            let t = std::time::Instant::now();
            let run = run(&plan);
            println!("{seed} nodes {} faults {} {:?} msgs {} t {} {:?}", plan.nodes, plan.faults.len(), t.elapsed(), run.messages, run.time_us, run.violation);
        }
    }

    #[test]
    fn one() {
        let seed = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
        let mut plan = Plan::from_seed(seed);
        if std::env::var("CALM").is_ok() {
            plan.faults.clear();
            plan.swarm.loss_ppm = 0;
            plan.swarm.tail_ppm = 0;
            plan.swarm.stall_ppm = 0;
            plan.swarm.duplicate_ppm = 0;
        }
        println!("{plan}");
        let t = std::time::Instant::now();
        let run = run(&plan);
        println!("{:?}", t.elapsed());
        println!("{run:#?}");
    }
}

#[cfg(not(madsim))]
#[test]
fn layer_2_runs_again_with_the_flag_that_it_takes() {
    sim_tests::rerun::tests("layer2");
}
