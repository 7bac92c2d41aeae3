//! Layer 2: the real driver, framing, router and client on simulated time, network and disk.
//!
//! It takes `--cfg madsim`, which the workspace's `.cargo/config.toml` sets. A `RUSTFLAGS` variable
//! replaces that, and cargo does not see it from another directory: then the tests are run again here
//! with the flag added. They never pass without having run.

#[cfg(madsim)]
mod simulated {
    #[test]
    fn time_is_simulated() {
        let passed = transport_sim::run(3, || async {
            transport_sim::sleep_us(1_000_000).await;
            transport_sim::now_us()
        });
        assert_eq!(passed, 1_000_000);
    }
}

#[cfg(not(madsim))]
#[test]
fn layer_2_runs_again_with_the_flag_that_it_takes() {
    sim_tests::rerun::tests("layer2");
}
