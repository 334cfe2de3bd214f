//! The echo answers in both modes, and goes on answering.
#![allow(clippy::unwrap_used)]

#[test]
fn queries_come_back() {
    const TEST: &str = "queries_come_back";
    if !lab::available(TEST) {
        return;
    }
    let lab = lab::Lab::new().unwrap();
    lab.receive_xdp_tx().unwrap();
    for mode in ["xsk", "tx"] {
        let mut command = lab.on_server(env!("CARGO_BIN_EXE_echo"));
        let arguments = ["--mode", mode, "--interface", &lab.server_if];
        let echo = lab::Process::start(command.args(arguments)).unwrap();
        lab::wait_for_answer(&lab, 53, &echo).unwrap();
        // More than there are frames.
        let load = lab::Kxdpgun::run(&lab, lab::SERVER_V4, 20_000, 1).unwrap();
        assert!(load.answered() > 0.98, "{mode}: {load:?}");
    }
}
