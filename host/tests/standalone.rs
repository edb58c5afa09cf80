//! The binary starts by itself: not only under cargo, which tells the loader where the
//! inference libraries are.

use std::process::Command;

#[test]
fn starts_without_cargo() {
    let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .output()
        .expect("the binary exists");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("assayd "), "{output:?}");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(env!("CARGO_BIN_EXE_assayd"))
            .args(["completions", shell])
            .output()
            .expect("it starts");
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("serve"), "{shell}");
    }
}
